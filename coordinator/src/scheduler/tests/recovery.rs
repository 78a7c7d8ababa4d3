//! What a new leader, a drain and a lost message leave behind.

use flowai_actors::limits::JOB_NOT_READ_MS;

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
    let mut beat = |readiness| {
        farm.step(Event::Beat {
            node: node_id("a"),
            generation: FIRST,
            readiness,
            holds: None,
        })
    };
    assert_eq!(beat(Readiness::Doubtful), []);
    assert_eq!(beat(Readiness::Ready), [assign(1, 2, "a")]);
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

/// What an attempt's owner was charged, GPU-seconds.
fn charged(farm: &Farm, node: &str) -> f64 {
    let node = farm.scheduler.nodes.by_name(&node_id(node)).unwrap();
    node.running.unwrap().charged
}

fn left_s(farm: &Farm, node: &str) -> f64 {
    let node = farm.scheduler.nodes.by_name(&node_id(node)).unwrap();
    let running = node.running.unwrap();
    running.left_s(Monotonic::from_millis(farm.now_ms))
}

fn progress(farm: &mut Farm, job: u64, attempt: u32, step: u32) {
    let effects = farm.step(Event::Progressed {
        job: job_id(job),
        attempt: Attempt::new(attempt),
        step,
        steps: 10,
    });
    assert_eq!(effects, []);
}

fn checkpoint(step: u32) -> Option<Checkpoint> {
    Some(Checkpoint {
        device_class: "gpu".to_owned(),
        step,
    })
}

#[test]
fn an_attempt_is_charged_for_what_is_left_of_the_job_and_for_all_when_it_begins_anew() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    assert_eq!(charged(&farm, "a"), 10.0);
    for (attempt, step, left_s) in [(2, 5, 5.0), (3, 8, 2.0)] {
        let checkpoint = checkpoint(step);
        farm.ended("a", 1, attempt - 1, AttemptEnd::Stopped { checkpoint });
        assert!((charged(&farm, "a") - left_s).abs() < 1e-9);
    }
    // What it left may be why it failed.
    farm.ended("a", 1, 3, failure(true));
    farm.pass(2 * JOB_RETRY_MS, &["a"]);
    assert_eq!(charged(&farm, "a"), 10.0);
}

#[test]
fn an_attempt_that_went_on_from_a_checkpoint_is_as_fast_as_its_own_steps() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut job = waiting(1, 1, Tier::Free);
    job.attempt = Attempt::new(1);
    job.resume = checkpoint(6);
    farm.arrive(job);
    farm.pass(10_000, &["a"]);
    progress(&mut farm, 1, 2, 7);
    farm.pass(10_000, &["a"]);
    progress(&mut farm, 1, 2, 8);
    // Two steps are left, of ten seconds each.
    assert!(
        (left_s(&farm, "a") - 20.0).abs() < 1e-9,
        "{}",
        left_s(&farm, "a")
    );
}

#[test]
fn a_run_of_an_earlier_term_teaches_nothing_and_is_as_fast_as_the_steps_that_were_seen() {
    let mut farm = Farm::new();
    for n in 0..10 {
        let mut job = waiting(n, n, Tier::Free);
        job.attempt = Attempt::new(1);
        let node = format!("n{n}");
        farm.step(Event::JobRecovered(Recovered {
            waiting: job,
            node: node_id(&node),
            generation: FIRST,
            cancel_requested: false,
        }));
        assert_eq!(farm.register(&node, FIRST, Some((n, 1))), []);
        progress(&mut farm, n, 1, 8);
    }
    farm.now_ms += 5_000;
    progress(&mut farm, 0, 1, 9);
    assert!((left_s(&farm, "n0") - 5.0).abs() < 1e-9);
    // All that is known of the others is that two steps are left, of the ten seconds that ten take.
    farm.now_ms -= 5_000;
    assert!((left_s(&farm, "n1") - 2.0).abs() < 1e-9);
    for n in 0..10 {
        let ran = Some(Ran {
            busy: GpuSeconds(1_000.0),
            load: GpuSeconds(1.0),
        });
        farm.ended(&format!("n{n}"), n, 1, AttemptEnd::Rendered { ran });
    }
    farm.arrive(waiting(100, 100, Tier::Free));
    assert_eq!(charged(&farm, "n0"), 10.0);
}

/// The leader that was asked is gone, or the node was away.
#[test]
fn a_node_that_is_to_be_drained_at_once_stops_when_it_comes_with_its_job() {
    let mut farm = Farm::new();
    let mut job = waiting(1, 1, Tier::Free);
    job.attempt = Attempt::new(1);
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Now,
    });
    farm.step(Event::JobRecovered(Recovered {
        waiting: job,
        node: node_id("a"),
        generation: FIRST,
        cancel_requested: false,
    }));
    let stop = Effect::Stop {
        node: node_id("a"),
        job: job_id(1),
        attempt: Attempt::new(1),
        keep: true,
    };
    assert_eq!(farm.register("a", FIRST, Some((1, 1))), [stop]);
    // Once is enough.
    assert_eq!(farm.register("a", FIRST, Some((1, 1))), []);
}

/// Its engine still works on what was taken from it: whatever it is given would be refused.
#[test]
fn a_node_that_has_to_leave_something_is_given_nothing_before_its_next_beat() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    let effects = farm.register("a", FIRST, Some((9, 1)));
    assert!(matches!(effects[..], [Effect::Stale { .. }]), "{effects:?}");
    assert_eq!(farm.pass(NODE_BEAT_MS, &["a"]), [assign(1, 1, "a")]);
}

#[test]
fn a_node_that_takes_nothing_uses_up_nobodys_assignments_and_holds_up_no_other() {
    let mut farm = Farm::new();
    farm.register("deaf", FIRST, None);
    let mut effects = farm.arrive(waiting(1, 1, Tier::Free));
    let mut asked = 0;
    while farm.now_ms < 300_000 {
        assert!(
            !effects
                .iter()
                .any(|effect| matches!(effect, Effect::Fail { .. })),
            "{effects:?}"
        );
        let given = effects.iter().find_map(|effect| match effect {
            Effect::Assign { job, attempt, .. } => Some((*job, *attempt)),
            _ => None,
        });
        effects = match given {
            Some((job, attempt)) => {
                asked += 1;
                farm.step(Event::NotTaken { job, attempt })
            }
            None => farm.pass(NODE_BEAT_MS, &["deaf"]),
        };
    }
    assert!((5..15).contains(&asked), "asked {asked} times");
    // Registering again is no way around it.
    assert_eq!(farm.register("deaf", FIRST, None), []);
    let effects = farm.register("good", FIRST, None);
    assert_eq!(effects, [assign(1, asked + 1, "good")]);
}

#[test]
fn a_node_whose_link_has_gone_is_given_nothing_before_it_is_heard() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let gone = |generation| Event::NodeUnlinked {
        node: node_id("a"),
        generation,
    };
    farm.step(gone(FIRST));
    assert_eq!(farm.arrive(waiting(1, 1, Tier::Free)), []);
    assert_eq!(farm.register("a", FIRST, None), [assign(1, 1, "a")]);
    // The link of an older process says nothing of this one.
    farm.ended("a", 1, 1, rendered());
    farm.step(gone(Generation::ZERO));
    assert_eq!(farm.arrive(waiting(2, 1, Tier::Free)), [assign(2, 1, "a")]);
}

#[test]
fn what_could_not_be_read_for_a_job_is_no_nodes_fault() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    let mut not_given = |attempt| {
        farm.step(Event::NotGiven {
            job: job_id(1),
            attempt: Attempt::new(attempt),
        })
    };
    let effects = not_given(1);
    assert_eq!(effects[1..], [assign(1, 2, "a")]);
    // The second time it waits a little, and says so; the node works for others meanwhile.
    assert_eq!(not_given(2).len(), 1);
    assert_eq!(farm.scheduler.why(job_id(1)), Some(WaitsFor::Retry));
    assert_eq!(farm.arrive(waiting(2, 2, Tier::Free)), [assign(2, 1, "a")]);
    farm.arrive(waiting(3, 3, Tier::Free));
    let nobody_ahead = farm.scheduler.why(job_id(3));
    assert_eq!(nobody_ahead, Some(WaitsFor::Node));
    farm.step(Event::CancelAsked(job_id(3)));
    farm.ended("a", 2, 1, rendered());
    assert_eq!(farm.pass(JOB_NOT_READ_MS, &["a"]), [assign(1, 3, "a")]);
}

/// The pause after a failure is for the node where it failed.
#[test]
fn the_pause_of_what_could_not_be_read_ends_before_that_of_a_failure() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    let effects = farm.ended("a", 1, 1, failure(true));
    assert_eq!(effects[1..], [assign(1, 2, "b")]);
    for attempt in [2, 3] {
        farm.step(Event::NotGiven {
            job: job_id(1),
            attempt: Attempt::new(attempt),
        });
    }
    assert_eq!(farm.pass(JOB_NOT_READ_MS, &["a", "b"]), [assign(1, 4, "b")]);
}
