//! The HTTP surface: who may ask for what, the wish written down, what happened told. It schedules nothing.
//!
//! Promises, by the numbers of `docs/ARCHITECTURE.md`:
//! - 4: nobody hears 202 before the transaction has committed; the leader's doorbell rings after that.
//! - 7: bytes go to the object store and come from it; the link carries hints.
//! - 8: bodies, streams, blocking work and waits are bounded; full is an answer.
//! - 9: every statement runs under the caller's identity, or is the one that names the owner of each row; a stranger's object is a missing one.
//! - 10: a render names the adapters that its owner has and that fit the model, or it is not accepted.
//! - 12: it does not start with weak keys, on an open address without TLS in front, or on a role that row level security
//!   does not bind.
//!
//! A resource is a folder with its own `router()`; `session/` is the user-session actor behind every stream.

mod adapters;
mod api_keys;
mod app;
mod auth;
mod cache;
mod credits;
mod error;
mod events;
mod farm;
mod http;
mod live;
mod me;
mod media;
mod models;
mod openai;
mod previews;
mod removal;
mod service;
mod session;
pub mod settings;
mod socket;
mod uploads;
mod videos;

pub use app::{App, Config, JoinConfig, LeaderLink, StartError};
pub use auth::{KeyError, Keys, PasswordCost};
pub use farm::follow;
pub use service::{document, metrics, router};
