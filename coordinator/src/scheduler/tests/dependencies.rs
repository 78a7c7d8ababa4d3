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
