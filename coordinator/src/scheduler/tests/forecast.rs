use flowai_actors::limits::NODE_SUSPECT_FAILURES;

use super::*;

/// Users of all tiers with jobs of unlike cost, one of whom has as many running as may be.
#[test]
fn what_is_foretold_for_a_busy_node_is_what_it_is_given() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    assert_eq!(farm.scheduler.next_on(&node_id("a")), None, "free");
    farm.arrive(waiting(1, 1, Tier::Free));
    assert_eq!(farm.scheduler.next_on(&node_id("a")), None, "nobody waits");
    for n in 2..=20 {
        let tier = [Tier::Free, Tier::Pro, Tier::Studio][n as usize % 3];
        farm.arrive(WaitingJob {
            cost: GpuSeconds(3.0 + (n * 7 % 11) as f64),
            ..waiting(n, n % 4, tier)
        });
    }
    let mut running = 1;
    for _ in 2..=20 {
        let next = farm.scheduler.next_on(&node_id("a"));
        let effects = farm.ended("a", running, 1, rendered());
        let given = effects.iter().find_map(|effect| match effect {
            Effect::Assign { job, .. } => Some(*job),
            _ => None,
        });
        assert!(given.is_some() && next == given, "{next:?} {given:?}");
        running = given.unwrap().as_uuid().as_u64_pair().1;
    }
    assert_eq!(farm.scheduler.next_on(&node_id("a")), None);
}

#[test]
fn whoever_comes_to_a_farm_with_an_idle_node_is_told_no_wait() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    let wait = |farm: &Farm| farm.scheduler.predicted_wait(Tier::Free, "gpu").unwrap();
    let none = Range {
        p50_s: 0.0,
        p90_s: 0.0,
    };
    assert_eq!(wait(&farm), none);
    farm.arrive(waiting(1, 1, Tier::Free));
    assert_eq!(wait(&farm), none);
    farm.arrive(waiting(2, 2, Tier::Free));
    assert!(wait(&farm).p50_s > 0.0, "{:?}", wait(&farm));
    // It stands idle, and gets nothing for a while.
    for n in 2..2 + NODE_SUSPECT_FAILURES as u64 {
        farm.ended("b", n, 1, failure(true));
        farm.step(Event::CancelAsked(job_id(n)));
        farm.arrive(waiting(n + 1, n + 1, Tier::Free));
    }
    assert!(wait(&farm).p50_s > 0.0, "{:?}", wait(&farm));
    // So does whoever waits beside it hear.
    let next = job_id(2 + NODE_SUSPECT_FAILURES as u64);
    assert!(farm.scheduler.starts_in(next).unwrap().p50_s > 0.0);
}

#[test]
fn the_first_renders_of_a_farm_already_say_how_long_one_waits() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    let render_s = 5.0 * waiting(1, 1, Tier::Free).cost.0;
    for n in 1..=4 {
        farm.arrive(waiting(n, n, Tier::Free));
        let ran = Some(Ran {
            busy: GpuSeconds(render_s),
            load: GpuSeconds(0.0),
        });
        farm.ended("a", n, 1, AttemptEnd::Rendered { ran });
    }
    farm.arrive(waiting(5, 5, Tier::Free));
    farm.arrive(waiting(6, 6, Tier::Free));
    // The other's render has just begun.
    let wait = farm.scheduler.starts_in(job_id(6)).unwrap();
    assert!(
        (0.7 * render_s..2.0 * render_s).contains(&wait.p50_s),
        "{wait:?}, {render_s}"
    );
}

#[test]
fn a_user_with_enough_running_jobs_is_next_where_one_of_them_ends() {
    let mut farm = Farm::new();
    for node in ["a", "b"] {
        farm.register(node, FIRST, None);
    }
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.arrive(waiting(2, 2, Tier::Free));
    farm.arrive(waiting(3, 1, Tier::Free));
    let mut long = waiting(4, 3, Tier::Free);
    long.cost = GpuSeconds(1_000.0);
    farm.arrive(long);
    let next_on = |node: &str| farm.scheduler.next_on(&node_id(node));
    assert_eq!(next_on("a"), Some(job_id(3)));
    // There the other user's job ends, and the first's goes on.
    assert_eq!(next_on("b"), Some(job_id(4)));
}
