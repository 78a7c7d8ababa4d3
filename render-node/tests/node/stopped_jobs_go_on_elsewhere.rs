//! Goal: a job that was stopped to go on elsewhere loses at most one interval and becomes the very clip that it would have been;
//! a checkpoint that does not fit or cannot be had is a beginning anew, which the manifest tells of.
//! Method: two nodes with engines, stores and folders of their own, the real engine with a tiny model and the stand-in.

use std::sync::mpsc;
use std::time::Duration;

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::ids::{Attempt, Sha256};
use flowai_actors::limits::CHECKPOINT_PATIENCE_MS;
use flowai_actors::link::Faults;
use flowai_actors::manifest::Resumed;
use flowai_actors::messages::{Assign, AssignAnswer, Ended, Outcome, Phase};
use flowai_actors::spec::FirstFrame;
use flowai_render_node::engine::{RenderEngine, StandInEngine, SvdEngine};
use flowai_render_node::node::Ending;
use flowai_svd::lora::HostAdapters;
use tokio::time::Instant;

use crate::kit::{Farm, Keeping, LONG, STOPPED};
use crate::paced::Paced;
use crate::svd_makes_the_clip::{clip_sha256, engine_with, picture};

const CLASS: &str = "a class";
/// After every step.
const EACH_STEP: Duration = Duration::ZERO;

async fn stand_in(every: Duration, device_class: &'static str) -> Farm {
    stand_in_of(every, device_class, Duration::from_millis(5)).await
}

async fn stand_in_of(every: Duration, device_class: &'static str, step: Duration) -> Farm {
    let keeping = Keeping {
        every,
        device_class,
    };
    let engine = move || StandInEngine::new(step);
    Farm::start_keeping(Faults::none(), StandInEngine::NAME, keeping, None, engine).await
}

async fn svd() -> Farm {
    let (host, engine) = engine_with(64 << 20);
    keeping_each_step(host, engine).await
}

/// The same, and what lets its steps through.
async fn svd_step_by_step() -> (Farm, mpsc::Sender<()>) {
    let (host, make) = engine_with(64 << 20);
    let (pass, passes) = mpsc::channel();
    let engine = move || Paced {
        engine: make(),
        passes,
    };
    (keeping_each_step(host, engine).await, pass)
}

async fn keeping_each_step<E: RenderEngine + 'static>(
    host: HostAdapters,
    engine: impl FnOnce() -> E + Send + 'static,
) -> Farm {
    let keeping = Keeping {
        every: EACH_STEP,
        device_class: CLASS,
    };
    Farm::start_keeping(Faults::none(), SvdEngine::NAME, keeping, Some(host), engine).await
}

async fn take(farm: &Farm, job: &Assign) {
    assert_eq!(farm.assign(job).await, AssignAnswer::Accepted);
}

/// The clip, and what its manifest says of its way.
async fn clip(farm: &mut Farm, job: &Assign) -> (Sha256, Vec<Resumed>) {
    take(farm, job).await;
    rendered(farm, job).await
}

async fn rendered(farm: &mut Farm, job: &Assign) -> (Sha256, Vec<Resumed>) {
    rendered_by(farm.hear_end().await, job)
}

fn rendered_by(ended: Ended, job: &Assign) -> (Sha256, Vec<Resumed>) {
    assert_eq!(ended.at, job.at);
    let resumed = match &ended.outcome {
        Outcome::Rendered { manifest, .. } => manifest.resumed.clone(),
        other => panic!("{other:?}"),
    };
    (clip_sha256(ended.outcome), resumed)
}

/// Stops the job after its first step at the earliest.
async fn stop(farm: &mut Farm, job: &Assign) -> CheckpointFile {
    take(farm, job).await;
    farm.hear_progress(|p| p.phase == Phase::Denoising && p.step >= 1)
        .await;
    assert!(farm.stop_and_keep(job.at).await);
    kept(farm).await
}

async fn kept(farm: &mut Farm) -> CheckpointFile {
    match farm.hear_end().await.outcome {
        Outcome::Stopped {
            checkpoint: Some(file),
        } => file,
        other => panic!("{other:?}"),
    }
}

fn hop(attempt: u32, step: u32) -> Resumed {
    Resumed {
        attempt: Attempt::new(attempt),
        step,
        anew: None,
    }
}

/// What a node that is killed right after a step has left is where another goes on: for every step of the real engine.
#[tokio::test]
async fn kill_at_every_step_loses_one_interval() {
    let ((mut first, pass), mut second) = (svd_step_by_step().await, svd().await);
    let job = first.job(&picture(), &[]).await;
    take(&first, &job).await;
    // What follows at once may overtake a checkpoint, which is then not sent: the next step, and the end of the job.
    let mut steps = Vec::new();
    for _ in 0..job.spec.steps {
        pass.send(()).unwrap();
        steps.push(first.hear_checkpoint().await);
    }
    pass.send(()).unwrap();
    let ended = first.hear_end().await;
    let (uninterrupted, resumed) = rendered_by(ended, &job);
    assert_eq!(resumed, []);
    let picture = second.job(&picture(), &[]).await;
    for (file, step) in steps.into_iter().zip(1..) {
        assert_eq!((file.step, file.steps), (step, 4));
        let mut next = second.resumed(&first, &job, file).await;
        next.first_frame = picture.first_frame.clone();
        // One attempt for each way; the node remembers those that it has seen.
        next.at.attempt = Attempt::new(1 + step);
        let way = clip(&mut second, &next).await;
        assert_eq!(way, (uninterrupted, vec![hop(1, step)]));
    }
}

#[tokio::test]
async fn stopped_and_resumed_clip_is_bit_equal() {
    let (mut first, mut second) = (svd().await, svd().await);
    let job = first.job(&picture(), &[]).await;
    let uninterrupted = clip(&mut first, &job).await.0;
    let mut long = first.job(&picture(), &[]).await;
    long.spec = job.spec.clone();
    let file = stop(&mut first, &long).await;
    let step = file.step;
    let mut next = second.resumed(&first, &long, file).await;
    next.first_frame = second.job(&picture(), &[]).await.first_frame;
    let (resumed_clip, way) = clip(&mut second, &next).await;
    assert_eq!(resumed_clip, uninterrupted);
    assert_eq!(way, [hop(1, step)]);
}

/// Three attempts on as many nodes: the manifest tells the whole way, and the clip is the one of one attempt.
#[tokio::test]
async fn a_job_may_be_stopped_again_and_its_manifest_tells_the_whole_way() {
    let slow = Duration::from_millis(100);
    let mut farm = stand_in(LONG, CLASS).await;
    let mut job = farm.job(b"a picture", &[]).await;
    job.spec.steps = 12;
    let uninterrupted = clip(&mut farm, &job).await.0;

    let mut first = stand_in_of(LONG, CLASS, slow).await;
    let mut started = first.job(b"a picture", &[]).await;
    started.spec = job.spec.clone();
    let before = stop(&mut first, &started).await;
    let mut second = stand_in_of(LONG, CLASS, slow).await;
    let mut again = second.resumed(&first, &started, before.clone()).await;
    again.first_frame = second.job(b"a picture", &[]).await.first_frame;
    take(&second, &again).await;
    // What was done before counts from the beginning: its owner may cancel before the next step.
    let first_told = second.hear_progress(|p| p.phase == Phase::Denoising).await;
    assert!(first_told.step >= before.step, "{first_told:?}");
    second.hear_progress(|p| p.step > before.step).await;
    assert!(second.stop_and_keep(again.at).await);
    let after = kept(&mut second).await;
    assert!(after.step > before.step);
    assert_eq!(after.resumed, [hop(1, before.step)]);

    let mut last = farm.resumed(&second, &again, after.clone()).await;
    last.first_frame = job.first_frame.clone();
    let (resumed_clip, way) = clip(&mut farm, &last).await;
    assert_eq!(resumed_clip, uninterrupted);
    assert_eq!(way, [hop(1, before.step), hop(2, after.step)]);
}

#[tokio::test]
async fn a_foreign_device_class_starts_anew_and_says_so() {
    check_anew(
        |file, _| file.device_class = "another class".to_owned(),
        "device class",
    )
    .await;
    check_anew(|file, _| file.engine = "stand-in 0".to_owned(), "engine").await;
}

#[tokio::test]
async fn a_lost_checkpoint_is_a_restart() {
    // The store has other bytes under its name, and none at all.
    check_anew(
        |file, source| {
            file.sha256 = Sha256::from_bytes([9; 32]);
            source.sha256 = file.sha256;
        },
        "could not be fetched",
    )
    .await;
    check_anew(|_, source| source.url.push('x'), "could not be fetched").await;
}

/// The picture lies in the node's cache; the store is gone before the checkpoint can be asked for.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_checkpoint_that_cannot_be_fetched() {
    let mut farm = stand_in_of(LONG, CLASS, Duration::from_millis(50)).await;
    let mut job = farm.job(b"a picture", &[]).await;
    job.spec.steps = 12;
    let file = stop(&mut farm, &job).await;
    let next = farm.resumed(&farm, &job, file).await;
    farm.store.cut();
    take(&farm, &next).await;
    farm.hear_progress(|p| p.phase == Phase::Fetching).await;
    assert!(farm.stop_and_keep(next.at).await);
    assert_eq!(farm.hear_end().await.outcome, STOPPED);
}

/// A store that is gone takes as long as patience lasts, however many checkpoints are on their way to it.
#[tokio::test]
async fn a_stop_waits_for_the_last_checkpoint_alone_and_for_a_minute() {
    let mut farm = stand_in_of(EACH_STEP, CLASS, Duration::from_millis(50)).await;
    let mut job = farm.job(b"a picture", &[]).await;
    job.spec.steps = 100;
    take(&farm, &job).await;
    farm.hear_checkpoint().await;
    farm.store.cut();
    farm.hear_progress(|p| p.step >= 10).await;
    assert!(farm.stop_and_keep(job.at).await);
    let asked = Instant::now();
    // The engine comes to its boundary in its own time.
    tokio::time::sleep(Duration::from_millis(500)).await;
    tokio::time::pause();
    let file = kept(&mut farm).await;
    assert!(file.step < 20, "the last that got there: {file:?}");
    let patience = Duration::from_millis(CHECKPOINT_PATIENCE_MS);
    assert!(asked.elapsed() < patience + Duration::from_secs(10));
}

/// It is one, and of another spec: the engine says so.
#[tokio::test]
async fn a_checkpoint_of_another_spec_starts_anew() {
    let mut farm = stand_in_of(LONG, CLASS, Duration::from_millis(50)).await;
    let mut job = farm.job(b"a picture", &[]).await;
    job.spec.steps = 12;
    let file = stop(&mut farm, &job).await;
    let mut next = farm.resumed(&farm, &job, file).await;
    next.spec.seed += 1;
    let way = clip(&mut farm, &next).await.1;
    require_anew(&way, "another spec");
}

async fn check_anew(
    change: impl FnOnce(&mut CheckpointFile, &mut flowai_actors::messages::Source),
    reason: &str,
) {
    let mut farm = stand_in_of(LONG, CLASS, Duration::from_millis(50)).await;
    let mut job = farm.job(b"a picture", &[]).await;
    job.spec.steps = 12;
    let mut whole = farm.job(b"a picture", &[]).await;
    whole.spec = job.spec.clone();
    let uninterrupted = clip(&mut farm, &whole).await.0;
    let file = stop(&mut farm, &job).await;
    let mut next = farm.resumed(&farm, &job, file).await;
    let resume = next.resume.as_mut().unwrap();
    change(&mut resume.file, &mut resume.source);
    let (anew, way) = clip(&mut farm, &next).await;
    assert_eq!(anew, uninterrupted);
    require_anew(&way, reason);
}

fn require_anew(way: &[Resumed], reason: &str) {
    let [
        Resumed {
            attempt,
            step: 0,
            anew: Some(said),
        },
    ] = way
    else {
        panic!("{way:?}")
    };
    assert_eq!(*attempt, Attempt::new(1));
    assert!(said.contains(reason), "{said}");
}

#[tokio::test]
async fn a_stop_whose_checkpoint_is_not_taken_is_still_a_stop() {
    let mut farm = stand_in_of(LONG, CLASS, Duration::from_millis(50)).await;
    farm.set_policy(|policy| policy.are_checkpoints_taken = false);
    let mut job = farm.job(b"a picture", &[]).await;
    job.spec.steps = 100;
    take(&farm, &job).await;
    farm.hear_progress(|p| p.step >= 1).await;
    assert!(farm.stop_and_keep(job.at).await);
    assert_eq!(farm.hear_end().await.outcome, STOPPED);
    while farm.job_folders() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Nothing of the clip is done yet: the keyframe is a hundredth of it and made anew.
#[tokio::test]
async fn a_stop_in_the_keyframe_keeps_nothing_and_a_later_one_keeps_the_clip() {
    let mut farm = stand_in_of(LONG, CLASS, Duration::from_millis(50)).await;
    let mut job = farm.keyframe_job("a lighthouse", &[], &[]).await;
    job.spec.steps = 12;
    if let FirstFrame::Keyframe(keyframe) = &mut job.spec.first_frame {
        // Long enough for its progress to be told.
        keyframe.steps = 20;
    }
    let mut whole = farm.keyframe_job("a lighthouse", &[], &[]).await;
    whole.spec = job.spec.clone();
    let uninterrupted = clip(&mut farm, &whole).await.0;
    take(&farm, &job).await;
    farm.hear_progress(|p| p.phase == Phase::Keyframe && p.step >= 1)
        .await;
    assert!(farm.stop_and_keep(job.at).await);
    assert_eq!(farm.hear_end().await.outcome, STOPPED);

    job.at.attempt = job.at.attempt.next();
    let file = stop(&mut farm, &job).await;
    let step = file.step;
    let next = farm.resumed(&farm, &job, file).await;
    assert_eq!(
        clip(&mut farm, &next).await,
        (uninterrupted, vec![hop(2, step)])
    );
}

#[tokio::test]
async fn a_closing_node_leaves_a_checkpoint_and_ends() {
    let mut farm = stand_in_of(LONG, CLASS, Duration::from_millis(50)).await;
    let mut job = farm.job(b"a picture", &[]).await;
    job.spec.steps = 100;
    take(&farm, &job).await;
    farm.hear_progress(|p| p.phase == Phase::Denoising && p.step >= 1)
        .await;
    farm.node.close().await.unwrap();
    assert!(kept(&mut farm).await.step >= 1);
    let ended = tokio::time::timeout(LONG, farm.node.ended()).await.unwrap();
    assert_eq!(ended.unwrap(), Ending::Closed);
}
