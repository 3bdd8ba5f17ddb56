//! Memory of values, reused from step to step.

use super::value::CpuValue;

/// Buffers that no value uses. Their contents are unspecified.
#[derive(Debug, Default)]
pub(super) struct Arena {
    free: Vec<Vec<f32>>,
}

impl Arena {
    /// A value of `length` floats in the smallest buffer that holds it.
    pub(super) fn take(&mut self, length: usize) -> CpuValue {
        let fitting = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.len() >= length);
        let smallest = fitting.min_by_key(|(_, buffer)| buffer.len()).map(|(index, _)| index);
        let memory = match smallest {
            Some(index) => self.free.swap_remove(index),
            None => vec![0.0; length],
        };
        CpuValue::Owned { memory, used: length }
    }

    pub(super) fn give_back(&mut self, value: CpuValue) {
        if let CpuValue::Owned { memory, .. } = value {
            self.free.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_smallest_first() {
        let mut arena = Arena::default();
        let (large, small) = (arena.take(100), arena.take(10));
        arena.give_back(large);
        arena.give_back(small);
        let again = arena.take(8);
        assert_eq!(again.as_slice().len(), 8);
        assert!(matches!(again, CpuValue::Owned { ref memory, .. } if memory.len() == 10));
        assert!(matches!(arena.take(11), CpuValue::Owned { ref memory, .. } if memory.len() == 100));
        assert!(matches!(arena.take(200), CpuValue::Owned { ref memory, .. } if memory.len() == 200));
    }
}
