//! What the rows promise to leaders, kept against a migrated PostgreSQL.
#![allow(clippy::unwrap_used)]

mod a_new_leader_knows_where_a_job_failed;
mod a_stale_leader_changes_nothing;
mod farm;
