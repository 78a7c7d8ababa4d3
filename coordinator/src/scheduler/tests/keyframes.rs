//! A job whose first frame is made from words needs two models on one node.

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
