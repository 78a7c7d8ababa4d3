//! The one command people type: it starts a farm, and talks to one.

pub mod exit;
pub mod farm;
