//! Goal: each figure leads to the number and the reason that an operator expects. Method: one settled group a case.

use std::collections::BTreeSet;

use flowai_actors::limits::AUTOSCALE_GONE_MS;

use super::super::Reason;
use super::*;

/// What the group wants after so many equal looks, and why.
fn check(groups: &str, budget: Option<&str>, pool: &Pool, looks: u32, expected: (u32, Reason)) {
    let at_first = quiet(pool.nodes.len(), pool.nodes.len());
    let mut scaler = Scaler::settled(policy(&[groups], budget), &[at_first]);
    let decision = (0..looks).map(|_| scaler.decide(pool)).last().unwrap();
    assert_eq!((decision.wanted, decision.reason), expected, "{pool:?}");
}

#[test]
fn waits_above_target_for_some_looks_ask_for_nodes() {
    let wait = Reason::Wait;
    // Pro's target is 60 s: 2 nodes at 120 s are 4 at 60 s.
    let pro = crowded(2, Tier::Pro, 9, 120.0);
    check("n=0..20@1", None, &pro, 1, (2, Reason::Steady));
    check("n=0..20@1", None, &pro, 2, (2, Reason::Steady));
    check("n=0..20@1", None, &pro, 3, (4, wait(Tier::Pro)));
    // The same wait is short for a free user.
    let free = crowded(2, Tier::Free, 9, 120.0);
    check("n=0..20@1", None, &free, 9, (2, Reason::Steady));
    // Never more nodes than jobs could run, nor more at once than a step.
    let one = crowded(2, Tier::Studio, 1, 900.0);
    check("n=0..20@1", None, &one, 3, (3, wait(Tier::Studio)));
    let many = crowded(2, Tier::Studio, 99, 900.0);
    check("n=0..20@1", None, &many, 3, (6, wait(Tier::Studio)));
    check("n=0..20@1", None, &many, 6, (10, wait(Tier::Studio)));
}

#[test]
fn without_a_node_the_backlog_alone_asks_for_some() {
    // 9 jobs of 60 s within a pro user's 60 s: nine nodes, four at a time.
    let pool = crowded(0, Tier::Pro, 9, 0.0);
    let wait = Reason::Wait(Tier::Pro);
    check("n=0..20@1", None, &pool, 3, (4, wait));
    check("n=0..20@1", None, &pool, 6, (8, wait));
    check("n=0..20@1", None, &pool, 9, (9, wait));
    // A free user waits 600 s for the same: one node.
    let free = crowded(0, Tier::Free, 9, 0.0);
    check("n=0..20@1", None, &free, 9, (1, Reason::Coming));
}

#[test]
fn minimum_maximum_and_budget_hold_and_say_so() {
    let many = crowded(2, Tier::Studio, 99, 900.0);
    check("n=0..3@1", None, &many, 3, (3, Reason::Maximum));
    check("n=0..3@1", None, &many, 30, (3, Reason::Maximum));
    check("n=0..99@2", Some("7.99"), &many, 3, (3, Reason::Budget));
    check("n=0..99@2", Some("7.99"), &many, 99, (3, Reason::Budget));
    check("n=3..9@1", None, &quiet(0, 0), 1, (3, Reason::Minimum));
    check("n=3..9@1", None, &quiet(0, 3), 200, (3, Reason::Steady));
}

#[test]
fn a_budget_is_for_all_groups_together_and_keeps_their_minima() {
    let pools = [
        crowded(1, Tier::Studio, 99, 900.0),
        crowded(0, Tier::Pro, 99, 0.0),
    ];
    let policy = policy(&["a=0..9@3", "b=2..9@1"], Some("10"));
    let mut scaler = Scaler::settled(policy, &pools);
    let mut last = Vec::new();
    for _ in 0..20 {
        last = decisions(&scaler.look(&pools));
    }
    let wanted: Vec<u32> = last.iter().map(|decision| decision.wanted).collect();
    assert_eq!(wanted, [2, 4]);
    assert!(
        last.iter()
            .all(|decision| decision.reason == Reason::Budget)
    );
}

/// Nobody leaves: they end their jobs first.
fn let_go(scaler: &mut Scaler, pools: &mut [Pool]) -> Vec<NodeId> {
    let mut gone = BTreeSet::new();
    for _ in 0..12 {
        let effects = scaler.look(pools);
        gone.extend(drained(&effects));
        for node in undrained(&effects) {
            gone.remove(&node);
        }
        for node in pools.iter_mut().flat_map(|pool| &mut pool.nodes) {
            node.is_draining = gone.contains(&node.node);
        }
    }
    gone.into_iter().collect()
}

#[test]
fn as_many_nodes_are_let_go_as_the_budget_does_not_pay_for_and_no_more() {
    let one = policy(&["n=0..20@1"], Some("9"));
    let mut scaler = Scaler::settled(one.clone(), &[quiet(10, 10)]);
    assert_eq!(let_go(&mut scaler, &mut [quiet(10, 10)]).len(), 1);
    // Also while more would be of use.
    let crowd = crowded(10, Tier::Studio, 99, 900.0);
    let mut scaler = Scaler::settled(one, &[quiet(10, 10)]);
    assert_eq!(let_go(&mut scaler, &mut [crowd]).len(), 1);
    // The other group pays for none of it.
    let mut other = quiet(4, 4);
    for node in &mut other.nodes {
        node.node = name(&format!("other-{}", node.node));
    }
    let two = policy(&["n=0..20@1", "m=0..20@1"], Some("13"));
    let pools = [quiet(10, 10), other];
    let mut scaler = Scaler::settled(two, &pools);
    assert_eq!(let_go(&mut scaler, &mut pools.clone()).len(), 1);
}

#[test]
fn nothing_is_decided_before_nodes_had_their_time_to_come_back() {
    let mut scaler = Scaler {
        state: State::new(policy(&["n=2..9@1"], None), true),
        now: Monotonic::from_millis(7),
    };
    for _ in 0..AUTOSCALE_SETTLE_MS / LOOK_MS {
        let effects = scaler.look(&[crowded(0, Tier::Studio, 99, 0.0)]);
        assert_eq!(calls(&effects), []);
        assert_eq!(decisions(&effects)[0].reason, Reason::Settling);
    }
    let effects = scaler.look(&[quiet(9, 9)]);
    assert_eq!(calls(&effects)[0].wanted, 9);
}

#[test]
fn spare_nodes_are_drained_after_a_cool_down_those_with_least_at_hand_first() {
    let mut pool = quiet(1, 4);
    pool.nodes[1].held = 3;
    pool.nodes[2].idle_ms = 900_000;
    let mut scaler = Scaler::settled(policy(&["n=1..9@1"], None), std::slice::from_ref(&pool));
    for _ in 0..COOL_DOWN_MS / LOOK_MS {
        assert_eq!(drained(&scaler.look(std::slice::from_ref(&pool))), []);
    }
    let effects = scaler.look(std::slice::from_ref(&pool));
    assert_eq!(drained(&effects), ["n2", "n3", "n1"].map(name));
    assert_eq!(decisions(&effects)[0].wanted, 1);
    assert_eq!(decisions(&effects)[0].reason, Reason::Spare);
    // Their machines may go once they are seen to be drained, and are forgotten when they have gone.
    for node in &mut pool.nodes[1..] {
        node.is_draining = true;
    }
    let call = calls(&scaler.look(std::slice::from_ref(&pool))).remove(0);
    assert_eq!(call.drained, ["n1", "n2", "n3"].map(name));
    assert_eq!((call.wanted, call.ready), (1, 1));
    pool.nodes.truncate(1);
    let effects = scaler.look(std::slice::from_ref(&pool));
    assert_eq!(undrained(&effects), ["n1", "n2", "n3"].map(name));
    assert_eq!(calls(&effects)[0].drained, []);
}

#[test]
fn one_busy_look_within_the_cool_down_keeps_all() {
    let pool = quiet(1, 3);
    let mut scaler = Scaler::settled(policy(&["n=1..9@1"], None), std::slice::from_ref(&pool));
    for look in 0..200 {
        let working = if look % 50 == 0 { 3 } else { 1 };
        assert_eq!(drained(&scaler.look(&[quiet(working, 3)])), []);
    }
}

#[test]
fn drained_nodes_that_are_still_there_come_back_before_new_ones_are_asked_for() {
    let mut pool = quiet(0, 3);
    let mut scaler = Scaler::settled(
        policy(&["n=1..9@1"], Some("3")),
        std::slice::from_ref(&pool),
    );
    while drained(&scaler.look(std::slice::from_ref(&pool))).is_empty() {}
    for node in &mut pool.nodes[..2] {
        node.is_draining = true;
    }
    let mut crowd = crowded(0, Tier::Studio, 9, 900.0);
    crowd.nodes = pool.nodes.clone();
    crowd.wait_s[Tier::Studio as usize] = Some(900.0);
    let mut back = Vec::new();
    while back.is_empty() {
        let effects = scaler.look(std::slice::from_ref(&crowd));
        back = undrained(&effects);
        let wanted = decisions(&effects)[0].wanted;
        assert_eq!(wanted, 1 + back.len() as u32);
    }
    assert_eq!(back, ["n0", "n1"].map(name));
}

#[test]
fn a_node_that_the_provider_was_told_of_does_not_come_back() {
    let mut pool = quiet(0, 3);
    let policy = policy(&["n=1..9@1"], None);
    let mut scaler = Scaler::settled(policy, std::slice::from_ref(&pool));
    while drained(&scaler.look(std::slice::from_ref(&pool))).is_empty() {}
    for node in &mut pool.nodes[..2] {
        node.is_draining = true;
    }
    let call = calls(&scaler.look(std::slice::from_ref(&pool))).remove(0);
    assert_eq!(call.drained, ["n0", "n1"].map(name));
    scaler.state.tells(&call, scaler.now);
    let mut crowd = crowded(0, Tier::Studio, 9, 900.0);
    crowd.nodes = pool.nodes.clone();
    crowd.wait_s[Tier::Studio as usize] = Some(900.0);
    for _ in 0..9 {
        let effects = scaler.look(std::slice::from_ref(&crowd));
        assert_eq!(undrained(&effects), []);
    }
    assert_eq!(scaler.decide(&crowd).wanted, 9, "others are asked for");
    // Nor when its link breaks before its machine goes. One that is away for longer has gone, and another of its name begins anew.
    let mut away = crowd.clone();
    away.nodes.drain(..2);
    assert_eq!(undrained(&scaler.look(std::slice::from_ref(&away))), []);
    assert_eq!(undrained(&scaler.look(std::slice::from_ref(&crowd))), []);
    // A machine of its name that has begun since is another one.
    let mut another = crowd.clone();
    another.nodes[0].generation = Generation::new(2);
    let begun = undrained(&scaler.look(std::slice::from_ref(&another)));
    assert_eq!(begun, [name("n0")]);
    scaler.look(std::slice::from_ref(&away));
    scaler.now = scaler.now.plus_ms(AUTOSCALE_GONE_MS);
    let gone = undrained(&scaler.look(std::slice::from_ref(&away)));
    assert_eq!(gone, [name("n1")]);
}

#[test]
fn a_node_that_an_operator_drains_is_kept_whoever_drained_it_before() {
    let mut pool = quiet(3, 3);
    let mut scaler = Scaler::settled(policy(&["n=0..2@1"], None), std::slice::from_ref(&pool));
    assert_eq!(
        drained(&scaler.look(std::slice::from_ref(&pool))),
        [name("n0")]
    );
    pool.nodes[0] = PoolNode {
        is_draining: true,
        is_operators: true,
        ..idle("n0")
    };
    for _ in 0..9 {
        let effects = scaler.look(std::slice::from_ref(&pool));
        let named = calls(&effects).into_iter().flat_map(|call| call.drained);
        assert_eq!(named.collect::<Vec<_>>(), []);
        assert_eq!(undrained(&effects), []);
    }
}

#[test]
fn nodes_beyond_the_maximum_end_their_jobs_and_go() {
    let mut scaler = Scaler::settled(policy(&["n=0..2@1"], None), &[quiet(3, 4)]);
    let effects = scaler.look(&[quiet(3, 4)]);
    assert_eq!(drained(&effects), ["n3", "n0"].map(name));
    let decision = decisions(&effects).remove(0);
    assert_eq!((decision.wanted, decision.reason), (2, Reason::Maximum));
    // One of them works still: its machine may not go.
    let mut pool = quiet(3, 4);
    pool.nodes[0].is_draining = true;
    pool.nodes[3].is_draining = true;
    let call = calls(&scaler.look(&[pool])).remove(0);
    assert_eq!(call.drained, [name("n3")]);
}

#[test]
fn what_an_operator_drains_is_no_business_of_the_provider() {
    let mut pool = quiet(1, 2);
    pool.nodes[1].is_draining = true;
    let mut scaler = Scaler::settled(policy(&["n=0..9@1"], None), std::slice::from_ref(&pool));
    let call = calls(&scaler.look(std::slice::from_ref(&pool))).remove(0);
    assert_eq!((call.wanted, call.ready, call.drained), (1, 1, vec![]));
}

#[test]
fn nodes_that_do_not_come_are_asked_for_again_and_given_up_when_nobody_needs_them() {
    let crowd = crowded(1, Tier::Studio, 9, 900.0);
    let mut scaler = Scaler::settled(policy(&["n=0..9@1"], None), std::slice::from_ref(&crowd));
    let mut told = Vec::new();
    for _ in 0..30 {
        told.extend(calls(&scaler.look(std::slice::from_ref(&crowd))));
    }
    let wanted: Vec<u32> = told.iter().map(|call| call.wanted).collect();
    assert_eq!(wanted, [1, 5, 9, 9, 9]);
    let mut last = 9;
    for _ in 0..200 {
        let effects = scaler.look(&[quiet(1, 1)]);
        assert_eq!(drained(&effects), []);
        last = decisions(&effects)[0].wanted;
    }
    assert_eq!(last, 1);
}

#[test]
fn a_dry_run_keeps_to_what_it_would_have_done() {
    let pool = quiet(1, 4);
    let mut scaler = Scaler::settled(policy(&["n=1..9@1"], None), std::slice::from_ref(&pool));
    scaler.state = State::new(policy(&["n=1..9@1"], None), false);
    let wanted: Vec<u32> = (0..200).map(|_| scaler.decide(&pool).wanted).collect();
    assert_eq!(wanted.last(), Some(&1));
    assert!(wanted.is_sorted_by(|a, b| a >= b), "{wanted:?}");
}
