//! Memory is compared with the rows, and the rows win.

use flowai_actors::limits::COMPARE_MS;
use flowai_store::recovery::UnfinishedRow;

use super::super::compare::Findings;
use super::*;

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

#[test]
fn an_operator_is_told_what_was_found() {
    let (mut leader, held, waits) = comparing();
    leader.apply(Event::Compared(vec![
        unfinished(held.at.job, 1, Some("a")),
        unfinished(waits, 0, None),
    ]));
    let reply = leader.reply();
    leader.apply(Event::CompareAsked(reply));
    assert!(asks_to_compare(&leader.apply(Event::Tick)));
    let effects = leader.apply(Event::Compared(vec![unfinished(held.at.job, 1, Some("a"))]));
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Answer(to, Answer::Compared(findings)) if *to == reply => Some(*findings),
        _ => None,
    });
    let expected = Findings {
        jobs: 1,
        suspected: 1,
    };
    assert_eq!(told, Some(expected));
}
