//! Goal: a node that was frozen beyond its lease with a finished result drops it on the leader's word, tells and uploads
//! nothing a second time, and takes the next job.
//! Method: the leader hears the end but its answer is lost; the link is cut while the paused clock jumps over the lease.

use std::time::Duration;

use flowai_actors::ids::Epoch;
use flowai_actors::limits::NODE_LEASE_MS;
use flowai_actors::link::Faults;
use flowai_actors::messages::{AssignAnswer, AttemptRef, EndedAnswer, Outcome, Verdict};
use flowai_render_node::engine::StandInEngine;

use crate::kit::{Farm, Heard, leader_id, node_id};

/// The leader that judges it knows the attempt no more; it may say so to the beat or to the end, whichever comes first.
#[tokio::test]
async fn a_late_result_is_dropped_on_either_word() {
    for (verdict, tells) in [(Verdict::GoOn, 1), (Verdict::Drop, 0)] {
        check(verdict, tells).await;
    }
}

async fn check(verdict: Verdict, expected_tells: usize) {
    let engine = || StandInEngine::new(Duration::ZERO);
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    farm.set_policy(|policy| policy.ends_unanswered = u32::MAX);
    let late = farm.job(b"a picture", &[]).await;
    assert_eq!(farm.assign(&late).await, AssignAnswer::Accepted);
    assert_eq!(farm.hear_end().await.at, late.at);
    assert_eq!(farm.job_folders(), 1);

    freeze(&farm).await;
    farm.set_policy(|policy| {
        policy.epoch = Epoch::new(2);
        policy.verdict = verdict;
        policy.ended = EndedAnswer::Stale;
        policy.ends_unanswered = 0;
    });
    thaw(&farm);
    let reported = farm.hear_register().await.running;
    assert_eq!(reported.map(|at| at.job), Some(late.at.job));

    let mut next = farm.job(b"another picture", &[]).await;
    next.at.epoch = Epoch::new(2);
    while farm.assign(&next).await != AssignAnswer::Accepted {
        tokio::task::yield_now().await;
    }
    farm.set_policy(|policy| {
        policy.verdict = Verdict::GoOn;
        policy.ended = EndedAnswer::Settled;
    });
    let said = said_of(&mut farm, late.at, next.at).await;
    assert_eq!(
        said,
        (0, expected_tells),
        "targets and ends of the late job"
    );
    while farm.job_folders() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Nothing passes between node and leader for three leases.
async fn freeze(farm: &Farm) {
    tokio::time::pause();
    for (from, to) in ways() {
        farm.net.cut(&from, &to);
    }
    tokio::time::sleep(Duration::from_millis(3 * NODE_LEASE_MS)).await;
    tokio::time::resume();
}

fn thaw(farm: &Farm) {
    for (from, to) in ways() {
        farm.net.heal(&from, &to);
    }
}

fn ways() -> [(flowai_actors::link::PeerId, flowai_actors::link::PeerId); 2] {
    [(leader_id(), node_id()), (node_id(), leader_id())]
}

/// How often the node asks for targets and tells the end of the late job, until the next one is delivered.
async fn said_of(farm: &mut Farm, late: AttemptRef, next: AttemptRef) -> (usize, usize) {
    let (mut targets, mut ends) = (0, 0);
    loop {
        let heard = |heard: &Heard| match heard {
            Heard::Targets(question) => Some((question.at, None)),
            Heard::Ended(ended) => Some((ended.at, Some(ended.outcome.clone()))),
            Heard::Register(_)
            | Heard::Progress(_)
            | Heard::Preview(_)
            | Heard::PreviewRefused
            | Heard::Checkpoint(_) => None,
        };
        match farm.hear(heard).await {
            (at, None) if at.job == late.job => targets += 1,
            (at, Some(_)) if at.job == late.job => ends += 1,
            (at, Some(outcome)) => {
                assert_eq!(at.job, next.job);
                assert!(matches!(outcome, Outcome::Rendered { .. }), "{outcome:?}");
                return (targets, ends);
            }
            (_, None) => {}
        }
    }
}
