//! Nodes that step much more slowly than others of their class.

use flowai_actors::limits::{
    CARE_MS, NODE_SUSPECT_FAILURES, NODE_SUSPECT_MS, SLOW_FORGOTTEN_MS, SLOW_MS_MIN,
    SLOW_STEPS_MIN, SLOW_TIMES,
};

use super::super::names::ModelIx;
use super::*;

/// A render of a hundred steps, of four seconds each where nothing is wrong.
fn long(n: u64) -> WaitingJob {
    let mut job = waiting(n, n, Tier::Pro);
    job.shape.steps = 100;
    job.cost = GpuSeconds(400.0);
    job
}

fn rendered_in(seconds: f64) -> AttemptEnd {
    AttemptEnd::Rendered {
        ran: Some(Ran {
            busy: GpuSeconds(seconds),
            load: GpuSeconds(0.0),
        }),
    }
}

/// Nodes of one class, of which it is known what a long render takes: four hundred seconds.
fn known(nodes: &[&str]) -> Farm {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 900..910 {
        assert_eq!(farm.arrive(long(n)), [assign(n, 1, "a")]);
        farm.ended("a", n, 1, rendered_in(400.0));
    }
    for node in nodes.iter().filter(|node| **node != "a") {
        farm.register(node, FIRST, None);
    }
    farm
}

/// So many steps of the job, each told when it is done. Gives what follows.
fn steps(farm: &mut Farm, job: u64, range: std::ops::RangeInclusive<u32>, ms: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    for step in range {
        effects.extend(farm.pass(ms, &["a", "b"]));
        effects.extend(farm.step(progress(job, 1, step)));
    }
    effects
}

fn progress(job: u64, attempt: u32, step: u32) -> Event {
    Event::Progressed {
        job: job_id(job),
        attempt: Attempt::new(attempt),
        step,
        steps: 100,
    }
}

/// To one place.
fn slowness(farm: &Farm, node: &str) -> Option<f64> {
    let times = farm.scheduler.slowness(&node_id(node));
    times.map(|times| (10.0 * times).round() / 10.0)
}

fn stop(job: u64, node: &str) -> Effect {
    Effect::Stop {
        node: node_id(node),
        job: job_id(job),
        attempt: Attempt::new(1),
        keep: true,
    }
}

fn kept(step: u32) -> AttemptEnd {
    AttemptEnd::Stopped {
        checkpoint: Some(Checkpoint {
            device_class: "gpu".to_owned(),
            step,
        }),
    }
}

const STEP_MS: u64 = 4_000;
const SLOW_STEP_MS: u64 = 3 * STEP_MS;
const _: () = assert!(SLOW_STEP_MS as f64 > SLOW_TIMES * STEP_MS as f64);

/// The first job goes to `a`, which is quick for five steps, and slow for the next five.
fn slowed() -> Farm {
    let mut farm = known(&["a"]);
    assert_eq!(farm.arrive(long(1)), [assign(1, 1, "a")]);
    assert_eq!(steps(&mut farm, 1, 1..=6, STEP_MS), []);
    assert_eq!(slowness(&farm, "a"), None);
    assert_eq!(steps(&mut farm, 1, 7..=11, SLOW_STEP_MS), []);
    assert_eq!(slowness(&farm, "a"), Some(3.0));
    farm
}

const _: () = assert!(SLOW_STEPS_MIN == 5 && 5 * STEP_MS >= SLOW_MS_MIN);

#[test]
fn a_job_leaves_a_slow_node_for_a_free_one_and_goes_on_there() {
    let mut farm = slowed();
    farm.register("b", FIRST, None);
    assert_eq!(farm.pass(CARE_MS, &["a", "b"]), [stop(1, "a")]);
    assert_eq!(farm.pass(2 * CARE_MS, &["a", "b"]), [], "it is told once");
    let effects = farm.ended("a", 1, 1, kept(12));
    assert!(
        matches!(&effects[0], Effect::Requeue { reason, outcome: Unfinished::Stopped, .. } if reason == "left a slow node, after step 12"),
        "{effects:?}"
    );
    assert_eq!(effects[1..], [assign(1, 2, "b")]);
}

#[test]
fn a_job_leaves_slow_nodes_once() {
    let mut farm = slowed();
    farm.register("b", FIRST, None);
    assert_eq!(farm.pass(CARE_MS, &["a", "b"]), [stop(1, "a")]);
    farm.ended("a", 1, 1, kept(12));
    farm.register("c", FIRST, None);
    for step in 13..40 {
        let ms = if step < 20 { STEP_MS } else { SLOW_STEP_MS };
        assert_eq!(farm.pass(ms, &["a", "b", "c"]), []);
        assert_eq!(farm.step(progress(1, 2, step)), []);
    }
    assert_eq!(slowness(&farm, "b"), Some(3.0));
}

#[test]
fn a_job_stays_where_nothing_is_won() {
    // (steps done before it gets slow, whether another node is free, of which class)
    for (done, is_free, class) in [(91, true, "gpu"), (6, false, "gpu"), (6, true, "other")] {
        let mut farm = known(&["a"]);
        farm.arrive(long(1));
        assert_eq!(steps(&mut farm, 1, 1..=done, STEP_MS), []);
        farm.step(Event::NodeRegistered(NodeOffer {
            node: node_id("b"),
            generation: FIRST,
            models: vec![model("tiny")],
            device_class: class.to_owned(),
            memory_bytes: 1 << 34,
            running: None,
        }));
        if !is_free {
            assert_eq!(farm.arrive(long(2)), [assign(2, 1, "b")]);
        }
        let slow = done + 1..=done + SLOW_STEPS_MIN;
        let effects = steps(&mut farm, 1, slow, SLOW_STEP_MS);
        assert_eq!(effects, [], "{done} {is_free} {class}");
        assert_eq!(slowness(&farm, "a"), Some(3.0), "{done} {is_free} {class}");
    }
}

#[test]
fn the_usual_pace_clears_a_node() {
    let mut farm = slowed();
    steps(&mut farm, 1, 12..=16, STEP_MS);
    assert_eq!(slowness(&farm, "a"), None);
}

#[test]
fn a_slow_node_is_given_what_no_other_could_take() {
    let mut farm = slowed();
    farm.ended("a", 1, 1, rendered_in(1_200.0));
    farm.register("b", FIRST, None);
    // It has what the job needs and was idle for longer.
    farm.pass(CARE_MS, &["a", "b"]);
    assert_eq!(farm.arrive(long(2)), [assign(2, 1, "b")]);
    assert_eq!(farm.arrive(long(3)), [assign(3, 1, "a")]);
}

#[test]
fn nobody_is_slow_by_a_guess_nor_by_a_moment() {
    let mut unknown = Farm::new();
    unknown.register("a", FIRST, None);
    unknown.arrive(long(1));
    steps(&mut unknown, 1, 1..=6, STEP_MS);
    steps(&mut unknown, 1, 7..=20, SLOW_STEP_MS);
    assert_eq!(slowness(&unknown, "a"), None);

    let mut farm = known(&["a"]);
    farm.arrive(long(1));
    steps(&mut farm, 1, 1..=6, STEP_MS);
    steps(&mut farm, 1, 7..=10, SLOW_STEP_MS);
    assert_eq!(slowness(&farm, "a"), None, "too few steps");

    let mut short = Farm::new();
    short.register("a", FIRST, None);
    let job = |n: u64| {
        let mut job = long(n);
        job.cost = GpuSeconds(20.0);
        job
    };
    for n in 900..910 {
        short.arrive(job(n));
        short.ended("a", n, 1, rendered_in(20.0));
    }
    short.arrive(job(1));
    // As quick as it should be for twenty seconds, and then for eighteen a tenth as quick.
    steps(&mut short, 1, 1..=80, 260);
    steps(&mut short, 1, 81..=89, 2_000);
    assert_eq!(slowness(&short, "a"), None, "too short a time");
    steps(&mut short, 1, 90..=91, 2_000);
    assert!(slowness(&short, "a").is_some());
}

#[test]
fn time_and_a_new_process_clear_a_node() {
    let mut farm = slowed();
    farm.ended("a", 1, 1, rendered_in(1_200.0));
    farm.pass(SLOW_FORGOTTEN_MS / 2, &["a"]);
    assert_eq!(slowness(&farm, "a"), Some(3.0));
    farm.pass(SLOW_FORGOTTEN_MS / 2, &["a"]);
    assert_eq!(slowness(&farm, "a"), None);
    // Nor is it held against it later.
    farm.arrive(long(2));
    steps(&mut farm, 2, 1..=6, SLOW_STEP_MS);
    assert_eq!(slowness(&farm, "a"), None);

    let mut farm = slowed();
    farm.register("a", SECOND, None);
    assert_eq!(slowness(&farm, "a"), None);
}

#[test]
fn one_free_node_takes_one_job_from_slow_ones() {
    let mut farm = known(&["a", "b"]);
    for (n, node) in [(1, "a"), (2, "b")] {
        farm.arrive(long(n));
        assert!(farm.scheduler.running_on(&node_id(node)).is_some());
    }
    for step in 1..=11 {
        farm.pass(if step < 7 { STEP_MS } else { SLOW_STEP_MS }, &["a", "b"]);
        farm.step(progress(1, 1, step));
        farm.step(progress(2, 1, step));
    }
    assert!(slowness(&farm, "a").is_some() && slowness(&farm, "b").is_some());
    farm.register("c", FIRST, None);
    let told = farm.pass(5 * CARE_MS, &["a", "b", "c"]);
    assert_eq!(told, [stop(1, "a")]);
    let effects = farm.ended("a", 1, 1, kept(12));
    assert_eq!(effects[1..], [assign(1, 2, "c")]);
    assert_eq!(farm.pass(5 * CARE_MS, &["a", "b", "c"]), []);
}

#[test]
fn a_slow_device_that_is_still_quicker_than_others_is_used() {
    let mut farm = slowed();
    farm.ended("a", 1, 1, rendered_in(1_200.0));
    farm.step(Event::NodeRegistered(NodeOffer {
        node: node_id("old"),
        generation: FIRST,
        models: vec![model("tiny")],
        device_class: "old".to_owned(),
        memory_bytes: 1 << 34,
        running: None,
    }));
    // It is known to take ten times as long.
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Lazy,
    });
    for n in 800..810 {
        farm.arrive(long(n));
        farm.ended("old", n, 1, rendered_in(4_000.0));
    }
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Off,
    });
    farm.step(Event::Beat {
        node: node_id("old"),
        generation: FIRST,
        readiness: Readiness::Ready,
        holds: None,
    });
    assert!(slowness(&farm, "a").is_some());
    assert_eq!(farm.arrive(long(2)), [assign(2, 1, "a")]);
}

#[test]
fn a_drained_node_is_left_by_its_drain_only() {
    let mut farm = slowed();
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Lazy,
    });
    farm.register("b", FIRST, None);
    assert_eq!(farm.pass(5 * CARE_MS, &["a", "b"]), []);
}

#[test]
fn operators_and_owners_are_told_and_nobody_pays_for_it() {
    let mut farm = slowed();
    let figures = farm.scheduler.figures();
    let class = &figures.classes["gpu"];
    assert_eq!((class.nodes, class.slow, class.distrusted), (1, 1, 0));
    // It stays known while it has a job that waits.
    let mut next = long(2);
    next.owner = user_id(1);
    next.after = Some(job_id(900));
    farm.arrive(next);
    let tag = |farm: &Farm| {
        let owner = farm.scheduler.shares.find(user_id(1)).unwrap();
        farm.scheduler.shares.get(owner).unwrap().tag.0
    };
    let before = tag(&farm);
    farm.ended("a", 1, 1, rendered_in(1_200.0));
    // What was predicted, of three times as much.
    assert!((tag(&farm) - before).abs() < 1e-6);
}

#[test]
fn a_job_that_is_slow_from_its_first_step_on_blames_no_node() {
    let mut farm = known(&["a"]);
    farm.arrive(long(1));
    farm.register("b", FIRST, None);
    assert_eq!(steps(&mut farm, 1, 1..=40, SLOW_STEP_MS), []);
    assert_eq!(slowness(&farm, "a"), None);
    farm.ended("a", 1, 1, rendered_in(1_200.0));
    // Another one of the same owner may be as large; that of somebody else is as slow: it was not the job.
    farm.step(Event::NodeDraining {
        node: node_id("b"),
        how: Drain::Lazy,
    });
    let mut own = long(2);
    own.owner = user_id(1);
    assert_eq!(farm.arrive(own), [assign(2, 1, "a")]);
    steps(&mut farm, 2, 1..=6, SLOW_STEP_MS);
    assert_eq!(slowness(&farm, "a"), None);
    farm.ended("a", 2, 1, rendered_in(1_200.0));
    assert_eq!(farm.arrive(long(3)), [assign(3, 1, "a")]);
    steps(&mut farm, 3, 1..=6, SLOW_STEP_MS);
    assert_eq!(slowness(&farm, "a"), Some(3.0));
}

#[test]
fn a_slow_node_that_leaves_a_job_to_another_takes_the_next_one() {
    let mut farm = slowed();
    farm.ended("a", 1, 1, rendered_in(1_200.0));
    farm.register("b", FIRST, None);
    // Both are suspected, and from the same moment on are given jobs again.
    let now = Monotonic::from_millis(farm.now_ms);
    for node in ["a", "b"] {
        let ix = farm.scheduler.nodes.find(&node_id(node)).unwrap();
        for n in 0..NODE_SUSPECT_FAILURES as u64 {
            let trust = &mut farm.scheduler.trust;
            trust.failed(ix, ModelIx::FIRST, job_id(n), now);
        }
    }
    farm.scheduler.trust_due = farm.scheduler.trust.next_due(now);
    assert_eq!(farm.arrive(long(2)), []);
    // Of another size: nothing brings it up again when the first one starts.
    let mut other = long(3);
    other.shape.frames = 50;
    assert_eq!(farm.arrive(other), []);
    let effects = farm.pass(NODE_SUSPECT_MS, &["a", "b"]);
    assert_eq!(effects, [assign(2, 1, "b"), assign(3, 1, "a")]);
}
