//! Goal: nothing leaves before its commit, and no lost, doubled or late word changes anything for the worse.
//! Method: the leader's pure state, event by event.

mod checkpoints;
mod comparison;
mod delivery;
mod hints;
pub(super) mod keyframes;
mod members;
mod previews;
mod telling;
mod terms;

use std::collections::BTreeSet;

use std::time::Duration;

use flowai_actors::clock::Monotonic;
use flowai_actors::credits::StepsDone;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, ModelId, NodeId, Sha256, UserId};
use flowai_actors::limits::{
    HELD_BACK_MS, JOB_NO_PROGRESS_MS, NODE_BEAT_MS, NODE_LEASE_MS, RECOVERY_PAGE_JOBS,
    THOROUGH_SWEEP_MS,
};
use flowai_actors::link::{PeerId, Role};
use flowai_actors::manifest::{EngineInfo, KeyframeMade, Manifest, StageTimings};
use flowai_actors::messages::{
    AdapterTiers, ArtefactFile, AttemptRef, Beat, BeatAnswer, CacheUsage, Ended, EndedAnswer,
    FusedState, Holding, KeptAdapters, Live, LiveState, ModelFamily, ModelOffer, Outcome as Told,
    Phase, Progress, ReadyFile, Register, Registered, UploadTargets, UploadTargetsAnswer, Verdict,
};
use flowai_actors::spec::{FirstFrame, KeyframeSpec, RenderSpec, SpecLimits};
use flowai_actors::state::{Class, JobState, Tier};
use flowai_store::journal::{Change, Unfinished, Written};
use flowai_store::recovery::JobRow;

use super::event::{Answer, Effect, Event, NotDelivered, NotDispatched, Outcome, ReplyId};
use super::state::State;

const TERM: Epoch = Epoch::new(7);
const FIRST: Generation = Generation::new(1);

struct Leader {
    state: State,
    now_ms: u64,
    user: UserId,
    replies: u64,
    beats: u64,
}

impl Leader {
    fn new() -> Self {
        Self {
            state: State::new(TERM),
            now_ms: 0,
            user: UserId::generate(),
            replies: 0,
            beats: 0,
        }
    }

    fn apply(&mut self, event: Event) -> Vec<Effect> {
        self.state.apply(Monotonic::from_millis(self.now_ms), event)
    }

    fn reply(&mut self) -> ReplyId {
        self.replies += 1;
        ReplyId(self.replies)
    }

    fn row(&self, job: JobId, state: JobState, attempt: u32) -> JobRow {
        JobRow {
            job,
            owner: self.user,
            tier: Tier::Free,
            class: Class::Interactive,
            waited: Duration::ZERO,
            after: None,
            model: model(),
            spec: Some(spec()),
            state,
            attempt: Attempt::new(attempt),
            failures: 0,
            failed_on: BTreeSet::new(),
            node_deaths: 0,
            preemptions: 0,
            died_on: BTreeSet::new(),
            held: None,
            cancel_requested: false,
            kept: None,
        }
    }

    fn read(&mut self, row: JobRow) -> Vec<Effect> {
        let asked = vec![row.job];
        self.apply(Event::RowsRead {
            asked,
            rows: vec![row],
        })
    }

    fn arrive(&mut self) -> (JobId, Vec<Effect>) {
        let job = JobId::generate();
        let row = self.row(job, JobState::Queued, 0);
        (job, self.read(row))
    }

    fn register(&mut self, name: &str, running: Option<AttemptRef>) -> Vec<Effect> {
        self.admit(register(name, running))
    }

    /// Its next process.
    fn register_anew(&mut self, name: &str) -> Vec<Effect> {
        self.admit(Register {
            generation: FIRST.next(),
            ..register(name, None)
        })
    }

    fn admit(&mut self, register: Register) -> Vec<Effect> {
        let (reply, register) = (self.reply(), Box::new(register));
        self.apply(Event::Admitted {
            reply,
            register,
            result: Ok(()),
        })
    }

    fn beat(&mut self, name: &str, running: Option<AttemptRef>) -> Vec<Effect> {
        self.hear_beat(name, running, false)
    }

    fn closing_beat(&mut self, name: &str, running: Option<AttemptRef>) -> Vec<Effect> {
        self.hear_beat(name, running, true)
    }

    fn hear_beat(
        &mut self,
        name: &str,
        running: Option<AttemptRef>,
        is_closing: bool,
    ) -> Vec<Effect> {
        self.beats += 1;
        let beat = Box::new(Beat {
            node: node(name),
            generation: FIRST,
            seq: self.beats,
            running,
            is_closing,
            held_adapters: Vec::new(),
            adapters: AdapterTiers::default(),
        });
        let reply = self.reply();
        self.apply(Event::Beat { reply, beat })
    }

    /// Says of every change of the batch that it was written.
    fn committed(&mut self, count: usize) -> Vec<Effect> {
        let written = Outcome::Written(Written::Now(self.user));
        self.apply(Event::Committed(vec![written; count]))
    }

    fn stale(&mut self) -> Vec<Effect> {
        self.apply(Event::Committed(vec![Outcome::Written(Written::Stale)]))
    }

    /// A job that runs on the node, its assignment committed and taken.
    fn running(&mut self, name: &str) -> Holding {
        self.running_of(name, spec())
    }

    fn running_of(&mut self, name: &str, spec: RenderSpec) -> Holding {
        self.register(name, None);
        let job = JobId::generate();
        let row = JobRow {
            spec: Some(spec),
            ..self.row(job, JobState::Queued, 0)
        };
        let effects = self.read(row);
        let [Change::Assign(held)] = &changes(&effects)[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(held.at.job, job);
        let held = held.clone();
        self.committed(1);
        self.apply(Event::Dispatched {
            held: held.clone(),
            result: Ok(()),
        });
        held
    }

    fn end(&mut self, held: &Holding, outcome: Told) -> (ReplyId, Vec<Effect>) {
        let reply = self.reply();
        let ended = ended(held, outcome);
        (reply, self.apply(Event::Ended { reply, ended }))
    }

    fn ask_targets(&mut self, held: &Holding, files: Vec<ReadyFile>) -> Vec<Effect> {
        let reply = self.reply();
        let question = UploadTargets {
            at: held.at,
            node: held.node.clone(),
            generation: held.generation,
            files,
        };
        self.apply(Event::TargetsAsked { reply, question })
    }

    fn hear_api(&mut self) -> PeerId {
        let api = PeerId::new(Role::Api, "api-1").unwrap();
        self.apply(Event::ApiUp(api.clone()));
        api
    }
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn model() -> ModelId {
    "tiny".parse().unwrap()
}

fn hash(byte: u8) -> Sha256 {
    Sha256::from_bytes([byte; 32])
}

fn spec() -> RenderSpec {
    RenderSpec::small(model(), hash(1))
}

/// The keyframe model that every node here offers.
fn painter() -> ModelId {
    "painter".parse().unwrap()
}

fn register(name: &str, running: Option<AttemptRef>) -> Register {
    Register {
        node: node(name),
        generation: FIRST,
        version: "1".into(),
        device_class: "cpu".into(),
        device: "cpu".into(),
        memory_bytes: 1,
        models: vec![
            offer(model(), ModelFamily::Svd, 2),
            offer(painter(), ModelFamily::Sd, 6),
        ],
        refused_models: Vec::new(),
        running,
    }
}

fn offer(id: ModelId, family: ModelFamily, content: u8) -> ModelOffer {
    ModelOffer {
        id,
        sha256: hash(content),
        family,
        unet_config: serde_json::Value::Null,
        text_encoder_config: None,
        limits: SpecLimits {
            side_multiple: 8,
            frames_max: 8,
        },
    }
}

pub(super) fn ended(held: &Holding, outcome: Told) -> Box<Ended> {
    Box::new(Ended {
        at: held.at,
        node: held.node.clone(),
        generation: held.generation,
        outcome,
    })
}

pub(super) fn rendered(held: &Holding) -> Told {
    Told::Rendered {
        clip_sha256: hash(3),
        clip_bytes: 10,
        manifest: Box::new(Manifest {
            manifest_version: Manifest::VERSION,
            job: held.at.job,
            attempt: held.at.attempt,
            epoch: held.at.epoch,
            node: held.node.clone(),
            generation: held.generation,
            spec: spec(),
            model_sha256: hash(2),
            adapters: Vec::new(),
            keyframe: None,
            resumed: Vec::new(),
            engine: EngineInfo {
                name: "svd".into(),
                version: "1".into(),
                libtorch: None,
                encoder: "x".into(),
                dtype: "float32".into(),
                noise_dtype: "float32".into(),
            },
            device_class: "cpu".into(),
            clip_sha256: hash(3),
            clip_bytes: 10,
            timings_ms: StageTimings::default(),
        }),
    }
}

fn ready_files(sha256: Sha256) -> Vec<ReadyFile> {
    files_of(&spec(), sha256)
}

fn files_of(spec: &RenderSpec, sha256: Sha256) -> Vec<ReadyFile> {
    let files = ArtefactFile::of(spec).into_iter();
    files
        .map(|file| ReadyFile {
            file,
            sha256,
            bytes: 10,
        })
        .collect()
}

fn is_refused(effects: &[Effect]) -> bool {
    matches!(
        effects,
        [Effect::Answer(
            _,
            Answer::Targets(UploadTargetsAnswer::Refused { .. })
        )]
    )
}

fn changes(effects: &[Effect]) -> Vec<Change> {
    let batches = effects.iter().filter_map(|effect| match effect {
        Effect::Commit(batch) => Some(batch.changes()),
        _ => None,
    });
    batches.flatten().cloned().collect()
}

fn stops(effects: &[Effect]) -> Vec<AttemptRef> {
    let stops = effects.iter().filter_map(|effect| match effect {
        Effect::Stop { at, .. } => Some(*at),
        _ => None,
    });
    stops.collect()
}

fn is_dispatched(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Dispatch { .. }))
}

fn end_answers(effects: &[Effect]) -> Vec<(ReplyId, EndedAnswer)> {
    let answers = effects.iter().filter_map(|effect| match effect {
        Effect::Answer(reply, Answer::Ended(answer)) => Some((*reply, *answer)),
        _ => None,
    });
    answers.collect()
}

fn welcome(effects: &[Effect]) -> Option<(Epoch, Verdict)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer(_, Answer::Registered(Registered::Welcome { epoch, running })) => {
            Some((*epoch, *running))
        }
        _ => None,
    })
}

fn renewal(effects: &[Effect]) -> Option<Verdict> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer(_, Answer::Beat(BeatAnswer::Renewed { running, .. })) => Some(*running),
        _ => None,
    })
}

fn tells(effects: &[Effect]) -> Vec<&Live> {
    let tells = effects.iter().filter_map(|effect| match effect {
        Effect::Tell { live, .. } => Some(live),
        _ => None,
    });
    tells.collect()
}
