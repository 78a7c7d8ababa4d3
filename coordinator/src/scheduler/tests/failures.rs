//! Which node gets a job, and what follows a death or a failure.

use flowai_actors::limits::NODE_SUSPECT_FAILURES;

use super::*;

#[test]
fn a_job_goes_only_to_a_node_that_offers_its_model() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut big = waiting(1, 1, Tier::Free);
    big.model = model("svd-xt");
    assert_eq!(farm.arrive(big), []);
    assert_eq!(farm.arrive(waiting(2, 1, Tier::Free)), [assign(2, 1, "a")]);
}

#[test]
fn a_doubled_arrival_is_one_job() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(1, 1, Tier::Free));
    let effects = farm.register("a", FIRST, None);
    assert_eq!(start_order(&mut farm, effects), [1]);
}

#[test]
fn a_silent_nodes_job_runs_elsewhere_and_its_late_result_is_stale() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    assert_eq!(farm.arrive(waiting(1, 1, Tier::Free)), [assign(1, 1, "a")]);
    farm.register("b", FIRST, None);
    let effects = farm.pass(NODE_LEASE_MS, &["b"]);
    assert!(
        matches!(
            effects[0],
            Effect::Requeue {
                outcome: Unfinished::Lost,
                ..
            }
        ),
        "{effects:?}"
    );
    assert_eq!(effects[1], assign(1, 2, "b"));

    let late = farm.ended("a", 1, 1, rendered());
    assert_eq!(
        late,
        [Effect::Stale {
            node: node_id("a"),
            job: job_id(1),
            attempt: Attempt::new(1)
        }]
    );
    assert!(matches!(
        farm.ended("b", 1, 2, rendered())[..],
        [Effect::Settle { .. }]
    ));
    // Told again because the answer was lost: the job is known to be over, and nothing happens twice.
    assert!(matches!(
        farm.ended("b", 1, 2, rendered())[..],
        [Effect::Stale { .. }]
    ));
}

#[test]
fn a_beating_node_keeps_its_job() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    assert_eq!(farm.pass(10 * NODE_LEASE_MS, &["a"]), []);
}

#[test]
fn a_job_that_kills_nodes_is_quarantined() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    farm.register("c", FIRST, None);
    assert!(
        farm.pass(NODE_LEASE_MS, &["b", "c"])
            .contains(&assign(1, 2, "b"))
    );
    let effects = farm.pass(NODE_LEASE_MS, &["c"]);
    assert_eq!(
        effects,
        [Effect::Quarantine {
            job: job_id(1),
            attempt: Attempt::new(2),
            node_deaths: 2
        }]
    );
}

#[test]
fn one_bad_node_gets_no_job_quarantined() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut job = waiting(1, 1, Tier::Free);
    job.attempt = Attempt::new(1);
    job.failures = 1;
    job.node_deaths = 1;
    job.failed_on.insert(node_id("a"));
    job.died_on.insert(node_id("a"));
    assert_eq!(farm.arrive(job), [assign(1, 2, "a")]);
    farm.register("b", FIRST, None);
    let effects = farm.pass(NODE_LEASE_MS, &["b"]);
    assert!(effects.contains(&assign(1, 3, "b")), "{effects:?}");
}

#[test]
fn a_job_that_kills_its_only_node_each_time_is_quarantined() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    let mut effects = Vec::new();
    for generation in 1..=3 {
        let pause_ms = JOB_RETRY_MS << JOB_ATTEMPTS_MAX;
        let is_given = |farm: &Farm| farm.scheduler.running_on(&node_id("a")).is_some();
        for _ in 0..pause_ms / NODE_BEAT_MS {
            if !is_given(&farm) {
                farm.now_ms += NODE_BEAT_MS;
                farm.register("a", Generation::new(generation), None);
            }
        }
        effects = farm.register("a", Generation::new(generation + 1), None);
    }
    assert_eq!(
        effects,
        [Effect::Quarantine {
            job: job_id(1),
            attempt: Attempt::new(3),
            node_deaths: 3
        }]
    );
}

#[test]
fn a_restarted_node_gives_its_old_job_back_at_once() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    let effects = farm.register("a", SECOND, None);
    assert!(
        matches!(
            effects[..],
            [Effect::Requeue {
                outcome: Unfinished::Lost,
                ..
            }]
        ),
        "{effects:?}"
    );
    let effects = farm.pass(JOB_RETRY_MS, &[]);
    assert!(
        matches!(&effects[..], [Effect::Assign { generation, .. }] if *generation == SECOND),
        "{effects:?}"
    );
    assert_eq!(farm.register("a", FIRST, Some((1, 1))), []);
    assert_eq!(
        farm.scheduler.newer_generation(&node_id("a"), FIRST),
        Some(SECOND)
    );
}

#[test]
fn a_retryable_failure_is_tried_again_up_to_the_limit() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    for attempt in 1..3 {
        farm.ended("a", 1, attempt, failure(true));
        let pause_ms = JOB_RETRY_MS << (attempt - 1);
        assert_eq!(farm.pass(pause_ms - 1, &["a"]), []);
        assert_eq!(farm.pass(1, &["a"]), [assign(1, attempt + 1, "a")]);
    }
    assert!(matches!(
        farm.ended("a", 1, 3, failure(true))[..],
        [Effect::Fail { .. }]
    ));
}

#[test]
fn a_failed_job_goes_to_a_node_where_it_did_not_fail() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    let effects = farm.ended("a", 1, 1, failure(true));
    assert_eq!(effects[1..], [assign(1, 2, "b")]);
    // Both have failed it: after the pause the first free one has it again.
    assert!(matches!(
        farm.ended("b", 1, 2, failure(true))[..],
        [Effect::Requeue { .. }]
    ));
    assert_eq!(
        farm.pass(2 * JOB_RETRY_MS, &["a", "b"]),
        [assign(1, 3, "a")]
    );
}

#[test]
fn a_failed_job_waits_for_another_node_that_is_busy_and_goes_back_when_that_dies() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    farm.arrive(waiting(2, 2, Tier::Free));
    farm.ended("a", 1, 1, failure(true));
    assert_eq!(farm.pass(3 * JOB_RETRY_MS, &["a", "b"]), []);
    // Others are not held up by it.
    assert_eq!(farm.arrive(waiting(3, 1, Tier::Free)), [assign(3, 1, "a")]);
    farm.ended("a", 3, 1, rendered());
    let effects = farm.pass(NODE_LEASE_MS, &["a"]);
    let mut order = start_order(&mut farm, effects);
    order.sort_unstable();
    assert_eq!(order, [1, 2]);
}

#[test]
fn a_failed_job_goes_back_at_once_when_the_only_other_node_takes_no_more_work() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    farm.arrive(waiting(2, 2, Tier::Free));
    farm.ended("a", 1, 1, failure(true));
    assert_eq!(farm.pass(3 * JOB_RETRY_MS, &["a", "b"]), []);
    let drain = Event::NodeDraining {
        node: node_id("b"),
        how: Drain::Lazy,
    };
    assert_eq!(farm.step(drain), [assign(1, 2, "a")]);
}

#[test]
fn a_job_that_failed_under_an_earlier_leader_goes_to_another_node() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    let mut failed = waiting(1, 1, Tier::Free);
    failed.attempt = Attempt::new(1);
    failed.failures = 1;
    failed.failed_on.insert(node_id("a"));
    assert_eq!(farm.arrive(failed), [assign(1, 2, "b")]);
}

#[test]
fn a_failure_of_the_job_itself_is_not_tried_again() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    assert!(matches!(
        farm.ended("a", 1, 1, failure(false))[..],
        [Effect::Fail { .. }]
    ));
}

#[test]
fn those_who_wait_for_a_model_that_no_free_node_has_hide_nobody() {
    let mut farm = Farm::new();
    farm.offer("a", FIRST, &["tiny", "big"], None);
    assert_eq!(farm.arrive(waiting(1, 1, Tier::Free)), [assign(1, 1, "a")]);
    for n in 100..200 {
        let mut job = waiting(n, n, Tier::Free);
        (job.model, job.cost) = (model("big"), GpuSeconds(1.0));
        assert_eq!(farm.arrive(job), []);
    }
    farm.register("b", FIRST, None);
    let not_taken = Event::NotTaken {
        job: job_id(1),
        attempt: Attempt::new(1),
    };
    let effects = farm.step(not_taken);
    assert!(effects.contains(&assign(1, 2, "b")), "{effects:?}");
}

#[test]
fn what_a_node_calls_the_jobs_own_fault_is_shown_to_one_other() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    let effects = farm.ended("a", 1, 1, failure(false));
    assert_eq!(effects[1..], [assign(1, 2, "b")]);
    let effects = farm.ended("b", 1, 2, failure(false));
    assert!(
        matches!(&effects[..], [Effect::Fail { code, .. }] if code == "engine_failed"),
        "{effects:?}"
    );
    // There is no other that could try it.
    farm.step(Event::NodeDraining {
        node: node_id("b"),
        how: Drain::Lazy,
    });
    farm.arrive(waiting(2, 1, Tier::Free));
    let effects = farm.ended("a", 2, 1, failure(false));
    assert!(matches!(&effects[..], [Effect::Fail { .. }]), "{effects:?}");
}

/// The other node is busy for long.
#[test]
fn bad_jobs_that_wait_for_a_second_opinion_cost_the_first_node_no_work() {
    let mut farm = Farm::new();
    farm.register("b", FIRST, None);
    let mut long = waiting(900, 900, Tier::Free);
    long.cost = GpuSeconds(600.0);
    farm.arrive(long);
    farm.register("a", FIRST, None);
    for n in 0..2 * NODE_SUSPECT_FAILURES as u64 {
        assert_eq!(farm.arrive(waiting(n, n, Tier::Free)), [assign(n, 1, "a")]);
        let effects = farm.ended("a", n, 1, failure(false));
        assert!(
            matches!(effects[..], [Effect::Requeue { .. }]),
            "{effects:?}"
        );
    }
    assert_eq!(
        farm.arrive(waiting(99, 99, Tier::Free)),
        [assign(99, 1, "a")]
    );
}

/// It had failed in passing before.
#[test]
fn another_node_is_asked_whatever_happened_before_and_the_last_try_says_what_it_found() {
    let mut farm = Farm::new();
    for node in ["a", "b", "c", "d"] {
        farm.register(node, FIRST, None);
    }
    farm.arrive(waiting(1, 1, Tier::Free));
    let on = |farm: &Farm| {
        let nodes = ["a", "b", "c", "d"].into_iter();
        let mut holding = nodes.filter(|node| farm.scheduler.running_on(&node_id(node)).is_some());
        holding.next().unwrap()
    };
    let first = on(&farm);
    farm.ended(first, 1, 1, failure(true));
    let second = on(&farm);
    let effects = farm.ended(second, 1, 2, failure(false));
    assert!(matches!(effects[0], Effect::Requeue { .. }), "{effects:?}");
    let third = on(&farm);
    let effects = farm.ended(third, 1, 3, failure(false));
    assert!(
        matches!(&effects[..], [Effect::Fail { code, .. }] if code == "engine_failed"),
        "{effects:?}"
    );
}

/// Its device computes nonsense, or it asks the wrong server for files.
#[test]
fn a_node_that_calls_every_job_wrong_fails_none_of_them() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    let mut eaten = 0;
    for n in 0..20 {
        let mut effects = farm.arrive(waiting(n, n, Tier::Free));
        let mut attempt = 1;
        while farm.scheduler.running_on(&node_id("a")).is_some() {
            eaten += 1;
            effects = farm.ended("a", n, attempt, failure(false));
            attempt += 1;
        }
        assert_eq!(effects.last(), Some(&assign(n, attempt, "b")));
        farm.ended("b", n, attempt, rendered());
    }
    assert!(eaten <= 3, "{eaten}");
}

#[test]
fn a_job_that_is_impossible_fails_at_once_and_blames_nobody() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    for n in 0..2 * NODE_SUSPECT_FAILURES as u64 {
        assert_eq!(farm.arrive(waiting(n, n, Tier::Free)), [assign(n, 1, "a")]);
        let impossible = AttemptEnd::Impossible {
            code: "inputs_missing".to_owned(),
            detail: "its picture is gone".to_owned(),
        };
        let effects = farm.ended("a", n, 1, impossible);
        assert!(matches!(&effects[..], [Effect::Fail { .. }]), "{effects:?}");
    }
}
