use flowai_actors::messages::{Prefetch, PrefetchStage};

use super::*;

fn hint(job: u128, epoch: u32, model_sha256: Sha256) -> Event {
    hint_of(job, epoch, &[("tiny", model_sha256)])
}

fn hint_of(job: u128, epoch: u32, models: &[(&str, Sha256)]) -> Event {
    let stage = |(model, sha256): &(&str, Sha256)| PrefetchStage {
        model: model.parse().unwrap(),
        model_sha256: *sha256,
        adapters: Vec::new(),
    };
    Event::Hinted {
        epoch: Epoch::new(epoch),
        next: Box::new(Prefetch {
            job: JobId::from_uuid(uuid::Uuid::from_u128(job)),
            stages: models.iter().map(stage).collect(),
        }),
    }
}

#[test]
fn a_hint_is_followed_once_and_the_next_one_takes_its_place() {
    let mut bench = Bench::working();
    assert_eq!(bench.hear(hint(8, 1, MODEL)), ["prefetch 8"]);
    assert_eq!(bench.hear(hint(8, 1, MODEL)), none());
    assert_eq!(bench.hear(hint(9, 1, MODEL)), ["prefetch 9"]);
    assert_eq!(bench.hear(hint(8, 1, MODEL)), ["prefetch 8"]);
}

#[test]
fn a_hint_of_an_old_term_or_for_other_files_is_not_followed() {
    let mut bench = Bench::working();
    assert_eq!(bench.hear(hint(8, 0, MODEL)), none());
    assert_eq!(bench.hear(hint(8, 1, Sha256::from_bytes([8; 32]))), none());
    bench.hear(Event::Close);
    assert_eq!(bench.hear(hint(8, 1, MODEL)), none());
}

#[test]
fn a_hint_at_a_job_of_two_models_needs_both() {
    let mut bench = Bench::working();
    let other = Sha256::from_bytes([8; 32]);
    let hint = |words| hint_of(8, 1, &[("words", words), ("tiny", MODEL)]);
    assert_eq!(bench.hear(hint(other)), none());
    assert_eq!(bench.hear(hint(WORDS_MODEL)), ["prefetch 8"]);
}

/// It gives no right to work: an assignment is taken as if there had been none.
#[test]
fn a_hint_takes_no_place_in_the_engine() {
    let mut bench = Bench::registered();
    assert_eq!(bench.hear(hint(8, 1, MODEL)), ["prefetch 8"]);
    let effects = bench.hear(Event::Assigned(assign(at(1, 1))));
    assert_eq!(effects, ["assign Accepted", "start 1"]);
}
