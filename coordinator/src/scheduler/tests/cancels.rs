//! The end that its owner wants.

use super::*;

#[test]
fn cancel_stops_a_running_job_and_frees_the_node() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Free));
    let stop = [Effect::Stop {
        node: node_id("a"),
        job: job_id(1),
        attempt: Attempt::new(1),
        keep: false,
    }];
    assert_eq!(farm.step(Event::CancelAsked(job_id(1))), stop);
    assert_eq!(farm.step(Event::CancelAsked(job_id(1))), []);
    let effects = farm.ended("a", 1, 1, stopped());
    assert_eq!(
        effects,
        [
            Effect::Cancel {
                job: job_id(1),
                attempt: Attempt::new(1)
            },
            assign(2, 1, "a")
        ]
    );
}

#[test]
fn a_cancel_that_comes_late_destroys_no_clip() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.step(Event::CancelAsked(job_id(1)));
    assert!(matches!(
        farm.ended("a", 1, 1, rendered())[..],
        [Effect::Settle { .. }]
    ));
}

#[test]
fn a_cancelled_job_whose_node_dies_does_not_run_again() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.step(Event::CancelAsked(job_id(1)));
    farm.register("b", FIRST, None);
    assert!(matches!(
        farm.pass(NODE_LEASE_MS, &["b"])[..],
        [Effect::Cancel { .. }]
    ));
}

#[test]
fn a_stopped_job_waits_with_what_it_left_and_a_failed_one_without() {
    let left = |step| {
        Some(Checkpoint {
            device_class: "gpu".into(),
            step,
        })
    };
    let kept = |effects: Vec<Effect>| match &effects[0] {
        Effect::Requeue { checkpoint, .. } => checkpoint.clone(),
        other => panic!("{other:?}"),
    };
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    let checkpointed = |attempt, step| Event::Checkpointed {
        job: job_id(1),
        attempt: Attempt::new(attempt),
        checkpoint: left(step).unwrap(),
    };
    farm.step(checkpointed(1, 3));
    farm.step(checkpointed(9, 4));
    let stopped = |step: Option<u32>| AttemptEnd::Stopped {
        checkpoint: step.and_then(left),
    };
    assert_eq!(kept(farm.ended("a", 1, 1, stopped(None))), left(3));
    assert_eq!(kept(farm.ended("a", 1, 2, stopped(Some(5)))), left(5));
    farm.step(checkpointed(3, 8));
    assert_eq!(kept(farm.ended("a", 1, 3, failure(true))), None);
}
