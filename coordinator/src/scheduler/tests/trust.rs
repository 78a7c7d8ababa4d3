//! Bad nodes and bad jobs.

use flowai_actors::limits::{
    MEMORY_CEILING_ALONE_MS, MEMORY_CEILING_MS, NODE_FAULTS_MAX, NODE_QUARANTINE_MS,
    NODE_SUSPECT_FAILURES, NODE_SUSPECT_MS,
};

use super::*;

fn given(effects: &[Effect]) -> Vec<(u64, String)> {
    let assigns = effects.iter().filter_map(|effect| match effect {
        Effect::Assign { job, node, .. } => Some((job.as_uuid().as_u64_pair().1, node.to_string())),
        _ => None,
    });
    assigns.collect()
}

/// `a` fails all it is given, `b` renders all. Jobs come one by one. Gives how many `a` ate.
fn eaten_by_a_bad_node(farm: &mut Farm, jobs: std::ops::Range<u64>) -> u64 {
    let mut eaten = 0;
    for n in jobs {
        // It starts soonest.
        farm.step(Event::Beat {
            node: node_id("a"),
            generation: FIRST,
            readiness: Readiness::Ready,
            holds: Some(Holds {
                model: Some(model("tiny")),
                ..Holds::default()
            }),
        });
        let mut effects = farm.arrive(waiting(n, n, Tier::Free));
        for attempt in 1..=3 {
            let on = given(&effects);
            let Some((job, node)) = on.first() else { break };
            assert_eq!(*job, n);
            let is_bad = node == "a";
            eaten += u64::from(is_bad);
            let end = if is_bad { failure(true) } else { rendered() };
            effects = farm.ended(node, n, attempt, end);
            if !is_bad {
                break;
            }
        }
    }
    eaten
}

#[test]
fn a_bad_node_eats_few_jobs_and_comes_back_when_it_is_well() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    let eaten = eaten_by_a_bad_node(&mut farm, 0..100);
    assert_eq!(eaten, NODE_FAULTS_MAX as u64);
    assert_eq!(farm.scheduler.distrusted_on(&node_id("a")), [model("tiny")]);
    // One job tries it when its time is over, and it gets no second one soon.
    farm.pass(NODE_QUARANTINE_MS, &["a", "b"]);
    assert_eq!(farm.scheduler.distrusted_on(&node_id("a")), []);
    let eaten = eaten_by_a_bad_node(&mut farm, 100..150);
    assert!(eaten <= 1, "{eaten}");
    farm.pass(2 * NODE_QUARANTINE_MS, &["a", "b"]);
    farm.arrive(waiting(200, 1, Tier::Free));
    let on_a = given(&farm.arrive(waiting(201, 2, Tier::Free)));
    let job = if farm.scheduler.running_on(&node_id("a")) == Some((job_id(200), Attempt::new(1))) {
        200
    } else {
        201
    };
    farm.ended("a", job, 1, rendered());
    assert_eq!(farm.scheduler.distrusted_on(&node_id("a")), [], "{on_a:?}");
    // All is forgiven: one more failure is as if it were its first.
    let again = given(&farm.arrive(waiting(202, 3, Tier::Free)));
    assert_eq!(again, [(202, "a".to_owned())]);
    farm.ended("a", 202, 1, failure(true));
    assert_eq!(farm.scheduler.distrusted_on(&node_id("a")), []);
}

#[test]
fn bad_jobs_get_no_good_node_quarantined() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    for n in 0..10 {
        let mut effects = farm.arrive(waiting(n, n, Tier::Free));
        for attempt in 1..=3 {
            for _ in 0..40 {
                if !given(&effects).is_empty() {
                    break;
                }
                effects = farm.pass(NODE_SUSPECT_MS / 2, &["a", "b"]);
            }
            let on = given(&effects);
            let (job, node) = on
                .first()
                .unwrap_or_else(|| panic!("{n} {attempt}: {effects:?}"));
            assert_eq!(*job, n);
            effects = farm.ended(node, n, attempt, failure(true));
        }
        // A good one now and then.
        let good = 1_000 + n;
        let mut effects = farm.arrive(waiting(good, good, Tier::Free));
        while given(&effects).is_empty() {
            effects = farm.pass(NODE_SUSPECT_MS, &["a", "b"]);
        }
        let on = given(&effects);
        farm.ended(&on[0].1, good, 1, rendered());
    }
    farm.pass(NODE_QUARANTINE_MS / 10, &["a", "b"]);
    for node in ["a", "b"] {
        assert_eq!(farm.scheduler.distrusted_on(&node_id(node)), []);
    }
}

#[test]
fn a_suspected_node_is_tried_now_and_then() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let jobs = NODE_SUSPECT_FAILURES as u64;
    for n in 0..jobs {
        assert_eq!(farm.arrive(waiting(n, n, Tier::Free)), [assign(n, 1, "a")]);
        farm.ended("a", n, 1, failure(false));
        // That was the job's own fault, as far as the node could tell.
    }
    for n in jobs..2 * jobs {
        assert_eq!(farm.arrive(waiting(n, n, Tier::Free)), [assign(n, 1, "a")]);
        farm.ended("a", n, 1, failure(true));
    }
    assert_eq!(farm.arrive(waiting(99, 99, Tier::Free)), []);
    let effects = farm.pass(NODE_SUSPECT_MS, &["a"]);
    assert_eq!(given(&effects).len(), 1, "{effects:?}");
}

#[test]
fn a_size_that_ran_out_of_memory_goes_to_nodes_with_more() {
    let mut farm = Farm::new();
    let offer = |name: &str, gib: u64| {
        Event::NodeRegistered(NodeOffer {
            node: node_id(name),
            generation: FIRST,
            models: vec![model("tiny")],
            device_class: "gpu".to_owned(),
            memory_bytes: gib << 30,
            running: None,
        })
    };
    farm.step(offer("small", 8));
    let large = |n: u64| {
        let mut job = waiting(n, n, Tier::Free);
        (job.shape.width, job.shape.height) = (1_024, 576);
        job
    };
    farm.arrive(large(1));
    farm.ended("small", 1, 1, out_of_memory());
    assert_eq!(farm.arrive(large(2)), []);
    assert_eq!(farm.scheduler.why(job_id(2)), Some(WaitsFor::Memory));
    assert_eq!(
        farm.arrive(waiting(3, 3, Tier::Free)),
        [assign(3, 1, "small")],
        "smaller ones still fit"
    );
    assert_eq!(given(&farm.step(offer("big", 80))).len(), 1);
}

fn out_of_memory() -> AttemptEnd {
    AttemptEnd::Failed {
        code: "out_of_memory".into(),
        detail: "9 GB wanted".into(),
        retryable: true,
        stage: Stage::Clip,
    }
}

#[test]
fn a_size_that_ran_out_of_memory_on_one_node_goes_to_others_alike() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    assert_eq!(farm.arrive(waiting(1, 1, Tier::Free)), [assign(1, 1, "a")]);
    farm.register("b", FIRST, None);
    farm.register("c", FIRST, None);
    let effects = farm.ended("a", 1, 1, out_of_memory());
    assert_eq!(given(&effects), [(1, "b".to_owned())]);
    assert_eq!(farm.arrive(waiting(2, 2, Tier::Free)), [assign(2, 1, "c")]);
    // The node itself is given none of them, as long as it lies idle.
    assert_eq!(farm.arrive(waiting(3, 3, Tier::Free)), []);
    assert_eq!(farm.scheduler.why(job_id(3)), Some(WaitsFor::Node));
    // On a second one: now all of them are too small for it.
    farm.ended("b", 1, 2, out_of_memory());
    assert_eq!(farm.scheduler.why(job_id(3)), Some(WaitsFor::Memory));
}

#[test]
fn a_size_that_is_rendered_fits_again_everywhere_but_where_it_ran_out() {
    let mut farm = Farm::new();
    for node in ["a", "b", "c", "d"] {
        farm.register(node, FIRST, None);
    }
    for n in 1..=4 {
        farm.arrive(waiting(n, n, Tier::Free));
    }
    farm.ended("a", 1, 1, out_of_memory());
    farm.ended("b", 2, 1, out_of_memory());
    farm.ended("d", 4, 1, stopped());
    assert_eq!(farm.scheduler.why(job_id(1)), Some(WaitsFor::Memory));
    let effects = farm.ended("c", 3, 1, rendered());
    let mut nodes: Vec<String> = given(&effects).into_iter().map(|(_, node)| node).collect();
    nodes.sort();
    assert_eq!(nodes, ["c", "d"]);
    // One more that runs out says nothing against the others.
    let job = farm.scheduler.running_on(&node_id("d")).unwrap().0;
    let attempt = farm.scheduler.running_on(&node_id("d")).unwrap().1;
    farm.ended(
        "d",
        job.as_uuid().as_u64_pair().1,
        attempt.get(),
        out_of_memory(),
    );
    assert_eq!(farm.scheduler.why(job), Some(WaitsFor::Others));
}

#[test]
fn a_passing_shortage_does_not_stop_a_farm_of_equal_nodes_for_long() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.ended("a", 1, 1, out_of_memory());
    assert_eq!(farm.scheduler.why(job_id(1)), Some(WaitsFor::Memory));
    let effects = farm.pass(MEMORY_CEILING_ALONE_MS + NODE_LEASE_MS, &["a"]);
    assert_eq!(given(&effects), [(1, "a".to_owned())]);
}

#[test]
fn a_node_is_tried_again_when_what_was_learned_of_its_memory_is_old() {
    let mut farm = Farm::new();
    for (name, gib) in [("small", 8), ("big", 80)] {
        farm.step(Event::NodeRegistered(NodeOffer {
            node: node_id(name),
            generation: FIRST,
            models: vec![model("tiny")],
            device_class: "gpu".to_owned(),
            memory_bytes: gib << 30,
            running: None,
        }));
    }
    let long = |n| WaitingJob {
        cost: GpuSeconds(10_000.0),
        ..waiting(n, n, Tier::Free)
    };
    farm.arrive(long(1));
    farm.ended("small", 1, 1, out_of_memory());
    assert_eq!(farm.arrive(long(2)), []);
    let beating = ["small", "big"];
    assert_eq!(farm.pass(MEMORY_CEILING_MS - NODE_LEASE_MS, &beating), []);
    // The other node is busy all the while.
    let effects = farm.pass(2 * NODE_LEASE_MS, &beating);
    assert_eq!(given(&effects), [(2, "small".to_owned())]);
}

#[test]
fn nodes_that_are_given_nothing_hide_no_good_one() {
    let mut farm = Farm::new();
    let bad: Vec<String> = (0..20).map(|n| format!("bad-{n}")).collect();
    for (n, node) in (0..).zip(&bad) {
        farm.register(node, FIRST, None);
        for job in 0..NODE_SUSPECT_FAILURES as u64 {
            let id = 100 * n + job;
            assert_eq!(
                given(&farm.arrive(waiting(id, id, Tier::Free))),
                [(id, node.clone())]
            );
            farm.ended(node, id, 1, failure(true));
            farm.step(Event::JobGone {
                job: job_id(id),
                is_done: false,
            });
        }
    }
    farm.now_ms += 1;
    farm.register("good", FIRST, None);
    assert_eq!(
        farm.arrive(waiting(9_000, 9_000, Tier::Free)),
        [assign(9_000, 1, "good")]
    );
}

/// Three jobs that failed on `b` were rendered by `a`.
fn distrust_b(farm: &mut Farm) {
    for n in 100..100 + NODE_FAULTS_MAX as u64 {
        farm.step(Event::NodeDraining {
            node: node_id("a"),
            how: Drain::Lazy,
        });
        assert_eq!(farm.arrive(waiting(n, n, Tier::Free)), [assign(n, 1, "b")]);
        farm.step(Event::NodeDraining {
            node: node_id("a"),
            how: Drain::Off,
        });
        let effects = farm.ended("b", n, 1, failure(true));
        assert_eq!(given(&effects), [(n, "a".to_owned())]);
        farm.ended("a", n, 2, rendered());
    }
    assert_eq!(farm.scheduler.distrusted_on(&node_id("b")), [model("tiny")]);
}

#[test]
fn a_job_that_failed_once_does_not_wait_for_a_node_that_is_not_trusted() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    distrust_b(&mut farm);
    assert_eq!(farm.arrive(waiting(1, 1, Tier::Free)), [assign(1, 1, "a")]);
    farm.ended("a", 1, 1, failure(true));
    let effects = farm.pass(2 * JOB_RETRY_MS, &["a", "b"]);
    assert_eq!(given(&effects), [(1, "a".to_owned())]);
}

/// It had waited for the other one, which works.
#[test]
fn a_job_goes_back_as_soon_as_the_other_node_is_trusted_no_more() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    distrust_b(&mut farm);
    farm.pass(NODE_QUARANTINE_MS, &["a", "b"]);
    // The job that tries whether it is well again, and one that failed on the good node meanwhile.
    farm.arrive(waiting(1, 1, Tier::Free));
    // Of another kind: those of one are looked at again whenever one of them waits again.
    let mut other = waiting(2, 2, Tier::Free);
    other.shape.width = 512;
    farm.arrive(other);
    let on_a = farm.scheduler.running_on(&node_id("a")).unwrap().0;
    let (here, there) = if on_a == job_id(1) { (1, 2) } else { (2, 1) };
    farm.ended("a", here, 1, failure(true));
    assert_eq!(given(&farm.pass(2 * JOB_RETRY_MS, &["a", "b"])), []);
    let effects = farm.ended("b", there, 1, failure(true));
    let effects = [effects, farm.pass(2 * JOB_RETRY_MS, &["a", "b"])].concat();
    assert!(
        given(&effects).contains(&(here, "a".to_owned())),
        "{effects:?}"
    );
}

/// A pause ends at the very moment at which another job of the model is rendered.
#[test]
fn a_node_whose_pause_is_over_is_given_work_whatever_happens_at_that_moment() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    distrust_b(&mut farm);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Free));
    // Of another kind, which no start of the others brings to mind.
    let mut other = waiting(3, 3, Tier::Free);
    other.shape.width = 512;
    farm.arrive(other);
    let due = farm.scheduler.trust_due.unwrap();
    let beats = due.as_millis() - farm.now_ms;
    farm.pass(beats - 1, &["a", "b"]);
    assert!(farm.scheduler.running_on(&node_id("b")).is_none());
    farm.now_ms = due.as_millis();
    let (job, _) = farm.scheduler.running_on(&node_id("a")).unwrap();
    let effects = farm.ended("a", job.as_uuid().as_u64_pair().1, 1, rendered());
    assert_eq!(given(&effects).len(), 2, "{effects:?}");
}

/// The only thing that `b` is given next is `job`.
fn give_to_b(farm: &mut Farm, job: WaitingJob) -> Vec<Effect> {
    let drain = |how| Event::NodeDraining {
        node: node_id("a"),
        how,
    };
    farm.step(drain(Drain::Lazy));
    let effects = farm.arrive(job);
    farm.step(drain(Drain::Off));
    effects
}

#[test]
fn a_node_that_dies_of_the_job_that_tries_it_waits_twice_as_long() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    distrust_b(&mut farm);
    farm.pass(NODE_QUARANTINE_MS, &["a", "b"]);
    assert_eq!(
        give_to_b(&mut farm, waiting(1, 1, Tier::Free)),
        [assign(1, 1, "b")]
    );
    // The process has crashed, and is there again.
    farm.register("b", SECOND, None);
    assert_eq!(farm.scheduler.distrusted_on(&node_id("b")), [model("tiny")]);
    farm.pass(2 * NODE_QUARANTINE_MS - 2 * NODE_BEAT_MS, &["a"]);
    farm.register("b", SECOND, None);
    assert_eq!(farm.scheduler.distrusted_on(&node_id("b")), [model("tiny")]);
    farm.pass(3 * NODE_BEAT_MS, &["a"]);
    assert_eq!(farm.scheduler.distrusted_on(&node_id("b")), []);
}

/// `b` has each of these jobs first, and `a` renders what it does not.
fn alternate(farm: &mut Farm, rounds: u64, ends: impl Fn(&mut Farm, u64) -> Vec<Effect>) {
    for n in 0..rounds {
        let (bad, good) = (2 * n, 2 * n + 1);
        if give_to_b(farm, waiting(bad, bad, Tier::Free)).is_empty() {
            return;
        }
        assert_eq!(given(&ends(farm, bad)), [(bad, "a".to_owned())]);
        farm.ended("a", bad, 2, rendered());
        if give_to_b(farm, waiting(good, good, Tier::Free)) == [assign(good, 1, "b")] {
            farm.ended("b", good, 1, rendered());
        }
    }
}

#[test]
fn a_node_that_fails_every_other_job_is_given_nothing() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    alternate(&mut farm, NODE_FAULTS_MAX as u64, |farm, job| {
        farm.ended("b", job, 1, failure(true))
    });
    assert_eq!(farm.scheduler.distrusted_on(&node_id("b")), [model("tiny")]);
}

#[test]
fn a_node_whose_link_breaks_now_and_then_is_trusted() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    alternate(&mut farm, 3 * NODE_FAULTS_MAX as u64, |farm, _| {
        let effects = farm.pass(NODE_LEASE_MS, &["a"]);
        farm.register("b", FIRST, None);
        effects
    });
    assert_eq!(farm.scheduler.distrusted_on(&node_id("b")), []);
}

#[test]
fn what_is_too_large_for_a_node_says_nothing_of_what_is_not() {
    let mut farm = Farm::new();
    farm.register("b", FIRST, None);
    farm.register("a", FIRST, None);
    for n in 0..NODE_FAULTS_MAX as u64 {
        let mut job = waiting(n, n, Tier::Free);
        // Each fits by what is known.
        job.shape.width = 2_048 >> n;
        assert_eq!(give_to_b(&mut farm, job), [assign(n, 1, "b")]);
        let effects = farm.ended("b", n, 1, out_of_memory());
        assert_eq!(given(&effects), [(n, "a".to_owned())]);
        farm.ended("a", n, 2, rendered());
    }
    assert_eq!(farm.scheduler.distrusted_on(&node_id("b")), []);
}

#[test]
fn who_waits_for_paused_nodes_is_told_so_and_they_shorten_no_forecast() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    distrust_b(&mut farm);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Free));
    let wait_s = |farm: &Farm| {
        farm.scheduler
            .predicted_wait(Tier::Free, "gpu")
            .unwrap()
            .p50_s
    };
    let paused_s = wait_s(&farm);
    assert_eq!(farm.scheduler.why(job_id(2)), Some(WaitsFor::Node));
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Lazy,
    });
    assert_eq!(farm.scheduler.why(job_id(2)), Some(WaitsFor::PausedNode));
    assert_eq!(farm.scheduler.starts_in(job_id(2)), None);
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Off,
    });
    farm.register("c", FIRST, None);
    farm.arrive(waiting(3, 3, Tier::Free));
    assert!(
        wait_s(&farm) < 0.8 * paused_s,
        "{} {paused_s}",
        wait_s(&farm)
    );
}

/// What is left of the same memory after what the firmware and the kernel keep.
#[test]
fn machines_that_differ_by_little_memory_are_alike() {
    let mut farm = Farm::new();
    for (n, node) in (0..).zip(["a", "b", "c"]) {
        farm.step(Event::NodeRegistered(NodeOffer {
            node: node_id(node),
            generation: FIRST,
            models: vec![model("tiny")],
            device_class: "cpu".to_owned(),
            memory_bytes: (16 << 30) - n * 4_096,
            running: None,
        }));
        farm.arrive(waiting(n, n, Tier::Free));
    }
    farm.ended("a", 0, 1, out_of_memory());
    assert_eq!(farm.scheduler.why(job_id(0)), Some(WaitsFor::Node));
    farm.ended("b", 1, 1, out_of_memory());
    assert_eq!(farm.scheduler.why(job_id(0)), Some(WaitsFor::Memory));
}
