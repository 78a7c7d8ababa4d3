//! Goal: a leader whose actor panics in every term does not cut all links over and over for ever.
//! Method: a link whose every send panics, and an api instance that is to be told of a job's place in the line.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flowai_actors::limits::RESTARTS_MAX;
use flowai_actors::link::{
    AskError, Envelope, Faults, NodeLink, Peer, PeerId, Role, SendError, SimLink, SimNet, Standing,
};
use flowai_actors::wire;
use flowai_coordinator::CoordinatorError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, peer};

#[derive(Debug)]
struct Explosive(SimLink);

#[async_trait]
impl NodeLink for Explosive {
    fn send(&self, to: &PeerId, _: Envelope) -> Result<(), SendError> {
        panic!("nothing is sent to {to}")
    }

    async fn ask(
        &self,
        to: &PeerId,
        envelope: Envelope,
        deadline: Duration,
    ) -> Result<Envelope, AskError> {
        self.0.ask(to, envelope, deadline).await
    }

    fn peers(&self) -> Vec<Peer> {
        self.0.peers()
    }

    fn disconnect(&self, peer: &PeerId) {
        self.0.disconnect(peer);
    }
}

#[tokio::test]
async fn a_leader_that_always_fails_ends_its_process() {
    let mut farm = Farm::start().await;
    let user = farm.sign_up().await;
    farm.queue(user).await;

    let net = SimNet::new(1, Faults::none());
    let (me, api) = (peer(Role::Coordinator, "c1"), peer(Role::Api, "api-1"));
    let (my_id, api_id) = (me.id.clone(), api.id.clone());
    let (link, events) = net.attach(me, wire::may_send);
    let _api = net.attach(api, wire::may_send);
    let terms = Arc::new(AtomicUsize::new(0));
    let (begun, cut) = (terms.clone(), link.clone());
    // As the real link does: whoever leads is dialled, whoever does not is left.
    let stand = Arc::new(move |standing| match standing {
        Standing::Leading => {
            begun.fetch_add(1, Ordering::Relaxed);
            net.connect(&my_id, &api_id);
        }
        Standing::Standby { .. } => cut.disconnect(&api_id),
    });
    let coordinator = farm.coordinator(Arc::new(Explosive(link)), stand);
    let ran = timeout(LONG, coordinator.run(events, CancellationToken::new()));
    let ran = ran.await.unwrap();
    assert!(matches!(ran, Err(CoordinatorError::Term { .. })), "{ran:?}");
    assert_eq!(terms.load(Ordering::Relaxed), RESTARTS_MAX + 1);
}
