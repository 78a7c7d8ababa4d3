//! Rows, terms and nodes that do not agree.

use flowai_store::members::{Drain, Standing};
use flowai_store::recovery::After;

use flowai_actors::messages::Stage;

use super::*;

#[test]
fn the_end_of_a_zombie_changes_nothing() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    leader.register("b", None);
    leader.now_ms += 9_000;
    leader.beat("b", None);
    leader.now_ms += 2_000;
    let effects = leader.apply(Event::Tick);
    let [
        Change::Requeue {
            held: lost,
            outcome: Unfinished::Lost,
            ..
        },
    ] = &changes(&effects)[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(*lost, held);
    let (_, effects) = leader.end(&held, rendered(&held));
    assert_eq!(changes(&effects), []);
    assert!(matches!(effects[..], [Effect::LookBack { .. }]));
}

#[test]
fn a_new_term_adopts_before_it_welcomes() {
    let mut leader = Leader::new();
    let before = Holding {
        at: AttemptRef {
            job: JobId::generate(),
            attempt: Attempt::new(1),
            epoch: Epoch::new(6),
        },
        node: node("a"),
        generation: FIRST,
    };
    let mut row = leader.row(before.at.job, JobState::Running, 1);
    row.held = Some(before.clone());
    leader.state.recover(Monotonic::default(), vec![row]);

    let effects = leader.register("a", Some(before.at));
    assert_eq!(changes(&effects), [Change::Adopt(before.clone())]);
    assert_eq!(welcome(&effects), None);
    assert_eq!(welcome(&leader.committed(1)), Some((TERM, Verdict::GoOn)));

    let (_, effects) = leader.end(&before, Told::Stopped { checkpoint: None });
    let [Change::Requeue { held, .. }] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(held.at.epoch, TERM);
}

#[test]
fn a_job_that_its_owner_ended_first_is_given_to_nobody() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (job, _) = leader.arrive();
    let effects = leader.stale();
    assert!(!is_dispatched(&effects));
    assert!(matches!(&effects[..], [Effect::Read { jobs, .. }] if *jobs == [job]));
    let row = leader.row(job, JobState::Cancelled, 0);
    assert_eq!(changes(&leader.read(row)), []);
    // The node is free for the next.
    let (_, effects) = leader.arrive();
    assert!(matches!(changes(&effects)[..], [Change::Assign(_)]));
}

#[test]
fn a_row_read_before_its_job_ended_brings_nothing_back() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let effects = leader.apply(Event::Rang(held.at.job));
    assert!(matches!(effects[..], [Effect::Read { .. }]));
    let (_, effects) = leader.end(
        &held,
        Told::Failed {
            code: "bad_input".into(),
            detail: "no picture".into(),
            retryable: false,
            stage: Stage::Clip,
        },
    );
    assert!(matches!(changes(&effects)[..], [Change::Fail { .. }]));
    leader.committed(1);
    let mut row = leader.row(held.at.job, JobState::Running, 1);
    row.held = Some(held.clone());
    let effects = leader.read(row);
    assert!(!leader.state.scheduler.knows(held.at.job));
    assert!(matches!(effects[..], [Effect::Read { .. }]), "{effects:?}");
}

#[test]
fn a_cancel_reaches_a_job_whose_node_is_about_to_take_it() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (job, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    leader.committed(1);
    leader.apply(Event::Rang(job));
    let mut row = leader.row(job, JobState::Running, 1);
    row.held = Some(held.clone());
    row.cancel_requested = true;
    assert_eq!(stops(&leader.read(row)), []);
    let effects = leader.apply(Event::Dispatched {
        held: held.clone(),
        result: Ok(()),
    });
    assert_eq!(stops(&effects), [held.at]);
    // That word may be lost: the next beat brings another.
    assert_eq!(stops(&leader.beat("a", Some(held.at))), [held.at]);
    let (_, effects) = leader.end(held, Told::Stopped { checkpoint: None });
    let cancel = Change::Cancel {
        held: held.clone(),
        steps: None,
    };
    assert_eq!(changes(&effects), [cancel]);
}

#[test]
fn a_cancel_says_how_many_steps_of_the_clip_were_done() {
    let progress = |held: &Holding, phase, step| Event::Progress {
        node: held.node.clone(),
        progress: Progress {
            at: held.at,
            phase,
            step,
            steps: 4,
            left_s: None,
        },
    };
    let check = |told: &[(Phase, u32)], expected: Option<u32>| {
        let mut leader = Leader::new();
        let held = leader.running("a");
        for (phase, step) in told {
            leader.apply(progress(&held, *phase, *step));
        }
        let mut row = leader.row(held.at.job, JobState::Running, 1);
        row.held = Some(held.clone());
        row.cancel_requested = true;
        leader.apply(Event::Rang(held.at.job));
        leader.read(row);
        let (_, effects) = leader.end(&held, Told::Stopped { checkpoint: None });
        let steps = expected.map(|done| StepsDone { done, total: 4 });
        assert_eq!(changes(&effects), [Change::Cancel { held, steps }]);
    };
    check(&[], None);
    check(&[(Phase::Keyframe, 3)], None);
    check(&[(Phase::Keyframe, 4), (Phase::Denoising, 1)], Some(1));
    check(&[(Phase::Denoising, 3), (Phase::Decoding, 4)], Some(4));
}

#[test]
fn a_node_that_does_not_name_its_job_loses_it() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    assert_eq!(changes(&leader.beat("a", None)), []);
    let named = leader.beat("a", Some(held.at));
    assert_eq!(renewal(&named), Some(Verdict::GoOn));
    assert_eq!(changes(&leader.beat("a", None)), []);
    let effects = leader.beat("a", None);
    assert!(
        matches!(&changes(&effects)[..], [Change::Requeue { held: of, .. }] if *of == held),
        "{effects:?}"
    );
}

#[test]
fn a_job_that_no_node_was_told_of_is_not_blamed_for_the_databases_outage() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (_, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    let pass = |leader: &mut Leader| {
        let until = leader.now_ms + JOB_NO_PROGRESS_MS;
        let mut effects = Vec::new();
        while leader.now_ms < until {
            leader.now_ms += NODE_BEAT_MS;
            effects.extend(leader.beat("a", None));
            effects.extend(leader.apply(Event::Tick));
        }
        effects
    };
    let effects = pass(&mut leader);
    assert_eq!(changes(&effects), []);
    assert!(is_dispatched(&leader.committed(1)));
    leader.apply(Event::Dispatched {
        held: held.clone(),
        result: Ok(()),
    });
    let until = leader.now_ms + JOB_NO_PROGRESS_MS;
    while leader.now_ms < until {
        leader.now_ms += NODE_BEAT_MS;
        leader.beat("a", Some(held.at));
    }
    let effects = leader.apply(Event::Tick);
    assert!(
        matches!(&changes(&effects)[..], [Change::Requeue { reason, .. }] if reason.contains("no_progress")),
        "{effects:?}"
    );
}

#[test]
fn a_node_is_told_to_drop_what_is_not_its_own() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    leader.register("b", None);
    assert_eq!(
        renewal(&leader.beat("b", Some(held.at))),
        Some(Verdict::Drop)
    );
    let effects = leader.register("b", Some(held.at));
    assert_eq!(welcome(&effects), Some((TERM, Verdict::Drop)));
}

#[test]
fn a_job_that_no_node_can_run_fails_by_name() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (_, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    leader.committed(1);
    let effects = leader.apply(Event::Dispatched {
        held: held.clone(),
        result: Err(NotDispatched::Impossible("adapter is not stored".into())),
    });
    let changes = changes(&effects);
    assert!(
        matches!(&changes[..], [Change::Fail { code, .. }] if code == "inputs_missing"),
        "{changes:?}"
    );
}

/// Not that one node died of it twice: it takes two.
#[test]
fn a_quarantined_job_says_how_often_a_node_died() {
    let mut leader = Leader::new();
    let mut row = leader.row(JobId::generate(), JobState::Queued, 1);
    (row.failures, row.node_deaths) = (1, 1);
    row.failed_on.insert(node("b"));
    row.died_on.insert(node("b"));
    leader.register("a", None);
    leader.read(row);
    leader.committed(1);
    leader.now_ms += NODE_LEASE_MS;
    let effects = leader.apply(Event::Tick);
    assert!(
        matches!(
            &changes(&effects)[..],
            [Change::Quarantine { detail, .. }] if detail == "2 times a node died while it ran this"
        ),
        "{effects:?}"
    );
}

#[test]
fn a_job_that_its_owner_cancelled_between_two_tries_ends() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let mut row = leader.row(JobId::generate(), JobState::Queued, 1);
    row.cancel_requested = true;
    let cancel = Change::CancelWaiting {
        job: row.job,
        attempt: Attempt::new(1),
    };
    // The node is free, and yet does not get it.
    assert_eq!(changes(&leader.read(row)), [cancel]);
    assert_eq!(changes(&leader.committed(1)), []);
}

#[test]
fn what_a_node_never_took_is_no_death_when_it_starts_anew() {
    let outcome = |effects: &[Effect]| match &changes(effects)[..] {
        [Change::Requeue { outcome, .. }, ..] => *outcome,
        other => panic!("{other:?}"),
    };
    // Given to a process that was closing, which said nothing.
    let mut leader = Leader::new();
    leader.register("a", None);
    leader.arrive();
    assert!(is_dispatched(&leader.committed(1)));
    assert_eq!(outcome(&leader.register_anew("a")), Unfinished::Stopped);
    // It had said that it takes it.
    let mut leader = Leader::new();
    leader.running("a");
    assert_eq!(outcome(&leader.register_anew("a")), Unfinished::Lost);
}

#[test]
fn a_node_that_closes_is_given_no_job_when_its_own_has_ended() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    leader.closing_beat("a", Some(held.at));
    let stopped = Told::Stopped { checkpoint: None };
    let (_, effects) = leader.end(&held, stopped);
    assert!(
        matches!(changes(&effects)[..], [Change::Requeue { .. }]),
        "{effects:?}"
    );
    assert_eq!(changes(&leader.committed(1)), []);
    // Its next process takes it.
    let effects = leader.register_anew("a");
    assert!(
        matches!(changes(&effects)[..], [Change::Assign(_)]),
        "{effects:?}"
    );
}

#[test]
fn a_job_whose_parent_ends_while_its_row_is_read_is_not_parked_for_ever() {
    let mut leader = Leader::new();
    let parent = JobId::generate();
    let mut child = leader.row(JobId::generate(), JobState::Queued, 0);
    child.after = Some(After {
        job: parent,
        has_failed: false,
    });
    let job = child.job;
    // The parent was running when this was read, and its end is written by now.
    let effects = leader.read(child);
    let reads: Vec<JobId> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Read { jobs, .. } => Some(jobs.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(reads, [parent]);
    let done = leader.row(parent, JobState::Done, 1);
    leader.register("a", None);
    let effects = leader.read(done);
    assert!(
        matches!(&changes(&effects)[..], [Change::Assign(held)] if held.at.job == job),
        "{effects:?}"
    );
}

/// The database answered its first question long after its second one.
#[test]
fn a_registration_that_was_overtaken_takes_no_job_away() {
    let mut leader = Leader::new();
    let (older, newer) = (leader.reply(), leader.reply());
    let admitted = |reply| Event::Admitted {
        reply,
        register: Box::new(register("a", None)),
        result: Ok(()),
    };
    leader.apply(admitted(newer));
    let (_, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    leader.committed(1);
    let effects = leader.apply(admitted(older));
    assert_eq!(changes(&effects), []);
    assert!(matches!(effects[..], [Effect::Answer(reply, _)] if reply == older));
    assert_eq!(leader.beat("a", Some(held.at)).len(), 1, "it goes on");
}

/// It was idle when it asked, and was given a job before it was answered.
#[test]
fn what_a_node_was_given_after_it_had_asked_is_not_taken_away_by_the_answer() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let reply = leader.reply();
    let asked = || Box::new(register("a", None));
    leader.apply(Event::Registering {
        reply,
        register: asked(),
    });
    let (_, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    leader.committed(1);
    let admitted = |reply| Event::Admitted {
        reply,
        register: asked(),
        result: Ok(()),
    };
    let effects = leader.apply(admitted(reply));
    assert_eq!(changes(&effects), []);
    assert_eq!(leader.beat("a", Some(held.at)).len(), 1, "it goes on");
    // Asked after that, it would have named it.
    let later = leader.reply();
    assert!(
        matches!(
            changes(&leader.apply(admitted(later)))[..],
            [Change::Requeue { .. }, ..]
        ),
        "it never reached it"
    );
}

#[test]
fn a_lost_answer_to_an_assignment_costs_no_render() {
    let lost = |held: &Holding| Event::Dispatched {
        held: held.clone(),
        result: Err(NotDispatched::NotTaken("no answer".to_owned())),
    };
    let given = |leader: &mut Leader| {
        leader.register("a", None);
        let (_, effects) = leader.arrive();
        leader.committed(1);
        match &changes(&effects)[..] {
            [Change::Assign(held)] => held.clone(),
            other => panic!("{other:?}"),
        }
    };
    for phase in [Phase::Keyframe, Phase::Denoising] {
        let mut heard = Leader::new();
        let held = given(&mut heard);
        heard.apply(Event::Progress {
            node: node("a"),
            progress: Progress {
                at: held.at,
                phase,
                step: 1,
                steps: 4,
                left_s: None,
            },
        });
        assert_eq!(changes(&heard.apply(lost(&held))), []);
    }
    let mut named = Leader::new();
    let held = given(&mut named);
    named.beat("a", Some(held.at));
    assert_eq!(changes(&named.apply(lost(&held))), []);

    let mut ended = Leader::new();
    let held = given(&mut ended);
    ended.end(&held, rendered(&held));
    assert_eq!(changes(&ended.apply(lost(&held))), []);

    let mut silent = Leader::new();
    let held = given(&mut silent);
    let effects = silent.apply(lost(&held));
    assert!(matches!(
        changes(&effects)[..],
        [Change::Requeue { .. }, ..]
    ));
}

/// Its owner asked for its end while it ran, nobody heard the doorbell, and it waits again.
#[test]
fn the_row_of_a_job_that_waits_again_is_read() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let job = held.at.job;
    let standing = Standing {
        drain: Drain::Lazy,
        is_revoked: false,
    };
    leader.apply(Event::MembersRead([(node("a"), standing)].into()));
    leader.end(&held, Told::Stopped { checkpoint: None });
    let effects = leader.committed(1);
    let is_read =
        |effect: &Effect| matches!(effect, Effect::Read { jobs, .. } if jobs.contains(&job));
    assert!(effects.iter().any(is_read), "{effects:?}");
    let mut row = leader.row(job, JobState::Queued, 1);
    row.cancel_requested = true;
    let effects = leader.read(row);
    assert!(
        matches!(changes(&effects)[..], [Change::CancelWaiting { job: of, .. }] if of == job),
        "{effects:?}"
    );
}

#[test]
fn a_change_whose_row_is_held_is_tried_again_and_the_others_are_done() {
    let mut leader = Leader::new();
    leader.register("a", None);
    leader.register("b", None);
    leader.arrive();
    // Goes into one batch, while the first is committed.
    let (held, _) = leader.arrive();
    let (_, effects) = leader.arrive();
    assert_eq!(changes(&effects), []);
    let effects = leader.committed(1);
    let [Change::Assign(blocked)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(blocked.at.job, held);
    let blocked = blocked.clone();
    for _ in 0..2 {
        let effects = leader.apply(Event::Committed(vec![Outcome::Blocked]));
        assert!(!is_dispatched(&effects));
        assert_eq!(changes(&effects), []);
        leader.now_ms += HELD_BACK_MS;
        let effects = leader.apply(Event::Tick);
        assert_eq!(changes(&effects), [Change::Assign(blocked.clone())]);
    }
    assert!(is_dispatched(&leader.committed(1)));
}

/// Writing it down takes a while, in which its link went: what it were given would not reach it.
#[test]
fn who_registered_on_a_link_that_has_gone_is_given_nothing() {
    let mut leader = Leader::new();
    let question = |leader: &mut Leader| {
        let reply = leader.reply();
        let register = Box::new(register("a", None));
        leader.apply(Event::Registering { reply, register });
        reply
    };
    let admitted = |reply| Event::Admitted {
        reply,
        register: Box::new(register("a", None)),
        result: Ok(()),
    };
    let before = question(&mut leader);
    leader.apply(Event::NodeDown {
        node: node("a"),
        generation: FIRST,
    });
    leader.apply(admitted(before));
    let (_, effects) = leader.arrive();
    assert_eq!(changes(&effects), []);
    let again = question(&mut leader);
    let effects = leader.apply(admitted(again));
    assert!(
        matches!(changes(&effects)[..], [Change::Assign(_)]),
        "{effects:?}"
    );
}

#[test]
fn what_could_not_be_read_is_tried_again_and_held_against_no_node() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let (_, effects) = leader.arrive();
    let [Change::Assign(held)] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    let held = held.clone();
    leader.committed(1);
    let effects = leader.apply(Event::Dispatched {
        held: held.clone(),
        result: Err(NotDispatched::NotRead("the database is away".to_owned())),
    });
    let [Change::Requeue { reason, .. }, ..] = &changes(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(reason, "what it is made from could not be read");
    let later = leader.committed(1);
    let mut next = [changes(&effects), changes(&later)].concat().into_iter();
    let same = |change| matches!(change, Change::Assign(next) if (&next.node, next.at.job) == (&held.node, held.at.job));
    assert!(next.any(same), "{effects:?} {later:?}");
}
