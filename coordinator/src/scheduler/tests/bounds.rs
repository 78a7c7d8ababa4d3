//! What ends a long wait.

use super::*;

/// Somebody waits behind endless newcomers with smaller claims, on one node. When its job started, ms.
fn starved(tier: Tier, class: Class, until_ms: u64) -> Option<u64> {
    let mut farm = Farm::new();
    farm.arrive(waiting(9_000, 9_000, Tier::Studio));
    farm.register("a", FIRST, None);
    let mut poor = waiting(1, 1, tier);
    poor.class = class;
    poor.cost = GpuSeconds(100_000.0);
    farm.arrive(poor);
    let (mut running, mut next) = (9_000, 10_000);
    while farm.now_ms < until_ms {
        for _ in 0..3 {
            next += 1;
            let mut cheap = waiting(next, next, Tier::Free);
            cheap.cost = GpuSeconds(1.0);
            // Nobody but the poor one has a bound.
            cheap.class = Class::Batch;
            farm.arrive(cheap);
        }
        farm.pass(10_000, &["a"]);
        let effects = farm.ended("a", running, 1, rendered());
        let Some(Effect::Assign { job, .. }) = effects.last() else {
            panic!("{effects:?}")
        };
        running = job.as_uuid().as_u64_pair().1;
        if running == 1 {
            return Some(farm.now_ms);
        }
    }
    None
}

#[test]
fn the_start_bound_of_each_tier_fires_at_its_end() {
    let slot_ms = 10_000;
    for tier in Tier::ALL {
        for class in Class::ALL {
            let Some(bound_ms) = tier.start_bound_ms(class) else {
                continue;
            };
            let started = starved(tier, class, bound_ms + 10 * slot_ms);
            let started = started.unwrap_or_else(|| panic!("{tier:?} {class:?} starves"));
            assert!(started >= bound_ms, "{tier:?} {class:?}: {started}");
            assert!(
                started <= bound_ms + 2 * slot_ms,
                "{tier:?} {class:?}: {started}"
            );
        }
    }
}

#[test]
fn a_job_without_a_bound_waits_for_its_turn() {
    assert_eq!(Tier::Free.start_bound_ms(Class::Batch), None);
    let longest_ms = Tier::Free.start_bound_ms(Class::Interactive).unwrap();
    assert_eq!(starved(Tier::Free, Class::Batch, 2 * longest_ms), None);
}

#[test]
fn whoever_floods_the_queue_wins_no_forced_starts() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    for n in 2..200 {
        farm.arrive(waiting(n, 1, Tier::Free));
    }
    let bound_ms = Tier::Free.start_bound_ms(Class::Interactive).unwrap();
    farm.pass(bound_ms, &["a"]);
    // All of the flood is overdue when the others come.
    for n in 0..20 {
        farm.arrive(waiting(1_000 + n, 1_000 + n, Tier::Free));
    }
    let effects = farm.ended("a", 1, 1, rendered());
    let order = start_order_of(&mut farm, effects, 21);
    let flood = order.iter().filter(|n| **n < 1_000).count();
    // Two that were saved up, one of ten, and the flood's own turn.
    assert!(flood <= 2 + 2 + 1, "{order:?}");
}

#[test]
fn many_late_jobs_of_a_user_whose_forced_one_runs_hide_nobody() {
    let mut farm = Farm::new();
    // Two forced starts are saved up.
    farm.register("a", FIRST, None);
    for n in 9_000..9_020 {
        let effects = farm.arrive(waiting(n, n, Tier::Free));
        start_order(&mut farm, effects);
    }
    farm.register("b", FIRST, None);
    for (n, node) in [(9_100, "a"), (9_101, "b")] {
        let effects = farm.arrive(waiting(n, n, Tier::Free));
        assert_eq!(effects, [assign(n, 1, node)]);
    }
    for n in 1..=20 {
        let mut failed = waiting(n, 1, Tier::Studio);
        failed.failures = 1;
        failed.failed_on.insert(node_id("elsewhere"));
        farm.arrive(failed);
    }
    farm.now_ms += 1;
    let mut poor = waiting(100, 2, Tier::Studio);
    poor.cost = GpuSeconds(100_000.0);
    farm.arrive(poor);
    for n in 200..210 {
        let mut cheap = waiting(n, n, Tier::Free);
        (cheap.cost, cheap.class) = (GpuSeconds(1.0), Class::Batch);
        farm.arrive(cheap);
    }
    let bound_ms = Tier::Studio.start_bound_ms(Class::Interactive).unwrap();
    assert_eq!(farm.pass(bound_ms, &["a", "b"]), []);
    let effects = farm.ended("a", 9_100, 1, rendered());
    assert_eq!(effects[1..], [assign(1, 1, "a")]);
    let effects = farm.ended("b", 9_101, 1, rendered());
    assert_eq!(effects[1..], [assign(100, 1, "b")]);
}

/// Their checkpoints are of a class of which one node is left, which works.
#[test]
fn many_late_jobs_that_may_not_come_here_hide_nobody() {
    let mut farm = Farm::new();
    let offer = |name: &str, class: &str| {
        Event::NodeRegistered(NodeOffer {
            node: node_id(name),
            generation: FIRST,
            models: vec![model("tiny")],
            device_class: class.to_owned(),
            memory_bytes: 1 << 34,
            running: None,
        })
    };
    farm.step(offer("x", "other"));
    let mut long = waiting(9_000, 9_000, Tier::Studio);
    long.cost = GpuSeconds(100_000.0);
    assert_eq!(farm.arrive(long), [assign(9_000, 1, "x")]);
    farm.step(offer("a", "gpu"));
    assert_eq!(
        farm.arrive(waiting(9_001, 9_001, Tier::Studio)),
        [assign(9_001, 1, "a")]
    );
    for n in 1..=100 {
        let mut kept = waiting(n, n, Tier::Free);
        kept.resume = Some(Checkpoint {
            device_class: "other".to_owned(),
            step: 1,
        });
        farm.arrive(kept);
    }
    farm.now_ms += 1;
    let mut poor = waiting(500, 500, Tier::Free);
    poor.cost = GpuSeconds(100_000.0);
    farm.arrive(poor);
    let mut cheap = waiting(501, 501, Tier::Free);
    (cheap.cost, cheap.class) = (GpuSeconds(1.0), Class::Batch);
    farm.arrive(cheap);
    let bound_ms = Tier::Free.start_bound_ms(Class::Interactive).unwrap();
    assert_eq!(farm.pass(bound_ms, &["a", "x"]), []);
    let effects = farm.ended("a", 9_001, 1, rendered());
    assert_eq!(effects[1..], [assign(500, 1, "a")]);
}
