//! Registering, beating, and whose a job is.

use super::*;

#[test]
fn it_registers_on_each_link_until_it_is_answered() {
    let mut bench = Bench::new();
    assert_eq!(bench.hear(Event::LinkUp(leader("a"))), ["register a -"]);
    assert_eq!(bench.after(10_000), none(), "the answer is still to come");
    let unanswered = Event::Registered {
        from: leader("a"),
        sent_at: Monotonic::default(),
        reported: None,
        answer: None,
    };
    assert_eq!(bench.hear(unanswered), none());
    assert_eq!(bench.after(500), ["register a -"]);
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.hear(Event::LinkUp(leader("b"))), ["register b -"]);
    let late = welcome("a", 0, None, 1, Verdict::Idle);
    assert_eq!(bench.hear(late), none());
    assert!(!bench.state.is_registered(), "a's answer is not b's");
}

#[test]
fn it_beats_while_it_is_registered() {
    let mut bench = Bench::registered();
    assert_eq!(bench.next_due_ms(), Some(NODE_BEAT_MS));
    assert_eq!(bench.after(NODE_BEAT_MS), ["beat a 1 -"]);
    assert_eq!(bench.after(NODE_BEAT_MS), ["beat a 2 -"]);
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.after(NODE_BEAT_MS), none());
}

#[test]
fn a_leader_that_does_not_know_it_is_told_at_once() {
    let mut bench = Bench::working();
    let unknown = beat_answered(0, Some(at(1, 1)), Some(BeatAnswer::Unknown));
    assert_eq!(bench.hear(unknown), ["register a 1@1"]);
}

#[test]
fn one_job_at_a_time_and_each_attempt_once() {
    let mut bench = Bench::working();
    let again = Event::Assigned(assign(at(1, 1)));
    assert_eq!(bench.hear(again), ["assign Accepted"]);
    let other = Event::Assigned(assign(at(2, 1)));
    assert_eq!(bench.hear(other), ["assign Busy 1@1"]);
    let under_new_term = Event::Assigned(assign(at(1, 2)));
    assert_eq!(bench.hear(under_new_term), ["assign Accepted"]);
    assert_eq!(bench.state.running(), Some(at(1, 2)));

    assert_eq!(
        bench.hear(renewed(0, Some(at(1, 2)), 2, Verdict::Drop)),
        ["forget 1"]
    );
    let left = bench.hear(rendered(1, Err(NotRendered::Stopped)));
    assert_eq!(left, ["beat a 1 -"], "the engine is free");
    let late_copy = Event::Assigned(assign(at(1, 2)));
    assert_eq!(
        bench.hear(late_copy),
        ["assign Refused this attempt has ended here"]
    );
    let ghost = Event::Assigned(assign(at(3, 1)));
    assert_eq!(
        bench.hear(ghost),
        ["assign Refused assigned under a term that has ended"]
    );
    let next = Event::Assigned(assign(at(3, 2)));
    assert_eq!(bench.hear(next), ["assign Accepted", "start 2"]);
}

#[test]
fn a_model_that_is_not_here_is_refused() {
    let mut bench = Bench::registered();
    let mut other_files = assign(at(1, 1));
    other_files.model_sha256 = Sha256::from_bytes([8; 32]);
    let mut other_name = assign(at(1, 1));
    other_name.spec.model = "xt".parse().unwrap();
    let other_keyframes = assign_words(at(1, 1), MODEL);
    for assign in [other_files, other_name, other_keyframes] {
        assert_eq!(
            bench.hear(Event::Assigned(assign)),
            ["assign Refused this node has no such model, or other files under its name"]
        );
    }
    let both_here = Event::Assigned(assign_words(at(1, 1), WORDS_MODEL));
    assert_eq!(bench.hear(both_here), ["assign Accepted", "start 1"]);
}

#[test]
fn progress_is_told_four_times_a_second_and_the_newest_counts() {
    let mut bench = Bench::working();
    assert_eq!(
        bench.hear(moved(Phase::Denoising, 1)),
        ["progress a Denoising 1/4"]
    );
    bench.now_ms += 10;
    assert_eq!(bench.hear(moved(Phase::Denoising, 2)), none());
    bench.now_ms += 10;
    assert_eq!(bench.hear(moved(Phase::Denoising, 3)), none());
    assert_eq!(bench.next_due_ms(), Some(PROGRESS_INTERVAL_MS));
    assert_eq!(
        bench.after(PROGRESS_INTERVAL_MS - 20),
        ["progress a Denoising 3/4"]
    );
    assert_eq!(bench.after(PROGRESS_INTERVAL_MS), none(), "nothing new");
}

#[test]
fn without_an_answered_beat_the_job_pauses_before_its_lease_ends() {
    let mut bench = Bench::working();
    bench.now_ms = NODE_BEAT_MS;
    assert_eq!(bench.hear(Event::Tick), ["beat a 1 1@1"]);
    bench.hear(renewed(NODE_BEAT_MS, Some(at(1, 1)), 1, Verdict::GoOn));
    bench.hear(Event::LinkDown(leader("a")));
    let last = NODE_BEAT_MS + NODE_SELF_STOP_MS;
    assert_eq!(bench.next_due_ms(), Some(last));
    assert_eq!(bench.after(NODE_SELF_STOP_MS - 1), none());
    assert_eq!(bench.after(1), ["pause 1"]);
    assert_eq!(bench.after(60_000), none(), "it waits for a leader");

    let now = bench.now_ms;
    assert_eq!(bench.hear(Event::LinkUp(leader("b"))), ["register b 1@1"]);
    assert_eq!(
        bench.hear(welcome("b", now, Some(at(1, 1)), 2, Verdict::GoOn)),
        ["resume 1"]
    );
    assert_eq!(bench.state.running(), Some(at(1, 2)), "adopted");
}

#[test]
fn a_beat_counts_from_when_it_was_sent() {
    let mut bench = Bench::working();
    bench.now_ms = NODE_SELF_STOP_MS - 1;
    bench.hear(Event::Tick);
    // The answer to a beat of the past came only now.
    bench.hear(renewed(500, Some(at(1, 1)), 1, Verdict::GoOn));
    assert_eq!(bench.after(500), none());
    assert!(bench.after(1).contains(&"pause 1".to_owned()));
}

#[test]
fn a_job_that_the_leader_gave_away_is_dropped() {
    let mut bench = Bench::working();
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.after(NODE_SELF_STOP_MS), ["pause 1"]);
    bench.hear(Event::LinkUp(leader("b")));
    let now = bench.now_ms;
    assert_eq!(
        bench.hear(welcome("b", now, Some(at(1, 1)), 2, Verdict::Drop)),
        ["forget 1"]
    );
    // What the run still says is of nobody's job.
    assert_eq!(bench.hear(rendered(1, Ok(clip()))), ["beat b 1 -"]);
    assert_eq!(bench.state.running(), None);
}

#[test]
fn the_engine_is_taken_until_a_dropped_job_has_left_it() {
    let mut bench = Bench::working();
    bench.hear(renewed(0, Some(at(1, 1)), 1, Verdict::Drop));
    let next = || Event::Assigned(assign(at(2, 1)));
    assert_eq!(bench.hear(next()), ["assign Busy 1@1"]);
    assert_eq!(bench.after(NODE_BEAT_MS), ["beat a 1 1@1"]);
    let again = renewed(NODE_BEAT_MS, Some(at(1, 1)), 1, Verdict::Drop);
    assert_eq!(bench.hear(again), none(), "it is dropped already");

    bench.hear(rendered(1, Err(NotRendered::Stopped)));
    assert_eq!(bench.hear(next()), ["assign Accepted", "start 2"]);
}

#[test]
fn a_job_that_does_not_leave_the_engine_in_its_time_ends_the_process_once() {
    let hung = ["end EngineHung"];
    let stop = || stop_asked(at(1, 1));
    let drop = || renewed(0, Some(at(1, 1)), 1, Verdict::Drop);
    for mut events in [vec![stop()], vec![drop()], vec![stop(), drop()]] {
        let mut bench = Bench::working();
        bench.hear(moved(Phase::Denoising, 0));
        bench.now_ms += 30_000;
        bench.hear(moved(Phase::Denoising, 1));
        for event in events.drain(..) {
            bench.now_ms += 1_000;
            bench.hear(event);
        }
        bench.now_ms = 30_000 + 3 * 30_000 - 1;
        let before = bench.hear(Event::Tick);
        assert!(!before.contains(&hung[0].to_owned()), "{before:?}");
        bench.hear(Event::LinkDown(leader("a")));
        assert_eq!(bench.next_due_ms(), Some(bench.now_ms + 1));
        assert_eq!(bench.after(1), hung);
        assert_eq!(bench.next_due_ms(), None, "it would wake for ever");
        assert_eq!(
            bench.hear(Event::Assigned(assign(at(2, 1)))),
            ["assign Busy 1@1"]
        );
    }
}

#[test]
fn a_job_that_left_the_engine_ends_no_process() {
    let mut stopped = Bench::working();
    stopped.hear(stop_asked(at(1, 1)));
    stopped.hear(rendered(1, Err(NotRendered::Stopped)));
    let mut uploading = Bench::placing();
    uploading.hear(targets(1));
    uploading.hear(stop_asked(at(1, 1)));
    for mut bench in [stopped, uploading] {
        bench.hear(Event::LinkDown(leader("a")));
        assert_eq!(bench.after(10 * ENGINE_LEAVE_MS_MAX), none());
    }
}

#[test]
fn a_verdict_is_about_what_was_reported() {
    let mut bench = Bench::working();
    let of_before = renewed(0, None, 1, Verdict::Idle);
    assert_eq!(bench.hear(of_before), none());
    let of_another = renewed(0, Some(at(2, 1)), 1, Verdict::Drop);
    assert_eq!(bench.hear(of_another), none());
    assert_eq!(bench.state.running(), Some(at(1, 1)));
}

#[test]
fn an_answer_of_an_earlier_term_is_a_ghost() {
    let mut bench = Bench::working();
    bench.hear(renewed(0, Some(at(1, 1)), 2, Verdict::GoOn));
    assert_eq!(
        bench.hear(renewed(0, Some(at(1, 1)), 1, Verdict::Drop)),
        none()
    );
    assert_eq!(bench.state.running(), Some(at(1, 2)));
}

/// It was frozen, and answers before it finds out.
#[test]
fn a_leader_whose_term_is_over_is_told_nothing() {
    let mut bench = Bench::telling();
    let moves_to = |bench: &mut Bench, from: &str, to: &str, epoch: u32| {
        bench.hear(Event::LinkDown(leader(from)));
        bench.hear(ended(None));
        bench.now_ms += 1_000;
        bench.hear(Event::LinkUp(leader(to)));
        bench.hear(welcome(
            to,
            bench.now_ms,
            Some(at(1, 1)),
            epoch,
            Verdict::GoOn,
        ))
    };
    assert_eq!(moves_to(&mut bench, "a", "b", 2), ["tell b 1@2 Rendered@2"]);
    assert_eq!(moves_to(&mut bench, "b", "a", 1), none());
    // It is asked again, until it knows that it is none.
    assert_eq!(bench.after(1_000), ["register a 1@2"]);
}
