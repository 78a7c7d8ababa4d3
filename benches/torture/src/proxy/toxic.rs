//! What a proxy does to its connections.

use std::time::Duration;

/// Bytes that stay where they are, while both ends believe in the connection: a half-open one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hold {
    #[default]
    Nothing,
    /// The server hears nothing more, and its answers still come.
    ToServer,
    /// Requests arrive, and nobody hears of it.
    ToClient,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Toxic {
    /// New connections are closed at once.
    pub(crate) refuses: bool,
    pub(crate) holds: Hold,
    pub(crate) delay: Duration,
    /// Added to the delay, from nothing to this, for each chunk.
    pub(crate) jitter: Duration,
    /// Bytes a second and way.
    pub(crate) rate_max: Option<u64>,
    /// An answer breaks off after so many bytes.
    pub(crate) answer_bytes_max: Option<u64>,
    /// Present connections are broken off whenever it grows.
    pub(crate) cuts: u64,
}

impl Toxic {
    /// Harmless again, and cuts no connection by that.
    pub(crate) fn heal(&mut self) {
        *self = Self {
            cuts: self.cuts,
            ..Self::default()
        };
    }
}
