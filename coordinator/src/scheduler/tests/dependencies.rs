//! A job that starts after another one.

use super::*;

fn child(n: u64, of: u64) -> WaitingJob {
    WaitingJob {
        after: Some(job_id(of)),
        ..waiting(n, 1, Tier::Free)
    }
}

#[test]
fn it_starts_when_the_other_is_durably_done() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    assert_eq!(farm.arrive(child(2, 1)), []);
    // Decided, and not yet committed.
    assert!(matches!(
        farm.ended("a", 1, 1, rendered())[..],
        [Effect::Settle { .. }]
    ));
    let gone = |is_done| Event::JobGone {
        job: job_id(1),
        is_done,
    };
    assert_eq!(farm.step(gone(true)), [assign(2, 1, "a")]);
    assert_eq!(farm.step(gone(true)), []);
}

#[test]
fn its_start_bound_begins_when_the_other_is_done() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut parent = waiting(1, 1, Tier::Studio);
    parent.cost = GpuSeconds(3_600.0);
    farm.arrive(parent);
    let mut batch = waiting(2, 2, Tier::Studio);
    batch.after = Some(job_id(1));
    batch.cost = GpuSeconds(100_000.0);
    farm.arrive(batch);
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    farm.pass(2 * bound_ms, &["a"]);
    farm.arrive(waiting(3, 3, Tier::Free));
    farm.arrive(waiting(4, 4, Tier::Free));
    // Only now it is one of those who wait, and the others' claims are smaller.
    let done = Event::JobGone {
        job: job_id(1),
        is_done: true,
    };
    assert_eq!(farm.step(done), [assign(3, 1, "a")]);
    farm.pass(bound_ms, &["a"]);
    assert_eq!(farm.ended("a", 3, 1, rendered())[1..], [assign(2, 1, "a")]);
}

#[test]
fn it_stands_behind_those_that_waited_when_the_other_was_done() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Pro));
    farm.arrive(WaitingJob {
        after: Some(job_id(1)),
        ..waiting(2, 2, Tier::Pro)
    });
    farm.pass(NODE_BEAT_MS, &["a"]);
    farm.arrive(waiting(3, 2, Tier::Pro));
    farm.pass(NODE_BEAT_MS, &["a"]);
    let done = Event::JobGone {
        job: job_id(1),
        is_done: true,
    };
    assert_eq!(farm.step(done), [assign(3, 1, "a")]);
}

#[test]
fn it_fails_by_name_when_the_other_ends_without_a_clip() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(child(2, 1));
    farm.arrive(child(3, 1));
    assert!(matches!(
        farm.step(Event::CancelAsked(job_id(3)))[..],
        [Effect::Cancel { .. }]
    ));
    let effects = farm.step(Event::JobGone {
        job: job_id(1),
        is_done: false,
    });
    assert!(
        matches!(&effects[..], [Effect::Fail { job, code, .. }] if *job == job_id(2) && code == "dependency_failed"),
        "{effects:?}"
    );
    assert!(!farm.scheduler.knows(job_id(2)));
    assert_eq!(farm.scheduler.load(Tier::Free), (0, 0));
}
