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
