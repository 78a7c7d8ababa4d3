//! Goal: lost, doubled and late messages, and a leader that changes, lose no clip and start nothing twice.
//! Method: the simulated network's bad weather; a leader that does not answer; a second leader in its place.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flowai_actors::ids::Epoch;
use flowai_actors::link::Faults;
use flowai_actors::messages::{AssignAnswer, EndedAnswer, Outcome};
use flowai_render_node::engine::StandInEngine;

use crate::kit::Farm;
use crate::watched::Watched;

#[tokio::test]
async fn rough_weather_loses_no_clip_and_starts_no_job_twice() {
    let starts = Arc::new(AtomicU32::new(0));
    let counted = starts.clone();
    let engine = move || Watched {
        engine: StandInEngine::new(Duration::from_millis(1)),
        on_start: move |_: &Path| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        },
    };
    let mut farm = Farm::start(Faults::rough(), StandInEngine::NAME, engine).await;
    const JOBS: u32 = 5;
    for _ in 0..JOBS {
        let job = farm.job(b"a picture", &[]).await;
        loop {
            match farm.assign(&job).await {
                AssignAnswer::Accepted => break,
                AssignAnswer::Busy { .. } => tokio::task::yield_now().await,
                // It was taken, the answer was lost, and the job is over already.
                AssignAnswer::Refused { reason } if reason.contains("has ended here") => break,
                AssignAnswer::Refused { reason } => panic!("{reason}"),
            }
        }
        loop {
            let ended = farm.hear_end().await;
            // Copies of earlier ends may still come.
            if ended.at == job.at {
                assert!(
                    matches!(ended.outcome, Outcome::Rendered { .. }),
                    "{ended:?}"
                );
                break;
            }
        }
    }
    assert_eq!(starts.load(Ordering::Relaxed), JOBS);
}

#[tokio::test]
async fn an_end_is_told_until_it_is_answered_also_to_the_next_leader() {
    let engine = || StandInEngine::new(Duration::ZERO);
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    farm.set_policy(|policy| policy.ends_unanswered = 2);
    let job = farm.job(b"a picture", &[]).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    assert_eq!(farm.hear_end().await.at, job.at);

    // The next leader: another term, and the node must find it by itself.
    farm.set_policy(|policy| {
        policy.epoch = Epoch::new(2);
        policy.ends_unanswered = 0;
    });
    farm.relink();
    assert!(farm.hear_register().await.running.is_some());
    loop {
        let ended = farm.hear_end().await;
        if ended.at.epoch == Epoch::new(2) {
            let Outcome::Rendered { manifest, .. } = ended.outcome else {
                panic!("{:?}", ended.outcome)
            };
            assert_eq!(manifest.epoch, Epoch::new(2));
            break;
        }
    }
}

#[tokio::test]
async fn a_stale_end_frees_the_node() {
    let engine = || StandInEngine::new(Duration::ZERO);
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    farm.set_policy(|policy| policy.ended = EndedAnswer::Stale);
    for _ in 0..2 {
        let job = farm.job(b"a picture", &[]).await;
        while farm.assign(&job).await != AssignAnswer::Accepted {
            tokio::task::yield_now().await;
        }
        farm.hear_end().await;
    }
}
