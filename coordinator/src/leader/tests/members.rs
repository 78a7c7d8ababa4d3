//! What operators want of nodes: a node that drains gets nothing, a revoked one is not even heard.

use flowai_store::journal::Unfinished;
use flowai_store::members::{Drain, Standing, Standings};

use super::*;

fn standings(wanted: &[(&str, Drain, bool)]) -> Event {
    let standings = wanted.iter().map(|&(name, drain, is_revoked)| {
        let standing = Standing { drain, is_revoked };
        (node(name), standing)
    });
    Event::MembersRead(standings.collect::<Standings>())
}

fn is_declined(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Decline(_)])
}

#[test]
fn a_drained_node_gets_no_job_from_its_first_word_on() {
    // A new leader reads the rows before it hears any node.
    let mut leader = Leader::new();
    leader.apply(standings(&[("a", Drain::Lazy, false)]));
    let (_, effects) = leader.arrive();
    assert_eq!(changes(&effects), []);
    let effects = leader.register("a", None);
    assert!(welcome(&effects).is_some());
    assert_eq!(changes(&effects), []);
    assert!(renewal(&leader.beat("a", None)).is_some());
    let effects = leader.apply(standings(&[]));
    assert!(matches!(&changes(&effects)[..], [Change::Assign(held)] if held.node == node("a")));
}

#[test]
fn a_draining_node_ends_its_job() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    leader.apply(standings(&[("a", Drain::Lazy, false)]));
    leader.arrive();
    let verdict = renewal(&leader.beat("a", Some(held.at)));
    assert_eq!(verdict, Some(Verdict::GoOn));
    let (_, effects) = leader.end(&held, Told::Stopped { checkpoint: None });
    let of_a = |change: &Change| matches!(change, Change::Assign(held) if held.node == node("a"));
    assert!(!changes(&effects).iter().any(of_a), "{effects:?}");
}

#[test]
fn a_revoked_node_leases_nothing() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    // It stops already, and has not said so yet.
    leader.apply(standings(&[("a", Drain::Now, false)]));
    // What it held goes on elsewhere, and that is nobody's death.
    let effects = leader.apply(standings(&[("a", Drain::Off, true)]));
    assert!(
        matches!(
            &changes(&effects)[..],
            [Change::Requeue { held: taken, outcome: Unfinished::Stopped, .. }] if *taken == held
        ),
        "{effects:?}"
    );
    leader.committed(1);
    assert!(is_declined(&leader.beat("a", Some(held.at))));
    assert!(is_declined(&leader.register("a", Some(held.at))));
    let (_, effects) = leader.end(&held, rendered(&held));
    assert!(is_declined(&effects));
    assert!(is_declined(
        &leader.ask_targets(&held, ready_files(hash(3)))
    ));
    leader.register("b", None);
    leader.now_ms += NODE_LEASE_MS - 1_000;
    leader.beat("b", None);
    leader.now_ms += 1_000;
    let effects = leader.apply(Event::Tick);
    assert_eq!(changes(&effects), []);
    let (_, effects) = leader.arrive();
    let of_a = |change: &Change| matches!(change, Change::Assign(held) if held.node == node("a"));
    assert!(!changes(&effects).iter().any(of_a), "{effects:?}");
}

#[test]
fn an_autoscaler_takes_back_no_drain_of_an_operator() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let wanted = |how| Event::DrainWanted {
        node: node("a"),
        how,
    };
    leader.apply(wanted(Drain::Lazy));
    leader.apply(standings(&[("a", Drain::Now, false)]));
    leader.apply(wanted(Drain::Off));
    let (_, effects) = leader.arrive();
    assert_eq!(changes(&effects), []);
    let effects = leader.apply(standings(&[]));
    assert!(matches!(&changes(&effects)[..], [Change::Assign(_)]));
}
