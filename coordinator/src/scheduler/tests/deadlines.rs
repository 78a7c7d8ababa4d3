//! What waits or runs for too long.

use flowai_actors::limits::{
    ATTEMPT_MS_MIN, DEADLINES_LOOK_MS, DEADLINES_LOOKED_AT_MAX, JOB_QUEUED_MS_MAX,
};

use super::*;

#[test]
fn a_job_that_no_node_could_start_for_days_fails_by_name() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.now_ms = JOB_QUEUED_MS_MAX / 2;
    farm.step(Event::Tick);
    farm.arrive(waiting(2, 1, Tier::Free));
    farm.now_ms = JOB_QUEUED_MS_MAX;
    let effects = farm.step(Event::Tick);
    assert!(
        matches!(&effects[..], [Effect::Fail { job, code, .. }] if *job == job_id(1) && code == "waited_too_long"),
        "{effects:?}"
    );
    assert!(farm.scheduler.knows(job_id(2)));
}

#[test]
fn among_more_than_are_looked_at_at_once_each_is_found_within_some_looks() {
    let mut farm = Farm::new();
    let many = 2 * DEADLINES_LOOKED_AT_MAX as u64;
    // A lane each, and one that waits for each of them.
    for user in 0..many {
        farm.arrive(waiting(user, user, Tier::Free));
        farm.arrive(WaitingJob {
            after: Some(job_id(user)),
            ..waiting(many + user, user, Tier::Free)
        });
    }
    farm.now_ms = JOB_QUEUED_MS_MAX;
    let mut failed = BTreeSet::new();
    for look in 1..=2 {
        for effect in farm.step(Event::Tick) {
            let Effect::Fail { job, .. } = effect else {
                panic!("{effect:?}")
            };
            assert!(failed.insert(job), "once");
        }
        assert_eq!(failed.len(), 2 * look * DEADLINES_LOOKED_AT_MAX);
        farm.now_ms += DEADLINES_LOOK_MS;
    }
}

#[test]
fn why_a_job_waited_too_long_is_said_as_it_was() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(WaitingJob {
        after: Some(job_id(9)),
        ..waiting(2, 1, Tier::Free)
    });
    farm.arrive(WaitingJob {
        attempt: Attempt::new(1),
        ..waiting(3, 2, Tier::Free)
    });
    farm.now_ms = JOB_QUEUED_MS_MAX;
    let said = farm
        .step(Event::Tick)
        .into_iter()
        .map(|effect| match effect {
            Effect::Fail { job, detail, .. } => (job.as_uuid().as_u64_pair().1, detail),
            other => panic!("{other:?}"),
        });
    let said: BTreeSet<(u64, String)> = said.collect();
    let expected = [
        (1, "no node could start it within 7 days"),
        (2, "the job that it starts after was not done within 7 days"),
        (3, "no node could render it to its end within 7 days"),
    ];
    assert_eq!(said, expected.map(|(n, text)| (n, text.to_owned())).into());
}

#[test]
fn a_long_render_has_ten_times_as_long_as_was_predicted() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let hours = |n: u64| 3_600_000 * n;
    let mut long = waiting(1, 1, Tier::Free);
    long.cost = GpuSeconds(3_600.0);
    farm.arrive(long);
    assert_eq!(farm.pass(hours(10) - NODE_BEAT_MS, &["a"]), []);
    // And a load, which nobody has measured yet.
    let effects = farm.pass(hours(1), &["a"]);
    assert!(matches!(effects[0], Effect::Stop { .. }), "{effects:?}");
}

#[test]
fn an_attempt_that_runs_ten_times_as_long_as_predicted_is_tried_elsewhere() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.register("b", FIRST, None);
    assert_eq!(farm.pass(ATTEMPT_MS_MIN - NODE_BEAT_MS, &["a", "b"]), []);
    let effects = farm.pass(NODE_BEAT_MS + DEADLINES_LOOK_MS, &["a", "b"]);
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Stop { keep: false, .. },
                Effect::Requeue {
                    outcome: Unfinished::Failed,
                    ..
                },
                Effect::Assign { .. }
            ]
        ),
        "{effects:?}"
    );
}
