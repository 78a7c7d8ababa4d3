//! What the rows promise to leaders, nodes and users, kept against a migrated PostgreSQL.
#![allow(clippy::unwrap_used)]

mod a_batch_finds_rows_by_index;
mod a_checkpoint_waits_for_the_next_attempt;
mod a_dropped_caller_leaves_no_transaction;
mod a_keyframe_becomes_a_picture;
mod a_model_is_offered_while_a_node_has_it;
mod a_new_leader_knows_where_a_job_failed;
mod a_page_costs_what_it_holds;
mod a_stale_leader_changes_nothing;
mod a_users_queue_is_bounded;
mod another_versions_rows_wait;
mod connections_can_be_encrypted;
mod each_job_gets_its_own_files;
mod events_are_kept_by_week;
mod farm;
mod held_rows_are_found_at_once;
mod keys_are_looked_up_side_by_side;
mod money_balances;
mod nobody_edits_the_ledger;
mod older_rows_are_read;
mod pages_hold_every_job_once;
mod removals_wait_in_one_order;
mod submissions_gather;
mod tenant_sees_only_its_own;
mod the_lease_waits_for_no_connection;
mod tokens_admit_as_often_as_they_say;
mod what_was_removed_goes;
mod what_was_removed_is_missed_by_its_kind;
