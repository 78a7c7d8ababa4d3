//! A first frame that is made from words, from the assignment to the picture that its owner gets.

use flowai_store::journal::Keyframe;

use super::*;

const PICTURE: u8 = 9;

fn spec_of_words() -> RenderSpec {
    let keyframe = KeyframeSpec::small(painter(), "a cat");
    RenderSpec {
        first_frame: FirstFrame::Keyframe(Box::new(keyframe)),
        ..spec()
    }
}

/// `picture`: the hash of the keyframe that its manifest names.
pub(in crate::leader) fn rendered_of_words(held: &Holding, picture: Option<u8>) -> Told {
    let mut told = rendered(held);
    if let Told::Rendered { manifest, .. } = &mut told {
        manifest.spec = spec_of_words();
        manifest.keyframe = picture.map(|content| KeyframeMade {
            model_sha256: hash(6),
            adapters: Vec::new(),
            sha256: hash(content),
            bytes: 10,
            tokens_cut: [0, 0],
        });
    }
    told
}

/// What follows when the files of `outcome` lie in the store.
fn verified(leader: &mut Leader, held: &Holding, outcome: Told) -> Vec<Change> {
    leader.end(held, outcome.clone());
    let effects = leader.apply(Event::Verified {
        ended: ended(held, outcome),
        result: Ok(()),
    });
    changes(&effects)
}

#[test]
fn its_node_is_given_both_models() {
    let mut leader = Leader::new();
    leader.register("a", None);
    let row = JobRow {
        spec: Some(spec_of_words()),
        ..leader.row(JobId::generate(), JobState::Queued, 0)
    };
    leader.read(row);
    let effects = leader.committed(1);
    let models = effects.iter().find_map(|effect| match effect {
        Effect::Dispatch { models, .. } => Some(models),
        _ => None,
    });
    let models = models.unwrap();
    let keyframe = models.keyframe.as_ref().unwrap();
    assert_eq!(models.clip.sha256, hash(2));
    assert_eq!((&keyframe.model, keyframe.sha256), (&painter(), hash(6)));
}

#[test]
fn its_picture_is_announced_with_the_clip_and_becomes_its_owners() {
    let mut leader = Leader::new();
    let held = leader.running_of("a", spec_of_words());
    // Without the picture, and with it for a render that makes none.
    assert!(is_refused(&leader.ask_targets(&held, ready_files(hash(3)))));
    let files = || {
        let mut files = files_of(&spec_of_words(), hash(3));
        files.last_mut().unwrap().sha256 = hash(PICTURE);
        files
    };
    let effects = leader.ask_targets(&held, files());
    assert!(
        matches!(effects[..], [Effect::Presign { .. }]),
        "{effects:?}"
    );
    let changes = verified(&mut leader, &held, rendered_of_words(&held, Some(PICTURE)));
    let [Change::Settle { artefact, .. }] = &changes[..] else {
        panic!("{changes:?}")
    };
    let expected = Keyframe {
        sha256: hash(PICTURE),
        bytes: 10,
        size: (64, 48),
    };
    assert_eq!(artefact.keyframe, Some(expected));

    let mut leader = Leader::new();
    let held = leader.running("a");
    assert!(is_refused(&leader.ask_targets(&held, files())));
}

#[test]
fn a_picture_that_was_not_announced_or_not_told_is_not_delivered() {
    for told in [None, Some(PICTURE + 1)] {
        let mut leader = Leader::new();
        let held = leader.running_of("a", spec_of_words());
        let mut files = files_of(&spec_of_words(), hash(3));
        files.last_mut().unwrap().sha256 = hash(PICTURE);
        leader.ask_targets(&held, files);
        let changes = verified(&mut leader, &held, rendered_of_words(&held, told));
        assert!(
            matches!(changes[..], [Change::Requeue { .. }]),
            "{changes:?}"
        );
    }
    // Nor one that nobody asked for.
    let mut leader = Leader::new();
    let held = leader.running("a");
    let changes = verified(&mut leader, &held, rendered_of_words(&held, Some(PICTURE)));
    assert!(
        matches!(changes[..], [Change::Requeue { .. }]),
        "{changes:?}"
    );
}
