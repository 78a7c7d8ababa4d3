//! Who starts first, and who waits how long.

use super::*;

#[test]
fn a_paying_users_job_starts_before_a_free_users_when_both_wait() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Pro));
    let effects = farm.register("a", FIRST, None);
    assert_eq!(start_order(&mut farm, effects), [2, 1]);
}

#[test]
fn a_free_user_is_not_starved_by_paying_ones() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Free));
    for n in 0..40 {
        farm.arrive(waiting(100 + n, 2, Tier::Studio));
    }
    let effects = farm.register("a", FIRST, None);
    let order = start_order(&mut farm, effects);
    assert_eq!(order.len(), 41);
    // Weight 8 against 1: at most eight of the studio's start before the free one's first.
    assert!(
        order.iter().position(|n| *n == 1).unwrap() <= 8,
        "{order:?}"
    );
}

/// A new leader reads them in the order of their ids, which bear the clocks of apis.
#[test]
fn of_one_users_jobs_whichever_waits_longest_starts_first() {
    let mut farm = Farm::new();
    farm.now_ms = 1_000;
    let since = |n, queued_ms| WaitingJob {
        queued_at: Monotonic::from_millis(queued_ms),
        ..waiting(n, 1, Tier::Free)
    };
    farm.arrive(since(1, 300));
    farm.arrive(since(2, 200));
    // In a lane of its own.
    farm.arrive(WaitingJob {
        failed_on: [node_id("b")].into(),
        ..since(3, 100)
    });
    let effects = farm.register("a", FIRST, None);
    assert_eq!(start_order(&mut farm, effects), [3, 2, 1]);
}

/// Users 1 to `free` wait with a job each, on one node. For each start `arrivals` paying users come who were never seen before.
/// Gives the starts in order.
fn starts_under_a_stream(free: u64, arrivals: u64, render_ms: u64, starts: u32) -> Vec<u64> {
    let mut farm = Farm::new();
    farm.arrive(waiting(9_000, 9_000, Tier::Studio));
    let mut running = match farm.register("a", FIRST, None)[..] {
        [Effect::Assign { job, .. }] => job,
        ref other => panic!("{other:?}"),
    };
    for n in 1..=free {
        farm.arrive(waiting(n, n, Tier::Free));
    }
    let mut newcomer = 10_000;
    let mut order = Vec::new();
    for _ in 0..starts {
        for _ in 0..arrivals {
            newcomer += 1;
            farm.arrive(waiting(newcomer, newcomer, Tier::Studio));
        }
        farm.pass(render_ms, &["a"]);
        let ended = running.as_uuid().as_u64_pair().1;
        let effects = farm.ended("a", ended, 1, rendered());
        let [Effect::Settle { .. }, Effect::Assign { job, .. }] = effects[..] else {
            panic!("{effects:?}")
        };
        running = job;
        order.push(job.as_uuid().as_u64_pair().1);
    }
    order
}

#[test]
fn a_stream_of_new_paying_users_holds_a_free_one_up_for_few_starts() {
    let order = starts_under_a_stream(1, 1, 10_000, 40);
    // At most as many of the others as their weight is greater, of whom one runs and one waits at each time.
    let bound = 2 * Tier::Studio.weight() as usize + 1;
    assert!(order.iter().take(bound).any(|job| *job == 1), "{order:?}");
}

#[test]
fn a_paying_user_who_comes_later_still_starts_before_free_ones() {
    let order = starts_under_a_stream(20, 1, 10_000, 3);
    assert!(order.iter().all(|job| *job > 10_000), "{order:?}");
}

#[test]
fn in_overload_the_longest_wait_is_ended_by_the_start_bound() {
    let render_ms = 10_000;
    let bound_ms = Tier::Free.start_bound_ms(Class::Interactive).unwrap();
    let until_bound = (bound_ms / render_ms) as usize;
    let order = starts_under_a_stream(3, 4, render_ms, until_bound as u32 + 40);
    for (place, free) in [1, 2, 3].into_iter().enumerate() {
        let start = order.iter().position(|job| *job == free);
        let bound = until_bound + FORCED_START_EVERY as usize * (place + 1);
        assert!(start.is_some_and(|start| start <= bound), "{start:?}");
        assert!(start >= Some(until_bound - 1), "{start:?}");
    }
}

#[test]
fn whoever_waits_longest_goes_first_among_equals() {
    let mut farm = Farm::new();
    for (n, user) in [(1, 30), (2, 20), (3, 10)] {
        farm.arrive(waiting(n, user, Tier::Free));
    }
    let effects = farm.register("a", FIRST, None);
    assert_eq!(start_order(&mut farm, effects), [1, 2, 3]);
}

#[test]
fn a_user_whose_jobs_cannot_run_gathers_no_claims() {
    let mut farm = Farm::new();
    let mut parked = waiting(1, 1, Tier::Free);
    parked.model = model("nobody-has-it");
    farm.arrive(parked);
    let effects = farm.register("a", FIRST, None);
    assert_eq!(effects, []);
    for n in 0..30 {
        let effects = farm.arrive(waiting(100 + n, 100 + n, Tier::Free));
        start_order(&mut farm, effects);
    }
    for n in 0..4 {
        farm.arrive(waiting(200 + n, 1, Tier::Free));
        farm.arrive(waiting(300 + n, 2, Tier::Free));
    }
    let effects = farm.step(Event::Doubted(job_id(200)));
    let order = start_order(&mut farm, effects);
    let first = order.iter().take(4).filter(|n| **n < 300).count();
    assert!(first <= 2, "{order:?}");
}

#[test]
fn one_user_with_many_jobs_does_not_hold_up_another() {
    let mut farm = Farm::new();
    for n in 0..50 {
        farm.arrive(waiting(100 + n, 1, Tier::Free));
    }
    let effects = farm.register("a", FIRST, None);
    assert_eq!(effects, [assign(100, 1, "a")]);
    farm.arrive(waiting(1, 2, Tier::Free));
    assert_eq!(farm.ended("a", 100, 1, rendered())[1], assign(1, 1, "a"));
}

#[test]
fn a_user_runs_more_than_its_cap_only_while_nobody_else_could_use_the_node() {
    let mut farm = Farm::new();
    for node in ["a", "b", "c", "d"] {
        farm.register(node, FIRST, None);
    }
    assert_eq!(Tier::Free.running_max(), 1);
    for (n, node) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        assert_eq!(farm.arrive(waiting(n, 1, Tier::Free)), [assign(n, 1, node)]);
    }
    // Of less claim by the shares, and within its cap.
    let mut long = waiting(20, 2, Tier::Free);
    long.cost = GpuSeconds(1_000.0);
    farm.arrive(waiting(5, 1, Tier::Free));
    farm.arrive(long);
    assert_eq!(farm.ended("a", 1, 1, rendered())[1..], [assign(20, 1, "a")]);
    assert_eq!(farm.ended("b", 2, 1, rendered())[1..], [assign(5, 1, "b")]);
}

#[test]
fn a_user_whose_renders_are_said_to_take_no_time_gets_no_turn_after_turn() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 0..100 {
        for (first, user) in [(1_000, 1), (2_000, 2)] {
            // Without a start bound for as long as this takes.
            let class = Class::Batch;
            farm.arrive(WaitingJob {
                class,
                ..waiting(first + n, user, Tier::Studio)
            });
        }
    }
    let mut turns = [0, 0];
    for _ in 0..100 {
        farm.pass(10_000, &["a"]);
        let (job, attempt) = farm.scheduler.running_on(&node_id("a")).unwrap();
        let n = job.as_uuid().as_u64_pair().1;
        let is_first = n < 2_000;
        turns[usize::from(!is_first)] += 1;
        let ran = Some(Ran {
            busy: GpuSeconds(if is_first { 0.0 } else { 10.0 }),
            load: GpuSeconds(0.0),
        });
        farm.ended("a", n, attempt.get(), AttemptEnd::Rendered { ran });
    }
    assert!(turns[1] >= 8, "{turns:?}");
}

/// One job runs and another waits: whoever waits falls behind virtual time, and keeps its place before those who come later.
fn waiting_for_a_while() -> Farm {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Free));
    farm.pass(8_000, &["a"]);
    assert!(tag_of(&farm, 2) < farm.scheduler.shares.now().0);
    farm
}

fn tag_of(farm: &Farm, user: u64) -> f64 {
    let shares = &farm.scheduler.shares;
    let user = shares.find(user_id(user)).and_then(|ix| shares.get(ix));
    user.unwrap().tag.0
}

#[test]
fn a_node_that_registers_anew_moves_nobody_in_the_line() {
    let mut farm = waiting_for_a_while();
    let before = tag_of(&farm, 2);
    assert_eq!(farm.register("a", FIRST, Some((1, 1))), []);
    assert_eq!(tag_of(&farm, 2), before);
}

#[test]
fn whoever_loses_its_node_pays_only_for_what_ran() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let mut long = waiting(1, 1, Tier::Free);
    long.cost = GpuSeconds(10_000.0);
    farm.arrive(long);
    farm.arrive(waiting(2, 1, Tier::Free));
    farm.pass(NODE_LEASE_MS, &[]);
    // Had it paid for all of it, the other's would be all that starts for hours.
    for n in 0..5 {
        farm.arrive(waiting(10 + n, 2, Tier::Free));
    }
    let effects = farm.register("b", FIRST, None);
    let order = start_order_on(&mut farm, "b", effects, 4);
    assert!(order.contains(&2), "{order:?}");
}

/// Its node waited for a leader, or measures wrongly.
#[test]
fn nobody_pays_for_longer_than_the_node_had_the_job() {
    let tag_after = |busy_s: f64| {
        let mut farm = Farm::new();
        farm.register("a", FIRST, None);
        farm.arrive(waiting(1, 1, Tier::Free));
        // Waits for a model that nobody has: its owner's share stays known.
        let mut other = waiting(2, 1, Tier::Free);
        other.model = model("other");
        farm.arrive(other);
        farm.pass(60_000, &["a"]);
        let ran = Some(Ran {
            busy: GpuSeconds(busy_s),
            load: GpuSeconds(0.0),
        });
        farm.ended("a", 1, 1, AttemptEnd::Rendered { ran });
        let shares = &farm.scheduler.shares;
        shares.get(shares.find(user_id(1)).unwrap()).unwrap().tag
    };
    assert!(tag_after(50.0) < tag_after(60.0));
    assert_eq!(tag_after(60.0), tag_after(10_000.0));
}

#[test]
fn a_node_in_doubt_moves_nobody_in_the_line() {
    let mut farm = waiting_for_a_while();
    let before = tag_of(&farm, 2);
    let beat = |readiness| Event::Beat {
        node: node_id("a"),
        generation: FIRST,
        readiness,
        holds: None,
    };
    farm.step(beat(Readiness::Doubtful));
    assert_eq!(farm.scheduler.why(job_id(2)), Some(WaitsFor::Node));
    farm.step(beat(Readiness::Ready));
    assert_eq!(tag_of(&farm, 2), before);
}

/// One render of four takes four times as long as predicted, which the median never learns.
#[test]
fn long_renders_put_no_newcomer_before_who_was_served_as_much() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 0..30 {
        farm.arrive(waiting(2 * n, 1, Tier::Free));
        farm.arrive(waiting(2 * n + 1, 2, Tier::Free));
    }
    for n in 0..40 {
        let (job, attempt) = farm.scheduler.running_on(&node_id("a")).unwrap();
        let seconds = if n % 4 == 3 { 40 } else { 10 };
        farm.pass(1_000 * seconds, &["a"]);
        let ran = Some(Ran {
            busy: GpuSeconds(seconds as f64),
            load: GpuSeconds(0.0),
        });
        let end = AttemptEnd::Rendered { ran };
        farm.ended("a", job.as_uuid().as_u64_pair().1, attempt.get(), end);
    }
    let shares = &farm.scheduler.shares;
    let tags = [1, 2].map(|user| {
        shares
            .get(shares.find(user_id(user)).unwrap())
            .unwrap()
            .tag
            .0
    });
    let behind = (tags[0] + tags[1]) / 2.0 - shares.now().0;
    // One of them is charged for the job that it runs.
    assert!((0.0..=40.0).contains(&behind), "{behind} {tags:?}");
}
