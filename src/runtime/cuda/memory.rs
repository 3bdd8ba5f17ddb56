//! Where values lie in one block of device memory.

/// Addresses are multiples of this: whole lines of L2 cache, so that no value shares one.
const ALIGNMENT: usize = 256;

/// A value's size and the first and last node during which it must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub(super) bytes: usize,
    pub(super) first: usize,
    pub(super) last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// An offset for every value, so that values which exist at the same time do not overlap, and the bytes in all.
///
/// Largest first, each at the lowest place that is free during its life: within a few percent of the most that is
/// alive at once, for the shapes that networks have.
pub(super) fn place(values: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(values[index].bytes), index));
    let mut offsets = vec![0; values.len()];
    // placed values by offset
    let mut placed: Vec<usize> = Vec::with_capacity(values.len());
    let mut total = 0;
    for index in order {
        let value = values[index];
        let mut offset = 0;
        for &other in placed.iter().filter(|&&other| values[other].meets(&value)) {
            if offset + value.bytes <= offsets[other] {
                break;
            }
            offset = offset.max((offsets[other] + values[other].bytes).next_multiple_of(ALIGNMENT));
        }
        offsets[index] = offset;
        total = total.max(offset + value.bytes);
        let at = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(at, index);
    }
    (offsets, total.next_multiple_of(ALIGNMENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lifetimes() -> impl Strategy<Value = Vec<Lifetime>> {
        let one = (0usize..5000, 0usize..40, 0usize..12).prop_map(|(bytes, first, length)| Lifetime {
            bytes,
            first,
            last: first + length,
        });
        proptest::collection::vec(one, 0..60)
    }

    proptest! {
        #[test]
        fn values_that_live_at_once_do_not_overlap(values in lifetimes()) {
            let (offsets, total) = place(&values);
            for (a, b) in (0..values.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let apart = offsets[a] + values[a].bytes <= offsets[b] || offsets[b] + values[b].bytes <= offsets[a];
                prop_assert!(apart || !values[a].meets(&values[b]), "{a} and {b}");
            }
            for (offset, value) in offsets.iter().zip(&values) {
                prop_assert!(offset % ALIGNMENT == 0 && offset + value.bytes <= total);
            }
        }
    }

    #[test]
    fn a_chain_needs_two_places() {
        let chain: Vec<Lifetime> = (0..20)
            .map(|node| Lifetime {
                bytes: 1024,
                first: node,
                last: node + 1,
            })
            .collect();
        assert_eq!(place(&chain).1, 2048);
    }
}
