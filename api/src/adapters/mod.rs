//! `/v1/adapters`: uploads that fit a model.

mod check;
mod routes;

pub(crate) use check::checked_against;
pub(crate) use routes::router;
