//! The one actor of this process that other processes can reach.

use std::sync::Arc;

use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, RpcReplyPort};

use super::switchboard::Switchboard;

/// The process group in which a peer finds our gateway once it is connected.
pub(super) const GATEWAY_GROUP: &str = "flowai-gateway";

const DELIVER: &str = "Deliver";
const ASK: &str = "Ask";

/// What a gateway says to a gateway. The names are the wire format: never rename them.
///
/// Written out by hand, not derived: the derived decoder indexes into what a peer sent and panics, and what it does not
/// know it drops, so that an ask would hang.
#[derive(Debug)]
pub(super) enum GatewayMessage {
    /// A frame, one way.
    Deliver(Vec<u8>),
    /// A frame that waits for an answer.
    Ask(Vec<u8>, RpcReplyPort<Vec<u8>>),
    /// Not one of these: a newer build, or a liar.
    Unknown(Option<RpcReplyPort<Vec<u8>>>),
}

impl Message for GatewayMessage {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        match self {
            Self::Deliver(args) => Ok(SerializedMessage::Cast {
                variant: DELIVER.to_owned(),
                args,
                metadata: None,
            }),
            Self::Ask(args, reply) => Ok(SerializedMessage::Call {
                variant: ASK.to_owned(),
                args,
                reply,
                metadata: None,
            }),
            Self::Unknown(_) => Err(BoxedDowncastErr),
        }
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        Ok(match message {
            SerializedMessage::Cast { variant, args, .. } if variant == DELIVER => {
                Self::Deliver(args)
            }
            SerializedMessage::Call {
                variant,
                args,
                reply,
                ..
            } if variant == ASK => Self::Ask(args, reply),
            SerializedMessage::Call { reply, .. } => Self::Unknown(Some(reply)),
            SerializedMessage::Cast { .. } | SerializedMessage::CallReply(..) => {
                Self::Unknown(None)
            }
        })
    }
}

/// Hands what arrives to the switchboard, which knows the links. Never waits.
pub(super) struct Gateway {
    pub(super) switchboard: Arc<Switchboard>,
}

impl Actor for Gateway {
    type Msg = GatewayMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<GatewayMessage>,
        (): (),
    ) -> Result<(), ActorProcessingErr> {
        ractor::pg::join(GATEWAY_GROUP.to_owned(), vec![myself.get_cell()]);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<GatewayMessage>,
        message: GatewayMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GatewayMessage::Deliver(frame) => self.switchboard.arrived(frame, None),
            GatewayMessage::Ask(frame, reply) => self.switchboard.arrived(frame, Some(reply)),
            GatewayMessage::Unknown(reply) => self.switchboard.arrived_unknown(reply),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_names_are_fixed() {
        let cast = GatewayMessage::Deliver(vec![7]).serialize().unwrap();
        assert!(
            matches!(&cast, SerializedMessage::Cast { variant, args, .. } if variant == "Deliver" && args == &[7])
        );
        assert!(
            matches!(GatewayMessage::deserialize(cast), Ok(GatewayMessage::Deliver(args)) if args == [7])
        );
        let (reply, _answer) = ractor::concurrency::oneshot();
        let call = GatewayMessage::Ask(vec![7], reply.into())
            .serialize()
            .unwrap();
        assert!(matches!(&call, SerializedMessage::Call { variant, .. } if variant == "Ask"));
    }

    #[test]
    fn an_unknown_variant_is_a_value_and_not_silence() {
        let message = SerializedMessage::Cast {
            variant: "Shout".to_owned(),
            args: vec![],
            metadata: None,
        };
        assert!(matches!(
            GatewayMessage::deserialize(message),
            Ok(GatewayMessage::Unknown(None))
        ));
    }
}
