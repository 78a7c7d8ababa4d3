use flowai_actors::messages::{Prefetch, PrefetchStage};

use super::*;

fn hint(job: u128, epoch: u32, model_sha256: Sha256) -> Event {
    Event::Hinted {
        epoch: Epoch::new(epoch),
        next: Box::new(Prefetch {
            job: JobId::from_uuid(uuid::Uuid::from_u128(job)),
            stages: vec![PrefetchStage {
                model: "tiny".parse().unwrap(),
                model_sha256,
                adapters: Vec::new(),
            }],
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

/// It gives no right to work: an assignment is taken as if there had been none.
#[test]
fn a_hint_takes_no_place_in_the_engine() {
    let mut bench = Bench::registered();
    assert_eq!(bench.hear(hint(8, 1, MODEL)), ["prefetch 8"]);
    let effects = bench.hear(Event::Assigned(assign(at(1, 1))));
    assert_eq!(effects, ["assign Accepted", "start 1"]);
}
