#![allow(
    unsafe_code,
    reason = "writes the memory of tensors from several threads"
)]

use std::mem::MaybeUninit;

/// The elements of a tensor that nobody has written yet.
#[derive(Clone, Copy)]
pub(super) struct Output(pub(super) *mut MaybeUninit<f32>);

// SAFETY: whoever calls [`Output::part`] gives each part to one thread.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    ///
    /// The elements lie in a tensor that lives, and nobody else has them.
    pub(super) unsafe fn part<'a>(self, start: usize, count: usize) -> &'a mut [MaybeUninit<f32>] {
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), count) }
    }
}
