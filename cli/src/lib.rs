//! The one command people type: it starts a farm, and talks to one.
//!
//! - [`farm`] starts every program of a farm on one machine. `flowai up`, `flowai demo` and the end-to-end tests use it.
//! - [`client`] is the HTTP API as typed calls, with event streams that go on where they were cut.
//! - [`join`] makes this machine a node of a farm.
//! - [`commands`] holds a file a command, each of them thin.
//!
//! What a farm *does* is in the rooms above this one; nothing here schedules, renders or decides.

pub mod client;
pub mod commands;
pub mod exit;
pub mod farm;
pub mod join;
pub mod output;
mod owner;
mod private_file;
