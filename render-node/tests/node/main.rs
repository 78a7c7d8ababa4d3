//! The node's promises, kept by the real parts: link in memory, S3 server, ffmpeg, engine thread.
#![allow(clippy::unwrap_used)]

mod assigned_job_becomes_a_clip;
mod bad_jobs_fail_by_name;
mod engine_faults_end_the_attempt;
mod frozen_node_drops_its_late_result;
mod kit;
mod lost_engine_is_not_used_again;
mod next_adapters_come_ahead;
mod paced;
mod previews_come_beside_the_job;
mod stays_true_when_messages_do_not;
mod stopped_jobs_go_on_elsewhere;
mod stops_at_step_boundaries;
mod store_outage_costs_no_try;
mod svd_makes_the_clip;
mod watched;
mod words_become_a_clip;
