//! The state by tables: what is heard, and what follows from it. Times are ms.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, Sha256};
use flowai_actors::limits::{
    ENGINE_LEAVE_MS_MAX, NODE_BEAT_MS, NODE_SELF_STOP_MS, PROGRESS_INTERVAL_MS, TARGET_PATIENCE_MS,
};
use flowai_actors::link::PeerId;
use flowai_actors::manifest::{EngineInfo, Manifest, StageTimings};
use flowai_actors::messages::{
    ArtefactFile, Assign, AssignAnswer, AttemptRef, BeatAnswer, EndedAnswer, Outcome, Phase,
    ReadyFile, Registered, Source, UploadTargetsAnswer, Verdict,
};
use flowai_actors::spec::RenderSpec;

use super::state::{Clip, Effect, Ending, Event, RunId, State};
use crate::failure::{FailureCode, JobFailure};
use crate::job::{NotRendered, NotUploaded, Standing};

const MODEL: Sha256 = Sha256::from_bytes([9; 32]);

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

fn spec() -> RenderSpec {
    RenderSpec {
        model: "tiny".parse().unwrap(),
        image: Sha256::from_bytes([1; 32]),
        adapters: Vec::new(),
        frames: 2,
        fps: 7,
        width: 64,
        height: 64,
        steps: 4,
        motion_bucket_id: 127,
        noise_aug_strength: 0.02,
        min_guidance_scale: 1.0,
        max_guidance_scale: 3.0,
        decode_chunk_size: 2,
        seed: 1,
    }
}

fn assign(at: AttemptRef) -> Box<Assign> {
    Box::new(Assign {
        at,
        spec: spec(),
        model_sha256: MODEL,
        image: Source {
            sha256: spec().image,
            bytes: 3,
            url: "http://store/image".to_owned(),
        },
        adapters: Vec::new(),
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
        let models = [("tiny".parse().unwrap(), MODEL)].into();
        Self {
            state: State::new("n1".parse().unwrap(), Generation::new(3), models),
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
        } => format!("beat {} {seq} {}", name(to), running(r)),
        Effect::AnswerAssign(AssignAnswer::Accepted) => "assign Accepted".to_owned(),
        Effect::AnswerAssign(AssignAnswer::Busy { with }) => format!("assign Busy {}", at(with)),
        Effect::AnswerAssign(AssignAnswer::Refused { reason }) => {
            format!("assign Refused {reason}")
        }
        Effect::AnswerStop(answer) => format!("stop {answer}"),
        Effect::Start { run, .. } => format!("start {}", run.0),
        Effect::Pause(run) => format!("pause {}", run.0),
        Effect::Resume(run) => format!("resume {}", run.0),
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
                Outcome::Stopped => "Stopped".to_owned(),
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

#[test]
fn it_registers_on_each_link_until_it_is_answered() {
    let mut bench = Bench::new();
    assert_eq!(bench.hear(Event::LinkUp(leader("a"))), ["register a -"]);
    assert_eq!(bench.after(10_000), none(), "the answer is still to come");
    let unanswered = Event::Registered {
        from: leader("a"),
        sent_at: Monotonic::default(),
        reported: None,
        answer: None,
    };
    assert_eq!(bench.hear(unanswered), none());
    assert_eq!(bench.after(500), ["register a -"]);
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.hear(Event::LinkUp(leader("b"))), ["register b -"]);
    let late = welcome("a", 0, None, 1, Verdict::Idle);
    assert_eq!(bench.hear(late), none());
    assert!(!bench.state.is_registered(), "a's answer is not b's");
}

#[test]
fn it_beats_while_it_is_registered() {
    let mut bench = Bench::registered();
    assert_eq!(bench.next_due_ms(), Some(NODE_BEAT_MS));
    assert_eq!(bench.after(NODE_BEAT_MS), ["beat a 1 -"]);
    assert_eq!(bench.after(NODE_BEAT_MS), ["beat a 2 -"]);
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.after(NODE_BEAT_MS), none());
}

#[test]
fn a_leader_that_does_not_know_it_is_told_at_once() {
    let mut bench = Bench::working();
    let unknown = beat_answered(0, Some(at(1, 1)), Some(BeatAnswer::Unknown));
    assert_eq!(bench.hear(unknown), ["register a 1@1"]);
}

#[test]
fn one_job_at_a_time_and_each_attempt_once() {
    let mut bench = Bench::working();
    let again = Event::Assigned(assign(at(1, 1)));
    assert_eq!(bench.hear(again), ["assign Accepted"]);
    let other = Event::Assigned(assign(at(2, 1)));
    assert_eq!(bench.hear(other), ["assign Busy 1@1"]);
    let under_new_term = Event::Assigned(assign(at(1, 2)));
    assert_eq!(bench.hear(under_new_term), ["assign Accepted"]);
    assert_eq!(bench.state.running(), Some(at(1, 2)));

    assert_eq!(
        bench.hear(renewed(0, Some(at(1, 2)), 2, Verdict::Drop)),
        ["forget 1"]
    );
    assert_eq!(bench.hear(rendered(1, Err(NotRendered::Stopped))), none());
    let late_copy = Event::Assigned(assign(at(1, 2)));
    assert_eq!(
        bench.hear(late_copy),
        ["assign Refused this attempt has ended here"]
    );
    let ghost = Event::Assigned(assign(at(3, 1)));
    assert_eq!(
        bench.hear(ghost),
        ["assign Refused assigned under a term that has ended"]
    );
    let next = Event::Assigned(assign(at(3, 2)));
    assert_eq!(bench.hear(next), ["assign Accepted", "start 2"]);
}

#[test]
fn a_model_that_is_not_here_is_refused() {
    let mut bench = Bench::registered();
    let mut other_files = assign(at(1, 1));
    other_files.model_sha256 = Sha256::from_bytes([8; 32]);
    let mut other_name = assign(at(1, 1));
    other_name.spec.model = "xt".parse().unwrap();
    for assign in [other_files, other_name] {
        assert_eq!(
            bench.hear(Event::Assigned(assign)),
            ["assign Refused this node has no such model, or other files under its name"]
        );
    }
}

#[test]
fn progress_is_told_four_times_a_second_and_the_newest_counts() {
    let mut bench = Bench::working();
    assert_eq!(
        bench.hear(moved(Phase::Denoising, 1)),
        ["progress a Denoising 1/4"]
    );
    bench.now_ms += 10;
    assert_eq!(bench.hear(moved(Phase::Denoising, 2)), none());
    bench.now_ms += 10;
    assert_eq!(bench.hear(moved(Phase::Denoising, 3)), none());
    assert_eq!(bench.next_due_ms(), Some(PROGRESS_INTERVAL_MS));
    assert_eq!(
        bench.after(PROGRESS_INTERVAL_MS - 20),
        ["progress a Denoising 3/4"]
    );
    assert_eq!(bench.after(PROGRESS_INTERVAL_MS), none(), "nothing new");
}

#[test]
fn without_an_answered_beat_the_job_pauses_before_its_lease_ends() {
    let mut bench = Bench::working();
    bench.now_ms = NODE_BEAT_MS;
    assert_eq!(bench.hear(Event::Tick), ["beat a 1 1@1"]);
    bench.hear(renewed(NODE_BEAT_MS, Some(at(1, 1)), 1, Verdict::GoOn));
    bench.hear(Event::LinkDown(leader("a")));
    let last = NODE_BEAT_MS + NODE_SELF_STOP_MS;
    assert_eq!(bench.next_due_ms(), Some(last));
    assert_eq!(bench.after(NODE_SELF_STOP_MS - 1), none());
    assert_eq!(bench.after(1), ["pause 1"]);
    assert_eq!(bench.after(60_000), none(), "it waits for a leader");

    let now = bench.now_ms;
    assert_eq!(bench.hear(Event::LinkUp(leader("b"))), ["register b 1@1"]);
    assert_eq!(
        bench.hear(welcome("b", now, Some(at(1, 1)), 2, Verdict::GoOn)),
        ["resume 1"]
    );
    assert_eq!(bench.state.running(), Some(at(1, 2)), "adopted");
}

#[test]
fn a_beat_counts_from_when_it_was_sent() {
    let mut bench = Bench::working();
    bench.now_ms = NODE_SELF_STOP_MS - 1;
    bench.hear(Event::Tick);
    // The answer to a beat of the past came only now.
    bench.hear(renewed(500, Some(at(1, 1)), 1, Verdict::GoOn));
    assert_eq!(bench.after(500), none());
    assert!(bench.after(1).contains(&"pause 1".to_owned()));
}

#[test]
fn a_job_that_the_leader_gave_away_is_dropped() {
    let mut bench = Bench::working();
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.after(NODE_SELF_STOP_MS), ["pause 1"]);
    bench.hear(Event::LinkUp(leader("b")));
    let now = bench.now_ms;
    assert_eq!(
        bench.hear(welcome("b", now, Some(at(1, 1)), 2, Verdict::Drop)),
        ["forget 1"]
    );
    // What the run still says is of nobody's job.
    assert_eq!(bench.hear(rendered(1, Ok(clip()))), none());
    assert_eq!(bench.state.running(), None);
}

#[test]
fn the_engine_is_taken_until_a_dropped_job_has_left_it() {
    let mut bench = Bench::working();
    bench.hear(renewed(0, Some(at(1, 1)), 1, Verdict::Drop));
    let next = || Event::Assigned(assign(at(2, 1)));
    assert_eq!(bench.hear(next()), ["assign Busy 1@1"]);
    assert_eq!(bench.after(NODE_BEAT_MS), ["beat a 1 1@1"]);
    let again = renewed(NODE_BEAT_MS, Some(at(1, 1)), 1, Verdict::Drop);
    assert_eq!(bench.hear(again), none(), "it is dropped already");

    bench.hear(rendered(1, Err(NotRendered::Stopped)));
    assert_eq!(bench.hear(next()), ["assign Accepted", "start 2"]);
}

#[test]
fn a_job_that_does_not_leave_the_engine_in_its_time_ends_the_process_once() {
    let hung = ["end EngineHung"];
    let stop = || Event::StopAsked(at(1, 1));
    let drop = || renewed(0, Some(at(1, 1)), 1, Verdict::Drop);
    for mut events in [vec![stop()], vec![drop()], vec![stop(), drop()]] {
        let mut bench = Bench::working();
        bench.hear(moved(Phase::Denoising, 0));
        bench.now_ms += 30_000;
        bench.hear(moved(Phase::Denoising, 1));
        for event in events.drain(..) {
            bench.now_ms += 1_000;
            bench.hear(event);
        }
        bench.now_ms = 30_000 + 3 * 30_000 - 1;
        let before = bench.hear(Event::Tick);
        assert!(!before.contains(&hung[0].to_owned()), "{before:?}");
        bench.hear(Event::LinkDown(leader("a")));
        assert_eq!(bench.next_due_ms(), Some(bench.now_ms + 1));
        assert_eq!(bench.after(1), hung);
        assert_eq!(bench.next_due_ms(), None, "it would wake for ever");
        assert_eq!(
            bench.hear(Event::Assigned(assign(at(2, 1)))),
            ["assign Busy 1@1"]
        );
    }
}

#[test]
fn a_job_that_left_the_engine_ends_no_process() {
    let mut stopped = Bench::working();
    stopped.hear(Event::StopAsked(at(1, 1)));
    stopped.hear(rendered(1, Err(NotRendered::Stopped)));
    let mut uploading = Bench::placing();
    uploading.hear(targets(1));
    uploading.hear(Event::StopAsked(at(1, 1)));
    for mut bench in [stopped, uploading] {
        bench.hear(Event::LinkDown(leader("a")));
        assert_eq!(bench.after(10 * ENGINE_LEAVE_MS_MAX), none());
    }
}

#[test]
fn a_verdict_is_about_what_was_reported() {
    let mut bench = Bench::working();
    let of_before = renewed(0, None, 1, Verdict::Idle);
    assert_eq!(bench.hear(of_before), none());
    let of_another = renewed(0, Some(at(2, 1)), 1, Verdict::Drop);
    assert_eq!(bench.hear(of_another), none());
    assert_eq!(bench.state.running(), Some(at(1, 1)));
}

#[test]
fn an_answer_of_an_earlier_term_is_a_ghost() {
    let mut bench = Bench::working();
    bench.hear(renewed(0, Some(at(1, 1)), 2, Verdict::GoOn));
    assert_eq!(
        bench.hear(renewed(0, Some(at(1, 1)), 1, Verdict::Drop)),
        none()
    );
    assert_eq!(bench.state.running(), Some(at(1, 2)));
}

#[test]
fn a_clip_is_placed_uploaded_and_told() {
    let mut bench = Bench::telling();
    assert_eq!(bench.hear(ended(Some(EndedAnswer::Settled))), ["forget 1"]);
    assert_eq!(bench.state.running(), None);
}

#[test]
fn the_end_is_told_until_it_is_heard_also_to_the_next_leader() {
    let mut bench = Bench::telling();
    assert_eq!(bench.hear(ended(None)), none());
    assert_eq!(bench.after(500), ["tell a 1@1 Rendered@1"]);
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.hear(ended(None)), none());
    assert_eq!(bench.after(60_000), none(), "a clip that is ready waits");

    bench.hear(Event::LinkUp(leader("b")));
    let now = bench.now_ms;
    assert_eq!(
        bench.hear(welcome("b", now, Some(at(1, 1)), 2, Verdict::GoOn)),
        ["tell b 1@2 Rendered@2"]
    );
    assert_eq!(bench.hear(ended(Some(EndedAnswer::Stale))), ["forget 1"]);
}

#[test]
fn targets_are_asked_for_until_they_come() {
    let mut bench = Bench::placing();
    let unanswered = || Event::TargetsAnswered {
        run: RunId(1),
        answer: None,
    };
    assert_eq!(bench.hear(unanswered()), none());
    assert_eq!(bench.after(500), ["ask targets a 1@1"]);
    assert_eq!(bench.hear(targets(1)), ["upload 1"]);
    assert_eq!(bench.hear(targets(1)), none(), "a second answer is late");
}

#[test]
fn targets_that_expire_are_asked_for_anew_but_not_for_ever() {
    let mut bench = Bench::placing();
    let expired = || Event::Uploaded {
        run: RunId(1),
        result: Err(NotUploaded::Expired("403".to_owned())),
    };
    for round in 1..=3 {
        bench.now_ms += PROGRESS_INTERVAL_MS;
        assert_eq!(bench.hear(targets(1))[0], "upload 1");
        let next = match round {
            3 => "tell a 1@1 upload_failed retryable=true",
            _ => "ask targets a 1@1",
        };
        assert_eq!(bench.hear(expired()).last().unwrap(), next);
    }
}

#[test]
fn a_finished_clip_outlasts_an_outage_of_the_store_with_new_targets() {
    let mut bench = Bench::placing();
    let down = || {
        let failure = JobFailure::new(FailureCode::UploadFailed, "503");
        Event::Uploaded {
            run: RunId(1),
            result: Err(NotUploaded::Unreachable(failure)),
        }
    };
    for round in 1..=10 {
        assert_eq!(bench.hear(targets(1)).last().unwrap(), "upload 1");
        bench.now_ms += TARGET_PATIENCE_MS;
        let next = match round {
            10 => "tell a 1@1 upload_failed retryable=true",
            _ => "ask targets a 1@1",
        };
        assert_eq!(bench.hear(down()).last().unwrap(), next);
    }
}

#[test]
fn an_upload_that_lasts_is_told_as_progress() {
    let mut bench = Bench::placing();
    bench.hear(targets(1));
    let still = || Event::StillUploading { run: RunId(1) };
    for _ in 0..3 {
        bench.now_ms += PROGRESS_INTERVAL_MS;
        assert_eq!(bench.hear(still()), ["progress a Uploading 4/4"]);
        assert_eq!(bench.hear(still()), none(), "four times a second");
    }
    let mut over = Bench::telling();
    over.now_ms += PROGRESS_INTERVAL_MS;
    assert_eq!(over.hear(still()), none(), "a late word");
}

#[test]
fn what_the_leader_does_not_take_is_dropped_or_fails() {
    let answered = |answer| {
        let mut bench = Bench::placing();
        bench.hear(Event::TargetsAnswered {
            run: RunId(1),
            answer: Some(answer),
        })
    };
    assert_eq!(answered(UploadTargetsAnswer::Stale), ["forget 1"]);
    let refused = UploadTargetsAnswer::Refused {
        reason: "too large".to_owned(),
    };
    assert_eq!(
        answered(refused),
        ["tell a 1@1 upload_refused retryable=false"]
    );
}

#[test]
fn a_bad_job_fails_by_name_and_the_node_goes_on() {
    for code in FailureCode::ALL {
        let mut bench = Bench::working();
        let retryable = code.is_retryable();
        assert_eq!(
            bench.hear(rendered(1, failed(code))),
            [format!("tell a 1@1 {code} retryable={retryable}")]
        );
        bench.hear(ended(Some(EndedAnswer::Settled)));
        assert_eq!(
            bench.hear(Event::Assigned(assign(at(2, 1)))),
            ["assign Accepted", "start 2"]
        );
    }
}

#[test]
fn a_stop_ends_the_job_wherever_it_is() {
    let stop = || Event::StopAsked(at(1, 1));

    let mut rendering = Bench::working();
    assert_eq!(rendering.hear(stop()), ["stop run 1", "stop true"]);
    assert_eq!(
        rendering.hear(rendered(1, Err(NotRendered::Stopped))),
        ["tell a 1@1 Stopped"]
    );

    let mut just_rendered = Bench::working();
    just_rendered.hear(stop());
    assert_eq!(
        just_rendered.hear(rendered(1, Ok(clip()))),
        ["tell a 1@1 Stopped"]
    );

    let mut placing = Bench::placing();
    assert_eq!(placing.hear(stop()), ["stop true", "tell a 1@1 Stopped"]);

    let mut uploading = Bench::placing();
    uploading.hear(targets(1));
    assert_eq!(uploading.hear(stop()), ["stop run 1", "stop true"]);

    let mut telling = Bench::telling();
    assert_eq!(telling.hear(stop()), ["stop true"], "it has ended already");

    let mut other = Bench::working();
    assert_eq!(other.hear(Event::StopAsked(at(2, 1))), ["stop false"]);
    assert_eq!(Bench::registered().hear(stop()), ["stop false"]);
}

#[test]
fn closing_ends_the_job_tells_it_and_takes_no_other() {
    assert_eq!(Bench::registered().hear(Event::Close), ["end Closed"]);
    assert_eq!(Bench::new().hear(Event::Close), ["end Closed"]);

    let mut bench = Bench::working();
    assert_eq!(bench.hear(Event::Close), ["stop run 1"]);
    assert_eq!(
        bench.hear(rendered(1, Err(NotRendered::Stopped))),
        ["tell a 1@1 Stopped"]
    );
    assert_eq!(
        bench.hear(ended(Some(EndedAnswer::Settled))),
        ["forget 1", "end Closed"]
    );
    assert_eq!(
        bench.hear(Event::Assigned(assign(at(2, 1))))[0],
        "assign Refused node is shutting down"
    );
}

#[test]
fn a_replaced_process_ends() {
    let fenced = Generation::new(4);
    let of_beat = beat_answered(0, None, Some(BeatAnswer::Fenced { held: fenced }));
    assert_eq!(Bench::working().hear(of_beat), ["forget 1", "end Replaced"]);
    let of_register = Event::Registered {
        from: leader("a"),
        sent_at: Monotonic::default(),
        reported: None,
        answer: Some(Registered::Fenced { held: fenced }),
    };
    assert_eq!(Bench::registered().hear(of_register), ["end Replaced"]);
    assert_eq!(
        Bench::new().hear(Event::Replaced),
        [format!("end {:?}", Ending::Replaced)]
    );
}
