//! Weights made of names: every parameter is a pure function of its name, its shape and a seed.
//!
//! For tests and for trying things out without a model. The Python twin (`render-node/svd/oracle/synthetic.py`) makes
//! the same bits, so a comparison with the reference needs no weight files to be carried about. All parameters are
//! random: the reference starts norms at 1 and mix factors at one value, which would hide mistakes.

mod adapter;
mod generator;
mod model;
mod vocabulary;

pub use adapter::{AdapterSpec, WriteAdapterError, adapter_bytes, dora_bytes, write_adapter};
pub use generator::tensor;
pub use model::{WriteModelError, write_model, write_stable_diffusion, write_weights};
pub use vocabulary::vocabulary;
