//! What can go wrong with one message.

use super::envelope::Envelope;
use crate::limits::MESSAGE_BYTES_MAX;

/// The message is over the bound of every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "message must be at most {MESSAGE_BYTES_MAX} bytes (got {bytes}); put bytes into the object store and send their hash"
)]
pub struct TooLarge {
    /// Its encoded size.
    pub bytes: usize,
}

/// Why an envelope was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// 64 envelopes of this link are not acknowledged; here is this one back. Shed it, or keep only the latest.
    #[error("link is full; shed the message or try later")]
    Full(Envelope),
    /// No link to this peer is up. Wait for `Up` and resync.
    #[error("no link to the peer; wait until it is up and resync")]
    Gone,
    /// Over 256 KiB.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// Why an ask got no answer. As for any message: after `Timeout`, `Gone` and `Rejected` the peer may have acted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No answer within the deadline.
    #[error("no answer within the deadline; the request may still be carried out")]
    Timeout,
    /// No link to this peer, or it broke before the answer. Wait for `Up` and resync.
    #[error("no link to the peer; wait until it is up and resync")]
    Gone,
    /// 64 envelopes of this link are not acknowledged. Nothing was sent.
    #[error("link is full; nothing was sent, try later")]
    Full,
    /// The peer dropped the request, or its rules do not allow it to this role.
    #[error("peer dropped the request or does not allow it to this role")]
    Rejected,
    /// The peer's build does not know this kind.
    #[error("peer does not know message kind {kind}; it runs an older build")]
    Unsupported {
        /// The kind that was asked.
        kind: u32,
    },
    /// Over 256 KiB.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}
