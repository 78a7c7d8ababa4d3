//! The coordinator's promises, kept against a real PostgreSQL and a real object store.
#![allow(clippy::unwrap_used)]

mod a_held_row_delays_its_own_job_only;
mod a_leader_that_always_fails_ends_its_process;
mod a_leader_without_its_database_stands_down;
mod a_node_is_told_of_both_stages_ahead;
mod a_node_speaks_for_itself_only;
mod a_stopped_job_goes_on_on_another_node;
mod differences_and_debts_are_told;
mod each_job_ends_once_on_a_rough_network;
mod farm;
mod scripted_node;
mod spare_nodes_are_given_back;
