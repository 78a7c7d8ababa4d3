//! From a rendered clip to the leader's last word.

use super::*;

#[test]
fn a_clip_is_placed_uploaded_and_told() {
    let mut bench = Bench::telling();
    assert_eq!(bench.hear(ended(Some(EndedAnswer::Settled))), ["forget 1"]);
    assert_eq!(bench.state.running(), None);
}

#[test]
fn the_end_is_told_until_it_is_heard_also_to_the_next_leader() {
    let mut bench = Bench::telling();
    assert_eq!(bench.hear(ended(None)), none());
    assert_eq!(bench.after(500), ["tell a 1@1 Rendered@1"]);
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.hear(ended(None)), none());
    assert_eq!(bench.after(60_000), none(), "a clip that is ready waits");

    bench.hear(Event::LinkUp(leader("b")));
    let now = bench.now_ms;
    assert_eq!(
        bench.hear(welcome("b", now, Some(at(1, 1)), 2, Verdict::GoOn)),
        ["tell b 1@2 Rendered@2"]
    );
    assert_eq!(bench.hear(ended(Some(EndedAnswer::Stale))), ["forget 1"]);
}

#[test]
fn targets_are_asked_for_until_they_come() {
    let mut bench = Bench::placing();
    let unanswered = || Event::TargetsAnswered {
        run: RunId(1),
        answer: None,
    };
    assert_eq!(bench.hear(unanswered()), none());
    assert_eq!(bench.after(500), ["ask targets a 1@1"]);
    assert_eq!(bench.hear(targets(1)), ["upload 1"]);
    assert_eq!(bench.hear(targets(1)), none(), "a second answer is late");
}

#[test]
fn targets_that_expire_are_asked_for_anew_but_not_for_ever() {
    let mut bench = Bench::placing();
    let expired = || Event::Uploaded {
        run: RunId(1),
        result: Err(NotUploaded::Expired("403".to_owned())),
    };
    let asked = |effects: &[String]| effects.iter().any(|effect| effect == "ask targets a 1@1");
    let mut waited_ms = 0;
    for round in 0..5 {
        bench.now_ms += PROGRESS_INTERVAL_MS;
        assert_eq!(bench.hear(targets(1))[0], "upload 1");
        assert!(!asked(&bench.hear(expired())));
        // A leader whose clock is wrong has time to find out.
        let pause_ms = 1_000 << round;
        assert!(!asked(&bench.after(pause_ms - 1)), "{round}");
        assert!(asked(&bench.after(1)), "{round}");
        waited_ms += pause_ms;
    }
    assert!(waited_ms > 30_000);
    assert_eq!(bench.hear(targets(1))[0], "upload 1");
    let end = "tell a 1@1 upload_failed retryable=true";
    assert_eq!(bench.hear(expired()).last().unwrap(), end);
}

#[test]
fn a_finished_clip_outlasts_an_outage_of_the_store_with_new_targets() {
    let mut bench = Bench::placing();
    let down = || {
        let failure = JobFailure::new(FailureCode::UploadFailed, "503");
        Event::Uploaded {
            run: RunId(1),
            result: Err(NotUploaded::Unreachable(failure)),
        }
    };
    for round in 1..=10 {
        assert_eq!(bench.hear(targets(1)).last().unwrap(), "upload 1");
        bench.now_ms += TARGET_PATIENCE_MS;
        let next = match round {
            10 => "tell a 1@1 upload_failed retryable=true",
            _ => "ask targets a 1@1",
        };
        assert_eq!(bench.hear(down()).last().unwrap(), next);
    }
}

#[test]
fn an_upload_that_lasts_is_told_as_progress() {
    let mut bench = Bench::placing();
    bench.hear(targets(1));
    let still = || Event::StillUploading { run: RunId(1) };
    for _ in 0..3 {
        bench.now_ms += PROGRESS_INTERVAL_MS;
        assert_eq!(bench.hear(still()), ["progress a Uploading 4/4"]);
        assert_eq!(bench.hear(still()), none(), "four times a second");
    }
    let mut over = Bench::telling();
    over.now_ms += PROGRESS_INTERVAL_MS;
    assert_eq!(over.hear(still()), none(), "a late word");
}

#[test]
fn what_the_leader_does_not_take_is_dropped_or_fails() {
    let answered = |answer| {
        let mut bench = Bench::placing();
        bench.hear(Event::TargetsAnswered {
            run: RunId(1),
            answer: Some(answer),
        })
    };
    assert_eq!(answered(UploadTargetsAnswer::Stale), ["forget 1"]);
    let refused = UploadTargetsAnswer::Refused {
        reason: "too large".to_owned(),
    };
    assert_eq!(
        answered(refused),
        ["tell a 1@1 upload_refused retryable=false"]
    );
}

#[test]
fn a_bad_job_fails_by_name_and_the_node_goes_on() {
    for code in FailureCode::ALL {
        let mut bench = Bench::working();
        let retryable = code.is_retryable();
        assert_eq!(
            bench.hear(rendered(1, failed(code))),
            [format!("tell a 1@1 {code} retryable={retryable}")]
        );
        bench.hear(ended(Some(EndedAnswer::Settled)));
        assert_eq!(
            bench.hear(Event::Assigned(assign(at(2, 1)))),
            ["assign Accepted", "start 2"]
        );
    }
}

#[test]
fn a_stop_ends_the_job_wherever_it_is() {
    let stop = || stop_asked(at(1, 1));

    let mut rendering = Bench::working();
    assert_eq!(rendering.hear(stop()), ["stop run 1", "stop true"]);
    assert_eq!(
        rendering.hear(rendered(1, Err(NotRendered::Stopped))),
        ["tell a 1@1 Stopped"]
    );

    let mut just_rendered = Bench::working();
    just_rendered.hear(stop());
    assert_eq!(
        just_rendered.hear(rendered(1, Ok(clip()))),
        ["tell a 1@1 Stopped"]
    );

    let mut placing = Bench::placing();
    assert_eq!(placing.hear(stop()), ["stop true", "tell a 1@1 Stopped"]);

    let mut uploading = Bench::placing();
    uploading.hear(targets(1));
    assert_eq!(uploading.hear(stop()), ["stop run 1", "stop true"]);

    let mut telling = Bench::telling();
    assert_eq!(telling.hear(stop()), ["stop true"], "it has ended already");

    let mut other = Bench::working();
    assert_eq!(other.hear(stop_asked(at(2, 1))), ["stop false"]);
    assert_eq!(Bench::registered().hear(stop()), ["stop false"]);
}

#[test]
fn a_node_that_closes_tells_its_leader_before_it_ends() {
    let mut idle = Bench::registered();
    idle.now_ms = 100;
    assert_eq!(idle.hear(Event::Close), ["beat a 1 - closing"]);
    let earlier = renewed(99, None, 1, Verdict::Idle);
    assert_eq!(idle.hear(earlier), none(), "that beat did not say so");
    let refused = "assign Refused node is shutting down";
    assert_eq!(idle.hear(Event::Assigned(assign(at(1, 1)))), [refused]);
    let heard = renewed(100, None, 1, Verdict::Idle);
    assert_eq!(idle.hear(heard), ["end Closed"]);

    // Another leader has not heard it.
    let mut moved = Bench::working();
    moved.hear(Event::Close);
    moved.hear(renewed(0, Some(at(1, 1)), 1, Verdict::GoOn));
    moved.hear(Event::LinkDown(leader("a")));
    moved.hear(Event::LinkUp(leader("b")));
    let effects = moved.hear(welcome("b", 0, Some(at(1, 1)), 2, Verdict::GoOn));
    assert_eq!(effects, ["beat b 2 1@2 closing"]);

    let mut unheard = Bench::registered();
    unheard.hear(Event::Close);
    assert_eq!(unheard.next_due_ms(), Some(NODE_FAREWELL_MS));
    assert_eq!(unheard.after(NODE_FAREWELL_MS), ["end Closed"]);

    let mut alone = Bench::registered();
    alone.hear(Event::Close);
    let effects = alone.hear(Event::LinkDown(leader("a")));
    assert_eq!(effects, ["end Closed"]);
}

#[test]
fn closing_ends_the_job_tells_it_and_takes_no_other() {
    assert_eq!(Bench::new().hear(Event::Close), ["end Closed"]);

    let mut bench = Bench::working();
    let effects = bench.hear(Event::Close);
    assert_eq!(effects, ["keep run 1", "beat a 1 1@1 closing"]);
    assert_eq!(
        bench.hear(renewed(0, Some(at(1, 1)), 1, Verdict::GoOn)),
        none()
    );
    assert_eq!(bench.hear(rendered(1, Err(NotRendered::Stopped))), none());
    assert_eq!(bench.hear(left(None)), ["tell a 1@1 Stopped"]);
    assert_eq!(
        bench.hear(ended(Some(EndedAnswer::Settled))),
        ["forget 1", "end Closed"]
    );
    assert_eq!(
        bench.hear(Event::Assigned(assign(at(2, 1))))[0],
        "assign Refused node is shutting down"
    );
}

#[test]
fn a_replaced_process_ends() {
    let fenced = Generation::new(4);
    let of_beat = beat_answered(0, None, Some(BeatAnswer::Fenced { held: fenced }));
    assert_eq!(Bench::working().hear(of_beat), ["forget 1", "end Replaced"]);
    let of_register = Event::Registered {
        from: leader("a"),
        sent_at: Monotonic::default(),
        reported: None,
        answer: Some(Registered::Fenced { held: fenced }),
    };
    assert_eq!(Bench::registered().hear(of_register), ["end Replaced"]);
    assert_eq!(
        Bench::new().hear(Event::Replaced),
        [format!("end {:?}", Ending::Replaced)]
    );
}
