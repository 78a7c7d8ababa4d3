//! The state by tables: what is heard, and what follows from it. Times are ms.

mod delivery;
mod hints;
mod keeping;
mod leases;

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, Sha256};
use flowai_actors::limits::{
    ENGINE_LEAVE_MS_MAX, NODE_BEAT_MS, NODE_FAREWELL_MS, NODE_SELF_STOP_MS, PROGRESS_INTERVAL_MS,
    TARGET_PATIENCE_MS,
};
use flowai_actors::link::PeerId;
use flowai_actors::manifest::{EngineInfo, Manifest, StageTimings};
use flowai_actors::messages::{
    ArtefactFile, Assign, AssignAnswer, AttemptRef, BeatAnswer, EndedAnswer, FirstFrameSource,
    Outcome, Phase, ReadyFile, Registered, Source, UploadTargetsAnswer, Verdict,
};
use flowai_actors::spec::{FirstFrame, KeyframeSpec, RenderSpec};

use crate::event::{Clip, Effect, Ending, Event, RunId};
use crate::failure::{FailureCode, JobFailure};
use crate::run::{NotRendered, NotUploaded, Standing};
use crate::state::State;

const MODEL: Sha256 = Sha256::from_bytes([9; 32]);
/// Of the keyframe model.
const WORDS_MODEL: Sha256 = Sha256::from_bytes([10; 32]);

fn leader(name: &str) -> PeerId {
    format!("{name}.coordinator").parse().unwrap()
}

fn at(attempt: u32, epoch: u32) -> AttemptRef {
    AttemptRef {
        job: JobId::from_uuid(uuid::Uuid::from_u128(7)),
        attempt: Attempt::new(attempt),
        epoch: Epoch::new(epoch),
    }
}

const IMAGE: Sha256 = Sha256::from_bytes([1; 32]);

fn spec() -> RenderSpec {
    RenderSpec {
        steps: 4,
        ..RenderSpec::small("tiny".parse().unwrap(), IMAGE)
    }
}

fn assign(at: AttemptRef) -> Box<Assign> {
    Box::new(Assign {
        at,
        spec: spec(),
        model_sha256: MODEL,
        first_frame: FirstFrameSource::Image(Source {
            sha256: IMAGE,
            bytes: 3,
            url: "http://store/image".to_owned(),
        }),
        adapters: Vec::new(),
        resume: None,
    })
}

/// The same with a picture made from words by a model of this hash.
fn assign_words(at: AttemptRef, model_sha256: Sha256) -> Box<Assign> {
    let keyframe = KeyframeSpec::small("words".parse().unwrap(), "a lighthouse");
    Box::new(Assign {
        spec: RenderSpec {
            first_frame: FirstFrame::Keyframe(Box::new(keyframe)),
            ..spec()
        },
        first_frame: FirstFrameSource::Keyframe {
            model_sha256,
            adapters: Vec::new(),
        },
        ..*assign(at)
    })
}

fn clip() -> Clip {
    let sha256 = Sha256::from_bytes([5; 32]);
    Clip {
        files: vec![ReadyFile {
            file: ArtefactFile::Clip,
            sha256,
            bytes: 10,
        }],
        manifest: Box::new(Manifest {
            manifest_version: Manifest::VERSION,
            job: at(1, 1).job,
            attempt: Attempt::new(1),
            epoch: Epoch::new(1),
            node: "n1".parse().unwrap(),
            generation: Generation::new(3),
            spec: spec(),
            model_sha256: MODEL,
            adapters: Vec::new(),
            keyframe: None,
            resumed: Vec::new(),
            engine: EngineInfo {
                name: "stand-in".to_owned(),
                version: "0".to_owned(),
                libtorch: None,
                encoder: String::new(),
                dtype: "float32".to_owned(),
                noise_dtype: "float32".to_owned(),
            },
            device_class: "stand-in".to_owned(),
            clip_sha256: sha256,
            clip_bytes: 10,
            timings_ms: StageTimings::default(),
        }),
    }
}

/// The state with a clock; effects as short text.
struct Bench {
    state: State,
    now_ms: u64,
}

impl Bench {
    fn new() -> Self {
        let models = [("tiny", MODEL), ("words", WORDS_MODEL)];
        let models = models.map(|(name, sha256)| (name.parse().unwrap(), sha256));
        Self {
            state: State::new("n1".parse().unwrap(), Generation::new(3), models.into()),
            now_ms: 0,
        }
    }

    /// Registered with leader `a` in term 1 at time 0.
    fn registered() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.hear(Event::LinkUp(leader("a"))), ["register a -"]);
        assert_eq!(bench.hear(welcome("a", 0, None, 1, Verdict::Idle)), none());
        bench
    }

    /// With attempt 1 under term 1 as run 1.
    fn working() -> Self {
        let mut bench = Self::registered();
        let effects = bench.hear(Event::Assigned(assign(at(1, 1))));
        assert_eq!(effects, ["assign Accepted", "start 1"]);
        bench
    }

    /// With the files of run 1 ready and the question for targets on its way.
    fn placing() -> Self {
        let mut bench = Self::working();
        let effects = bench.hear(rendered(1, Ok(clip())));
        assert_eq!(effects, ["progress a Uploading 4/4", "ask targets a 1@1"]);
        bench
    }

    /// With the outcome of run 1 on its way to the leader.
    fn telling() -> Self {
        let mut bench = Self::placing();
        assert_eq!(bench.hear(targets(1)), ["upload 1"]);
        let uploaded = Event::Uploaded {
            run: RunId(1),
            result: Ok(12.5),
        };
        assert_eq!(bench.hear(uploaded), ["tell a 1@1 Rendered@1"]);
        bench
    }

    fn hear(&mut self, event: Event) -> Vec<String> {
        let now = Monotonic::from_millis(self.now_ms);
        self.state.apply(now, event).iter().map(text).collect()
    }

    fn after(&mut self, ms: u64) -> Vec<String> {
        self.now_ms += ms;
        self.hear(Event::Tick)
    }

    fn next_due_ms(&self) -> Option<u64> {
        self.state.next_due().map(Monotonic::as_millis)
    }
}

fn none() -> Vec<String> {
    Vec::new()
}

fn text(effect: &Effect) -> String {
    let at = |at: &AttemptRef| format!("{}@{}", at.attempt, at.epoch);
    let running = |running: &Option<AttemptRef>| running.as_ref().map_or("-".to_owned(), at);
    let name = |peer: &PeerId| peer.id().to_owned();
    match effect {
        Effect::Register { to, running: r } => format!("register {} {}", name(to), running(r)),
        Effect::Beat {
            to,
            seq,
            running: r,
            is_closing,
        } => {
            let closing = if *is_closing { " closing" } else { "" };
            format!("beat {} {seq} {}{closing}", name(to), running(r))
        }
        Effect::AnswerAssign(AssignAnswer::Accepted) => "assign Accepted".to_owned(),
        Effect::AnswerAssign(AssignAnswer::Busy { with }) => format!("assign Busy {}", at(with)),
        Effect::AnswerAssign(AssignAnswer::Refused { reason }) => {
            format!("assign Refused {reason}")
        }
        Effect::AnswerStop(answer) => format!("stop {answer}"),
        Effect::Start { run, .. } => format!("start {}", run.0),
        Effect::Prefetch(next) => format!("prefetch {}", next.job.as_uuid().as_u128()),
        Effect::Pause(run) => format!("pause {}", run.0),
        Effect::Resume(run) => format!("resume {}", run.0),
        Effect::Keep(run) => format!("keep run {}", run.0),
        Effect::Stop(run) => format!("stop run {}", run.0),
        Effect::Forget(run) => format!("forget {}", run.0),
        Effect::SendProgress { to, progress } => format!(
            "progress {} {:?} {}/{}",
            name(to),
            progress.phase,
            progress.step,
            progress.steps
        ),
        Effect::AskTargets { to, question, .. } => {
            format!("ask targets {} {}", name(to), at(&question.at))
        }
        Effect::Upload { run, .. } => format!("upload {}", run.0),
        Effect::Tell { to, ended, .. } => {
            let outcome = match &ended.outcome {
                Outcome::Rendered { manifest, .. } => format!("Rendered@{}", manifest.epoch),
                Outcome::Failed {
                    code, retryable, ..
                } => format!("{code} retryable={retryable}"),
                Outcome::Stopped { checkpoint: None } => "Stopped".to_owned(),
                Outcome::Stopped {
                    checkpoint: Some(checkpoint),
                } => format!("Stopped at {}", checkpoint.step),
            };
            format!("tell {} {} {outcome}", name(to), at(&ended.at))
        }
        Effect::End(ending) => format!("end {ending:?}"),
    }
}

fn welcome(
    from: &str,
    sent_ms: u64,
    reported: Option<AttemptRef>,
    epoch: u32,
    running: Verdict,
) -> Event {
    Event::Registered {
        from: leader(from),
        sent_at: Monotonic::from_millis(sent_ms),
        reported,
        answer: Some(Registered::Welcome {
            epoch: Epoch::new(epoch),
            running,
        }),
    }
}

fn renewed(sent_ms: u64, reported: Option<AttemptRef>, epoch: u32, running: Verdict) -> Event {
    beat_answered(
        sent_ms,
        reported,
        Some(BeatAnswer::Renewed {
            epoch: Epoch::new(epoch),
            running,
        }),
    )
}

fn beat_answered(sent_ms: u64, reported: Option<AttemptRef>, answer: Option<BeatAnswer>) -> Event {
    Event::BeatAnswered {
        from: leader("a"),
        sent_at: Monotonic::from_millis(sent_ms),
        reported,
        answer,
    }
}

/// What run 1 left in the store: a checkpoint after this step.
fn left(step: Option<u32>) -> Event {
    Event::Left {
        run: RunId(1),
        checkpoint: step.map(|step| CheckpointFile {
            sha256: Sha256::from_bytes([6; 32]),
            bytes: 10,
            step,
            steps: 4,
            device_class: "stand-in".to_owned(),
            engine: "stand-in 0".to_owned(),
            resumed: Vec::new(),
        }),
    }
}

fn stop_asked(at: AttemptRef) -> Event {
    Event::StopAsked { at, keep: false }
}

fn rendered(run: u64, result: Result<Clip, NotRendered>) -> Event {
    Event::Rendered {
        run: RunId(run),
        result,
    }
}

fn failed(code: FailureCode) -> Result<Clip, NotRendered> {
    Err(NotRendered::Failed(JobFailure::new(code, "why")))
}

fn targets(run: u64) -> Event {
    Event::TargetsAnswered {
        run: RunId(run),
        answer: Some(UploadTargetsAnswer::Targets {
            targets: Vec::new(),
        }),
    }
}

fn ended(answer: Option<EndedAnswer>) -> Event {
    Event::EndedAnswered {
        run: RunId(1),
        answer,
    }
}

fn moved(phase: Phase, step: u32) -> Event {
    Event::Moved {
        run: RunId(1),
        standing: Standing {
            phase,
            step,
            steps: 4,
            left_s: None,
        },
    }
}
