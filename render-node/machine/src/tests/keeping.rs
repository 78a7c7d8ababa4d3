//! A stop of a job that goes on elsewhere.

use super::*;

fn keep() -> Event {
    Event::StopAsked {
        at: at(1, 1),
        keep: true,
    }
}

fn stopped() -> Event {
    rendered(1, Err(NotRendered::Stopped))
}

#[test]
fn the_end_is_told_when_the_checkpoint_lies_in_the_store() {
    let kept = ["tell a 1@1 Stopped at 3"];
    let mut bench = Bench::working();
    assert_eq!(bench.hear(keep()), ["keep run 1", "stop true"]);
    assert_eq!(bench.hear(stopped()), none());
    assert_eq!(bench.hear(left(Some(3))), kept);

    // The two words of the run are of two tasks.
    let mut bench = Bench::working();
    bench.hear(keep());
    assert_eq!(bench.hear(left(Some(3))), none());
    assert_eq!(bench.hear(stopped()), kept);
}

#[test]
fn while_it_is_kept_the_node_is_taken_and_pauses_nothing() {
    let mut bench = Bench::working();
    bench.hear(keep());
    bench.hear(stopped());
    assert_eq!(
        bench.hear(Event::Assigned(assign(at(2, 1)))),
        ["assign Busy 1@1"]
    );
    bench.hear(Event::LinkDown(leader("a")));
    assert_eq!(bench.after(10 * ENGINE_LEAVE_MS_MAX), none());
}

#[test]
fn a_clip_that_is_complete_is_delivered_also_when_the_node_closes() {
    let mut just_rendered = Bench::working();
    just_rendered.hear(keep());
    assert_eq!(
        just_rendered.hear(rendered(1, Ok(clip()))),
        ["progress a Uploading 4/4", "ask targets a 1@1"]
    );
    for word in [keep as fn() -> Event, || Event::Close] {
        let mut placing = Bench::placing();
        let mut uploading = Bench::placing();
        uploading.hear(targets(1));
        for bench in [&mut placing, &mut uploading] {
            let effects = bench.hear(word());
            let is_stopped = effects
                .iter()
                .any(|e| e.starts_with("stop run") || e.starts_with("tell"));
            assert!(!is_stopped, "{effects:?}");
        }
        let uploaded = Event::Uploaded {
            run: RunId(1),
            result: Ok(1.0),
        };
        assert_eq!(uploading.hear(uploaded), ["tell a 1@1 Rendered@1"]);
    }
}

#[test]
fn a_node_that_cannot_wait_for_its_job_says_so_before_it_ends() {
    let mut rendering = Bench::working();
    let mut keeping = Bench::working();
    keeping.hear(keep());
    keeping.hear(stopped());
    let mut placing = Bench::placing();
    let mut uploading = Bench::placing();
    uploading.hear(targets(1));
    for bench in [&mut rendering, &mut keeping, &mut placing, &mut uploading] {
        bench.hear(Event::Close);
        bench.hear(renewed(0, Some(at(1, 1)), 1, Verdict::GoOn));
        assert_eq!(bench.hear(Event::Abandon), ["tell a 1@1 Stopped"]);
        assert_eq!(bench.hear(Event::Abandon), none(), "once");
        // Whatever comes of it now, the leader gives it to another.
        for late in [rendered(1, Ok(clip())), stopped(), left(Some(3))] {
            assert_eq!(bench.hear(late), none());
        }
        let heard = ended(Some(EndedAnswer::Settled));
        assert_eq!(bench.hear(heard), ["forget 1", "end Closed"]);
    }
    assert_eq!(Bench::telling().hear(Event::Abandon), none());
}

#[test]
fn who_wants_nothing_kept_has_the_last_word() {
    let stop = || stop_asked(at(1, 1));
    let mut rendering = Bench::working();
    rendering.hear(keep());
    assert_eq!(rendering.hear(stop()), ["stop run 1", "stop true"]);
    assert_eq!(rendering.hear(keep()), ["stop run 1", "stop true"]);
    assert_eq!(rendering.hear(stopped()), ["tell a 1@1 Stopped"]);

    let mut keeping = Bench::working();
    keeping.hear(keep());
    keeping.hear(stopped());
    assert_eq!(
        keeping.hear(stop()),
        ["stop run 1", "stop true", "tell a 1@1 Stopped"]
    );
    assert_eq!(keeping.hear(left(Some(3))), none(), "it has been told");

    let mut dropped = Bench::working();
    dropped.hear(keep());
    dropped.hear(stopped());
    let drop = renewed(0, Some(at(1, 1)), 1, Verdict::Drop);
    // Its engine is free, which the leader waits to hear.
    assert_eq!(dropped.hear(drop), ["forget 1", "beat a 1 -"]);
    assert_eq!(dropped.hear(left(Some(3))), none());
}
