//! The leader: what runs where, and how that becomes durable.
//!
//! [`scheduler`] is a pure value; around it the journal makes its decisions durable, and the link tells the nodes.
//! No libtorch and no HTTP for users here.

pub mod scheduler;
