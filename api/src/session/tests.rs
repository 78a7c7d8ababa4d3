//! The session's decisions, as tables. The actor itself is tested against a real database in `tests/`.

use chrono::Utc;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, JobId};
use flowai_actors::limits::PROGRESS_INTERVAL_MS;
use flowai_actors::messages::{LiveState, Phase};
use flowai_actors::state::EventKind;
use flowai_actors::waiting::Waits;
use flowai_store::events::Event;

use super::messages::Subject;
use super::state::{Conflation, Cursor};

fn event(user_seq: i64, job: JobId, seq: i64) -> Event {
    Event {
        user_seq,
        job,
        seq,
        kind: EventKind::Queued,
        data: serde_json::json!({}),
        at: Utc::now(),
    }
}

fn step(step: u32) -> LiveState {
    LiveState::Progress {
        attempt: Attempt::new(1),
        phase: Phase::Denoising,
        step,
        steps: 25,
        left_s: None,
    }
}

fn ms(ms: u64) -> Monotonic {
    Monotonic::from_millis(ms)
}

#[test]
fn a_stream_gets_each_event_once_and_in_order() {
    let (mine, other) = (JobId::generate(), JobId::generate());
    let events = [
        event(4, mine, 1),
        event(5, other, 1),
        event(6, mine, 2),
        event(7, mine, 3),
    ];
    let check = |subject, user_seq, job_seq, expected: &[i64]| {
        let mut cursor = Cursor {
            subject,
            user_seq,
            job_seq,
        };
        // Read twice, as a hint and a look may do.
        let taken: Vec<i64> = events
            .iter()
            .chain(&events)
            .filter(|event| cursor.take(event))
            .map(|event| event.user_seq)
            .collect();
        assert_eq!(taken, expected, "{subject:?} {user_seq} {job_seq}");
    };
    check(Subject::User, 3, 0, &[4, 5, 6, 7]);
    check(Subject::User, 6, 0, &[7]);
    check(Subject::Job(mine), 3, 0, &[4, 6, 7]);
    // The backlog was read a moment after the head: what it held is not sent again.
    check(Subject::Job(mine), 3, 2, &[7]);
    check(Subject::Job(JobId::generate()), 3, 0, &[]);
}

#[test]
fn only_the_newest_progress_goes_out_and_not_too_often() {
    let job = JobId::generate();
    let mut conflation = Conflation::default();
    assert_eq!(conflation.offer(job, step(1), ms(0)), Some(step(1)));
    assert_eq!(conflation.next_due(), None);
    for n in 2..20 {
        assert_eq!(conflation.offer(job, step(n), ms(u64::from(n))), None);
    }
    assert_eq!(conflation.next_due(), Some(ms(PROGRESS_INTERVAL_MS)));
    assert_eq!(conflation.flush(ms(PROGRESS_INTERVAL_MS - 1)), vec![]);
    assert_eq!(
        conflation.flush(ms(PROGRESS_INTERVAL_MS)),
        vec![(job, step(19))]
    );
    assert_eq!(conflation.flush(ms(2 * PROGRESS_INTERVAL_MS)), vec![]);
}

#[test]
fn position_does_not_hold_progress_back_and_the_end_holds_nothing() {
    let job = JobId::generate();
    let position = LiveState::Position {
        position: 1,
        waits: Waits {
            code: "share".to_owned(),
            reason: "next".to_owned(),
            starts_in: None,
        },
    };
    let mut conflation = Conflation::default();
    assert!(conflation.offer(job, position, ms(0)).is_some());
    assert!(conflation.offer(job, step(1), ms(1)).is_some());
    assert!(conflation.offer(job, step(2), ms(2)).is_none());
    conflation.forget(job);
    assert_eq!(conflation.next_due(), None);
    assert_eq!(conflation.flush(ms(10_000)), vec![]);
}

#[test]
fn progress_that_comes_late_once_holds_up_nothing_behind_it() {
    let (job, late_ms) = (JobId::generate(), 40);
    let mut conflation = Conflation::default();
    conflation.offer(job, step(0), ms(0));
    let at = |n: u64| n * PROGRESS_INTERVAL_MS;
    assert!(
        conflation
            .offer(job, step(1), ms(at(1) + late_ms))
            .is_some()
    );
    for n in 2..10 {
        let offered = conflation.offer(job, step(n), ms(at(u64::from(n))));
        assert_eq!(offered, Some(step(n)));
    }
    // And whoever was silent for long has earned nothing.
    assert!(conflation.offer(job, step(10), ms(at(100))).is_some());
    assert!(conflation.offer(job, step(11), ms(at(100) + 1)).is_none());
}
