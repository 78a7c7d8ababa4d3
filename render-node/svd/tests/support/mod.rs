//! What the tests of this crate share: random models, pictures and inputs, the oracle, and how numbers are compared.
#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod adapters;
pub(crate) mod compare;
pub(crate) mod comparison;
pub(crate) mod inputs;
pub(crate) mod keyframe;
pub(crate) mod models;
pub(crate) mod motion;
pub(crate) mod oracle;
pub(crate) mod program;
pub(crate) mod stages;
