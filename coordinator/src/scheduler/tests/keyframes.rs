//! A job whose first frame is made from words needs two models on one node.

use flowai_actors::limits::{NODE_FAULTS_MAX, NODE_SUSPECT_FAILURES};

use super::*;

fn of_words(n: u64, user: u64) -> WaitingJob {
    WaitingJob {
        keyframe_model: Some(model("painter")),
        ..waiting(n, user, Tier::Free)
    }
}

#[test]
fn it_runs_only_where_both_models_are() {
    let mut farm = Farm::new();
    farm.arrive(of_words(1, 1));
    assert_eq!(farm.offer("a", FIRST, &["tiny"], None), []);
    assert_eq!(farm.offer("b", FIRST, &["painter"], None), []);
    let waits = |farm: &Farm| farm.scheduler.line(1)[0].waits_for;
    assert_eq!(waits(&farm), WaitsFor::BothModels);
    assert_eq!(
        farm.offer("c", FIRST, &["painter", "tiny"], None),
        [assign(1, 1, "c")]
    );
}

#[test]
fn it_lets_others_pass_where_it_cannot_run() {
    let mut farm = Farm::new();
    farm.arrive(of_words(1, 1));
    farm.arrive(waiting(2, 1, Tier::Free));
    assert_eq!(farm.register("a", FIRST, None), [assign(2, 1, "a")]);
    farm.offer("c", FIRST, &["painter", "tiny"], None);
    farm.arrive(of_words(3, 2));
    assert_eq!(farm.scheduler.line(1)[0].waits_for, WaitsFor::Node);
}

#[test]
fn after_a_failure_it_goes_back_when_the_only_other_node_lacks_a_model() {
    let mut farm = Farm::new();
    farm.offer("a", FIRST, &["painter", "tiny"], None);
    farm.register("b", FIRST, None);
    farm.arrive(of_words(1, 1));
    let effects = farm.ended("a", 1, 1, failure(true));
    assert!(
        matches!(effects[..], [Effect::Requeue { .. }]),
        "{effects:?}"
    );
    let effects = farm.pass(JOB_RETRY_MS, &["a", "b"]);
    assert_eq!(effects, [assign(1, 2, "a")]);
}

fn failed(code: &str, stage: Stage) -> AttemptEnd {
    AttemptEnd::Failed {
        code: code.to_owned(),
        detail: String::new(),
        retryable: true,
        stage,
    }
}

#[test]
fn a_picture_that_was_too_large_keeps_no_clip_from_a_node() {
    let mut farm = Farm::new();
    farm.offer("a", FIRST, &["painter", "tiny"], None);
    farm.arrive(of_words(1, 1));
    farm.ended("a", 1, 1, failed("out_of_memory", Stage::Keyframe));
    assert_eq!(farm.arrive(waiting(2, 2, Tier::Free)), [assign(2, 1, "a")]);
    assert_eq!(farm.scheduler.ceilings(), []);
}

/// The pictures are rendered elsewhere.
#[test]
fn what_a_node_cannot_paint_says_nothing_of_its_clips() {
    for code in ["out_of_memory", "model_unusable"] {
        let mut farm = Farm::new();
        farm.offer("b", FIRST, &["painter", "tiny"], None);
        farm.offer("a", FIRST, &["painter", "tiny"], None);
        for n in 0..2 * NODE_FAULTS_MAX as u64 {
            farm.step(Event::NodeDraining {
                node: node_id("b"),
                how: Drain::Lazy,
            });
            let effects = farm.arrive(of_words(n, n));
            farm.step(Event::NodeDraining {
                node: node_id("b"),
                how: Drain::Off,
            });
            if effects == [assign(n, 1, "a")] {
                let effects = farm.ended("a", n, 1, failed(code, Stage::Keyframe));
                assert_eq!(effects[1..], [assign(n, 2, "b")]);
                farm.ended("b", n, 2, rendered());
            } else {
                farm.pass(NODE_BEAT_MS, &["a", "b"]);
                farm.ended("b", n, 1, rendered());
            }
        }
        let distrusted = farm.scheduler.distrusted_on(&node_id("a"));
        assert!(
            !distrusted.contains(&model("tiny")),
            "{code}: {distrusted:?}"
        );
        assert_eq!(distrusted.is_empty(), code == "out_of_memory", "{code}");
    }
}

#[test]
fn a_damaged_keyframe_model_costs_its_node_those_jobs_alone() {
    let mut farm = Farm::new();
    farm.offer("a", FIRST, &["painter", "tiny"], None);
    for n in 0..NODE_SUSPECT_FAILURES as u64 {
        assert_eq!(farm.arrive(of_words(n, n)), [assign(n, 1, "a")]);
        farm.ended("a", n, 1, failed("model_unusable", Stage::Keyframe));
        // A clip of a picture says nothing of the keyframe model.
        let plain = 100 + n;
        assert_eq!(
            farm.arrive(waiting(plain, plain, Tier::Free)),
            [assign(plain, 1, "a")]
        );
        farm.ended("a", plain, 1, rendered());
    }
    let distrusted = farm.scheduler.distrusted_on(&node_id("a"));
    assert_eq!(distrusted, [model("painter")]);
    assert_eq!(
        farm.arrive(waiting(999, 999, Tier::Free)),
        [assign(999, 1, "a")]
    );
}
