//! One process per GPU: node actor, cache, encoder, uploader.

pub mod encoder;
