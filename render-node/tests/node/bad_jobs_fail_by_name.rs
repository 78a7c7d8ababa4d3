//! Goal: whatever is wrong with a job fails that job by name, and the node takes the next one.
//! Method: one node, one bad job after the other, and a good one at the end.

use std::path::Path;
use std::time::Duration;

use flowai_actors::ids::{Attempt, Sha256};
use flowai_actors::link::Faults;
use flowai_actors::messages::{Assign, AssignAnswer, FirstFrameSource, Outcome, Source};
use flowai_actors::spec::FirstFrame;
use flowai_render_node::engine::StandInEngine;
use flowai_render_node::failure::{FailureCode, JobFailure};

use crate::kit::{Farm, sha256};
use crate::watched::Watched;

#[tokio::test]
async fn bad_orders_and_inputs() {
    let engine = || StandInEngine::new(Duration::ZERO);
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;

    let mut odd = farm.job(b"a picture", &[]).await;
    (odd.spec.width, odd.spec.frames) = (60, 65);
    check(&mut farm, &odd, "invalid_spec", false, &["width", "frames"]).await;

    let mut other_image = farm.job(b"a picture", &[]).await;
    other_image.spec.first_frame = FirstFrame::Image(sha256(b"another picture"));
    check(&mut farm, &other_image, "invalid_spec", false, &["sources"]).await;

    let mut forged = farm.job(b"a picture", &[]).await;
    let source = farm
        .store
        .put_as(sha256(b"the real one"), b"the forged 1")
        .await;
    set_image(&mut forged, source);
    check(&mut farm, &forged, "input_corrupt", false, &["image"]).await;

    let mut large = farm.job(b"a picture", &[]).await;
    let hash = Sha256::from_bytes([3; 32]);
    set_image(&mut large, farm.store.source(hash, u64::MAX).await);
    check(
        &mut farm,
        &large,
        "input_corrupt",
        false,
        &["image", "at most"],
    )
    .await;

    let mut gone = farm.job(b"a picture", &[(b"an adapter", 1.0)]).await;
    gone.adapters[0] = farm.store.source(Sha256::from_bytes([4; 32]), 5).await;
    gone.spec.adapters[0].sha256 = gone.adapters[0].sha256;
    check(
        &mut farm,
        &gone,
        "input_unavailable",
        true,
        &["adapters[0]", "404"],
    )
    .await;

    let good = farm.job(b"a picture", &[]).await;
    let outcome = outcome(&mut farm, &good).await;
    assert!(matches!(outcome, Outcome::Rendered { .. }), "{outcome:?}");
}

fn set_image(job: &mut Assign, source: Source) {
    job.spec.first_frame = FirstFrame::Image(source.sha256);
    job.first_frame = FirstFrameSource::Image(source);
}

/// The job is not to blame for it, and another try may succeed.
#[tokio::test]
async fn a_picture_that_rots_under_the_engine_is_this_nodes_failure() {
    check_rotting(async |farm| farm.job(b"a picture", &[]).await).await;
}

#[tokio::test]
async fn a_keyframe_that_rots_under_the_engine_is_this_nodes_failure() {
    check_rotting(async |farm| farm.keyframe_job("a lighthouse", &[], &[]).await).await;
}

async fn check_rotting(make_job: impl AsyncFnOnce(&Farm) -> Assign) {
    let engine = || {
        let mut is_first = true;
        Watched {
            engine: StandInEngine::new(Duration::ZERO),
            // Other bytes than the cache found a moment before.
            on_start: move |image: &Path| {
                if std::mem::take(&mut is_first) {
                    std::fs::write(image, b"rotten").unwrap();
                }
                if std::fs::read(image).unwrap() == b"rotten" {
                    let code = FailureCode::InvalidImage;
                    return Err(JobFailure::new(code, "no picture").into());
                }
                Ok(())
            },
        }
    };
    let mut farm = Farm::start(Faults::none(), "rotting", engine).await;
    let mut job = make_job(&farm).await;
    check(&mut farm, &job, "disk_failed", true, &["rotted"]).await;

    job.at.attempt = Attempt::new(2);
    let outcome = outcome(&mut farm, &job).await;
    assert!(matches!(outcome, Outcome::Rendered { .. }), "{outcome:?}");
}

/// Gives the failure's detail.
pub(crate) async fn check(
    farm: &mut Farm,
    job: &Assign,
    expected: &str,
    expected_retryable: bool,
    words: &[&str],
) -> String {
    match outcome(farm, job).await {
        Outcome::Failed {
            code,
            detail,
            retryable,
            ..
        } => {
            assert_eq!(
                (code.as_str(), retryable),
                (expected, expected_retryable),
                "{detail}"
            );
            assert!(words.iter().all(|word| detail.contains(word)), "{detail}");
            detail
        }
        other => panic!("{expected}: {other:?}"),
    }
}

pub(crate) async fn outcome(farm: &mut Farm, job: &Assign) -> Outcome {
    // The leader hears an end before the node has heard its answer.
    loop {
        match farm.assign(job).await {
            AssignAnswer::Accepted => break,
            AssignAnswer::Busy { .. } => tokio::task::yield_now().await,
            AssignAnswer::Refused { reason } => panic!("{reason}"),
        }
    }
    farm.hear_end().await.outcome
}
