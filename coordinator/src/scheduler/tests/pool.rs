use super::*;

const FREE: usize = Tier::Free as usize;
const STUDIO: usize = Tier::Studio as usize;

fn gpus(farm: &Farm) -> Pool {
    farm.scheduler.pool(|class| class.starts_with("gpu"))
}

fn others(farm: &Farm) -> Pool {
    farm.scheduler.pool(|class| !class.starts_with("gpu"))
}

#[test]
fn a_pool_counts_what_would_run_at_once_and_no_more_of_a_user_than_its_cap() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 1..=5 {
        farm.arrive(waiting(n, 1, Tier::Free));
    }
    // One of the free user's runs, as many as may; the others wait for that and not for a node.
    assert_eq!((gpus(&farm).runnable, gpus(&farm).backlog_s), (0, 0.0));
    for n in 6..=25 {
        farm.arrive(waiting(n, 2, Tier::Studio));
    }
    let pool = gpus(&farm);
    let cap = Tier::Studio.running_max();
    assert_eq!(
        (pool.runnable, pool.backlog_s),
        (cap, 10.0 * f64::from(cap))
    );
    assert_eq!(pool.is_waiting, [false, false, true]);
    assert_eq!(pool.wait_s[FREE], None);
    assert!(pool.wait_s[STUDIO].unwrap() > 0.0);
}

#[test]
fn a_node_is_idle_since_its_last_job_and_says_when_it_drains() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    farm.register("b", FIRST, None);
    farm.arrive(waiting(1, 1, Tier::Free));
    farm.pass(NODE_LEASE_MS / 2, &["a", "b"]);
    farm.step(Event::NodeDraining {
        node: node_id("b"),
        how: Drain::Lazy,
    });
    let pool = gpus(&farm);
    let seen = |name: &str| pool.nodes.iter().find(|node| node.node == node_id(name));
    let (a, b) = (seen("a").unwrap(), seen("b").unwrap());
    assert_eq!((a.is_busy, a.idle_ms, a.is_draining), (true, 0, false));
    let idle = (b.is_busy, b.idle_ms, b.is_draining);
    assert_eq!(idle, (false, NODE_LEASE_MS / 2, true));
    assert_eq!(others(&farm).nodes, []);
}

#[test]
fn a_node_that_is_idle_for_want_of_the_model_shortens_no_wait() {
    let mut farm = Farm::new();
    farm.register("a", FIRST, None);
    for n in 1..=5 {
        farm.arrive(waiting(n, n, Tier::Studio));
    }
    let wait_s = gpus(&farm).wait_s[STUDIO].unwrap();
    farm.offer("b", FIRST, &["another"], None);
    let beside_an_idle_one = gpus(&farm).wait_s[STUDIO].unwrap();
    assert!(
        0.0 < beside_an_idle_one && beside_an_idle_one <= wait_s,
        "{beside_an_idle_one} of {wait_s}"
    );
}

#[test]
fn what_a_checkpoint_holds_asks_for_no_node() {
    let mut farm = Farm::new();
    farm.arrive(WaitingJob {
        resume: Some(Checkpoint {
            device_class: "gpu".to_owned(),
            step: 9,
        }),
        ..waiting(1, 1, Tier::Pro)
    });
    let backlog_s = gpus(&farm).backlog_s;
    assert!((backlog_s - 1.0).abs() < 1e-9, "{backlog_s}");
}

#[test]
fn a_pool_that_was_never_seen_could_run_what_no_other_can() {
    let mut farm = Farm::new();
    farm.arrive(waiting(1, 1, Tier::Pro));
    assert_eq!((gpus(&farm).runnable, others(&farm).runnable), (1, 1));
    assert_eq!(gpus(&farm).wait_s, [None; 3], "there is no node");
    // Once it is known who offers the model, the others are for what is left.
    farm.register("a", FIRST, None);
    farm.arrive(waiting(2, 2, Tier::Pro));
    assert_eq!((gpus(&farm).runnable, others(&farm).runnable), (1, 0));
    // Also when that node has gone.
    farm.pass(2 * NODE_LEASE_MS, &[]);
    let pool = gpus(&farm);
    assert_eq!((pool.nodes.len(), pool.runnable), (0, 2));
    assert_eq!(others(&farm).runnable, 0);
}

#[test]
fn what_ran_out_of_memory_on_every_kind_of_node_is_over_a_ceiling() {
    let mut farm = Farm::new();
    let class = |node: &str, class: &str| {
        Event::NodeRegistered(NodeOffer {
            node: node_id(node),
            generation: FIRST,
            models: vec![model("tiny")],
            device_class: class.to_owned(),
            memory_bytes: 1 << 34,
            running: None,
        })
    };
    let out_of_memory = || AttemptEnd::Failed {
        code: "out_of_memory".to_owned(),
        detail: "no memory".to_owned(),
        retryable: true,
        stage: Stage::Clip,
    };
    for node in ["a1", "a2"] {
        farm.step(class(node, "small"));
    }
    farm.arrive(waiting(1, 1, Tier::Free));
    assert_eq!(farm.scheduler.ceilings(), []);
    // Wherever it is tried.
    for attempt in 1..=2 {
        let on = farm.scheduler.believed(job_id(1)).unwrap().1.cloned();
        let Some(node) = on else { break };
        farm.ended(node.as_str(), 1, attempt, out_of_memory());
    }
    let volume = f64::from(14 * 256 * 192_u32);
    let [ceiling] = farm.scheduler.ceilings().try_into().unwrap();
    assert_eq!(
        (ceiling.model, ceiling.keyframe_model),
        (model("tiny"), None)
    );
    let least = volume / 2_f64.powf(0.25);
    assert!(
        least < ceiling.volume && ceiling.volume <= volume,
        "{}",
        ceiling.volume
    );
    // A larger kind of node could run it, also when it is away.
    farm.step(class("b", "large"));
    assert_eq!(farm.scheduler.ceilings(), []);
    farm.pass(2 * NODE_LEASE_MS, &["a1", "a2"]);
    assert_eq!(farm.scheduler.ceilings(), []);
}
