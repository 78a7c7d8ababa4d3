//! The link between machines: a port, and two ways through it.
//!
//! [`NodeLink`] is what the rest of FlowAI knows: envelopes of at most 256 KiB to a peer that is certified by name, each
//! of which may be lost, doubled or late. [`RactorLink`] carries them over ractor_cluster inside mutual TLS; [`SimLink`]
//! carries them in memory with faults on demand. The link moves bytes and knows who sent them; it does not know what
//! they mean: bodies are `{kind, bytes}` here and get their meaning in the farm's messages.
//!
//! Invariants: 1 (messages hint, the database decides), 7 (no message over 256 KiB), 8 (64 unacknowledged envelopes a
//! link, a deadline on each ask), 12 (nothing listens without demanding a certificate).
//!
//! This folder is the only place that names ractor_cluster.

mod cluster;
mod credit;
mod envelope;
mod error;
mod greeting;
mod inbound;
mod peer;
pub mod pki;
mod port;
mod sim;
mod stats;
mod transport;

pub use cluster::{DialTargets, LinkConfig, LinkStartError, MaySend, RactorLink, Standing};
pub use envelope::{Envelope, MessageId};
pub use error::{AskError, SendError, TooLarge};
pub use greeting::{RefusedCode, Rule, SchemaRange};
pub use inbound::{Delivery, ReplyPort, Request};
pub use peer::{InvalidPeerId, Peer, PeerId, Role};
pub use port::{DownReason, LinkEvent, LinkEvents, NodeLink};
pub use ractor_cluster::RactorMessage;
pub use sim::{Faults, SimLink, SimNet};
pub use stats::LinkStats;
