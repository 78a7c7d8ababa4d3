//! Nodes that step much more slowly than others of their class.

use flowai_actors::limits::{
    CARE_MS, NODE_SUSPECT_FAILURES, NODE_SUSPECT_MS, SLOW_MS_MIN, SLOW_STEPS_MIN, SLOW_TIMES,
};

use super::super::kinds::ModelIx;
use super::*;

/// A render of a hundred steps, one a second where nothing is wrong.
fn long(n: u64) -> WaitingJob {
    let mut job = waiting(n, n, Tier::Pro);
    job.shape.steps = 100;
    job.cost = GpuSeconds(100.0);
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

/// Nodes of one class, of which it is known what a long render takes: a hundred seconds.
fn known(nodes: &[&str]) -> Farm {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 900..910 {
        assert_eq!(farm.arrive(long(n)), [assign(n, 1, "a")]);
        farm.ended("a", n, 1, rendered_in(100.0));
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
        farm.now_ms += ms;
        let (job, attempt) = (job_id(job), Attempt::new(1));
        effects.extend(farm.step(Event::Progressed {
            job,
            attempt,
            step,
            steps: 100,
        }));
        for node in ["a", "b"] {
            effects.extend(farm.step(Event::Beat {
                node: node_id(node),
                generation: FIRST,
                is_astray: false,
                holds: None,
            }));
        }
    }
    effects
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

const SLOW_STEP_MS: u64 = 3_000;
const _: () = assert!(SLOW_STEP_MS as f64 / 1_000.0 > SLOW_TIMES);

/// The first job goes to `a`, which is quick for five steps, and slow for the next five.
fn slowed() -> Farm {
    let mut farm = known(&["a"]);
    assert_eq!(farm.arrive(long(1)), [assign(1, 1, "a")]);
    assert_eq!(steps(&mut farm, 1, 1..=6, 1_000), []);
    assert_eq!(slowness(&farm, "a"), None);
    assert_eq!(steps(&mut farm, 1, 7..=11, SLOW_STEP_MS), []);
    assert_eq!(slowness(&farm, "a"), Some(3.0));
    farm
}

const _: () = assert!(SLOW_STEPS_MIN == 5);

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
        farm.now_ms += if step < 20 { 1_000 } else { SLOW_STEP_MS };
        let progress = Event::Progressed {
            job: job_id(1),
            attempt: Attempt::new(2),
            step,
            steps: 100,
        };
        assert_eq!(farm.step(progress), []);
        assert_eq!(farm.pass(1, &["a", "b", "c"]), []);
    }
    assert_eq!(slowness(&farm, "b"), Some(3.0));
}

#[test]
fn a_job_stays_where_nothing_is_won() {
    // (steps done before it gets slow, whether another node is free, of which class)
    for (done, is_free, class) in [(85, true, "gpu"), (6, false, "gpu"), (6, true, "other")] {
        let mut farm = known(&["a"]);
        farm.arrive(long(1));
        assert_eq!(steps(&mut farm, 1, 1..=done, 1_000), []);
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
        let slow = done + 1..=done + 2 * SLOW_STEPS_MIN;
        let effects = steps(&mut farm, 1, slow, SLOW_STEP_MS);
        assert_eq!(effects, [], "{done} {is_free} {class}");
        assert_eq!(slowness(&farm, "a"), Some(3.0), "{done} {is_free} {class}");
    }
}

#[test]
fn the_usual_pace_clears_a_node() {
    let mut farm = slowed();
    steps(&mut farm, 1, 12..=16, 1_000);
    assert_eq!(slowness(&farm, "a"), None);
}

#[test]
fn a_slow_node_is_given_what_no_other_could_take() {
    let mut farm = slowed();
    farm.ended("a", 1, 1, rendered_in(300.0));
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
    steps(&mut unknown, 1, 1..=20, 8_000);
    assert_eq!(slowness(&unknown, "a"), None);

    let mut farm = known(&["a"]);
    farm.arrive(long(1));
    steps(&mut farm, 1, 1..=6, 1_000);
    steps(&mut farm, 1, 7..=10, SLOW_STEP_MS);
    assert_eq!(slowness(&farm, "a"), None, "too few steps");

    let mut short = Farm::new();
    short.register("a", FIRST, None);
    for n in 900..910 {
        let mut job = long(n);
        job.cost = GpuSeconds(1.0);
        short.arrive(job);
        short.ended("a", n, 1, rendered_in(1.0));
    }
    let mut job = long(1);
    job.cost = GpuSeconds(1.0);
    short.arrive(job);
    steps(&mut short, 1, 1..=6, 10);
    steps(&mut short, 1, 7..=11, SLOW_MS_MIN / 10);
    assert_eq!(slowness(&short, "a"), None, "too short a time");
}

#[test]
fn a_job_that_is_slow_from_its_first_step_on_blames_no_node() {
    let mut farm = known(&["a"]);
    farm.arrive(long(1));
    farm.register("b", FIRST, None);
    assert_eq!(steps(&mut farm, 1, 1..=40, SLOW_STEP_MS), []);
    assert_eq!(slowness(&farm, "a"), None);
    farm.ended("a", 1, 1, rendered_in(300.0));
    // The next one is as slow there: it was not the job.
    farm.step(Event::NodeDraining {
        node: node_id("b"),
        how: Drain::Lazy,
    });
    assert_eq!(farm.arrive(long(2)), [assign(2, 1, "a")]);
    steps(&mut farm, 2, 1..=6, SLOW_STEP_MS);
    assert_eq!(slowness(&farm, "a"), Some(3.0));
}

#[test]
fn a_slow_node_that_leaves_a_job_to_another_takes_the_next_one() {
    let mut farm = slowed();
    farm.ended("a", 1, 1, rendered_in(300.0));
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
