//! The farm as its users meet it: the real programs on real PostgreSQL, Redis and S3 parts, spoken to over HTTP.
//!
//! Each test has a farm of its own in a temporary folder, so they run beside each other. The programs must have been built
//! for the same profile: `make test` does it, and a missing one is said by name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod a_batch_is_taken_whole;
mod a_farm_is_put_together_by_hand;
mod a_job_starts_after_another;
mod a_job_that_kills_nodes_is_quarantined;
mod a_waiting_job_says_why;
mod acked_job_survives_postgres_kill;
mod adapters_of_the_next_job_come_ahead;
mod bad_input_is_named;
mod cancel_frees_the_node;
mod commands_work_as_typed;
mod cut_off_node_loses_no_job;
mod damaged_model_is_not_offered;
mod demo_makes_a_clip;
mod frozen_node_is_noticed_and_its_result_refused;
mod idle_nodes_serve_a_user_beyond_its_cap;
mod killed_coordinator_loses_no_job;
mod killed_node_loses_no_job;
mod nodes_come_and_go;
mod nothing_outlives_the_command;
mod one_job_goes_all_the_way;
mod openai_client_works_unchanged;
mod paying_user_starts_first;
mod previews_are_seen_while_it_renders;
mod progress_writes_nothing;
mod stream_resumes_after_disconnect;
mod support;
mod words_become_a_clip;
