//! Every SQL statement and migration, the artefact store and Redis.

pub mod objects;
pub mod redis;
