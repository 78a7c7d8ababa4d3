//! `/openai/v1`: a thin translation of the OpenAI videos API, so that its official clients work unchanged. Its errors,
//! names and units are theirs; everything behind is the native API's.

mod error;
mod fields;
mod form;
mod object;
mod routes;

pub(crate) use routes::{require_principal, router};
