//! From an assignment to the delivered clip.

use super::*;

#[test]
fn a_node_hears_of_its_job_only_after_the_commit() {
    let mut leader = Leader::new();
    let api = leader.hear_api();
    leader.register("a", None);
    let (_, effects) = leader.arrive();
    assert!(matches!(changes(&effects)[..], [Change::Assign(_)]));
    assert!(!is_dispatched(&effects));
    let effects = leader.committed(1);
    assert!(is_dispatched(&effects));
    let user = leader.user;
    assert!(effects.iter().any(|effect| matches!(
        effect,
        Effect::Hint { to, users } if *to == [api.clone()] && *users == [user]
    )));
}

#[test]
fn a_clip_is_settled_when_its_files_lie_there_and_told_twice_it_is_settled_once() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let (first, effects) = leader.end(&held, rendered(&held));
    assert!(matches!(effects[..], [Effect::Verify(_)]));
    let (second, effects) = leader.end(&held, rendered(&held));
    assert!(effects.is_empty(), "{effects:?}");
    let effects = leader.apply(Event::Verified {
        ended: ended(&held, rendered(&held)),
        result: Ok(()),
    });
    assert!(
        matches!(&changes(&effects)[..], [Change::Settle { held: settled, .. }] if *settled == held)
    );
    assert_eq!(end_answers(&effects), []);
    let settled = [
        (first, EndedAnswer::Settled),
        (second, EndedAnswer::Settled),
    ];
    assert_eq!(end_answers(&leader.committed(1)), settled);
    let (_, effects) = leader.end(&held, rendered(&held));
    assert!(matches!(&effects[..], [Effect::LookBack { held: of, .. }] if *of == held));
}

#[test]
fn a_clip_that_does_not_lie_there_is_tried_again() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    leader.end(&held, rendered(&held));
    let effects = leader.apply(Event::Verified {
        ended: ended(&held, rendered(&held)),
        result: Err(NotDelivered::Missing(
            "clip.mp4 does not lie in the object store".into(),
        )),
    });
    let changes = changes(&effects);
    assert!(
        matches!(
            &changes[..],
            [Change::Requeue {
                outcome: Unfinished::Failed,
                ..
            }]
        ),
        "{changes:?}"
    );
}

#[test]
fn a_clip_that_could_not_be_looked_at_is_told_again_and_not_thrown_away() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let (first, _) = leader.end(&held, rendered(&held));
    let effects = leader.apply(Event::Verified {
        ended: ended(&held, rendered(&held)),
        result: Err(NotDelivered::Unanswered("503".into())),
    });
    assert!(
        matches!(effects[..], [Effect::Decline(reply)] if reply == first),
        "{effects:?}"
    );
    let (_, effects) = leader.end(&held, rendered(&held));
    assert!(matches!(effects[..], [Effect::Verify(_)]), "{effects:?}");
}

#[test]
fn a_clip_that_was_not_announced_is_not_delivered() {
    for (announced, is_delivered) in [(hash(3), true), (hash(4), false)] {
        let mut leader = Leader::new();
        let held = leader.running("a");
        let (first, second) = (ready_files(announced), ready_files(hash(5)));
        assert!(matches!(
            leader.ask_targets(&held, first)[..],
            [Effect::Presign { .. }]
        ));
        // It would be told, while the first lies in the store.
        assert!(is_refused(&leader.ask_targets(&held, second)));
        leader.end(&held, rendered(&held));
        let effects = leader.apply(Event::Verified {
            ended: ended(&held, rendered(&held)),
            result: Ok(()),
        });
        let is_settled = matches!(changes(&effects)[..], [Change::Settle { .. }]);
        assert_eq!(is_settled, is_delivered, "{effects:?}");
    }
}

#[test]
fn a_manifest_of_something_else_delivers_nothing() {
    let mut leader = Leader::new();
    let held = leader.running("a");
    let mut other = held.clone();
    other.at.job = JobId::generate();
    leader.end(&held, rendered(&other));
    let effects = leader.apply(Event::Verified {
        ended: ended(&held, rendered(&other)),
        result: Ok(()),
    });
    assert!(matches!(changes(&effects)[..], [Change::Requeue { .. }]));
}
