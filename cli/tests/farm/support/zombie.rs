//! A node that was given up and speaks all the same: the certificate, the generation and the words of the real one.

use std::time::Duration;

use flowai_actors::ids::{Epoch, Generation};
use flowai_actors::link::pki::Identity;
use flowai_actors::link::{LinkConfig, LinkEvent, LinkEvents, PeerId, RactorLink};
use flowai_actors::manifest::Manifest;
use flowai_actors::messages::{
    ArtefactFile, AttemptRef, Ended, EndedAnswer, Outcome, ReadyFile, UploadTargets,
    UploadTargetsAnswer,
};
use flowai_actors::wire;
use tokio::sync::watch;

use super::{TestFarm, within};

const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Zombie {
    link: RactorLink,
    leader: PeerId,
    node: String,
    generation: Generation,
    _events: LinkEvents,
    _targets: watch::Sender<Vec<String>>,
}

impl Zombie {
    /// Takes the place of a node that does not speak at this moment. One in a process.
    pub(crate) async fn of(farm: &TestFarm, node: &str, generation: u32) -> Self {
        let config = LinkConfig {
            identity: Identity::load(&farm.farm().folder().tls(node)).unwrap(),
            generation: Generation::new(generation),
            build: "zombie".to_owned(),
            schemas: wire::schemas(),
            may_send: wire::may_send,
        };
        let (link, mut events) = RactorLink::start(config).await.unwrap();
        let coordinator = farm.farm().program("coordinator-1").unwrap();
        let address = coordinator.address().unwrap().to_string();
        let (targets, dialled) = watch::channel(vec![address]);
        link.dial(dialled).unwrap();
        let up = async {
            loop {
                match events.next().await {
                    Some(LinkEvent::Up(peer)) => return peer.id,
                    Some(_) => {}
                    None => panic!("the link was shut down"),
                }
            }
        };
        let leader = within("the zombie has a link", up).await;
        Self {
            link,
            leader,
            node: node.to_owned(),
            generation: Generation::new(generation),
            _events: events,
            _targets: targets,
        }
    }

    /// Says that it has rendered this attempt, with another clip.
    pub(crate) async fn says_it_rendered(&self, at: AttemptRef, like: &Manifest) -> EndedAnswer {
        let mut manifest = like.clone();
        manifest.attempt = at.attempt;
        manifest.epoch = at.epoch;
        manifest.node = self.node.parse().unwrap();
        manifest.generation = self.generation;
        manifest.clip_sha256 = like.model_sha256;
        let ended = Ended {
            at,
            node: self.node.parse().unwrap(),
            generation: self.generation,
            outcome: Outcome::Rendered {
                clip_sha256: manifest.clip_sha256,
                clip_bytes: manifest.clip_bytes,
                manifest: Box::new(manifest),
            },
        };
        wire::ask(&self.link, &self.leader, at.epoch, &ended, DEADLINE)
            .await
            .unwrap()
    }

    /// Asks where to put its files.
    pub(crate) async fn wants_to_upload(
        &self,
        at: AttemptRef,
        like: &Manifest,
    ) -> UploadTargetsAnswer {
        let files = ArtefactFile::of(&like.spec).into_iter();
        let files = files.map(|file| ReadyFile {
            file,
            sha256: like.clip_sha256,
            bytes: 1,
        });
        let question = UploadTargets {
            at,
            node: self.node.parse().unwrap(),
            generation: self.generation,
            files: files.collect(),
        };
        wire::ask(&self.link, &self.leader, at.epoch, &question, DEADLINE)
            .await
            .unwrap()
    }

    pub(crate) async fn leave(self) {
        self.link.shutdown().await;
    }
}

/// The first attempt of a job, as the leader gave it out, and the generation of the node that got it.
pub(crate) async fn first_attempt(farm: &TestFarm, job: &str) -> (AttemptRef, u32) {
    let number = async |column: &'static str| -> i32 { farm.one(column, job).await };
    let epoch = number("select epoch from attempt where job_id = $1::uuid and attempt = 1").await;
    let generation =
        number("select generation from attempt where job_id = $1::uuid and attempt = 1").await;
    let at = AttemptRef {
        job: job.parse().unwrap(),
        attempt: flowai_actors::ids::Attempt::new(1),
        epoch: Epoch::new(epoch.unsigned_abs()),
    };
    (at, generation.unsigned_abs())
}
