//! What holds for every file that anybody may send, as functions of its bytes: the fuzzers of this crate look for bytes that
//! break it, and a test of `flowai-model` runs the corpus through the same functions.

pub mod promises;
