use flowai_actors::limits::{PREVIEW_BYTES_MAX, STEPS_MAX};
use flowai_actors::preview::{PlacePreview, PreviewPlace, PreviewPlaced};

use super::*;

fn ask(leader: &mut Leader, held: &Holding, bytes: u64) -> Vec<Effect> {
    ask_at(leader, held, 1, bytes)
}

fn ask_at(leader: &mut Leader, held: &Holding, step: u32, bytes: u64) -> Vec<Effect> {
    let reply = leader.reply();
    let question = PlacePreview {
        at: held.at,
        node: held.node.clone(),
        generation: held.generation,
        step,
        sha256: hash(4),
        bytes,
    };
    leader.apply(Event::PreviewAsked { reply, question })
}

fn place(leader: &mut Leader, node: &NodeId, held: &Holding, step: u32) -> Vec<Effect> {
    leader.apply(Event::PreviewPlaced {
        node: node.clone(),
        placed: PreviewPlaced { at: held.at, step },
    })
}

/// Steps that are told of, and steps whose pictures go.
fn steps(effects: &[Effect]) -> (Vec<u32>, Vec<u32>) {
    let (mut told, mut gone) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::TellPreview { ready, .. } => told.push(ready.step),
            Effect::DiscardPreview { step, .. } => gone.push(*step),
            _ => {}
        }
    }
    (told, gone)
}

fn is_signed(effects: &[Effect]) -> bool {
    match effects {
        [Effect::PresignPreview { .. }] => true,
        [Effect::Answer(_, Answer::Preview(PreviewPlace::Refused))] => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_holder_may_place_a_preview_and_none_that_is_too_large() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    assert!(is_signed(&ask(&mut leader, &held, PREVIEW_BYTES_MAX)));
    assert!(!is_signed(&ask(&mut leader, &held, PREVIEW_BYTES_MAX + 1)));
    assert!(!is_signed(&ask(&mut leader, &held, 0)));
    for step in [0, STEPS_MAX + 1, u32::MAX] {
        assert!(!is_signed(&ask_at(&mut leader, &held, step, 10)), "{step}");
        let node = held.node.clone();
        assert!(place(&mut leader, &node, &held, step).is_empty());
    }
    let mut stale = held.clone();
    stale.at.attempt = Attempt::new(2);
    assert!(!is_signed(&ask(&mut leader, &stale, 10)));
    let other = Holding {
        node: node("n2"),
        ..held
    };
    assert!(!is_signed(&ask(&mut leader, &other, 10)));
}

#[test]
fn the_newest_preview_is_told_and_the_one_before_it_goes() {
    let mut leader = Leader::new();
    let held = leader.running("n1");
    leader.hear_api();
    let own = held.node.clone();
    assert_eq!(
        steps(&place(&mut leader, &own, &held, 2)),
        (vec![2], vec![])
    );
    assert_eq!(
        steps(&place(&mut leader, &own, &held, 5)),
        (vec![5], vec![2])
    );
    // Late, doubled, or from a node that does not hold the job.
    for (node, step, gone) in [
        (own.clone(), 3, vec![3]),
        (own.clone(), 5, vec![]),
        (node("n2"), 6, vec![]),
    ] {
        assert_eq!(
            steps(&place(&mut leader, &node, &held, step)),
            (vec![], gone)
        );
    }
    // The word that it was placed may be lost.
    assert!(is_signed(&ask_at(&mut leader, &held, 7, 10)));
    let (_, effects) = leader.end(&held, Told::Stopped { checkpoint: None });
    assert_eq!(steps(&effects), (vec![], vec![5, 7]), "{effects:?}");
    // An upload that ended after the attempt: its picture came too late to be thrown away with the others.
    assert_eq!(
        steps(&place(&mut leader, &own, &held, 7)),
        (vec![], vec![7])
    );
}
