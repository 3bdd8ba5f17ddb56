//! Scratch memory that is kept per thread.

use std::cell::RefCell;

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `length` floats of unspecified content. Nested calls on one thread get memory of their own.
///
/// Buffers are taken and given back last in, first out, so that every depth of nesting meets its own again.
pub(crate) fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = KEPT.with_borrow_mut(|kept| kept.pop()).unwrap_or_default();
    if memory.len() < length {
        memory = vec![0.0; length];
    }
    let result = work(&mut memory[..length]);
    KEPT.with_borrow_mut(|kept| kept.push(memory));
    result
}
