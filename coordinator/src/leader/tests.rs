//! Goal: nothing leaves before its commit, and no lost, doubled or late word changes anything for the worse.
//! Method: the leader's pure state, event by event.

use std::collections::BTreeSet;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, ModelId, NodeId, Sha256, UserId};
use flowai_actors::limits::{JOB_NO_PROGRESS_MS, NODE_BEAT_MS};
use flowai_actors::link::{PeerId, Role};
use flowai_actors::manifest::{EngineInfo, Manifest, StageTimings};
use flowai_actors::messages::{
    ArtefactFile, AttemptRef, Beat, BeatAnswer, Ended, EndedAnswer, Holding, Live, LiveState,
    ModelOffer, Outcome as Told, Phase, Progress, ReadyFile, Register, Registered, UploadTargets,
    UploadTargetsAnswer, Verdict,
};
use flowai_actors::spec::{RenderSpec, SpecLimits};
use flowai_actors::state::{JobState, Tier};
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
            model: model(),
            spec: Some(spec()),
            state,
            attempt: Attempt::new(attempt),
            failures: 0,
            failed_on: BTreeSet::new(),
            node_deaths: 0,
            died_on: BTreeSet::new(),
            held: None,
            cancel_requested: false,
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
        let reply = self.reply();
        let register = Box::new(register(name, running));
        self.apply(Event::Admitted {
            reply,
            register,
            result: Ok(()),
        })
    }

    fn beat(&mut self, name: &str, running: Option<AttemptRef>) -> Vec<Effect> {
        self.beats += 1;
        let beat = Beat {
            node: node(name),
            generation: FIRST,
            seq: self.beats,
            running,
            held_adapters: Vec::new(),
        };
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
        self.register(name, None);
        let (job, effects) = self.arrive();
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
    RenderSpec {
        model: model(),
        image: hash(1),
        adapters: Vec::new(),
        frames: 2,
        fps: 7,
        width: 64,
        height: 64,
        steps: 2,
        motion_bucket_id: 127,
        noise_aug_strength: 0.02,
        min_guidance_scale: 1.0,
        max_guidance_scale: 3.0,
        decode_chunk_size: 2,
        seed: 0,
    }
}

fn register(name: &str, running: Option<AttemptRef>) -> Register {
    Register {
        node: node(name),
        generation: FIRST,
        version: "1".into(),
        device_class: "cpu".into(),
        device: "cpu".into(),
        memory_bytes: 1,
        models: vec![ModelOffer {
            id: model(),
            sha256: hash(2),
            family: "svd".into(),
            unet_config: serde_json::Value::Null,
            limits: SpecLimits {
                side_multiple: 8,
                frames_max: 8,
            },
        }],
        refused_models: Vec::new(),
        running,
    }
}

fn ended(held: &Holding, outcome: Told) -> Box<Ended> {
    Box::new(Ended {
        at: held.at,
        node: held.node.clone(),
        generation: held.generation,
        outcome,
    })
}

fn rendered(held: &Holding) -> Told {
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
    let files = ArtefactFile::ALL.into_iter();
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

#[test]
fn a_node_hears_of_its_job_only_after_the_commit() {
    let mut leader = Leader::new();
    let api = leader.hear_api();
    leader.register("a", None);
    let (_, effects) = leader.arrive();
    assert!(matches!(changes(&effects)[..], [Change::Assign(_)]));
    assert!(!is_dispatched(&effects));
    let effects = leader.committed(1);
    assert!(is_dispatched(&effects));
    let user = leader.user;
    assert!(effects.iter().any(|effect| matches!(
        effect,
        Effect::Hint { to, users } if *to == [api.clone()] && *users == [user]
    )));
}

#[test]
fn a_clip_is_settled_when_its_files_lie_there_and_told_twice_it_is_settled_once() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let (first, effects) = leader.end(&held, rendered(&held));
    assert!(matches!(effects[..], [Effect::Verify(_)]));
    let (second, effects) = leader.end(&held, rendered(&held));
    assert!(effects.is_empty(), "{effects:?}");
    let effects = leader.apply(Event::Verified {
        ended: ended(&held, rendered(&held)),
        result: Ok(()),
    });
    assert!(
        matches!(&changes(&effects)[..], [Change::Settle { held: settled, .. }] if *settled == held)
    );
    assert_eq!(end_answers(&effects), []);
    let settled = [
        (first, EndedAnswer::Settled),
        (second, EndedAnswer::Settled),
    ];
    assert_eq!(end_answers(&leader.committed(1)), settled);
    let (_, effects) = leader.end(&held, rendered(&held));
    assert!(matches!(&effects[..], [Effect::LookBack { held: of, .. }] if *of == held));
}

#[test]
fn a_clip_that_does_not_lie_there_is_tried_again() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    leader.end(&held, rendered(&held));
    let effects = leader.apply(Event::Verified {
        ended: ended(&held, rendered(&held)),
        result: Err(NotDelivered::Missing(
            "clip.mp4 does not lie in the object store".into(),
        )),
    });
    let changes = changes(&effects);
    assert!(
        matches!(
            &changes[..],
            [Change::Requeue {
                outcome: Unfinished::Failed,
                ..
            }]
        ),
        "{changes:?}"
    );
}

#[test]
fn a_clip_that_could_not_be_looked_at_is_told_again_and_not_thrown_away() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let (first, _) = leader.end(&held, rendered(&held));
    let effects = leader.apply(Event::Verified {
        ended: ended(&held, rendered(&held)),
        result: Err(NotDelivered::Unanswered("503".into())),
    });
    assert!(
        matches!(effects[..], [Effect::Decline(reply)] if reply == first),
        "{effects:?}"
    );
    let (_, effects) = leader.end(&held, rendered(&held));
    assert!(matches!(effects[..], [Effect::Verify(_)]), "{effects:?}");
}

#[test]
fn a_clip_that_was_not_announced_is_not_delivered() {
    for (announced, is_delivered) in [(hash(3), true), (hash(4), false)] {
        let mut leader = Leader::new();
        let held = leader.running("a");
        let (first, second) = (ready_files(announced), ready_files(hash(5)));
        assert!(matches!(
            leader.ask_targets(&held, first)[..],
            [Effect::Presign { .. }]
        ));
        // It would be told, while the first lies in the store.
        assert!(is_refused(&leader.ask_targets(&held, second)));
        leader.end(&held, rendered(&held));
        let effects = leader.apply(Event::Verified {
            ended: ended(&held, rendered(&held)),
            result: Ok(()),
        });
        let is_settled = matches!(changes(&effects)[..], [Change::Settle { .. }]);
        assert_eq!(is_settled, is_delivered, "{effects:?}");
    }
}

#[test]
fn a_manifest_of_something_else_delivers_nothing() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let mut other = held.clone();
    other.at.job = JobId::generate();
    leader.end(&held, rendered(&other));
    let effects = leader.apply(Event::Verified {
        ended: ended(&held, rendered(&other)),
        result: Ok(()),
    });
    assert!(matches!(changes(&effects)[..], [Change::Requeue { .. }]));
}

#[test]
fn the_end_of_a_zombie_changes_nothing() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    leader.register("b", None);
    leader.now_ms += 9_000;
    leader.beat("b", None);
    leader.now_ms += 2_000;
    let effects = leader.apply(Event::Tick);
    let [
        Change::Requeue {
            held: lost,
            outcome: Unfinished::Lost,
            ..
        },
    ] = &changes(&effects)[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(*lost, held);
    let (_, effects) = leader.end(&held, rendered(&held));
    assert_eq!(changes(&effects), []);
    assert!(matches!(effects[..], [Effect::LookBack { .. }]));
}

#[test]
fn a_new_term_adopts_before_it_welcomes() {
    let mut leader = Leader::new();
    let before = Holding {
        at: AttemptRef {
            job: JobId::generate(),
            attempt: Attempt::new(1),
            epoch: Epoch::new(6),
        },
        node: node("a"),
        generation: FIRST,
    };
    let mut row = leader.row(before.at.job, JobState::Running, 1);
    row.held = Some(before.clone());
    leader.state.recover(Monotonic::default(), vec![row]);

    let effects = leader.register("a", Some(before.at));
    assert_eq!(changes(&effects), [Change::Adopt(before.clone())]);
    assert_eq!(welcome(&effects), None);
    assert_eq!(welcome(&leader.committed(1)), Some((TERM, Verdict::GoOn)));

    let (_, effects) = leader.end(&before, Told::Stopped);
    let [Change::Requeue { held, .. }] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(held.at.epoch, TERM);
}

#[test]
fn a_job_that_its_owner_ended_first_is_given_to_nobody() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (job, _) = leader.arrive();
    let effects = leader.stale();
    assert!(!is_dispatched(&effects));
    assert!(matches!(&effects[..], [Effect::Read(jobs)] if *jobs == [job]));
    let row = leader.row(job, JobState::Cancelled, 0);
    assert_eq!(changes(&leader.read(row)), []);
    // The node is free for the next.
    let (_, effects) = leader.arrive();
    assert!(matches!(changes(&effects)[..], [Change::Assign(_)]));
}

#[test]
fn a_row_read_before_its_job_ended_brings_nothing_back() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let effects = leader.apply(Event::Rang(held.at.job));
    assert!(matches!(effects[..], [Effect::Read(_)]));
    let (_, effects) = leader.end(
        &held,
        Told::Failed {
            code: "bad_input".into(),
            detail: "no picture".into(),
            retryable: false,
        },
    );
    assert!(matches!(changes(&effects)[..], [Change::Fail { .. }]));
    leader.committed(1);
    let mut row = leader.row(held.at.job, JobState::Running, 1);
    row.held = Some(held.clone());
    let effects = leader.read(row);
    assert!(!leader.state.scheduler.knows(held.at.job));
    assert!(matches!(effects[..], [Effect::Read(_)]), "{effects:?}");
}

#[test]
fn a_cancel_reaches_a_job_whose_node_is_about_to_take_it() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (job, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    leader.committed(1);
    leader.apply(Event::Rang(job));
    let mut row = leader.row(job, JobState::Running, 1);
    row.cancel_requested = true;
    assert_eq!(stops(&leader.read(row)), []);
    let effects = leader.apply(Event::Dispatched {
        held: held.clone(),
        result: Ok(()),
    });
    assert_eq!(stops(&effects), [held.at]);
    // That word may be lost: the next beat brings another.
    assert_eq!(stops(&leader.beat("a", Some(held.at))), [held.at]);
    let (_, effects) = leader.end(held, Told::Stopped);
    assert_eq!(changes(&effects), [Change::Cancel(held.clone())]);
}

#[test]
fn a_node_that_does_not_name_its_job_loses_it() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    assert_eq!(changes(&leader.beat("a", None)), []);
    let named = leader.beat("a", Some(held.at));
    assert_eq!(renewal(&named), Some(Verdict::GoOn));
    assert_eq!(changes(&leader.beat("a", None)), []);
    let effects = leader.beat("a", None);
    assert!(
        matches!(&changes(&effects)[..], [Change::Requeue { held: of, .. }] if *of == held),
        "{effects:?}"
    );
}

#[test]
fn a_job_that_no_node_was_told_of_is_not_blamed_for_the_databases_outage() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (_, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    let pass = |leader: &mut Leader| {
        let until = leader.now_ms + JOB_NO_PROGRESS_MS;
        let mut effects = Vec::new();
        while leader.now_ms < until {
            leader.now_ms += NODE_BEAT_MS;
            effects.extend(leader.beat("a", None));
            effects.extend(leader.apply(Event::Tick));
        }
        effects
    };
    let effects = pass(&mut leader);
    assert_eq!(changes(&effects), []);
    assert!(is_dispatched(&leader.committed(1)));
    leader.apply(Event::Dispatched {
        held: held.clone(),
        result: Ok(()),
    });
    let until = leader.now_ms + JOB_NO_PROGRESS_MS;
    while leader.now_ms < until {
        leader.now_ms += NODE_BEAT_MS;
        leader.beat("a", Some(held.at));
    }
    let effects = leader.apply(Event::Tick);
    assert!(
        matches!(&changes(&effects)[..], [Change::Requeue { reason, .. }] if reason.contains("no_progress")),
        "{effects:?}"
    );
}

#[test]
fn a_node_is_told_to_drop_what_is_not_its_own() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    leader.register("b", None);
    assert_eq!(
        renewal(&leader.beat("b", Some(held.at))),
        Some(Verdict::Drop)
    );
    let effects = leader.register("b", Some(held.at));
    assert_eq!(welcome(&effects), Some((TERM, Verdict::Drop)));
}

#[test]
fn a_job_that_no_node_can_run_fails_by_name() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (_, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    leader.committed(1);
    let effects = leader.apply(Event::Dispatched {
        held: held.clone(),
        result: Err(NotDispatched::Impossible("adapter is not stored".into())),
    });
    let changes = changes(&effects);
    assert!(
        matches!(&changes[..], [Change::Fail { code, .. }] if code == "inputs_missing"),
        "{changes:?}"
    );
}

#[test]
fn only_the_holder_is_believed_about_progress() {
    let mut leader = Leader::new();
    leader.hear_api();
    let held = leader.running("a");
    let progress = Progress {
        at: held.at,
        phase: Phase::Denoising,
        step: 1,
        steps: 2,
        left_s: Some(1.0),
    };
    let from = |name: &str| Event::Progress {
        node: node(name),
        progress: progress.clone(),
    };
    let user = leader.user;
    let effects = leader.apply(from("a"));
    assert!(matches!(
        tells(&effects)[..],
        [Live { user: to, live: LiveState::Progress { step: 1, .. }, .. }] if *to == user
    ));
    assert_eq!(tells(&leader.apply(from("b"))), Vec::<&Live>::new());
}

#[test]
fn those_who_wait_hear_their_place_and_a_new_listener_hears_it_again() {
    let mut leader = Leader::new();
    leader.hear_api();
    let (job, _) = leader.arrive();
    leader.now_ms += 1_000;
    let place = |effects: &[Effect]| {
        tells(effects).first().map(|live| match &live.live {
            LiveState::Position { position, .. } => (live.job, *position),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(place(&leader.apply(Event::Tick)), Some((job, 1)));
    // Told again for those who were not there.
    let effects = {
        leader.hear_api();
        leader.now_ms += 1_000;
        leader.apply(Event::Tick)
    };
    assert_eq!(place(&effects), Some((job, 1)));
}

#[test]
fn uploads_are_signed_for_the_holder_and_for_whole_sets_of_files() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let files = ready_files(hash(4));
    assert!(matches!(
        leader.ask_targets(&held, files.clone())[..],
        [Effect::Presign { .. }]
    ));
    let mut stranger = held.clone();
    stranger.node = node("b");
    assert!(matches!(
        leader.ask_targets(&stranger, files.clone())[..],
        [Effect::Answer(
            _,
            Answer::Targets(UploadTargetsAnswer::Stale)
        )]
    ));
    let mut empty = files.clone();
    empty[1].bytes = 0;
    for bad in [files[..3].to_vec(), empty] {
        assert!(is_refused(&leader.ask_targets(&held, bad)));
    }
}

#[test]
fn what_the_sweep_finds_is_read() {
    let mut leader = Leader::new();
    let effects = leader.apply(Event::Tick);
    assert!(matches!(effects[..], [Effect::Sweep { .. }]));
    let job = JobId::generate();
    let effects = leader.apply(Event::Swept {
        unfinished: vec![job],
        cancelled: Vec::new(),
    });
    assert!(matches!(&effects[..], [Effect::Read(jobs)] if *jobs == [job]));
}

#[test]
fn a_fenced_leader_says_nothing_more() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    assert!(matches!(
        leader.apply(Event::Fenced)[..],
        [Effect::StepDown]
    ));
    assert!(leader.beat("a", Some(held.at)).is_empty());
    assert!(leader.apply(Event::Tick).is_empty());
}
