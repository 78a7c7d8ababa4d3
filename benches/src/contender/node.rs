//! A node that keeps to the protocol, and ends each job when it gets it.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowai_actors::ids::{Epoch, Generation, NodeId, Sha256};
use flowai_actors::limits::NODE_BEAT_MS;
use flowai_actors::link::{LinkEvent, LinkEvents, PeerId, Request, SimLink};
use flowai_actors::manifest::{EngineInfo, Manifest, StageTimings};
use flowai_actors::messages::{
    AdapterTiers, Assign, AssignAnswer, AttemptRef, Beat, BeatAnswer, Body as _, Ended,
    ModelFamily, ModelOffer, Outcome, Register, Registered, Stop, Verdict,
};
use flowai_actors::spec::SpecLimits;
use flowai_actors::wire;

use super::files::FILE_BYTES;
use super::{MODEL, now_ns};

pub(super) const GENERATION: Generation = Generation::new(1);
const CLIP: Sha256 = Sha256::from_bytes([7; 32]);
const MODEL_HASH: Sha256 = Sha256::from_bytes([2; 32]);
const BEAT: Duration = Duration::from_millis(NODE_BEAT_MS);
/// Until there is a leader.
const TRY_AGAIN: Duration = Duration::from_millis(20);
const ASK_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) leader: PeerId,
    pub(super) link: SimLink,
    /// Where all nodes write what they began, and when.
    pub(super) starts: Arc<File>,
    pub(super) running: Arc<Mutex<Option<AttemptRef>>>,
}

impl Node {
    /// Never ends by itself.
    pub(super) async fn run(self, mut events: LinkEvents) {
        tokio::spawn(self.clone().stay_registered());
        while let Some(event) = events.next().await {
            if let LinkEvent::Request(request) = event {
                self.asked(request);
            }
        }
    }

    fn asked(&self, request: Request) {
        let (envelope, reply) = (request.envelope, request.reply);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match envelope.kind {
            Stop::KIND => wire::open::<Stop>(&envelope)
                .ok()
                .and_then(|Stop { at, .. }| wire::seal(at.epoch, &(*running == Some(at))).ok()),
            _ => wire::open::<Assign>(&envelope).ok().and_then(|assign| {
                let at = assign.at;
                let answer = match *running {
                    None => {
                        *running = Some(at);
                        tokio::spawn(self.clone().render(assign));
                        AssignAnswer::Accepted
                    }
                    Some(with) if with == at => AssignAnswer::Accepted,
                    Some(with) => AssignAnswer::Busy { with },
                };
                wire::seal(at.epoch, &answer).ok()
            }),
        };
        // Dropping the reply answers `Rejected`.
        if let Some(answer) = answer {
            reply.send(answer).ok();
        }
    }

    async fn render(self, assign: Assign) {
        let at = assign.at;
        let line = format!("{} {}\n", at.job, now_ns());
        (&*self.starts).write_all(line.as_bytes()).ok();
        let ended = Ended {
            at,
            node: self.id.clone(),
            generation: GENERATION,
            outcome: Outcome::Rendered {
                clip_sha256: CLIP,
                clip_bytes: FILE_BYTES,
                manifest: Box::new(self.manifest(&assign)),
            },
        };
        while self.is_running(at) {
            if self.ask(&ended).await.is_some() {
                self.drop_attempt(Some(at));
            }
        }
    }

    async fn stay_registered(self) {
        let (mut seq, mut is_registered) = (0, false);
        loop {
            let reported = *self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let verdict = if is_registered {
                seq += 1;
                match self.ask(&self.beat(seq, reported)).await {
                    Some(BeatAnswer::Renewed { running, .. }) => Some(running),
                    Some(BeatAnswer::Unknown) => {
                        is_registered = false;
                        continue;
                    }
                    Some(BeatAnswer::Fenced { .. }) => return,
                    None => None,
                }
            } else {
                match self.ask(&self.registration(reported)).await {
                    Some(Registered::Welcome { running, .. }) => {
                        is_registered = true;
                        Some(running)
                    }
                    _ => None,
                }
            };
            if verdict == Some(Verdict::Drop) {
                self.drop_attempt(reported);
            }
            tokio::time::sleep(if is_registered { BEAT } else { TRY_AGAIN }).await;
        }
    }

    fn is_running(&self, at: AttemptRef) -> bool {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) == Some(at)
    }

    fn drop_attempt(&self, at: Option<AttemptRef>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if *running == at {
            *running = None;
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

    fn beat(&self, seq: u64, running: Option<AttemptRef>) -> Beat {
        Beat {
            node: self.id.clone(),
            generation: GENERATION,
            seq,
            running,
            is_closing: false,
            held_adapters: Vec::new(),
            adapters: AdapterTiers::default(),
        }
    }

    fn registration(&self, running: Option<AttemptRef>) -> Register {
        Register {
            node: self.id.clone(),
            generation: GENERATION,
            version: "1".to_owned(),
            device_class: "cpu".to_owned(),
            device: "cpu".to_owned(),
            memory_bytes: 1,
            models: MODEL.parse().into_iter().map(offer).collect(),
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
            keyframe: None,
            engine: EngineInfo {
                name: "noop".to_owned(),
                version: "1".to_owned(),
                libtorch: None,
                encoder: "none".to_owned(),
                dtype: "float32".to_owned(),
                noise_dtype: "float32".to_owned(),
            },
            device_class: "cpu".to_owned(),
            clip_sha256: CLIP,
            clip_bytes: FILE_BYTES,
            resumed: Vec::new(),
            timings_ms: StageTimings::default(),
        }
    }
}

fn offer(id: flowai_actors::ids::ModelId) -> ModelOffer {
    ModelOffer {
        id,
        sha256: MODEL_HASH,
        family: ModelFamily::Svd,
        unet_config: serde_json::Value::Null,
        text_encoder_config: None,
        limits: SpecLimits {
            side_multiple: 8,
            frames_max: 8,
        },
    }
}
