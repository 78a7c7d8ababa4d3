//! The line as those who wait in it see it.

use super::*;

#[test]
fn the_line_is_the_order_in_which_jobs_start() {
    let mut farm = Farm::new();
    let jobs = [
        (1, 1, Tier::Free),
        (2, 1, Tier::Free),
        (3, 2, Tier::Pro),
        (4, 2, Tier::Pro),
        (5, 3, Tier::Studio),
        (6, 3, Tier::Studio),
        (7, 1, Tier::Free),
    ];
    for (n, user, tier) in jobs {
        farm.arrive(waiting(n, user, tier));
    }
    let line: Vec<u64> = farm
        .scheduler
        .line(10)
        .iter()
        .map(|place| place.job.as_uuid().as_u64_pair().1)
        .collect();
    let effects = farm.register("a", FIRST, None);
    assert_eq!(line, start_order(&mut farm, effects));
}

#[test]
fn a_place_in_the_line_says_what_it_waits_for() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    for n in 1..=3 {
        farm.arrive(waiting(n, 1, Tier::Free));
    }
    let mut big = waiting(4, 2, Tier::Free);
    big.model = model("svd-xt");
    farm.arrive(big);
    farm.arrive(waiting(5, 3, Tier::Free));
    farm.arrive(waiting(6, 4, Tier::Free));
    let mut last = waiting(7, 5, Tier::Free);
    last.after = Some(job_id(6));
    farm.arrive(last);
    farm.arrive(waiting(8, 3, Tier::Free));
    let why = |n: u64| farm.scheduler.why(job_id(n));
    assert_eq!(why(1), None, "it runs");
    assert_eq!(why(3), Some(WaitsFor::OwnJobs));
    assert_eq!(why(4), Some(WaitsFor::Model));
    assert_eq!(why(5), Some(WaitsFor::Node));
    assert_eq!(why(6), Some(WaitsFor::Others));
    assert_eq!(why(7), Some(WaitsFor::OtherJob));
    assert_eq!(why(8), Some(WaitsFor::Others), "its owner's own is ahead");
    // The line says the same.
    for place in farm.scheduler.line(10) {
        assert_eq!(
            farm.scheduler.why(place.job),
            Some(place.waits_for),
            "{place:?}"
        );
    }
}

#[test]
fn a_job_that_pauses_after_a_failure_says_so() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.ended("a", 1, 1, failure(true));
    let waits = |farm: &Farm| farm.scheduler.line(1)[0].waits_for;
    assert_eq!(waits(&farm), WaitsFor::Retry);
    farm.register("b", FIRST, None);
    assert_eq!(farm.scheduler.line(1), []);
}

#[test]
fn a_long_line_of_many_users_is_told_in_order() {
    let (users, jobs_each) = (2_000, 5);
    let mut farm = Farm::new();
    for n in 0..users * jobs_each {
        let tier = Tier::ALL[(n % 3) as usize];
        let mut job = waiting(n, n % users, tier);
        job.cost = GpuSeconds(1.0 + (n % 7) as f64);
        farm.arrive(job);
    }
    let jobs = (users * jobs_each) as usize;
    let line = farm.scheduler.line(jobs);
    assert_eq!(line.len(), jobs);
    let effects = farm.register("a", FIRST, None);
    let mut started = start_order_of(&mut farm, effects, 200);
    started.reverse();
    for place in &line[..200] {
        assert_eq!(Some(place.job), started.pop().map(job_id));
    }
}

#[test]
fn time_and_beats_that_change_nothing_move_no_line() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 1..=3 {
        farm.arrive(waiting(n, n, Tier::Free));
    }
    let before = farm.scheduler.revision();
    farm.pass(NODE_LEASE_MS - NODE_BEAT_MS, &["a"]);
    assert_eq!(farm.scheduler.revision(), before);
    farm.ended("a", 1, 1, rendered());
    assert_ne!(farm.scheduler.revision(), before);
}

#[test]
fn figures_say_what_waits_for_what_and_how_long() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 1..=3 {
        farm.arrive(waiting(n, 1, Tier::Free));
    }
    farm.arrive(waiting(4, 2, Tier::Pro));
    let mut big = waiting(5, 3, Tier::Studio);
    big.model = model("svd-xt");
    farm.arrive(big);
    let figures = farm.scheduler.figures();
    let waits = |tier, code| figures.waiting.get(&(tier, code)).copied();
    assert_eq!(waits(Tier::Free, WaitsFor::OwnJobs.code()), Some(2));
    assert_eq!(waits(Tier::Pro, WaitsFor::Node.code()), Some(1));
    assert_eq!(waits(Tier::Studio, WaitsFor::Model.code()), Some(1));
    assert_eq!(figures.waiting.values().sum::<u64>(), 4);
    assert_eq!(figures.running, [1, 0, 0]);
    let class = &figures.classes["gpu"];
    assert_eq!((class.nodes, class.idle), (1, 0));
    // What no node here offers is no backlog of theirs.
    assert!((class.backlog_s - 30.0).abs() < 1e-9, "{class:?}");
    let p50 = |tier: Tier| class.wait[tier as usize].unwrap().p50_s;
    assert!(p50(Tier::Studio) < p50(Tier::Free), "{class:?}");
    for why in [
        WaitsFor::Node,
        WaitsFor::WarmNode,
        WaitsFor::Others,
        WaitsFor::OwnJobs,
        WaitsFor::Model,
        WaitsFor::BothModels,
        WaitsFor::Memory,
        WaitsFor::Retry,
        WaitsFor::OtherJob,
    ] {
        assert!(WaitsFor::CODES.contains(&why.code()));
    }
}

#[test]
fn whoever_waits_for_other_nodes_is_ahead_of_nobody_here() {
    let mut farm = Farm::new();
    let of = |name: &str, n: u64| WaitingJob {
        model: model(name),
        cost: GpuSeconds(if name == "q" { 100.0 } else { 1.0 }),
        ..waiting(n, n, Tier::Free)
    };
    for (node, n) in [("p", 1), ("q", 2)] {
        farm.offer(node, FIRST, &[node], None);
        assert_eq!(farm.arrive(of(node, n)), [assign(n, 1, node)]);
    }
    for n in 10..20 {
        farm.arrive(of("p", n));
    }
    farm.arrive(of("q", 20));
    assert_eq!(farm.scheduler.why(job_id(20)), Some(WaitsFor::Node));
    assert_eq!(farm.scheduler.why(job_id(19)), Some(WaitsFor::Others));
    let line = farm.scheduler.line(20);
    let with = |what| line.iter().filter(|place| place.waits_for == what).count();
    assert_eq!((with(WaitsFor::Node), with(WaitsFor::Others)), (2, 9));
    let waiting = farm.scheduler.figures().waiting;
    assert_eq!(waiting[&(Tier::Free, "capacity")], 2);
}
