//! What the api promises, one file a promise. Everything runs against a real PostgreSQL, Redis and S3; the leader is a peer in
//! memory, so that a test can say what it says.
#![allow(clippy::unwrap_used)]

mod accepted_means_committed;
mod bad_input_is_named;
mod batches_are_all_or_nothing;
mod credits_are_held_and_shown;
mod drafts_are_continued;
mod errors_have_stable_codes;
mod farm;
mod idempotency_key_makes_one_job;
mod openai_shapes_are_theirs;
mod operators_compare_memory_with_rows;
mod operators_run_the_farm;
mod previews_are_pulled;
mod program_lives_without_a_leader;
mod purge_leaves_nothing_behind;
mod refresh_tokens_are_good_once;
mod requests_are_counted;
mod router_equals_document;
mod sessions_push_to_their_owner_only;
mod strangers_open_nothing;
mod stream_resumes_after_disconnect;
mod tenant_sees_only_its_own;
mod what_fits_nowhere_is_refused;
mod words_begin_a_video;
