//! `/v1/uploads`: files of users. Nothing is stored that has not passed its gate.

mod gate;
mod image;
mod places;
mod receive;
mod room;
mod routes;

pub(crate) use gate::Gate;
pub(crate) use places::Place;
pub(crate) use receive::{IncomingFile, broken, receive_file, receive_text};
pub(crate) use room::require_room;
pub(crate) use routes::remove_picture;
pub(crate) use routes::{router, store_picture};
