//! CPU kernels of our own, where libtorch's do far more work than the arithmetic needs.
//!
//! They read and write f32 in memory that tensors own, use every thread that libtorch uses (its own pool: a second one would
//! fight with the first for the cores), and give the same bits whatever the number of threads and the instruction set. The
//! vector code is plain Rust over arrays of [`lanes::LANES`], compiled for each instruction set and chosen at run time.

mod attention;
mod geglu;
mod group_norm;
mod isa;
mod lanes;
mod low_rank;
mod output;
mod parallel;
#[cfg(test)]
mod testing;

pub(crate) use attention::attend;
pub(crate) use geglu::geglu;
pub(crate) use group_norm::{Affine, Normaliser, group_norm};
pub(crate) use low_rank::Sums;

/// Raised when a kernel gives other bits than before: part of the name of what equal bits need.
pub(crate) const VERSION: u32 = 2;

/// The architecture, and the widest instruction set that the kernels use here.
pub(crate) fn instruction_set() -> String {
    format!("{} {}", std::env::consts::ARCH, isa::Isa::here().name())
}
