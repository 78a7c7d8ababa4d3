//! Who hears what, and who is believed.

use std::time::Duration;

use flowai_actors::limits::PROGRESS_INTERVAL_MS;

use flowai_actors::messages::Stage;

use super::*;

/// The farm's rows are read for the first at once, and for those that ring meanwhile in one look.
#[test]
fn what_rings_in_a_burst_is_read_together() {
    let mut leader = Leader::new();
    let mut jobs: Vec<JobId> = (0..5).map(|_| JobId::generate()).collect();
    jobs.sort_unstable();
    let reads = |effects: &[Effect]| -> Vec<(Vec<JobId>, Duration)> {
        let read = effects.iter().filter_map(|effect| match effect {
            Effect::Read { jobs, after } => Some((jobs.clone(), *after)),
            _ => None,
        });
        read.collect()
    };
    let first = leader.apply(Event::Rang(jobs[0]));
    assert_eq!(reads(&first), [(vec![jobs[0]], Duration::ZERO)]);
    for job in &jobs[1..4] {
        leader.now_ms += 1;
        assert_eq!(reads(&leader.apply(Event::Rang(*job))), []);
    }
    let row = leader.row(jobs[0], JobState::Queued, 0);
    let second = leader.read(row);
    assert_eq!(
        reads(&second),
        [(jobs[1..4].to_vec(), Duration::from_millis(7))]
    );
    let row = leader.row(jobs[1], JobState::Queued, 0);
    assert_eq!(reads(&leader.read(row)), []);
    leader.now_ms += 100;
    let alone = leader.apply(Event::Rang(jobs[4]));
    assert_eq!(reads(&alone), [(vec![jobs[4]], Duration::ZERO)]);
}

/// Two jobs one after the other between two beats: the node is shown with the one that it was given, as the queues count it.
#[test]
fn operators_see_a_node_with_the_job_it_was_given() {
    let mut leader = Leader::new();
    let shown = |leader: &mut Leader| {
        let reply = leader.reply();
        let effects = leader.apply(Event::FarmAsked { reply, after: None });
        let [Effect::Answer(_, Answer::Farm(view))] = &effects[..] else {
            panic!("{effects:?}")
        };
        let running = view.nodes[0].running;
        (running.map(|at| at.job), view.queues[0].running)
    };
    let first = leader.running("a");
    leader.beat("a", Some(first.at));
    assert_eq!(shown(&mut leader), (Some(first.at.job), 1));
    let (second, _) = leader.arrive();
    leader.end(
        &first,
        Told::Failed {
            code: "bad_input".into(),
            detail: "no picture".into(),
            retryable: false,
            stage: Stage::Clip,
        },
    );
    leader.committed(1);
    assert_eq!(shown(&mut leader), (Some(second), 1));
}

#[test]
fn only_the_holder_is_believed_about_progress() {
    let mut leader = Leader::new();
    leader.hear_api();
    let held = leader.running("a");
    let progress = Progress {
        at: held.at,
        phase: Phase::Denoising,
        step: 1,
        steps: 2,
        left_s: Some(1.0),
    };
    let from = |name: &str| Event::Progress {
        node: node(name),
        progress: progress.clone(),
    };
    let user = leader.user;
    let effects = leader.apply(from("a"));
    assert!(matches!(
        tells(&effects)[..],
        [Live { user: to, live: LiveState::Progress { step: 1, .. }, .. }] if *to == user
    ));
    assert_eq!(tells(&leader.apply(from("b"))), Vec::<&Live>::new());
}

#[test]
fn those_who_wait_hear_their_place_and_a_new_listener_hears_it_again() {
    let mut leader = Leader::new();
    leader.hear_api();
    let (job, _) = leader.arrive();
    leader.now_ms += 1_000;
    let place = |effects: &[Effect]| {
        tells(effects).first().map(|live| match &live.live {
            LiveState::Position { position, .. } => (live.job, *position),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(place(&leader.apply(Event::Tick)), Some((job, 1)));
    // Told again for those who were not there.
    let effects = {
        leader.hear_api();
        leader.now_ms += 1_000;
        leader.apply(Event::Tick)
    };
    assert_eq!(place(&effects), Some((job, 1)));
}

#[test]
fn whoever_waits_further_back_hears_its_place_also_while_the_line_moves_all_the_time() {
    let mut leader = Leader::new();
    leader.hear_api();
    let mut waiting = Vec::new();
    for _ in 0..100 {
        leader.user = UserId::generate();
        waiting.push(leader.arrive().0);
    }
    let mut told = BTreeSet::new();
    for gone in waiting.drain(..40) {
        leader.now_ms += PROGRESS_INTERVAL_MS;
        let ended = leader.row(gone, JobState::Cancelled, 0);
        let mut effects = leader.read(ended);
        effects.extend(leader.apply(Event::Tick));
        told.extend(tells(&effects).iter().map(|live| live.job));
    }
    let unheard = waiting.iter().filter(|job| !told.contains(job)).count();
    assert_eq!(unheard, 0);
}

#[test]
fn uploads_are_signed_for_the_holder_and_for_whole_sets_of_files() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let files = ready_files(hash(4));
    assert!(matches!(
        leader.ask_targets(&held, files.clone())[..],
        [Effect::Presign { .. }]
    ));
    let mut stranger = held.clone();
    stranger.node = node("b");
    assert!(matches!(
        leader.ask_targets(&stranger, files.clone())[..],
        [Effect::Answer(
            _,
            Answer::Targets(UploadTargetsAnswer::Stale)
        )]
    ));
    let mut empty = files.clone();
    empty[1].bytes = 0;
    for bad in [files[..3].to_vec(), empty] {
        assert!(is_refused(&leader.ask_targets(&held, bad)));
    }
}

#[test]
fn what_the_sweep_finds_is_read() {
    let mut leader = Leader::new();
    let effects = leader.apply(Event::Tick);
    assert!(matches!(
        effects[..],
        [Effect::Sweep { .. }, Effect::Forget]
    ));
    let job = JobId::generate();
    let effects = leader.apply(Event::Swept {
        newcomers: vec![job],
        cancelled: Vec::new(),
    });
    assert!(matches!(&effects[..], [Effect::Read { jobs, .. }] if *jobs == [job]));
}

#[test]
fn all_unfinished_jobs_are_looked_at_a_page_at_a_time() {
    let mut leader = Leader::new();
    let is_asked = |effects: &[Effect], wanted: Option<JobId>| {
        let asked = effects.iter().filter_map(|effect| match effect {
            Effect::SweepAll { after } => Some(*after),
            _ => None,
        });
        asked.eq([wanted])
    };
    leader.apply(Event::Tick);
    leader.now_ms += THOROUGH_SWEEP_MS;
    assert!(is_asked(&leader.apply(Event::Tick), None));
    leader.apply(Event::Swept {
        newcomers: Vec::new(),
        cancelled: Vec::new(),
    });
    leader.now_ms += THOROUGH_SWEEP_MS;
    let effects = leader.apply(Event::Tick);
    // However long it takes, the others go on.
    let goes_on = |wanted: fn(&Effect) -> bool| effects.iter().any(wanted);
    assert!(goes_on(|effect| matches!(effect, Effect::Sweep { .. })));
    assert!(goes_on(|effect| matches!(effect, Effect::Forget)));
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::SweepAll { .. })),
        "one at a time"
    );

    let page: Vec<JobId> = (0..RECOVERY_PAGE_JOBS).map(|_| JobId::generate()).collect();
    let last = page.last().copied();
    let effects = leader.apply(Event::SweptAll(page.clone()));
    assert!(is_asked(&effects, last));
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Read { jobs, .. } if *jobs == page))
    );
    let effects = leader.apply(Event::SweptAll(Vec::new()));
    assert!(effects.is_empty(), "{effects:?}");
    leader.now_ms += THOROUGH_SWEEP_MS;
    assert!(is_asked(&leader.apply(Event::Tick), None));
}

#[test]
fn a_fenced_leader_says_nothing_more() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    assert!(matches!(
        leader.apply(Event::Fenced)[..],
        [Effect::StepDown]
    ));
    assert!(leader.beat("a", Some(held.at)).is_empty());
    assert!(leader.apply(Event::Tick).is_empty());
}
