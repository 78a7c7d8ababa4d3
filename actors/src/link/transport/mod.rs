//! The way of the bytes, before and under the cluster: TCP, mutual TLS, greeting, guarded stream.
//!
//! ractor_cluster accepts connections one at a time, never notices a silent peer and never redials. So it gets
//! finished streams from here and nothing else.

mod accept;
mod greet;
mod guard;
mod tls;

pub(super) use accept::{HalfOpen, accept_loop};
pub(super) use greet::{GreetError, read_greeting, write_greeting};
pub(super) use guard::{GuardedStream, KillSwitch};
pub(super) use tls::{TlsError, TlsSetup};
