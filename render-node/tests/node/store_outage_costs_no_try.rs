//! Goal: an outage of the object store costs neither a try nor a clip, the leader hears meanwhile that the job lives, and a
//! stop is still heard.
//! Method: a real S3 server behind a wire that is cut; the paused clock jumps over the outage.

use std::cell::Cell;
use std::time::Duration;

use flowai_actors::limits::{STORE_OUTAGE_MS, TARGET_PATIENCE_MS};
use flowai_actors::link::Faults;
use flowai_actors::messages::{Assign, AssignAnswer, Outcome, Phase};
use flowai_render_node::engine::StandInEngine;
use tokio::time::Instant;

use crate::kit::{Farm, Heard, STOPPED, sha256};

/// Waits between two tries are at most 3 s, and a try against a store that is gone fails within 5 s.
const SILENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn inputs_are_waited_for() {
    let (mut farm, job) = farm(4).await;
    farm.store.cut();
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    let outage = Duration::from_millis(STORE_OUTAGE_MS);
    outlast(&mut farm, outage, Phase::Fetching).await;
    require_clip(&mut farm, &job).await;
}

#[tokio::test]
async fn a_finished_clip_is_kept_also_when_its_urls_expire() {
    let (mut farm, job) = farm(100).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    farm.hear_progress(|progress| progress.phase == Phase::Denoising)
        .await;
    farm.store.cut();
    let targets = |heard: &Heard| matches!(heard, Heard::Targets(_)).then_some(());
    farm.hear(targets).await;
    let outage = Duration::from_millis(2 * TARGET_PATIENCE_MS);
    let asked_anew = outlast(&mut farm, outage, Phase::Uploading).await;
    assert!(asked_anew >= 1);
    require_clip(&mut farm, &job).await;
}

#[tokio::test]
async fn a_stop_is_heard_while_the_store_is_down() {
    let (mut farm, job) = farm(4).await;
    farm.store.cut();
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    farm.hear_progress(|progress| progress.phase == Phase::Fetching)
        .await;
    assert!(farm.stop(job.at).await);
    assert_eq!(farm.hear_end().await.outcome, STOPPED);
}

async fn farm(steps: u32) -> (Farm, Assign) {
    let step = Duration::from_millis(10);
    let engine = move || StandInEngine::new(step);
    let farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    let mut job = farm.job(b"a picture", &[(b"an adapter", 0.5)]).await;
    job.spec.steps = steps;
    (farm, job)
}

/// Lets the time pass, hears the job live all the while, and heals the wire. Says how often targets were asked for.
async fn outlast(farm: &mut Farm, outage: Duration, phase: Phase) -> u32 {
    let asked = Cell::new(0);
    let lives = |heard: &Heard| match heard {
        Heard::Progress(progress) => (progress.phase == phase).then_some(()),
        Heard::Targets(_) => {
            asked.set(asked.get() + 1);
            None
        }
        Heard::Ended(ended) => panic!("{ended:?}"),
        Heard::Register(_) | Heard::Preview(_) | Heard::PreviewRefused | Heard::Checkpoint(_) => {
            None
        }
    };
    tokio::time::pause();
    let until = Instant::now() + outage;
    while Instant::now() < until {
        let last = Instant::now();
        farm.hear(lives).await;
        assert!(last.elapsed() < SILENCE, "silent for {:?}", last.elapsed());
    }
    tokio::time::resume();
    farm.store.heal();
    asked.get()
}

async fn require_clip(farm: &mut Farm, job: &Assign) {
    let ended = farm.hear_end().await;
    let Outcome::Rendered { clip_sha256, .. } = ended.outcome else {
        panic!("{:?}", ended.outcome)
    };
    assert_eq!(ended.at, job.at);
    let stored = farm.store.artefact(job.at, "clip.mp4").await;
    assert_eq!(sha256(&stored), clip_sha256);
}
