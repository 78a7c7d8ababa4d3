//! Every SQL statement and migration, the artefact store and Redis.

pub mod database;
pub mod objects;
pub mod redis;
