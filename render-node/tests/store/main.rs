//! What the node does with an object store that is slow, down, wrong or hostile.
#![allow(clippy::unwrap_used)]

mod fetched_files_are_what_was_named;
mod kit;
mod uploads_arrive_once;
