//! Who passes whom because its model or adapters are at hand.

use flowai_actors::ids::Sha256;
use flowai_actors::limits::LOCALITY_SKIPS_MIN;

use super::*;

fn adapter(n: u8) -> Sha256 {
    Sha256::from_bytes([n; 32])
}

fn with_model(name: &str, job: WaitingJob) -> WaitingJob {
    WaitingJob {
        model: model(name),
        ..job
    }
}

fn holds(farm: &mut Farm, node: &str, loaded: &str, near: &[Sha256]) -> Vec<Effect> {
    farm.step(Event::Beat {
        node: node_id(node),
        generation: FIRST,
        readiness: Readiness::Ready,
        holds: Some(Holds {
            model: Some(model(loaded)),
            fused: Vec::new(),
            near: near.to_vec(),
        }),
    })
}

/// A node with two models of which it has loaded the second, and works.
fn warm_and_busy(farm: &mut Farm) {
    farm.offer("a", FIRST, &["cold", "warm"], None);
    farm.arrive(with_model("warm", waiting(900, 900, Tier::Free)));
    holds(farm, "a", "warm", &[]);
}

#[test]
fn a_job_whose_model_is_loaded_passes_one_whose_is_not() {
    let mut farm = Farm::new();
    warm_and_busy(&mut farm);
    farm.arrive(with_model("cold", waiting(1, 1, Tier::Free)));
    farm.arrive(with_model("warm", waiting(2, 2, Tier::Free)));
    let effects = farm.ended("a", 900, 1, rendered());
    assert_eq!(effects[1..], [assign(2, 1, "a")]);
}

#[test]
fn a_job_is_passed_only_so_often() {
    let mut farm = Farm::new();
    warm_and_busy(&mut farm);
    farm.arrive(with_model("cold", waiting(1, 1, Tier::Free)));
    for n in 2..20 {
        farm.arrive(with_model("warm", waiting(n, n, Tier::Free)));
    }
    let effects = farm.ended("a", 900, 1, rendered());
    let order = start_order_of(&mut farm, effects, 19);
    let place = order.iter().position(|n| *n == 1).unwrap();
    assert_eq!(place as u32, LOCALITY_SKIPS_MIN, "{order:?}");
}

#[test]
fn nobody_passes_whose_claim_is_further_behind_than_the_deficit() {
    let mut farm = Farm::new();
    warm_and_busy(&mut farm);
    farm.arrive(with_model("cold", waiting(1, 1, Tier::Free)));
    let mut greedy = with_model("warm", waiting(2, 2, Tier::Free));
    greedy.cost = GpuSeconds(1_000.0);
    farm.arrive(greedy);
    let effects = farm.ended("a", 900, 1, rendered());
    assert_eq!(effects[1..], [assign(1, 1, "a")]);
}

#[test]
fn a_paying_user_is_not_passed_for_the_seconds_of_an_adapter_for_long() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.arrive(waiting(900, 900, Tier::Free));
    holds(&mut farm, "a", "tiny", &[adapter(1)]);
    let mut paying = waiting(1, 1, Tier::Studio);
    paying.adapters = vec![adapter(2)];
    farm.arrive(paying);
    for n in 2..20 {
        let mut job = waiting(n, n, Tier::Free);
        job.adapters = vec![adapter(1)];
        farm.arrive(job);
    }
    let effects = farm.ended("a", 900, 1, rendered());
    let order = start_order_of(&mut farm, effects, 19);
    let place = order.iter().position(|n| *n == 1).unwrap();
    assert!(place as u32 <= LOCALITY_SKIPS_MIN, "{order:?}");
}

#[test]
fn of_free_nodes_the_one_that_starts_soonest_gets_the_job() {
    let mut farm = Farm::new();
    for node in ["a", "b", "c"] {
        farm.offer(node, FIRST, &["cold", "warm"], None);
    }
    holds(&mut farm, "a", "warm", &[]);
    holds(&mut farm, "b", "warm", &[adapter(1)]);
    holds(&mut farm, "c", "cold", &[adapter(1)]);
    let long = |n| WaitingJob {
        cost: GpuSeconds(1_000.0),
        ..with_model("warm", waiting(n, n, Tier::Free))
    };
    let mut job = long(1);
    job.adapters = vec![adapter(1)];
    assert_eq!(farm.arrive(job), [assign(1, 1, "b")]);
    assert_eq!(farm.arrive(long(2)), [assign(2, 1, "a")]);
    assert_eq!(
        farm.arrive(with_model("warm", waiting(3, 3, Tier::Free))),
        [assign(3, 1, "c")],
        "no node stands idle for a warm one that takes longer than a load"
    );
}

/// Loads of twenty seconds on a node that then leaves.
fn teach_loads(farm: &mut Farm) {
    farm.offer("teacher", FIRST, &["cold", "warm"], None);
    for n in 0..6 {
        let id = 800 + n;
        let name = ["cold", "warm"][n as usize % 2];
        farm.arrive(with_model(name, waiting(id, id, Tier::Free)));
        let ran = Some(Ran {
            busy: GpuSeconds(10.0),
            load: GpuSeconds(20.0),
        });
        farm.ended("teacher", id, 1, AttemptEnd::Rendered { ran });
    }
    farm.step(Event::NodeDraining {
        node: node_id("teacher"),
        how: Drain::Lazy,
    });
}

/// A node that will be done with the warm model in ten seconds, and a free one that would have to load it.
fn warm_soon_and_cold_now() -> Farm {
    let mut farm = Farm::new();
    teach_loads(&mut farm);
    warm_and_busy(&mut farm);
    // A load and a render of ten seconds are expected of it.
    farm.pass(20_000, &["a"]);
    farm.offer("b", FIRST, &["cold", "warm"], None);
    holds(&mut farm, "b", "cold", &[]);
    farm
}

#[test]
fn a_held_job_says_so_whoever_is_first_for_other_nodes() {
    let mut farm = warm_soon_and_cold_now();
    farm.offer("z", FIRST, &["other"], None);
    let other = |n| with_model("other", waiting(n, n, Tier::Studio));
    assert_eq!(farm.arrive(other(50)), [assign(50, 1, "z")]);
    assert_eq!(farm.arrive(other(51)), []);
    assert_eq!(
        farm.arrive(with_model("warm", waiting(1, 1, Tier::Free))),
        []
    );
    assert_eq!(farm.scheduler.why(job_id(1)), Some(WaitsFor::WarmNode));
    assert_eq!(farm.scheduler.why(job_id(51)), Some(WaitsFor::Node));
}

#[test]
fn a_job_waits_for_a_warm_node_that_is_free_sooner_than_a_load_takes() {
    let mut farm = warm_soon_and_cold_now();
    let warm = |n| with_model("warm", waiting(n, n, Tier::Free));
    assert_eq!(farm.arrive(warm(1)), []);
    assert_eq!(farm.scheduler.why(job_id(1)), Some(WaitsFor::WarmNode));
    assert_eq!(
        farm.arrive(warm(2)),
        [assign(2, 1, "b")],
        "one node becomes free: only one job waits for it"
    );
    let cold = with_model("cold", waiting(3, 3, Tier::Free));
    assert_eq!(farm.arrive(cold), []);
    assert_eq!(
        farm.ended("a", 900, 1, rendered())[1..],
        [assign(1, 1, "a")]
    );
}

#[test]
fn a_job_waits_for_a_warm_node_no_longer_than_a_load_takes() {
    let mut farm = warm_soon_and_cold_now();
    assert_eq!(
        farm.arrive(with_model("warm", waiting(1, 1, Tier::Free))),
        []
    );
    assert_eq!(farm.pass(18_000, &["a", "b"]), []);
    assert_eq!(farm.pass(4_000, &["a", "b"]), [assign(1, 1, "b")]);
}

#[test]
fn nobody_waits_for_a_guess() {
    let mut farm = Farm::new();
    warm_and_busy(&mut farm);
    farm.pass(20_000, &["a"]);
    farm.offer("b", FIRST, &["cold", "warm"], None);
    holds(&mut farm, "b", "cold", &[]);
    let warm = with_model("warm", waiting(1, 1, Tier::Free));
    assert_eq!(
        farm.arrive(warm),
        [assign(1, 1, "b")],
        "no load was measured"
    );
}

#[test]
fn of_a_users_jobs_as_many_are_held_as_warm_nodes_become_free() {
    let mut farm = warm_soon_and_cold_now();
    for cold in ["c", "d"] {
        farm.offer(cold, FIRST, &["cold", "warm"], None);
        holds(&mut farm, cold, "cold", &[]);
    }
    let warm = |n| with_model("warm", waiting(n, 1, Tier::Pro));
    assert_eq!(farm.arrive(warm(1)), []);
    // The last one waits in its place.
    assert_eq!(farm.arrive(warm(2)), [assign(1, 1, "b")]);
    assert_eq!(farm.arrive(warm(3)), [assign(2, 1, "c")]);
    assert_eq!(farm.scheduler.why(job_id(3)), Some(WaitsFor::WarmNode));
    assert_eq!(
        farm.ended("a", 900, 1, rendered())[1..],
        [assign(3, 1, "a")]
    );
}
