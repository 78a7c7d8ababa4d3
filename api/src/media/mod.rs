//! Delivered files: signed links for players that send no bearer token, and ranges.

mod routes;
mod serve;
mod ticket;

pub(crate) use routes::router;
pub(crate) use serve::{MediaFile, find, no_clip_of, serve};
pub(crate) use ticket::{TICKET_TTL_S, link};
