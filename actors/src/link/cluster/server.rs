//! ractor_cluster's node server, set up so that only finished streams of ours reach it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, SpawnErr, pg};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::node::NodeServerSessionInformation;
use ractor_cluster::{
    BoxRead, BoxWrite, ClusterBidiStream, IncomingEncryptionMode, NodeEventSubscription,
    NodeServer, NodeServerMessage,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::gateway::{GATEWAY_GROUP, Gateway, GatewayMessage};
use super::switchboard::Switchboard;
use super::table::LinkSerial;
use super::tasks::LinkTask;
use crate::ids::Generation;
use crate::limits::{LINK_ACK_DELAY_MS, LINK_BEAT_MS, LINK_FRAME_BYTES_MAX};
use crate::link::peer::PeerId;
use crate::link::pki::Identity;
use crate::link::transport::GuardedStream;

/// The cluster's part of this process: its node server and the one remotable actor.
#[derive(Debug, Clone)]
pub(super) struct Server {
    node_server: ActorRef<NodeServerMessage>,
    gateway: ActorRef<GatewayMessage>,
}

/// Whether this side accepted or dialled a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Accepted,
    Dialled,
}

impl Server {
    pub(super) async fn start(
        identity: &Identity,
        generation: Generation,
        acceptor: TlsAcceptor,
        switchboard: Arc<Switchboard>,
    ) -> Result<Self, SpawnErr> {
        let gateway = Gateway {
            switchboard: switchboard.clone(),
        };
        // Without a name: peers choose the names of their remote actors here and could take it.
        let (gateway, gateway_ends) = Actor::spawn(None, gateway, ()).await?;
        // Name and host both carry id and generation: the cluster takes a peer that shares either for itself.
        let name = format!("{}-{generation}", identity.peer());
        let server = NodeServer::new(
            0,
            identity.cookie_text(),
            name.clone(),
            name,
            Some(IncomingEncryptionMode::Tls(acceptor)),
            Some(NodeConnectionMode::Isolated),
        )
        // Its own listener cannot be switched off; here nobody outside finds it.
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .with_max_inbound_frame_size(LINK_FRAME_BYTES_MAX);
        let (node_server, node_server_ends) = Actor::spawn(None, server, ()).await?;
        switchboard.tasks.spawn(LinkTask::Cluster, |_| async move {
            tokio::select! {
                _ = gateway_ends => Err("the gateway has ended".into()),
                _ = node_server_ends => Err("the cluster's node server has ended".into()),
            }
        });
        let subscription = NodeServerMessage::SubscribeToEvents {
            id: "flowai-link".to_owned(),
            subscription: Box::new(Sessions { switchboard }),
        };
        node_server
            .send_message(subscription)
            .map_err(|_| SpawnErr::ActorAlreadyStarted)?;
        Ok(Self {
            node_server,
            gateway,
        })
    }

    /// Gives a finished connection to the cluster. `false` when the node server has ended.
    pub(super) fn hand_over<S>(
        &self,
        side: Side,
        serial: LinkSerial,
        peer: &PeerId,
        stream: GuardedStream<S>,
    ) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = Box::new(Labelled {
            label: label_of(peer, serial),
            stream,
        });
        let opened = NodeServerMessage::ConnectionOpenedExternal {
            stream,
            is_server: side == Side::Accepted,
        };
        self.node_server.send_message(opened).is_ok()
    }

    pub(super) async fn stop(&self, deadline: Duration) {
        // Whoever has ended already is as good as stopped.
        self.node_server
            .stop_and_wait(None, Some(deadline))
            .await
            .ok();
        self.gateway.stop_and_wait(None, Some(deadline)).await.ok();
    }
}

/// A connection with the name under which the cluster reports it: the certified peer and our serial.
struct Labelled<S> {
    label: String,
    stream: GuardedStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ClusterBidiStream for Labelled<S> {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (reader, writer) = tokio::io::split(self.stream);
        (Box::new(reader), Box::new(writer))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }
}

fn label_of(peer: &PeerId, serial: LinkSerial) -> String {
    format!("{peer}#{}", serial.0)
}

/// The serial in a label; `None` for connections that did not come from us.
fn serial_in(label: &str) -> Option<LinkSerial> {
    let (_, serial) = label.rsplit_once('#')?;
    serial.parse().ok().map(LinkSerial)
}

/// Hears from the cluster what becomes of the connections.
struct Sessions {
    switchboard: Arc<Switchboard>,
}

impl NodeEventSubscription for Sessions {
    fn node_session_opened(&self, _: NodeServerSessionInformation) {}

    fn node_session_authenticated(&self, _: NodeServerSessionInformation) {}

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        let Some(serial) = serial_in(&session.peer_addr) else {
            // It came through the cluster's own listener: it never was greeted and has no token.
            tracing::warn!("closed a cluster session that did not come through our transport");
            session.actor.stop(None);
            return;
        };
        let Some(gateway) = gateway_on(session.node_id) else {
            tracing::warn!(peer = session.peer_addr, "peer has no gateway");
            session.actor.stop(None);
            return;
        };
        let switchboard = &self.switchboard;
        let Some(receipts) = switchboard
            .table()
            .up(serial, gateway)
            .map(|link| link.receipts.clone())
        else {
            session.actor.stop(None);
            return;
        };
        switchboard.counters.links_up.add(1);
        tracing::info!(peer = session.peer_addr, "link is up");
        let beating = switchboard.clone();
        switchboard.tasks.spawn(LinkTask::Beat, |_| async move {
            let mut acknowledged = 0;
            loop {
                let silence = Duration::from_millis(LINK_BEAT_MS);
                if tokio::time::timeout(silence, receipts.news.notified())
                    .await
                    .is_ok()
                {
                    tokio::time::sleep(Duration::from_millis(LINK_ACK_DELAY_MS)).await;
                    if receipts.handled() == acknowledged {
                        continue;
                    }
                }
                match beating.beat(serial) {
                    Some(handled) => acknowledged = handled,
                    None => return Ok(()),
                }
            }
        });
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        if let Some(serial) = serial_in(&session.peer_addr) {
            self.switchboard.table().closed(serial);
            tracing::info!(peer = session.peer_addr, "link is closed");
        }
    }
}

/// The gateway of a connected process. Chosen by the connection's own node id, not by the group alone, since a peer may
/// join its actors to any group.
fn gateway_on(node_id: ractor_cluster::NodeId) -> Option<ActorRef<GatewayMessage>> {
    let members = pg::get_members(&GATEWAY_GROUP.to_owned());
    let mut theirs = members
        .into_iter()
        .filter(|member| !member.get_id().is_local() && member.get_id().node() == node_id);
    theirs.next().map(ActorRef::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_lead_back_to_the_link() {
        let label = label_of(&"n1.node".parse().unwrap(), LinkSerial(17));
        assert_eq!(label, "n1.node#17");
        assert_eq!(serial_in(&label), Some(LinkSerial(17)));
        assert_eq!(serial_in("127.0.0.1:4711"), None);
    }
}
