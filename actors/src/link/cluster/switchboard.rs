//! Connects the program, the link table and the gateways: what goes out gets its token and its credit, what comes in is
//! checked against both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use ractor::rpc::CallResult;
use ractor::{ActorRef, RpcReplyPort};

use super::MaySend;
use super::gateway::GatewayMessage;
use super::table::{Link, LinkSerial, LinkTable};
use crate::kit::Tasks;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::link::credit::{Credit, FalseReceipt};
use crate::link::envelope::{
    Answer, Content, Envelope, Frame, Outcome, Unsupported, encode_bounded,
};
use crate::link::error::{AskError, SendError};
use crate::link::greeting::LinkToken;
use crate::link::inbound::{
    Delivery, ReplyOutcome, ReplyPort, Request, SayUnsupported, SendAnswer,
};
use crate::link::peer::PeerId;
use crate::link::port::{DownReason, EventSender, LinkEvent};
use crate::link::stats::{Counter, Counters};

type GatewayRef = ActorRef<GatewayMessage>;

/// Shared by everything that belongs to one [`super::RactorLink`].
pub(super) struct Switchboard {
    table: Mutex<LinkTable<GatewayRef>>,
    may_send: MaySend,
    pub(super) counters: Arc<Counters>,
    pub(super) events: EventSender,
    pub(super) tasks: Tasks,
}

impl Switchboard {
    pub(super) fn new(may_send: MaySend, events: EventSender, tasks: Tasks) -> Self {
        let table = Mutex::new(LinkTable::new(events.clone()));
        Self {
            table,
            may_send,
            counters: Arc::default(),
            events,
            tasks,
        }
    }

    /// The table holds no half-done change across a panic, so a poisoned lock is as good as a clean one.
    pub(super) fn table(&self) -> MutexGuard<'_, LinkTable<GatewayRef>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, to: &PeerId, envelope: Envelope) -> Result<(), SendError> {
        let mut table = self.table();
        let (_, link) = table.by_peer(to).ok_or(SendError::Gone)?;
        let gateway = link.gateway().ok_or(SendError::Gone)?.clone();
        if !link.window.take() {
            return Err(SendError::Full(envelope));
        }
        let sent = encode_bounded(&frame(link, Some(Content::Envelope(envelope.into()))))
            .map_err(SendError::from)
            .and_then(|bytes| {
                gateway
                    .send_message(GatewayMessage::Deliver(bytes))
                    .map_err(|_| SendError::Gone)
            });
        if sent.is_err() {
            link.window.untake();
        }
        sent
    }

    pub(super) async fn ask(
        &self,
        to: &PeerId,
        envelope: Envelope,
        deadline: Duration,
    ) -> Result<Envelope, AskError> {
        let kind = envelope.kind;
        let (gateway, bytes) = self.prepare_ask(to, envelope)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "kit::ask stays in the process; here is a deadline, and the gateway never drops a reply"
        )]
        let call = gateway.call(|reply| GatewayMessage::Ask(bytes, reply), Some(deadline));
        let answer = match call.await {
            Ok(CallResult::Success(answer)) => answer,
            Ok(CallResult::Timeout) => return Err(AskError::Timeout),
            Ok(CallResult::SenderError) | Err(_) => return Err(AskError::Gone),
        };
        match Answer::decode(answer.as_slice())
            .ok()
            .and_then(|answer| answer.outcome)
        {
            Some(Outcome::Envelope(envelope)) => envelope.open().ok_or(AskError::Rejected),
            Some(Outcome::Unsupported(_)) => Err(AskError::Unsupported { kind }),
            Some(Outcome::Rejected(_)) | None => Err(AskError::Rejected),
        }
    }

    fn prepare_ask(
        &self,
        to: &PeerId,
        envelope: Envelope,
    ) -> Result<(GatewayRef, Vec<u8>), AskError> {
        let mut table = self.table();
        let (_, link) = table.by_peer(to).ok_or(AskError::Gone)?;
        let gateway = link.gateway().ok_or(AskError::Gone)?.clone();
        let bytes = encode_bounded(&frame(link, Some(Content::Envelope(envelope.into()))))?;
        if !link.window.take() {
            return Err(AskError::Full);
        }
        Ok((gateway, bytes))
    }

    /// Says "alive" to the peer and acknowledges what was handled. Gives the acknowledged count; `None` when the link is
    /// not up any more.
    pub(super) fn beat(&self, serial: LinkSerial) -> Option<u64> {
        let mut table = self.table();
        let link = table.by_serial(serial)?;
        let frame = frame(link, None);
        link.gateway()?
            .send_message(GatewayMessage::Deliver(frame.encode_to_vec()))
            .ok()?;
        Some(frame.handled)
    }

    /// A frame came in. `reply` is there when the peer waits for an answer.
    pub(super) fn arrived(self: &Arc<Self>, bytes: Vec<u8>, reply: Option<RpcReplyPort<Vec<u8>>>) {
        let refusal = match self.take_in(bytes, reply) {
            Ok(()) => return,
            Err(refusal) => refusal,
        };
        if self.counter_of(&refusal).worth_a_line() {
            tracing::warn!(?refusal, "refused a frame");
        }
    }

    /// A gateway message of another build came in.
    pub(super) fn arrived_unknown(&self, reply: Option<RpcReplyPort<Vec<u8>>>) {
        if let Some(reply) = reply {
            answer(reply, Outcome::Unsupported(Unsupported::default()));
        }
        if self.counters.unsupported.worth_a_line() {
            tracing::warn!("a peer's gateway spoke a variant that this build does not know");
        }
    }

    fn take_in(
        self: &Arc<Self>,
        bytes: Vec<u8>,
        reply: Option<RpcReplyPort<Vec<u8>>>,
    ) -> Result<(), Refusal> {
        let reply = reply.map(AnswerOrReject::new);
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::Malformed);
        }
        let frame = Frame::decode(Bytes::from(bytes)).map_err(|_| Refusal::Malformed)?;
        let token = LinkToken::from_wire(frame.link_token).ok_or(Refusal::ForeignToken)?;
        let mut table = self.table();
        let (serial, link) = table.by_token(&token).ok_or(Refusal::ForeignToken)?;
        let taken = match link.window.acknowledge(frame.handled) {
            Ok(()) => self.take_content(link, serial, frame.content, reply),
            Err(FalseReceipt) => Err(Refusal::Overrun(link.peer.id.clone())),
        };
        if let Err(Refusal::Overrun(_)) = taken {
            table.retire(serial, DownReason::Misbehaved);
        }
        taken
    }

    fn take_content(
        self: &Arc<Self>,
        link: &mut Link<GatewayRef>,
        serial: LinkSerial,
        content: Option<Content>,
        reply: Option<AnswerOrReject>,
    ) -> Result<(), Refusal> {
        match content {
            None => Ok(()),
            Some(Content::Unsupported(unsupported)) => {
                let message_id = uuid::Uuid::from_slice(&unsupported.message_id)
                    .map_err(|_| Refusal::Malformed)?;
                // Not acknowledged, since it is not the program's to handle. It should answer one of our 64, but nothing
                // holds the peer to that.
                let is_taken = link.emit_unsupported(message_id, unsupported.kind);
                if !is_taken && self.counters.unsupported_shed.worth_a_line() {
                    tracing::warn!(peer = %link.peer.id, "shed an answer `unsupported`: too many wait for the program");
                }
                Ok(())
            }
            Some(Content::Envelope(envelope)) => {
                let credit = link
                    .receipts
                    .arrive()
                    .map_err(|_| Refusal::Overrun(link.peer.id.clone()))?;
                let envelope = envelope.open().ok_or(Refusal::Malformed)?;
                if !(self.may_send)(link.peer.id.role(), envelope.kind) {
                    return Err(Refusal::ForbiddenKind {
                        peer: link.peer.id.clone(),
                        kind: envelope.kind,
                    });
                }
                let event = self.event(link, serial, envelope, reply, credit);
                link.emit(event);
                Ok(())
            }
        }
    }

    fn event(
        self: &Arc<Self>,
        link: &Link<GatewayRef>,
        serial: LinkSerial,
        envelope: Envelope,
        reply: Option<AnswerOrReject>,
        credit: Credit,
    ) -> LinkEvent {
        let from = link.peer.clone();
        match reply {
            Some(reply) => {
                let reply = ReplyPort::new(self.send_answer(reply, &envelope), credit);
                LinkEvent::Request(Request {
                    from,
                    envelope,
                    reply,
                })
            }
            None => {
                let say_unsupported = self.say_unsupported(serial);
                LinkEvent::Message(Delivery {
                    from,
                    envelope,
                    say_unsupported,
                    credit,
                })
            }
        }
    }

    fn send_answer(self: &Arc<Self>, reply: AnswerOrReject, asked: &Envelope) -> SendAnswer {
        let (switchboard, message_id, kind) = (self.clone(), asked.message_id, asked.kind);
        Box::new(move |outcome| {
            let outcome = match outcome {
                ReplyOutcome::Answer(envelope) => Outcome::Envelope(envelope.into()),
                ReplyOutcome::Rejected => Outcome::Rejected(true),
                ReplyOutcome::Unsupported => {
                    switchboard.count_unsupported(kind);
                    Outcome::Unsupported(Unsupported {
                        message_id: Bytes::copy_from_slice(message_id.as_bytes()),
                        kind,
                    })
                }
            };
            // When it is too large, the drop of `reply` rejects.
            let bytes = encode_bounded(&Answer {
                outcome: Some(outcome),
            })?;
            reply.send(bytes);
            Ok(())
        })
    }

    fn say_unsupported(self: &Arc<Self>, serial: LinkSerial) -> SayUnsupported {
        let switchboard = self.clone();
        Box::new(move |envelope| {
            switchboard.count_unsupported(envelope.kind);
            let message_id = Bytes::copy_from_slice(envelope.message_id.as_bytes());
            let content = Content::Unsupported(Unsupported {
                message_id,
                kind: envelope.kind,
            });
            let mut table = switchboard.table();
            let Some(link) = table.by_serial(serial) else {
                return;
            };
            let frame = frame(link, Some(content));
            if let Some(gateway) = link.gateway() {
                // A link that has just gone needs no notice.
                gateway
                    .send_message(GatewayMessage::Deliver(frame.encode_to_vec()))
                    .ok();
            }
        })
    }

    fn count_unsupported(&self, kind: u32) {
        if self.counters.unsupported.worth_a_line() {
            tracing::warn!(kind, "answered a message of an unknown kind as unsupported");
        }
    }

    fn counter_of(&self, refusal: &Refusal) -> &Counter {
        match refusal {
            Refusal::Malformed => &self.counters.refused_malformed,
            Refusal::ForeignToken => &self.counters.refused_token,
            Refusal::ForbiddenKind { .. } => &self.counters.refused_kind,
            Refusal::Overrun(_) => &self.counters.overruns,
        }
    }
}

/// Why a frame was not taken in.
#[derive(Debug)]
enum Refusal {
    Malformed,
    ForeignToken,
    #[expect(dead_code, reason = "read by Debug, for the log")]
    ForbiddenKind {
        peer: PeerId,
        kind: u32,
    },
    #[expect(dead_code, reason = "read by Debug, for the log")]
    Overrun(PeerId),
}

fn frame(link: &Link<GatewayRef>, content: Option<Content>) -> Frame {
    let (link_token, handled) = (link.token.to_wire(), link.receipts.handled());
    Frame {
        schema: link.peer.schema,
        link_token,
        handled,
        content,
    }
}

fn answer(reply: RpcReplyPort<Vec<u8>>, outcome: Outcome) {
    // An asker whose deadline has passed is not an error.
    reply
        .send(
            Answer {
                outcome: Some(outcome),
            }
            .encode_to_vec(),
        )
        .ok();
}

/// The cluster's reply port with our promise on it: dropped means rejected, never silence.
struct AnswerOrReject(Option<RpcReplyPort<Vec<u8>>>);

impl AnswerOrReject {
    fn new(reply: RpcReplyPort<Vec<u8>>) -> Self {
        Self(Some(reply))
    }

    fn send(mut self, bytes: Vec<u8>) {
        if let Some(reply) = self.0.take() {
            reply.send(bytes).ok();
        }
    }
}

impl Drop for AnswerOrReject {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            answer(reply, Outcome::Rejected(true));
        }
    }
}
