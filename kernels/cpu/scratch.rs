//! Scratch memory that is kept per thread.

use std::cell::Cell;

thread_local! {
    static KEPT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with `length` floats of unspecified content. Nested calls on one thread get memory of their own.
pub(crate) fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = KEPT.take();
    if memory.len() < length {
        memory.resize(length, 0.0);
    }
    let result = work(&mut memory[..length]);
    KEPT.with(|kept| {
        let other = kept.take();
        kept.set(if other.len() > memory.len() { other } else { memory });
    });
    result
}
