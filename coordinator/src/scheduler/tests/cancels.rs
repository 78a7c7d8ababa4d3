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
