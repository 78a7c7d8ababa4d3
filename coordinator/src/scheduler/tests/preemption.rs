//! Work that makes room and goes on later.

use flowai_actors::limits::{JOB_PREEMPTIONS_MAX, PREEMPTION_SWAP_S};
use flowai_store::journal::MADE_ROOM;

use super::*;

/// A long batch job runs on the only node.
fn exporting() -> Farm {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut export = waiting(1, 1, Tier::Pro);
    export.class = Class::Batch;
    export.cost = GpuSeconds(3_600.0);
    assert_eq!(farm.arrive(export), [assign(1, 1, "a")]);
    farm
}

/// The same, and a studio user waits.
fn about_to_miss_a_bound() -> Farm {
    let mut farm = exporting();
    farm.arrive(waiting(2, 2, Tier::Studio));
    farm
}

fn stop(job: u64, attempt: u32) -> Effect {
    Effect::Stop {
        node: node_id("a"),
        job: job_id(job),
        attempt: Attempt::new(attempt),
        keep: true,
    }
}

fn stopped_after(step: u32) -> AttemptEnd {
    AttemptEnd::Stopped {
        checkpoint: Some(Checkpoint {
            device_class: "gpu".to_owned(),
            step,
        }),
    }
}

#[test]
fn a_batch_job_makes_room_for_a_bound_and_goes_on_afterwards() {
    let mut farm = about_to_miss_a_bound();
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    let lead_ms = (1_000.0 * PREEMPTION_SWAP_S) as u64;
    assert_eq!(farm.pass(bound_ms - lead_ms - 2 * NODE_BEAT_MS, &["a"]), []);
    assert_eq!(farm.pass(3 * NODE_BEAT_MS, &["a"]), [stop(1, 1)]);
    // Until the node says so it is not free, and it is told once.
    assert_eq!(farm.pass(3 * NODE_BEAT_MS, &["a"]), []);
    let effects = farm.ended("a", 1, 1, stopped_after(4));
    assert!(
        matches!(&effects[0], Effect::Requeue { outcome: Unfinished::Stopped, checkpoint: Some(kept), .. } if kept.step == 4),
        "{effects:?}"
    );
    assert_eq!(effects[1..], [assign(2, 1, "a")]);
    assert_eq!(farm.ended("a", 2, 1, rendered())[1..], [assign(1, 2, "a")]);
}

#[test]
fn nothing_makes_room_that_soon_ends_or_is_of_a_tier_as_high() {
    for (cost, class, tier) in [
        (20.0, Class::Batch, Tier::Pro),
        (3_600.0, Class::Interactive, Tier::Studio),
    ] {
        let mut farm = Farm::new();
        farm.register("a", FIRST, None);
        let mut job = waiting(1, 1, tier);
        (job.cost, job.class) = (GpuSeconds(cost), class);
        farm.arrive(job);
        farm.arrive(waiting(2, 2, Tier::Studio));
        let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
        assert_eq!(farm.pass(2 * bound_ms, &["a"]), [], "{cost} {class:?}");
    }
}

#[test]
fn whoever_is_later_and_can_stop_nobody_hides_no_job_that_can() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut long = waiting(1, 1, Tier::Pro);
    long.cost = GpuSeconds(7_200.0);
    assert_eq!(farm.arrive(long), [assign(1, 1, "a")]);
    for n in 100..200 {
        farm.arrive(waiting(n, n, Tier::Free));
    }
    let bound_ms = |tier: Tier| tier.start_bound_ms(Class::Interactive).unwrap();
    assert_eq!(farm.pass(bound_ms(Tier::Free), &["a"]), []);
    farm.arrive(waiting(2, 2, Tier::Studio));
    assert_eq!(farm.pass(bound_ms(Tier::Studio), &["a"]), [stop(1, 1)]);
    let effects = farm.ended("a", 1, 1, stopped_after(4));
    assert_eq!(effects[1..], [assign(2, 1, "a")]);
}

#[test]
fn a_node_that_soon_becomes_free_is_promised_to_one_job_only() {
    let mut farm = exporting();
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    farm.register("b", FIRST, None);
    let mut short = waiting(2, 2, Tier::Pro);
    short.cost = GpuSeconds(bound_ms as f64 / 1_000.0);
    assert_eq!(farm.arrive(short), [assign(2, 1, "b")]);
    farm.arrive(waiting(3, 3, Tier::Studio));
    farm.arrive(waiting(4, 4, Tier::Studio));
    let progress = Event::Progressed {
        job: job_id(2),
        attempt: Attempt::new(1),
        step: 99,
        steps: 100,
    };
    let lead_ms = (1_000.0 * PREEMPTION_SWAP_S) as u64;
    farm.pass(bound_ms - lead_ms - 2 * NODE_BEAT_MS, &["a", "b"]);
    assert_eq!(farm.step(progress), []);
    // It ends in time for one of the two.
    assert_eq!(farm.pass(bound_ms, &["a", "b"]), [stop(1, 1)]);
}

#[test]
fn a_job_that_should_have_ended_long_ago_promises_its_node_to_nobody() {
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    let swap_ms = (1_000.0 * PREEMPTION_SWAP_S) as u64;
    // What comes after the last step takes its time, as predicted for the whole.
    let (short, as_long) = (GpuSeconds(1.0), GpuSeconds(bound_ms as f64 / 1_000.0));
    let cases = [
        (0, short, false),
        (2 * swap_ms, short, true),
        (2 * swap_ms, as_long, false),
    ];
    for (late_ms, cost, makes_room) in cases {
        let mut farm = exporting();
        farm.register("b", FIRST, None);
        let mut about_done = waiting(2, 2, Tier::Pro);
        about_done.cost = cost;
        assert_eq!(farm.arrive(about_done), [assign(2, 1, "b")]);
        farm.arrive(waiting(3, 3, Tier::Studio));
        farm.pass(bound_ms - swap_ms - late_ms - 2 * NODE_BEAT_MS, &["a", "b"]);
        let last_step = Event::Progressed {
            job: job_id(2),
            attempt: Attempt::new(1),
            step: 100,
            steps: 100,
        };
        assert_eq!(farm.step(last_step), []);
        let effects = farm.pass(late_ms + 4 * NODE_BEAT_MS, &["a", "b"]);
        assert_eq!(
            effects == [stop(1, 1)],
            makes_room,
            "{late_ms}: {effects:?}"
        );
    }
}

#[test]
fn a_job_makes_room_only_so_often() {
    let mut farm = about_to_miss_a_bound();
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    for n in 0..u64::from(JOB_PREEMPTIONS_MAX) {
        let attempt = n as u32 + 1;
        assert_eq!(farm.pass(bound_ms, &["a"]), [stop(1, attempt)]);
        farm.ended("a", 1, attempt, stopped_after(attempt));
        let effects = farm.ended("a", 2 + n, 1, rendered());
        assert_eq!(effects[1..], [assign(1, attempt + 1, "a")]);
        farm.arrive(waiting(3 + n, 3 + n, Tier::Studio));
    }
    assert_eq!(farm.pass(2 * bound_ms, &["a"]), []);
}

#[test]
fn what_made_room_says_so_and_a_new_leader_counts_it() {
    let mut farm = about_to_miss_a_bound();
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    assert_eq!(farm.pass(bound_ms, &["a"]), [stop(1, 1)]);
    let effects = farm.ended("a", 1, 1, stopped_after(4));
    assert!(
        matches!(&effects[0], Effect::Requeue { reason, .. } if reason.starts_with(MADE_ROOM)),
        "{effects:?}"
    );
    // A drain is no such stop.
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Now,
    });
    let effects = farm.ended("a", 2, 1, stopped_after(4));
    assert!(
        matches!(&effects[0], Effect::Requeue { reason, .. } if !reason.starts_with(MADE_ROOM)),
        "{effects:?}"
    );

    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut export = waiting(1, 1, Tier::Pro);
    (export.class, export.cost) = (Class::Batch, GpuSeconds(3_600.0));
    (export.attempt, export.preemptions) = (Attempt::new(2), JOB_PREEMPTIONS_MAX);
    assert_eq!(farm.arrive(export), [assign(1, 3, "a")]);
    farm.arrive(waiting(2, 2, Tier::Studio));
    assert_eq!(farm.pass(2 * bound_ms, &["a"]), []);
}

#[test]
fn a_checkpoint_goes_on_where_the_device_is_the_same_and_anew_where_none_is_left() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    let other = NodeOffer {
        node: node_id("b"),
        generation: FIRST,
        models: vec![model("tiny")],
        device_class: "cpu".to_owned(),
        memory_bytes: 1 << 34,
        running: None,
    };
    farm.step(Event::NodeRegistered(other));
    let drain = Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Now,
    };
    assert_eq!(farm.step(drain), [stop(1, 1)]);
    // No node of its class takes work: the other one begins anew.
    let effects = farm.ended("a", 1, 1, stopped_after(3));
    assert_eq!(effects[1..], [assign(1, 2, "b")]);

    let mut farm = Farm::new();
    for node in ["a", "c"] {
        farm.register(node, FIRST, None);
    }
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Free));
    let other = NodeOffer {
        node: node_id("b"),
        generation: FIRST,
        models: vec![model("tiny")],
        device_class: "cpu".to_owned(),
        memory_bytes: 1 << 34,
        running: None,
    };
    farm.step(Event::NodeRegistered(other));
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Now,
    });
    let effects = farm.ended("a", 1, 1, stopped_after(3));
    assert!(
        matches!(effects[..], [Effect::Requeue { .. }]),
        "{effects:?}"
    );
    assert_eq!(farm.ended("c", 2, 1, rendered())[1..], [assign(1, 2, "c")]);
}

#[test]
fn what_was_stopped_pays_only_for_what_ran() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut job = waiting(1, 1, Tier::Free);
    job.cost = GpuSeconds(1_000.0);
    farm.arrive(job);
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Now,
    });
    farm.ended("a", 1, 1, stopped_after(0));
    farm.arrive(waiting(2, 2, Tier::Free));
    farm.arrive(waiting(3, 1, Tier::Free));
    let effects = farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Off,
    });
    // Had it paid for its hour, the other's would be all that starts.
    let order = start_order(&mut farm, effects);
    assert_eq!(order[..2], [2, 3], "{order:?}");
}

fn offer(node: &str, generation: u32, class: &str) -> Event {
    Event::NodeRegistered(NodeOffer {
        node: node_id(node),
        generation: Generation::new(generation),
        models: vec![model("tiny")],
        device_class: class.to_owned(),
        memory_bytes: 1 << 34,
        running: None,
    })
}

/// Job 1 ran on `a`, of class `gpu`, left a checkpoint, and its node died and came back.
fn lost_after_a_checkpoint(farm: &mut Farm) {
    assert_eq!(farm.arrive(waiting(1, 1, Tier::Free)), [assign(1, 1, "a")]);
    farm.step(Event::Checkpointed {
        job: job_id(1),
        attempt: Attempt::new(1),
        checkpoint: Checkpoint {
            device_class: "gpu".to_owned(),
            step: 4,
        },
    });
    let effects = farm.step(offer("a", 2, "gpu"));
    assert!(
        matches!(&effects[..], [Effect::Requeue { checkpoint: Some(kept), .. }] if kept.step == 4),
        "{effects:?}"
    );
}

#[test]
fn a_checkpoint_of_a_class_that_is_gone_holds_its_job_back_no_more() {
    let mut farm = Farm::new();
    farm.step(offer("c", 1, "gpu"));
    farm.arrive(waiting(2, 2, Tier::Free));
    farm.step(offer("a", 1, "gpu"));
    lost_after_a_checkpoint(&mut farm);
    // The other one of its class works.
    assert_eq!(farm.step(offer("b", 1, "cpu")), []);
    let effects = farm.step(offer("c", 2, "cpu"));
    let begins =
        |effect: &Effect| matches!(effect, Effect::Assign { job, .. } if *job == job_id(1));
    assert!(effects.iter().any(begins), "{effects:?}");
}

#[test]
fn a_checkpoint_does_not_hold_a_job_back_for_the_node_on_which_it_failed() {
    let mut farm = Farm::new();
    farm.step(offer("a", 1, "gpu"));
    lost_after_a_checkpoint(&mut farm);
    assert_eq!(farm.step(offer("b", 1, "cpu")), [assign(1, 2, "b")]);
}

/// Many users' jobs wait for the one node of their checkpoints' class; whoever comes behind them could begin on another.
#[test]
fn a_newcomer_is_not_overlooked_behind_jobs_that_may_not_go_there() {
    let mut farm = Farm::new();
    farm.step(offer("x", 1, "gpu"));
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.step(offer("y", 1, "cpu"));
    for n in 100..300 {
        let mut job = waiting(n, n, Tier::Free);
        job.attempt = Attempt::new(1);
        job.resume = Some(Checkpoint {
            device_class: "gpu".to_owned(),
            step: 9,
        });
        assert_eq!(farm.arrive(job), []);
    }
    assert_eq!(farm.arrive(waiting(2, 2, Tier::Free)), [assign(2, 1, "y")]);
}

#[test]
fn late_jobs_that_no_node_can_run_hide_no_job_that_can() {
    let mut farm = exporting();
    for n in 100..200 {
        let mut job = waiting(n, n, Tier::Studio);
        job.model = model("nobody-has-it");
        farm.arrive(job);
    }
    farm.arrive(waiting(2, 2, Tier::Studio));
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    assert_eq!(farm.pass(bound_ms, &["a"]), [stop(1, 1)]);
}

#[test]
fn a_node_that_was_stopped_for_a_job_and_drained_since_keeps_no_other_from_making_room() {
    let mut farm = about_to_miss_a_bound();
    assert_eq!(farm.register("b", FIRST, None), [assign(2, 1, "b")]);
    let mut export = waiting(3, 3, Tier::Pro);
    (export.class, export.cost) = (Class::Batch, GpuSeconds(1_800.0));
    assert_eq!(farm.arrive(export), []);
    assert_eq!(farm.ended("b", 2, 1, rendered())[1..], [assign(3, 1, "b")]);
    farm.arrive(waiting(4, 4, Tier::Studio));
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    assert_eq!(farm.pass(bound_ms, &["a", "b"]), [stop(1, 1)]);
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Lazy,
    });
    farm.ended("a", 1, 1, stopped_after(4));
    let effects = farm.pass(bound_ms, &["a", "b"]);
    let stops_b =
        |effect: &Effect| matches!(effect, Effect::Stop { node, .. } if *node == node_id("b"));
    assert!(effects.iter().any(stops_b), "{effects:?}");
}

/// It ran for longer than its bound before its node was taken back.
#[test]
fn a_bound_counts_from_when_a_job_waits_again() {
    let mut farm = Farm::new();
    farm.register("b", FIRST, None);
    let mut long = waiting(1, 1, Tier::Free);
    long.cost = GpuSeconds(7_200.0);
    assert_eq!(farm.arrive(long), [assign(1, 1, "b")]);
    farm.register("a", FIRST, None);
    let mut spot = waiting(2, 2, Tier::Pro);
    spot.cost = GpuSeconds(3_600.0);
    assert_eq!(farm.arrive(spot), [assign(2, 1, "a")]);
    let bound_ms = Tier::Pro.start_bound_ms(Class::Interactive).unwrap();
    assert_eq!(farm.pass(2 * bound_ms, &["a", "b"]), []);
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Now,
    });
    farm.ended("a", 2, 1, stopped_after(4));
    let lead_ms = (1_000.0 * PREEMPTION_SWAP_S) as u64;
    let soon_ms = bound_ms - lead_ms - 2 * NODE_BEAT_MS;
    assert_eq!(farm.pass(soon_ms, &["a", "b"]), []);
    let effects = farm.pass(3 * NODE_BEAT_MS, &["a", "b"]);
    assert!(
        matches!(effects[..], [Effect::Stop { job, .. }] if job == job_id(1)),
        "{effects:?}"
    );
}

/// Also where it waited before, and had nothing to keep.
#[test]
fn what_a_job_waited_before_a_failure_counts_and_what_it_had_a_node_does_not() {
    let bound_ms = Tier::Free.start_bound_ms(Class::Interactive).unwrap();
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut long = waiting(1, 1, Tier::Free);
    long.cost = GpuSeconds(1_500.0);
    farm.arrive(long);
    farm.arrive(waiting(2, 2, Tier::Free));
    farm.pass(bound_ms - 60_000, &["a"]);
    assert_eq!(farm.ended("a", 1, 1, rendered())[1..], [assign(2, 1, "a")]);
    // Its node has it for a while, and gives it back with nothing.
    farm.pass(30_000, &["a"]);
    farm.step(Event::NodeDraining {
        node: node_id("a"),
        how: Drain::Lazy,
    });
    farm.ended("a", 2, 1, stopped());
    let job = farm.scheduler.jobs.by_id(job_id(2)).unwrap();
    let ends = job.bound().unwrap().ends_at();
    assert_eq!(ends.as_millis() - farm.now_ms, 60_000);
}

/// Two long jobs run, and somebody of a tier above waits with two jobs of unlike sizes.
#[test]
fn nodes_are_stopped_for_one_job_of_a_user_at_a_time() {
    let mut farm = Farm::new();
    let nodes = ["a", "b"];
    for (n, node) in (1..).zip(nodes) {
        farm.register(node, FIRST, None);
        let mut export = waiting(n, n, Tier::Pro);
        (export.class, export.cost) = (Class::Batch, GpuSeconds(7_200.0));
        assert_eq!(farm.arrive(export), [assign(n, 1, node)]);
    }
    farm.arrive(waiting(3, 3, Tier::Free));
    let mut other = waiting(4, 3, Tier::Free);
    other.shape.width = 512;
    farm.arrive(other);
    let bound_ms = Tier::Free.start_bound_ms(Class::Interactive).unwrap();
    let effects = farm.pass(bound_ms + NODE_BEAT_MS, &nodes);
    assert_eq!(effects.len(), 1, "{effects:?}");
    let [Effect::Stop { job, ref node, .. }] = effects[..] else {
        panic!("{effects:?}")
    };
    let name = node.to_string();
    let effects = farm.ended(&name, job.as_uuid().as_u64_pair().1, 1, stopped_after(4));
    assert_eq!(effects.len(), 2, "{effects:?}");
    // It runs as many as it may, and its next one may stop nobody.
    assert_eq!(farm.pass(bound_ms / 2, &nodes), []);
}

/// What room was made for takes none of the starts that are kept for those who wait too long.
#[test]
fn a_start_that_others_made_room_for_is_no_forced_one() {
    let mut farm = about_to_miss_a_bound();
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    farm.pass(bound_ms, &["a"]);
    let effects = farm.ended("a", 1, 1, stopped_after(4));
    assert_eq!(effects[1..], [assign(2, 1, "a")]);
    let figures = farm.scheduler.figures();
    assert_eq!((figures.forced_starts, figures.preemptions), (0, 1));
}
