use flowai_actors::checkpoint::{
    CheckpointFile, CheckpointPlace, CheckpointPlaced, PlaceCheckpoint,
};
use flowai_actors::limits::{CHECKPOINT_BYTES_MAX, CHECKPOINT_INTERVAL_MS, CHECKPOINT_SWEEP_MS};
use flowai_store::recovery::Kept;

use flowai_actors::messages::Stage;

use super::*;
use crate::scheduler;

fn file(step: u32) -> CheckpointFile {
    CheckpointFile {
        sha256: hash(4),
        bytes: 10,
        step,
        steps: 25,
        device_class: "cpu".into(),
        engine: "svd 1".into(),
        resumed: Vec::new(),
    }
}

fn ask(leader: &mut Leader, held: &Holding, file: CheckpointFile) -> bool {
    let reply = leader.reply();
    let question = PlaceCheckpoint {
        at: held.at,
        node: held.node.clone(),
        generation: held.generation,
        file,
    };
    match &leader.apply(Event::CheckpointAsked { reply, question })[..] {
        [Effect::PresignCheckpoint { .. }] => true,
        [Effect::Answer(_, Answer::Checkpoint(CheckpointPlace::Refused))] => false,
        other => panic!("{other:?}"),
    }
}

fn place(leader: &mut Leader, held: &Holding, step: u32) -> Vec<Effect> {
    place_of(leader, &held.node.clone(), held, file(step))
}

fn place_of(
    leader: &mut Leader,
    node: &NodeId,
    held: &Holding,
    file: CheckpointFile,
) -> Vec<Effect> {
    let (node, at) = (node.clone(), held.at);
    leader.apply(Event::CheckpointPlaced {
        node,
        placed: CheckpointPlaced { at, file },
    })
}

/// As the scheduler wants it.
fn want_stop(leader: &mut Leader, held: &Holding, keep: bool) -> Vec<Effect> {
    let stop = scheduler::Effect::Stop {
        node: held.node.clone(),
        job: held.at.job,
        attempt: held.at.attempt,
        keep,
    };
    let mut effects = Vec::new();
    let now = Monotonic::from_millis(leader.now_ms);
    leader.state.decide(now, stop, &mut None, &mut effects);
    effects
}

/// Whether each stop keeps.
fn keeps(effects: &[Effect]) -> Vec<bool> {
    let stops = effects.iter().filter_map(|effect| match effect {
        Effect::Stop { keep, .. } => Some(*keep),
        _ => None,
    });
    stops.collect()
}

fn discards(effects: &[Effect]) -> Vec<(JobId, Option<(u32, u32)>)> {
    let discards = effects.iter().filter_map(|effect| match effect {
        Effect::DiscardCheckpoints { job, before } => {
            Some((*job, before.map(|(attempt, step)| (attempt.get(), step))))
        }
        _ => None,
    });
    discards.collect()
}

fn may_resume(effects: &[Effect]) -> Option<bool> {
    effects.iter().find_map(|effect| match effect {
        Effect::Dispatch { may_resume, .. } => Some(*may_resume),
        _ => None,
    })
}

/// The steps of the checkpoints that are written down.
fn written_steps(effects: &[Effect]) -> Vec<Option<u32>> {
    let changes = changes(effects).into_iter();
    let steps = changes.filter_map(|change| match change {
        Change::Keep { checkpoint, .. } => Some(Some(checkpoint.step)),
        Change::Requeue { checkpoint, .. } => Some(checkpoint.map(|file| file.step)),
        _ => None,
    });
    steps.collect()
}

fn stopped(step: u32) -> Told {
    Told::Stopped {
        checkpoint: Some(file(step)),
    }
}

/// A node names an attempt, never a key, and only its own: another tenant's checkpoint cannot be named at all.
#[test]
fn a_checkpoint_of_another_tenant_cannot_be_named() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    let others = leader.running("n2");
    assert!(ask(&mut leader, &held, file(3)));
    let of_other = Holding {
        at: others.at,
        ..held.clone()
    };
    assert!(!ask(&mut leader, &of_other, file(3)));
    assert!(place(&mut leader, &of_other, 3).is_empty());
    let too_large = CheckpointFile {
        bytes: CHECKPOINT_BYTES_MAX + 1,
        ..file(3)
    };
    assert!(!ask(&mut leader, &held, too_large.clone()));
    let own = held.node.clone();
    assert!(place_of(&mut leader, &own, &held, too_large).is_empty());
    let mut stale = held;
    stale.at.attempt = Attempt::new(2);
    assert!(!ask(&mut leader, &stale, file(3)));
    assert!(place(&mut leader, &stale, 3).is_empty());
}

#[test]
fn a_stop_that_keeps_is_told_until_its_end_and_a_cancel_has_the_last_word() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    assert!(keeps(&leader.beat("n1", Some(held.at))).is_empty());
    assert_eq!(keeps(&want_stop(&mut leader, &held, true)), [true]);
    assert_eq!(keeps(&leader.beat("n1", Some(held.at))), [true]);
    let cancelled = leader.apply(Event::Swept {
        newcomers: Vec::new(),
        cancelled: vec![held.at.job],
    });
    assert_eq!(keeps(&cancelled), [false]);
    assert_eq!(keeps(&leader.beat("n1", Some(held.at))), [false]);
    assert_eq!(keeps(&want_stop(&mut leader, &held, true)), [false]);
}

#[test]
fn what_a_stopped_attempt_left_is_written_with_its_end_and_given_to_the_next() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    let job = held.at.job;
    let (_, effects) = leader.end(&held, stopped(7));
    assert_eq!(written_steps(&effects), [Some(7)]);
    let effects = leader.committed(1);
    assert_eq!(discards(&effects), [(job, Some((1, 7)))]);
    // The next assignment was decided with the end, and commits after it.
    let effects = leader.committed(1);
    assert_eq!(may_resume(&effects), Some(true));
}

#[test]
fn a_job_that_ends_leaves_no_checkpoint() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    place(&mut leader, &held, 3);
    leader.committed(1);
    let ended = ended(&held, rendered(&held));
    leader.apply(Event::Ended {
        reply: ReplyId(99),
        ended: ended.clone(),
    });
    leader.apply(Event::Verified {
        ended,
        result: Ok(()),
    });
    assert_eq!(discards(&leader.committed(1)), [(held.at.job, None)]);
}

#[test]
fn a_job_that_its_owner_ended_leaves_none_either() {
    let mut leader = Leader::new();
    let job = JobId::generate();
    let row = JobRow {
        kept: Some(Kept {
            step: 3,
            device_class: "cpu".into(),
        }),
        ..leader.row(job, JobState::Queued, 1)
    };
    leader.read(row);
    let gone = leader.row(job, JobState::Cancelled, 1);
    assert_eq!(discards(&leader.read(gone)), [(job, None)]);
}

#[test]
fn a_killed_node_loses_no_more_than_what_it_did_not_tell() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    assert_eq!(written_steps(&place(&mut leader, &held, 3)), [Some(3)]);
    assert_eq!(
        discards(&leader.committed(1)),
        [(held.at.job, Some((1, 3)))]
    );
    // Late, doubled, or too soon to be written down.
    for step in [2, 3, 4] {
        assert_eq!(written_steps(&place(&mut leader, &held, step)), []);
    }
    leader.now_ms += NODE_LEASE_MS;
    let effects = leader.apply(Event::Tick);
    assert_eq!(written_steps(&effects), [Some(4)], "{effects:?}");
}

#[test]
fn a_row_is_written_once_an_interval() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    let mut written = 0;
    // A step each second for five intervals.
    let seconds = 5 * CHECKPOINT_INTERVAL_MS / 1_000;
    for second in 0..seconds {
        leader.beat("n1", Some(held.at));
        let file = CheckpointFile {
            steps: 100,
            step: 1 + (second as u32) / 4,
            ..file(1)
        };
        let own = held.node.clone();
        let effects = place_of(&mut leader, &own, &held, file);
        written += written_steps(&effects).len();
        if !changes(&effects).is_empty() {
            leader.committed(1);
        }
        leader.now_ms += 1_000;
    }
    assert!((5..=10).contains(&written), "{written}");
}

#[test]
fn a_failed_attempt_leaves_nothing_to_go_on_from() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    place(&mut leader, &held, 3);
    leader.committed(1);
    let failed = Told::Failed {
        code: "out_of_memory".into(),
        detail: "much".into(),
        retryable: true,
        stage: Stage::Clip,
    };
    let (_, effects) = leader.end(&held, failed);
    assert_eq!(written_steps(&effects), [None]);
    assert_eq!(
        discards(&leader.committed(1)),
        [(held.at.job, Some((2, 0)))]
    );
}

#[test]
fn a_new_leader_gives_what_the_rows_say_and_sweeps_the_store() {
    let mut leader = Leader::new();
    let job = JobId::generate();
    let row = JobRow {
        kept: Some(Kept {
            step: 3,
            device_class: "cpu".into(),
        }),
        ..leader.row(job, JobState::Queued, 1)
    };
    leader.state.recover(Monotonic::default(), vec![row]);
    leader.register("n1", None);
    assert_eq!(may_resume(&leader.committed(1)), Some(true));
    let sweeps = |effects: &[Effect]| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::SweepObjects))
    };
    assert!(!sweeps(&leader.apply(Event::Tick)));
    leader.now_ms += CHECKPOINT_SWEEP_MS;
    assert!(sweeps(&leader.apply(Event::Tick)));
    assert!(!sweeps(&leader.apply(Event::Tick)));
}
