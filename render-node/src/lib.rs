//! One process per GPU: takes jobs from the leader, renders them, puts the clips into the store.
//!
//! [`node`] is the actor that the farm knows, around the pure machine of `machine/`; it works through [`job`], which fetches by hash ([`cache`]), renders
//! ([`engine`], a thread that owns all tensors), encodes beside it ([`encoder`]) and uploads ([`uploader`]).
//! The program `flowai-render-node` puts them together.
//!
//! No SQL and no credentials of the store here: a node sees presigned URLs. No tensor type outside `svd/`.

pub mod cache;
pub mod device;
pub mod encoder;
pub mod engine;
pub mod http;
pub mod job;
pub mod manifest;
pub mod models;
pub mod node;
pub mod preview;
pub mod pulse;
pub mod settings;
pub mod uploader;

pub use flowai_node_machine::failure;
