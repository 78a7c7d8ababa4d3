//! PostgreSQL, Redis and S3 for one machine, started from the system's own programs.
//!
//! `flowai up` and every end-to-end test run on these parts. They are the real programs, not stand-ins: what passes here
//! passes against a managed database, and [`Parts`] takes an external address in place of any of them.
//!
//! Promises:
//! - Nothing listens without demanding a credential, and nothing but S3 listens on TCP at all, on loopback (INV-12). The
//!   credentials are random, made once for a data folder, and kept in a file of mode 0600.
//! - No server outlives the process that started it: not when it ends, not when it panics, not when it is killed.
//! - A data folder survives SIGKILL of any part, and of everything at once.
//! - One data folder is used by one process at a time; a second one is refused by name.

mod error;
mod folder;
mod parts;
mod postgres;
mod process;
mod redis;
mod run_as;
mod s3;
mod secrets;

pub use error::Error;
pub use folder::default_data_dir;
pub use parts::{External, Parts};
pub use postgres::{DatabaseUrls, Listen, Postgres};
pub use process::{Launch, Process};
pub use redis::Redis;
pub use run_as::RunAs;
pub use s3::{S3, S3Access};
pub use secrets::DatabasePasswords;
