//! Memory is compared with the rows, and the rows win.

use flowai_actors::limits::{COMPARE_MS, COMPARE_STEP_JOBS, COMPARE_VERIFY_MS};
use flowai_actors::messages::{Compared, Difference};
use flowai_store::recovery::UnfinishedRow;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::leader::work::NEWCOMER_AGE;

fn unfinished(job: JobId, attempt: u32, name: Option<&str>) -> UnfinishedRow {
    UnfinishedRow {
        job,
        attempt: Attempt::new(attempt),
        node: name.map(node),
    }
}

fn asks_to_compare(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Compare { after: None }))
}

fn reads(effects: &[Effect]) -> Vec<JobId> {
    let jobs = effects.iter().filter_map(|effect| match effect {
        Effect::Read { jobs, .. } => Some(jobs.clone()),
        _ => None,
    });
    jobs.flatten().collect()
}

/// A leader that has begun to compare, with a job that runs and one that waits.
fn comparing() -> (Leader, Holding, JobId) {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let (waits, _) = leader.arrive();
    leader.apply(Event::Tick);
    leader.apply(Event::Compared(Vec::new()));
    leader.apply(Event::RowsRead {
        asked: Vec::new(),
        rows: Vec::new(),
    });
    let rows = vec![
        {
            let mut row = leader.row(held.at.job, JobState::Running, 1);
            row.held = Some(held.clone());
            row
        },
        leader.row(waits, JobState::Queued, 0),
    ];
    let asked = vec![held.at.job, waits];
    leader.apply(Event::RowsRead { asked, rows });
    leader.now_ms += COMPARE_MS;
    leader.beat("a", Some(held.at));
    assert!(asks_to_compare(&leader.apply(Event::Tick)));
    (leader, held, waits)
}

#[test]
fn what_agrees_is_left_alone() {
    let (mut leader, held, waits) = comparing();
    let rows = vec![
        unfinished(held.at.job, 1, Some("a")),
        unfinished(waits, 0, None),
    ];
    let effects = leader.apply(Event::Compared(rows));
    assert_eq!(reads(&effects), []);
    assert!(leader.state.scheduler.knows(waits));
}

#[test]
fn what_differs_is_read_again_and_believed_as_its_row_says() {
    let (mut leader, held, waits) = comparing();
    let missing = JobId::generate();
    let rows = vec![
        unfinished(held.at.job, 2, Some("b")),
        unfinished(missing, 0, None),
    ];
    let effects = leader.apply(Event::Compared(rows));
    let mut read = reads(&effects);
    read.sort_unstable();
    let mut expected = vec![held.at.job, waits, missing];
    expected.sort_unstable();
    assert_eq!(read, expected);

    let mut moved = leader.row(held.at.job, JobState::Running, 2);
    moved.held = Some(Holding {
        node: node("b"),
        at: AttemptRef {
            attempt: Attempt::new(2),
            ..held.at
        },
        generation: FIRST,
    });
    let rows = vec![moved, leader.row(missing, JobState::Queued, 0)];
    leader.apply(Event::RowsRead { asked: read, rows });
    let scheduler = &leader.state.scheduler;
    let believed = |job| {
        scheduler
            .believed(job)
            .map(|(attempt, on)| (attempt.get(), on.cloned()))
    };
    assert_eq!(believed(held.at.job), Some((2, Some(node("b")))));
    assert_eq!(believed(waits), None, "its row is gone");
    assert!(scheduler.knows(missing));
}

#[test]
fn a_change_that_is_on_its_way_is_no_difference() {
    let (mut leader, held, waits) = comparing();
    // It ends while the rows are read.
    leader.end(&held, Told::Stopped { checkpoint: None });
    let rows = vec![
        unfinished(held.at.job, 1, Some("a")),
        unfinished(waits, 0, None),
    ];
    assert_eq!(reads(&leader.apply(Event::Compared(rows))), []);
}

fn told(effects: &[Effect], reply: ReplyId) -> Option<Compared> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer(to, Answer::Compared(compared)) if *to == reply => {
            Some(compared.as_ref().clone())
        }
        _ => None,
    })
}

/// A comparison that somebody asked for has begun.
fn asked() -> (Leader, Holding, JobId, ReplyId) {
    let (mut leader, held, waits) = comparing();
    leader.apply(Event::Compared(vec![
        unfinished(held.at.job, 1, Some("a")),
        unfinished(waits, 0, None),
    ]));
    let reply = leader.reply();
    leader.apply(Event::CompareAsked(reply));
    assert!(asks_to_compare(&leader.apply(Event::Tick)));
    (leader, held, waits, reply)
}

#[test]
fn an_operator_is_told_what_differs_once_it_was_read_again() {
    let (mut leader, held, waits, reply) = asked();
    let effects = leader.apply(Event::Compared(vec![unfinished(held.at.job, 1, Some("a"))]));
    assert_eq!(
        told(&effects, reply),
        None,
        "it may be news that is on its way"
    );
    assert_eq!(reads(&effects), [waits]);
    let effects = leader.apply(Event::RowsRead {
        asked: vec![waits],
        rows: Vec::new(),
    });
    let difference = Difference {
        job: waits,
        memory: "waits after 0 attempts".to_owned(),
        row: "ended, or gone".to_owned(),
    };
    let expected = Compared {
        jobs: 1,
        suspected: 1,
        differing: 1,
        differences: vec![difference],
    };
    assert_eq!(told(&effects, reply), Some(expected));
}

#[test]
fn what_only_seemed_to_differ_is_no_difference() {
    let (mut leader, held, waits, reply) = asked();
    leader.apply(Event::Compared(vec![
        unfinished(held.at.job, 1, Some("a")),
        unfinished(waits, 1, None),
    ]));
    let rows = vec![leader.row(waits, JobState::Queued, 0)];
    let effects = leader.apply(Event::RowsRead {
        asked: vec![waits],
        rows,
    });
    let expected = Compared {
        jobs: 2,
        suspected: 1,
        ..Compared::default()
    };
    assert_eq!(told(&effects, reply), Some(expected));
}

#[test]
fn a_waiting_job_that_its_owner_cancelled_is_no_difference() {
    let (mut leader, held, waits, reply) = asked();
    let effects = leader.apply(Event::Compared(vec![unfinished(held.at.job, 1, Some("a"))]));
    assert_eq!(reads(&effects), [waits]);
    let rows = vec![leader.row(waits, JobState::Cancelled, 0)];
    let effects = leader.apply(Event::RowsRead {
        asked: vec![waits],
        rows,
    });
    let expected = Compared {
        jobs: 1,
        suspected: 1,
        ..Compared::default()
    };
    assert_eq!(told(&effects, reply), Some(expected));
    assert!(!leader.state.scheduler.knows(waits));
}

#[test]
fn a_running_job_whose_row_was_cancelled_is_a_difference() {
    let (mut leader, held, waits, reply) = asked();
    leader.apply(Event::Compared(vec![unfinished(waits, 0, None)]));
    let rows = vec![leader.row(held.at.job, JobState::Cancelled, 1)];
    let effects = leader.apply(Event::RowsRead {
        asked: vec![held.at.job],
        rows,
    });
    assert_eq!(told(&effects, reply).map(|found| found.differing), Some(1));
}

#[test]
fn what_another_version_wrote_is_no_difference() {
    let (mut leader, held, waits, reply) = asked();
    let unreadable = JobId::generate();
    leader.apply(Event::Compared(vec![
        unfinished(held.at.job, 1, Some("a")),
        unfinished(waits, 0, None),
        unfinished(unreadable, 0, None),
    ]));
    let row = JobRow {
        spec: None,
        waited: NEWCOMER_AGE,
        ..leader.row(unreadable, JobState::Queued, 0)
    };
    let found = told(&leader.read(row), reply);
    assert_eq!(
        found.map(|found| (found.suspected, found.differing)),
        Some((1, 0))
    );
}

#[test]
fn each_drift_is_counted_once() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let numbers = recorder.handle();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let (mut leader, held, waits, reply) = asked();
    let missing = JobId::generate();
    leader.apply(Event::Compared(vec![
        unfinished(held.at.job, 2, Some("b")),
        unfinished(missing, 0, None),
    ]));
    // One is believed to be on another node, one has no row any more, and one was never heard of.
    let moved = Holding {
        node: node("b"),
        at: AttemptRef {
            attempt: Attempt::new(2),
            ..held.at
        },
        generation: FIRST,
    };
    let rows = vec![
        JobRow {
            held: Some(moved),
            ..leader.row(held.at.job, JobState::Running, 2)
        },
        JobRow {
            waited: NEWCOMER_AGE,
            ..leader.row(missing, JobState::Queued, 0)
        },
    ];
    let asked = vec![held.at.job, waits, missing];
    let effects = leader.apply(Event::RowsRead { asked, rows });
    assert_eq!(told(&effects, reply).map(|found| found.differing), Some(3));
    let counted = numbers.render();
    assert!(
        counted.contains("flowai_coordinator_drifted_jobs_total 3\n"),
        "{counted}"
    );
}

#[test]
fn who_asked_is_not_kept_waiting_by_a_row_that_is_not_read() {
    let (mut leader, held, waits, reply) = asked();
    leader.apply(Event::Compared(vec![
        unfinished(held.at.job, 1, Some("a")),
        unfinished(waits, 1, None),
    ]));
    leader.now_ms += COMPARE_VERIFY_MS;
    let found = told(&leader.apply(Event::Tick), reply);
    assert_eq!(
        found.map(|found| (found.suspected, found.differing)),
        Some((1, 0))
    );
}

#[test]
fn what_has_no_row_is_looked_for_a_part_at_a_time() {
    let (mut leader, held, waits) = comparing();
    let rows = || {
        vec![
            unfinished(held.at.job, 1, Some("a")),
            unfinished(waits, 0, None),
        ]
    };
    leader.apply(Event::Compared(rows()));
    let asked: Vec<JobId> = (0..COMPARE_STEP_JOBS).map(|_| JobId::generate()).collect();
    let found = asked.iter().map(|job| JobRow {
        owner: UserId::generate(),
        ..leader.row(*job, JobState::Queued, 0)
    });
    let found = found.collect();
    leader.apply(Event::RowsRead { asked, rows: found });
    let reply = leader.reply();
    leader.apply(Event::CompareAsked(reply));
    assert!(asks_to_compare(&leader.apply(Event::Tick)));
    assert_eq!(reads(&leader.apply(Event::Compared(rows()))), []);
    // What comes in between is no difference.
    leader.arrive();
    let read_again = reads(&leader.apply(Event::Tick));
    assert!(!read_again.is_empty());
    leader.now_ms += COMPARE_VERIFY_MS;
    let found = told(&leader.apply(Event::Tick), reply);
    assert_eq!(
        found.map(|found| found.suspected),
        Some(COMPARE_STEP_JOBS as u64)
    );
}
