//! Every SQL statement and migration, the artefact store and Redis.

pub mod database;
pub mod journal;
pub mod leader;
pub mod nodes;
mod number;
pub mod objects;
pub mod recovery;
pub mod redis;
pub mod sources;
