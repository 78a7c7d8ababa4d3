//! What the rows promise to leaders and users, kept against a migrated PostgreSQL.
#![allow(clippy::unwrap_used)]

mod a_new_leader_knows_where_a_job_failed;
mod a_removed_file_is_missed_by_its_kind;
mod a_stale_leader_changes_nothing;
mod farm;
