//! Every SQL statement and migration, the artefact store and Redis.

pub mod accounts;
pub mod adapters;
pub mod api_keys;
pub mod checkpoints;
pub mod database;
pub mod events;
pub mod idempotency;
pub mod join_tokens;
pub mod journal;
mod last_used;
pub mod leader;
pub mod ledger;
pub mod leftovers;
pub mod members;
pub mod models;
pub mod nodes;
mod number;
pub mod objects;
pub mod recovery;
pub mod redis;
pub mod sources;
pub mod uploads;
pub mod videos;
