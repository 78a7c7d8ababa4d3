//! A render node that keeps to the protocol and renders nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowai_actors::checkpoint::{CheckpointFile, CheckpointPlace, PlaceCheckpoint};
use flowai_actors::ids::{Epoch, Generation, NodeId, Sha256};
use flowai_actors::limits::NODE_BEAT_MS;
use flowai_actors::link::{LinkEvent, LinkEvents, PeerId, Request, Role, SimLink, SimNet};
use flowai_actors::manifest::{EngineInfo, KeyframeMade, Manifest, StageTimings};
use flowai_actors::messages::{
    AdapterTiers, ArtefactFile, Assign, AssignAnswer, AttemptRef, Beat, BeatAnswer, Body, Ended,
    EndedAnswer, FirstFrameSource, ModelFamily, ModelOffer, Outcome, Prefetch, ReadyFile, Register,
    Registered, Source, Stop, UploadTargets, UploadTargetsAnswer, Verdict,
};
use flowai_actors::spec::{AdapterUse, FirstFrame, SpecLimits};
use flowai_actors::wire;
use flowai_store::checkpoints::checkpoint_key;
use flowai_store::journal::artefact_key;
use flowai_store::objects::Objects;
use tokio::task::JoinSet;

use crate::farm::peer;

const GENERATION: Generation = Generation::new(1);
const BEAT: Duration = Duration::from_millis(NODE_BEAT_MS);
const ASK_DEADLINE: Duration = Duration::from_millis(500);
pub(crate) const CHECKPOINT: &[u8] = b"a checkpoint";
const CLIP: &[u8] = b"a clip";
pub(crate) const CLIP_MODEL: Sha256 = Sha256::from_bytes([2; 32]);
pub(crate) const KEYFRAME_MODEL: Sha256 = Sha256::from_bytes([6; 32]);

#[derive(Clone)]
pub(crate) struct ScriptedNode {
    pub(crate) id: NodeId,
    pub(crate) leader: PeerId,
    pub(crate) link: SimLink,
    pub(crate) objects: Objects,
    pub(crate) running: Arc<Mutex<Option<AttemptRef>>>,
    /// Takes jobs and never ends them.
    pub(crate) is_stuck: bool,
    /// So many of the jobs that it takes are stopped with a checkpoint.
    pub(crate) stops: Arc<AtomicU32>,
    /// What it was told that comes next.
    pub(crate) hints: Arc<Mutex<Vec<Prefetch>>>,
    /// What it took, in order.
    pub(crate) taken: Arc<Mutex<Vec<Assign>>>,
}

impl ScriptedNode {
    /// A node of this name with a link to the leader, and what comes over it.
    pub(crate) fn linked(
        net: &SimNet,
        name: &str,
        leader: &PeerId,
        objects: &Objects,
    ) -> (Self, LinkEvents) {
        let me = peer(Role::Node, name);
        let id = me.id.clone();
        let (link, events) = net.attach(me, wire::may_send);
        assert!(net.connect(&id, leader));
        let node = Self {
            id: name.parse().unwrap(),
            leader: leader.clone(),
            link,
            objects: objects.clone(),
            running: Arc::default(),
            is_stuck: false,
            stops: Arc::default(),
            hints: Arc::default(),
            taken: Arc::default(),
        };
        (node, events)
    }

    /// Never ends by itself.
    pub(crate) async fn run(self, mut events: LinkEvents) {
        let mut renders = JoinSet::new();
        renders.spawn(self.clone().stay_registered());
        while let Some(event) = events.next().await {
            match event {
                LinkEvent::Request(request) => {
                    let taken = self.asked(request);
                    self.taken.lock().unwrap().extend(taken.clone());
                    if let Some(assign) = taken.filter(|_| !self.is_stuck) {
                        renders.spawn(self.clone().render(assign));
                    }
                }
                LinkEvent::Message(delivery) => {
                    let hint = wire::open(&delivery.envelope).unwrap();
                    self.hints.lock().unwrap().push(hint);
                }
                _ => {}
            }
        }
    }

    /// A job that it did not have.
    fn asked(&self, request: Request) -> Option<Assign> {
        let (envelope, reply) = (request.envelope, request.reply);
        let mut running = self.running.lock().unwrap();
        if envelope.kind == Stop::KIND {
            let stop: Stop = wire::open(&envelope).unwrap();
            let is_mine = *running == Some(stop.at);
            reply
                .send(wire::seal(stop.at.epoch, &is_mine).unwrap())
                .unwrap();
            return None;
        }
        let assign: Assign = wire::open(&envelope).unwrap();
        assert_is_whole(&assign);
        let is_free = running.is_none();
        let with = *running.get_or_insert(assign.at);
        let answer = if with == assign.at {
            AssignAnswer::Accepted
        } else {
            AssignAnswer::Busy { with }
        };
        reply
            .send(wire::seal(assign.at.epoch, &answer).unwrap())
            .unwrap();
        is_free.then_some(assign)
    }

    async fn stay_registered(self) {
        let mut seq = 0;
        let mut is_registered = false;
        loop {
            let reported = *self.running.lock().unwrap();
            if !is_registered {
                let register = self.registration(reported);
                if let Some(Registered::Welcome { running, .. }) = self.ask(&register).await {
                    is_registered = true;
                    self.obey(reported, running);
                }
                continue;
            }
            seq += 1;
            let beat = Beat {
                node: self.id.clone(),
                generation: GENERATION,
                seq,
                running: reported,
                is_closing: false,
                held_adapters: Vec::new(),
                adapters: AdapterTiers::default(),
            };
            match self.ask(&beat).await {
                Some(BeatAnswer::Renewed { running, .. }) => {
                    self.obey(reported, running);
                    tokio::time::sleep(BEAT).await;
                }
                Some(BeatAnswer::Unknown) => is_registered = false,
                Some(BeatAnswer::Fenced { held }) => panic!("fenced by {held}"),
                None => {}
            }
        }
    }

    fn obey(&self, reported: Option<AttemptRef>, verdict: Verdict) {
        if verdict == Verdict::Drop {
            self.drop_attempt(reported);
        }
    }

    fn drop_attempt(&self, at: Option<AttemptRef>) {
        let mut running = self.running.lock().unwrap();
        if *running == at {
            *running = None;
        }
    }

    /// Uploads a checkpoint where the leader says, and ends with it.
    async fn stop(self, assign: Assign) {
        let at = assign.at;
        let place = PlaceCheckpoint {
            at,
            node: self.id.clone(),
            generation: GENERATION,
            file: checkpoint(),
        };
        match self.insist(at, &place).await {
            Some(CheckpointPlace::Target { url, .. }) => assert!(url.contains("checkpoints/")),
            // A busy machine heard its beats too late: the next attempt stops instead.
            Some(CheckpointPlace::Refused) | None => {
                self.stops.fetch_add(1, Ordering::Relaxed);
                return self.drop_attempt(Some(at));
            }
        }
        let key = checkpoint_key(at.job, at.attempt, checkpoint().step);
        let put = self
            .objects
            .put(&key, CHECKPOINT.into(), "application/octet-stream");
        put.await.unwrap();
        let ended = Ended {
            at,
            node: self.id.clone(),
            generation: GENERATION,
            outcome: Outcome::Stopped {
                checkpoint: Some(checkpoint()),
            },
        };
        match self.insist(at, &ended).await {
            Some(EndedAnswer::Settled | EndedAnswer::Stale) | None => self.drop_attempt(Some(at)),
        }
    }

    async fn render(self, assign: Assign) {
        let at = assign.at;
        let left = |stops: u32| stops.checked_sub(1);
        let stops = self
            .stops
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        if stops.is_ok() {
            return self.stop(assign).await;
        }
        let files = ArtefactFile::of(&assign.spec);
        for file in files.iter().copied() {
            let key = artefact_key(at.job, at.attempt, file);
            let put = self.objects.put(&key, CLIP.into(), file.content_type());
            put.await.unwrap();
        }
        let targets = UploadTargets {
            at,
            node: self.id.clone(),
            generation: GENERATION,
            files: files
                .into_iter()
                .map(|file| ReadyFile {
                    file,
                    sha256: clip_sha256(),
                    bytes: CLIP.len() as u64,
                })
                .collect(),
        };
        let ended = Ended {
            at,
            node: self.id.clone(),
            generation: GENERATION,
            outcome: Outcome::Rendered {
                clip_sha256: clip_sha256(),
                clip_bytes: CLIP.len() as u64,
                manifest: Box::new(self.manifest(&assign)),
            },
        };
        match self.insist(at, &targets).await {
            Some(UploadTargetsAnswer::Targets { .. }) => {}
            Some(UploadTargetsAnswer::Refused { reason }) => panic!("{reason}"),
            Some(UploadTargetsAnswer::Stale) | None => return self.drop_attempt(Some(at)),
        }
        match self.insist(at, &ended).await {
            Some(EndedAnswer::Settled | EndedAnswer::Stale) | None => self.drop_attempt(Some(at)),
        }
    }

    async fn ask<Q: wire::Question + Sync>(&self, question: &Q) -> Option<Q::Answer> {
        let asked = wire::ask(
            &self.link,
            &self.leader,
            Epoch::ZERO,
            question,
            ASK_DEADLINE,
        );
        asked.await.ok()
    }

    /// Until it is answered, or the attempt was dropped.
    async fn insist<Q: wire::Question + Sync>(
        &self,
        at: AttemptRef,
        question: &Q,
    ) -> Option<Q::Answer> {
        while *self.running.lock().unwrap() == Some(at) {
            if let Some(answer) = self.ask(question).await {
                return Some(answer);
            }
        }
        None
    }

    fn registration(&self, running: Option<AttemptRef>) -> Register {
        Register {
            node: self.id.clone(),
            generation: GENERATION,
            version: "1".to_owned(),
            device_class: "cpu".to_owned(),
            device: "cpu".to_owned(),
            memory_bytes: 1,
            models: vec![
                offer("tiny", ModelFamily::Svd, CLIP_MODEL),
                offer("painter", ModelFamily::Sd, KEYFRAME_MODEL),
            ],
            refused_models: Vec::new(),
            running,
        }
    }

    fn manifest(&self, assign: &Assign) -> Manifest {
        Manifest {
            manifest_version: Manifest::VERSION,
            job: assign.at.job,
            attempt: assign.at.attempt,
            epoch: assign.at.epoch,
            node: self.id.clone(),
            generation: GENERATION,
            spec: assign.spec.clone(),
            model_sha256: assign.model_sha256,
            adapters: Vec::new(),
            keyframe: match &assign.first_frame {
                FirstFrameSource::Image(_) => None,
                FirstFrameSource::Keyframe { model_sha256, .. } => Some(KeyframeMade {
                    model_sha256: *model_sha256,
                    adapters: Vec::new(),
                    sha256: clip_sha256(),
                    bytes: CLIP.len() as u64,
                    tokens_cut: [0, 0],
                }),
            },
            resumed: Vec::new(),
            engine: EngineInfo {
                name: "svd".to_owned(),
                version: "1".to_owned(),
                libtorch: None,
                encoder: "none".to_owned(),
                dtype: "float32".to_owned(),
                noise_dtype: "float32".to_owned(),
            },
            device_class: "cpu".to_owned(),
            clip_sha256: clip_sha256(),
            clip_bytes: CLIP.len() as u64,
            timings_ms: StageTimings::default(),
        }
    }
}

/// Whether each stage has its model and its adapters, in order.
fn assert_is_whole(assign: &Assign) {
    let hashes = |sources: &[Source]| sources.iter().map(|s| s.sha256).collect::<Vec<_>>();
    let wanted = |uses: &[AdapterUse]| uses.iter().map(|u| u.sha256).collect::<Vec<_>>();
    let spec = &assign.spec;
    assert_eq!(assign.model_sha256, CLIP_MODEL);
    assert_eq!(hashes(&assign.adapters), wanted(&spec.adapters));
    match (&assign.first_frame, &spec.first_frame) {
        (FirstFrameSource::Image(source), FirstFrame::Image(sha256)) => {
            assert_eq!(source.sha256, *sha256);
        }
        (
            FirstFrameSource::Keyframe {
                model_sha256,
                adapters,
            },
            FirstFrame::Keyframe(keyframe),
        ) => {
            assert_eq!(*model_sha256, KEYFRAME_MODEL);
            assert_eq!(hashes(adapters), wanted(&keyframe.adapters));
        }
        (source, wanted) => panic!("{source:?} for {wanted:?}"),
    }
}

fn offer(id: &str, family: ModelFamily, sha256: Sha256) -> ModelOffer {
    ModelOffer {
        id: id.parse().unwrap(),
        sha256,
        family,
        unet_config: serde_json::Value::Null,
        text_encoder_config: None,
        limits: SpecLimits {
            side_multiple: 8,
            frames_max: 8,
        },
    }
}

/// What it leaves.
pub(crate) fn checkpoint() -> CheckpointFile {
    CheckpointFile {
        sha256: Sha256::from_bytes([8; 32]),
        bytes: CHECKPOINT.len() as u64,
        step: 1,
        steps: 2,
        device_class: "cpu".to_owned(),
        engine: "svd 1".to_owned(),
        resumed: Vec::new(),
    }
}

fn clip_sha256() -> Sha256 {
    Sha256::from_bytes([7; 32])
}
