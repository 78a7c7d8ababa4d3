//! What a new leader, a drain and a lost message leave behind.

use super::*;

#[test]
fn a_new_leader_adopts_what_runs_and_restarts_only_what_nobody_claims() {
    let mut farm = Farm::new();
    for (n, node) in [(1, "a"), (2, "b")] {
        let mut job = waiting(n, n, Tier::Free);
        job.attempt = Attempt::new(1);
        let recovered = Recovered {
            waiting: job,
            node: node_id(node),
            generation: FIRST,
            cancel_requested: false,
        };
        assert_eq!(farm.step(Event::JobRecovered(recovered)), []);
    }
    assert_eq!(farm.register("a", FIRST, Some((1, 1))), []);
    farm.register("c", FIRST, None);
    let effects = farm.pass(NODE_LEASE_MS, &["a", "c"]);
    assert!(
        matches!(&effects[0], Effect::Requeue { job, outcome: Unfinished::Stopped, .. } if *job == job_id(2)),
        "{effects:?}"
    );
    assert_eq!(effects[1..], [assign(2, 2, "c")]);
    assert!(matches!(
        farm.ended("a", 1, 1, rendered())[..],
        [Effect::Settle { .. }]
    ));
}

#[test]
fn an_assignment_that_never_arrived_is_made_again() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    // The link broke before the node heard of it; on the next one it says that it has nothing to do.
    let effects = farm.register("a", FIRST, None);
    assert!(
        matches!(
            effects[0],
            Effect::Requeue {
                outcome: Unfinished::Stopped,
                ..
            }
        ),
        "{effects:?}"
    );
    assert_eq!(effects[1], assign(1, 2, "a"));
}

#[test]
fn a_draining_node_ends_its_job_and_gets_no_other() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 1, Tier::Free));
    let drain = |how| Event::NodeDraining {
        node: node_id("a"),
        how,
    };
    assert_eq!(farm.step(drain(Drain::Lazy)), []);
    assert!(matches!(
        farm.ended("a", 1, 1, rendered())[..],
        [Effect::Settle { .. }]
    ));
    assert_eq!(farm.step(drain(Drain::Off)), [assign(2, 1, "a")]);
}

#[test]
fn a_node_that_did_not_take_a_job_gets_none_until_its_next_beat() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    let not_taken = Event::NotTaken {
        job: job_id(1),
        attempt: Attempt::new(1),
    };
    let effects = farm.step(not_taken);
    assert!(
        matches!(
            effects[..],
            [Effect::Requeue {
                outcome: Unfinished::Stopped,
                ..
            }]
        ),
        "{effects:?}"
    );
    let mut beat = |is_astray| {
        farm.step(Event::Beat {
            node: node_id("a"),
            generation: FIRST,
            is_astray,
            holds: None,
        })
    };
    assert_eq!(beat(true), []);
    assert_eq!(beat(false), [assign(1, 2, "a")]);
}

#[test]
fn what_was_nobodys_fault_does_not_use_up_the_tries() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    for attempt in 1..=5 {
        let effects = farm.ended("a", 1, attempt, stopped());
        assert_eq!(effects[1], assign(1, attempt + 1, "a"), "{effects:?}");
    }
    for attempt in 6..8 {
        farm.ended("a", 1, attempt, failure(true));
        let effects = farm.pass(4 * JOB_RETRY_MS, &["a"]);
        assert_eq!(effects, [assign(1, attempt + 1, "a")]);
    }
    assert!(matches!(
        farm.ended("a", 1, 8, failure(true))[..],
        [Effect::Fail { .. }]
    ));
}

#[test]
fn a_job_that_is_gone_frees_its_node_and_leaves_the_line() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 1..=3 {
        farm.arrive(waiting(n, n, Tier::Free));
    }
    assert_eq!(farm.step(Event::Doubted(job_id(2))), []);
    assert_eq!(farm.step(Event::Doubted(job_id(1))), [assign(3, 1, "a")]);
    assert!(!farm.scheduler.knows(job_id(2)));
}
