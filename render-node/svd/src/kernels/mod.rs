//! CPU kernels of our own, where libtorch's do far more work than the arithmetic needs.
//!
//! They read and write f32 in memory that tensors own, use every thread that libtorch uses (its own pool: a second one would
//! fight with the first for the cores), and give the same bits whatever the number of threads. The vector code is plain Rust
//! over arrays of [`lanes::LANES`], compiled once for each instruction set and chosen at run time; where there is none of
//! them, callers keep to libtorch.

mod attention;
mod group_norm;
mod isa;
mod lanes;
mod parallel;

pub(crate) use attention::attend;
pub(crate) use group_norm::{Affine, group_norm};
