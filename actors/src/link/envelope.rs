//! What travels: an envelope to the program, a frame on the wire.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use uuid::Uuid;

use super::error::TooLarge;
use crate::ids::Epoch;
use crate::limits::MESSAGE_BYTES_MAX;

/// Names one message over all its copies. Receivers that must not act twice remember it.
pub type MessageId = Uuid;

/// One message of the farm, with its meaning still closed: `kind` says how to read `bytes`.
///
/// May be lost, doubled or late. A copy sent again keeps its `message_id`.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Time-ordered; made by the sender.
    pub message_id: MessageId,
    /// The leader's term the sender believes in; the receiver fences by it.
    pub epoch: Epoch,
    /// The sender's wall clock, for people and metrics only: no decision may rest on it.
    pub sent_at_ms: u64,
    /// Which message this is. An unknown one is answered `Unsupported`.
    pub kind: u32,
    /// The encoded message.
    pub bytes: Bytes,
}

impl Envelope {
    /// A new message, stamped now.
    pub fn new(kind: u32, epoch: Epoch, bytes: impl Into<Bytes>) -> Self {
        let sent_at_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as u64;
        Self {
            message_id: Uuid::now_v7(),
            epoch,
            sent_at_ms,
            kind,
            bytes: bytes.into(),
        }
    }
}

impl fmt::Debug for Envelope {
    /// Never prints the body: it may hold a prompt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("message_id", &self.message_id)
            .field("epoch", &self.epoch)
            .field("kind", &self.kind)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// What a gateway sends to a gateway. Without content it is a beat: it says "alive" and acknowledges.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Frame {
    /// The schema of the content, as agreed in the greeting.
    #[prost(uint32, tag = "1")]
    pub(super) schema: u32,
    /// The link's token: proves which link, and so which certificate, the frame came through.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) link_token: Bytes,
    /// How many envelopes of this link the sender of this frame has handled since it came up.
    #[prost(uint64, tag = "3")]
    pub(super) handled: u64,
    #[prost(oneof = "Content", tags = "4, 5")]
    pub(super) content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub(super) enum Content {
    #[prost(message, tag = "4")]
    Envelope(WireEnvelope),
    #[prost(message, tag = "5")]
    Unsupported(Unsupported),
}

/// An [`Envelope`] as it is encoded.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct WireEnvelope {
    #[prost(bytes = "bytes", tag = "1")]
    message_id: Bytes,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(uint64, tag = "3")]
    sent_at_ms: u64,
    #[prost(uint32, tag = "4")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "5")]
    bytes: Bytes,
}

/// The receiver does not know this kind: it is older than the sender.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Unsupported {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) message_id: Bytes,
    #[prost(uint32, tag = "2")]
    pub(super) kind: u32,
}

/// The answer to an ask.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Answer {
    #[prost(oneof = "Outcome", tags = "1, 2, 3")]
    pub(super) outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub(super) enum Outcome {
    #[prost(message, tag = "1")]
    Envelope(WireEnvelope),
    #[prost(message, tag = "2")]
    Unsupported(Unsupported),
    /// Dropped without an answer, or not allowed to the asker's role.
    #[prost(bool, tag = "3")]
    Rejected(bool),
}

macro_rules! never_prints_payload {
    ($($wire:ty),*) => {$(
        impl fmt::Debug for $wire {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($wire))
            }
        }
    )*};
}
never_prints_payload!(Frame, Content, WireEnvelope, Answer, Outcome);

impl From<Envelope> for WireEnvelope {
    fn from(envelope: Envelope) -> Self {
        let Envelope {
            message_id,
            epoch,
            sent_at_ms,
            kind,
            bytes,
        } = envelope;
        Self {
            message_id: Bytes::copy_from_slice(message_id.as_bytes()),
            epoch: epoch.get(),
            sent_at_ms,
            kind,
            bytes,
        }
    }
}

impl WireEnvelope {
    /// `None` when the message id is not 16 bytes.
    pub(super) fn open(self) -> Option<Envelope> {
        let Self {
            message_id,
            epoch,
            sent_at_ms,
            kind,
            bytes,
        } = self;
        let message_id = Uuid::from_slice(&message_id).ok()?;
        Some(Envelope {
            message_id,
            epoch: Epoch::new(epoch),
            sent_at_ms,
            kind,
            bytes,
        })
    }
}

/// Encodes unless the result is over the bound of every message.
pub(super) fn encode_bounded(message: &impl prost::Message) -> Result<Vec<u8>, TooLarge> {
    let bytes = message.encoded_len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(TooLarge { bytes });
    }
    Ok(message.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn an_envelope_survives_the_wire() {
        let sent = Envelope::new(7, Epoch::new(3), vec![1, 2, 3]);
        let bytes = encode_bounded(&WireEnvelope::from(sent.clone())).unwrap();
        assert_eq!(
            WireEnvelope::decode(bytes.as_slice()).unwrap().open(),
            Some(sent)
        );
    }

    #[test]
    fn a_wrong_message_id_opens_to_nothing() {
        let mut wire = WireEnvelope::from(Envelope::new(7, Epoch::new(3), vec![]));
        wire.message_id = Bytes::from_static(b"short");
        assert_eq!(wire.open(), None);
    }

    #[test]
    fn the_bound_counts_the_whole_frame() {
        let frame = |bytes| Frame {
            content: Some(Content::Envelope(
                Envelope::new(1, Epoch::new(1), vec![0; bytes]).into(),
            )),
            ..Frame::default()
        };
        assert!(encode_bounded(&frame(MESSAGE_BYTES_MAX - 100)).is_ok());
        let refused = encode_bounded(&frame(MESSAGE_BYTES_MAX)).unwrap_err();
        assert!(refused.bytes > MESSAGE_BYTES_MAX);
    }

    #[test]
    fn debug_output_holds_no_payload() {
        let envelope = Envelope::new(1, Epoch::new(1), b"canary".as_slice());
        let frame = Frame {
            content: Some(Content::Envelope(envelope.clone().into())),
            ..Frame::default()
        };
        for text in [
            format!("{envelope:?}"),
            format!("{frame:?}"),
            format!("{:?}", frame.content),
        ] {
            assert!(
                !text.contains("canary") && !text.contains("99, 97"),
                "{text}"
            );
        }
    }
}
