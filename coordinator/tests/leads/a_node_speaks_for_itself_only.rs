//! Goal: no node can end another's attempt, get its links, keep its lease or obtain its certificate; and who knows a later term than the
//! leader's is not heard. Method: n1 works on a job; n2 says in n1's name all that a node may ask.

use std::sync::Arc;
use std::time::Duration;

use flowai_actors::checkpoint::PlaceCheckpoint;
use flowai_actors::ids::{Epoch, Generation, NodeId, Sha256};
use flowai_actors::link::{AskError, Faults, PeerId, Role, SimLink, SimNet};
use flowai_actors::membership::RenewCertificate;
use flowai_actors::messages::{
    AdapterTiers, AttemptRef, Beat, BeatAnswer, Ended, EndedAnswer, Outcome, UploadTargets,
};
use flowai_actors::preview::PlacePreview;
use flowai_actors::wire::{self, Question, QuestionError};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::farm::{Farm, LONG, peer};
use crate::scripted_node::{ScriptedNode, checkpoint};

const LOOK_AGAIN: Duration = Duration::from_millis(50);
const FIRST: Generation = Generation::new(1);

/// Somebody's link to the leader.
struct Voice<'a> {
    link: &'a SimLink,
    leader: &'a PeerId,
    /// The term that it knows.
    epoch: Epoch,
}

impl Voice<'_> {
    async fn ask<Q: Question + Sync>(&self, question: &Q) -> Result<Q::Answer, QuestionError> {
        wire::ask(self.link, self.leader, self.epoch, question, LONG).await
    }

    async fn is_refused<Q: Question + Sync>(&self, question: &Q) -> bool {
        let asked = self.ask(question).await;
        matches!(asked, Err(QuestionError::Link(AskError::Rejected)))
    }

    /// Which questions about this attempt, in the name of this process of a node, are refused.
    async fn refused(&self, node: &NodeId, generation: Generation, at: AttemptRef) -> [bool; 6] {
        let node = || node.clone();
        [
            self.is_refused(&beat(node(), generation, at)).await,
            self.is_refused(&stopped(node(), generation, at)).await,
            self.is_refused(&UploadTargets {
                at,
                node: node(),
                generation,
                files: Vec::new(),
            })
            .await,
            self.is_refused(&PlacePreview {
                at,
                node: node(),
                generation,
                step: 1,
                sha256: Sha256::from_bytes([1; 32]),
                bytes: 1,
            })
            .await,
            self.is_refused(&PlaceCheckpoint {
                at,
                node: node(),
                generation,
                file: checkpoint(),
            })
            .await,
            self.is_refused(&RenewCertificate {
                node: node(),
                signing_request: String::new(),
            })
            .await,
        ]
    }
}

fn beat(node: NodeId, generation: Generation, at: AttemptRef) -> Beat {
    Beat {
        node,
        generation,
        seq: u64::MAX,
        running: Some(at),
        is_closing: false,
        held_adapters: Vec::new(),
        adapters: AdapterTiers::default(),
    }
}

fn stopped(node: NodeId, generation: Generation, at: AttemptRef) -> Ended {
    Ended {
        at,
        node,
        generation,
        outcome: Outcome::Stopped { checkpoint: None },
    }
}

#[tokio::test]
async fn a_node_speaks_for_itself_only() {
    let mut farm = Farm::start().await;
    let user = farm.sign_up().await;
    let job = farm.queue(user).await;
    let net = SimNet::new(1, Faults::none());
    let leader = peer(Role::Coordinator, "c1");
    let leader_id = leader.id.clone();
    let (link, events) = net.attach(leader, wire::may_send);
    let (one, one_events) = ScriptedNode::linked(&net, "n1", &leader_id, &farm.objects);
    let (other, _other_events) = ScriptedNode::linked(&net, "n2", &leader_id, &farm.objects);
    let one = ScriptedNode {
        is_stuck: true,
        ..one
    };
    let (n1, running, own_link) = (one.id.clone(), one.running.clone(), one.link.clone());
    let mut world = JoinSet::new();
    world.spawn(one.run(one_events));
    world.spawn(async move { net.follow_tokio().await });
    let end = CancellationToken::new();
    let coordinator = farm.coordinator(Arc::new(link), Arc::new(|_| ()));
    let led = coordinator.run(events, end.clone());

    let work = async {
        let at = loop {
            let at = *running.lock().unwrap();
            match at {
                Some(at) => break at,
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        };
        let voice = |link| Voice {
            link,
            leader: &leader_id,
            epoch: at.epoch,
        };
        let (own, foreign) = (voice(&own_link), voice(&other.link));
        assert_eq!(foreign.refused(&n1, FIRST, at).await, [true; 6]);
        // Its next process would have a link of its own. Certificates are a node's, whatever its process.
        let next = own.refused(&n1, FIRST.next(), at).await;
        assert_eq!(next, [true, true, true, true, true, false]);
        // In its own name it is heard, and has no such attempt.
        let n2 = &other.id;
        let unknown = foreign.ask(&beat(n2.clone(), FIRST, at)).await.unwrap();
        assert_eq!(unknown, BeatAnswer::Unknown);
        let stale = foreign.ask(&stopped(n2.clone(), FIRST, at)).await.unwrap();
        assert_eq!(stale, EndedAnswer::Stale);
        let row =
            format!("select state || ' on ' || node_id from job_state where job_id = '{job}'");
        assert_eq!(farm.text(&row).await, "running on n1");

        // The database was put back to an earlier time: the node believes nothing of this term.
        let later = Voice {
            epoch: at.epoch.next(),
            ..own
        };
        let refused = later.refused(&n1, FIRST, at).await;
        assert_eq!(refused, [true, true, true, true, true, false]);
        end.cancel();
    };
    let (led, ()) = timeout(LONG, async { tokio::join!(led, work) })
        .await
        .unwrap();
    led.unwrap();
}
