//! What waits or runs for too long.

use flowai_actors::limits::{ATTEMPT_MS_MIN, DEADLINES_LOOK_MS, JOB_QUEUED_MS_MAX};

use super::*;

#[test]
fn a_job_that_no_node_could_start_for_days_fails_by_name() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.now_ms = JOB_QUEUED_MS_MAX / 2;
    farm.step(Event::Tick);
    farm.arrive(waiting(2, 1, Tier::Free));
    farm.now_ms = JOB_QUEUED_MS_MAX;
    let effects = farm.step(Event::Tick);
    assert!(
        matches!(&effects[..], [Effect::Fail { job, code, .. }] if *job == job_id(1) && code == "waited_too_long"),
        "{effects:?}"
    );
    assert!(farm.scheduler.knows(job_id(2)));
}

#[test]
fn an_attempt_that_runs_ten_times_as_long_as_predicted_is_tried_elsewhere() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    assert_eq!(farm.pass(ATTEMPT_MS_MIN - NODE_BEAT_MS, &["a", "b"]), []);
    let effects = farm.pass(NODE_BEAT_MS + DEADLINES_LOOK_MS, &["a", "b"]);
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Stop { keep: false, .. },
                Effect::Requeue {
                    outcome: Unfinished::Failed,
                    ..
                },
                Effect::Assign { .. }
            ]
        ),
        "{effects:?}"
    );
}
