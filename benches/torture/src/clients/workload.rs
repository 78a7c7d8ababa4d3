//! What clients wish for: a function of the seed.

use std::time::Duration;

use flowai_actors::limits::SEED_MAX;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::options::{Engine, Options};

/// The top of the seeds' range, where the stand-in engine's poison begins (`render-node/src/engine/stand_in/poison.rs`).
const POISON_FIRST: u64 = (1 << 53) - 0xBAD;
/// Of ten poisoned jobs so many hang: each takes a node for a minute.
const HANGS_OF_TEN: u32 = 1;
/// A cancel comes so long after the acknowledgement at most: before, during and after the render.
const CANCEL_AFTER_MS_MAX: u64 = 2_500;
const FRAMES: u32 = 16;
const STEPS: u32 = 10;

/// Sixty in a hundred are good, ten of each other class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    Good,
    /// Cancelled midway.
    Cancelled,
    /// Takes down whichever node renders it.
    Poison,
    /// Must be refused.
    Bad,
    /// Sent again with its key, after the answer or at the same time.
    Retried,
}

/// What a poisoned job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Venom {
    Panic,
    Abort,
    Hang,
}

#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) number: usize,
    pub(crate) client: usize,
    pub(crate) class: Class,
    /// After the wish before.
    pub(crate) gap: Duration,
    /// Without the picture, which is the client's own.
    pub(crate) body: Value,
    pub(crate) cancel_after: Option<Duration>,
    /// A retried one is sent twice at the same time, not one after the other.
    pub(crate) is_sent_twice_at_once: bool,
}

pub(crate) fn wishes(options: &Options) -> Vec<Wish> {
    let mut random = StdRng::seed_from_u64(options.seed);
    (0..options.jobs)
        .map(|number| wish(number, options, &mut random))
        .collect()
}

fn wish(number: usize, options: &Options, random: &mut StdRng) -> Wish {
    let class = match random.random_range(0..10) {
        0..6 => Class::Good,
        6 => Class::Cancelled,
        7 if options.engine == Engine::StandIn => Class::Poison,
        7 => Class::Good,
        8 => Class::Bad,
        _ => Class::Retried,
    };
    // Exponential, by inversion: arrivals are a Poisson process.
    let gap = -random.random_range(f64::MIN_POSITIVE..1.0).ln() / options.rate();
    let venom = match random.random_range(0..10) {
        number if number < HANGS_OF_TEN => Venom::Hang,
        number if number % 2 == 0 => Venom::Panic,
        _ => Venom::Abort,
    };
    let seed = match class {
        Class::Poison => POISON_FIRST + venom as u64,
        _ => random.random_range(0..SEED_MAX / 2),
    };
    let mut body = json!({
        "frames": FRAMES, "fps": 8, "width": 64, "height": 48, "steps": STEPS, "seed": seed,
    });
    if class == Class::Bad {
        spoil(&mut body, random);
    }
    let is_cancelled = class == Class::Cancelled
        // Nothing else ends it within the time of a run.
        || (class == Class::Poison && venom == Venom::Hang);
    let after = Duration::from_millis(random.random_range(0..CANCEL_AFTER_MS_MAX));
    Wish {
        number,
        client: random.random_range(0..options.clients),
        class,
        gap: Duration::from_secs_f64(gap),
        body,
        cancel_after: is_cancelled.then_some(after),
        is_sent_twice_at_once: random.random_bool(0.5),
    }
}

/// One field that the api must refuse.
fn spoil(body: &mut Value, random: &mut StdRng) {
    let nobody = "00000000-0000-4000-8000-000000000000";
    let spoilt = [
        ("frames", json!(0)),
        ("frames", json!(1_000)),
        ("width", json!(63)),
        ("steps", json!(-1)),
        ("fps", json!("fast")),
        ("model", json!("no-such-model")),
        ("image", json!(nobody)),
        ("no_such_field", json!(true)),
    ];
    let (name, value) = spoilt[random.random_range(0..spoilt.len())].clone();
    body[name] = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_what_the_stand_in_engine_takes_for_it() {
        use std::fs;

        // The engine links libtorch, which this program does not: its source says the number.
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../render-node/src/engine/stand_in/poison.rs"
        );
        let source = fs::read_to_string(source).unwrap();
        assert!(source.contains("const FIRST: u64 = (1 << 53) - 0xBAD;"));
        assert!(source.contains("[Self::Panic, Self::Abort, Self::Hang]"));
        assert_eq!(POISON_FIRST, (1 << 53) - 0xBAD);
        assert_eq!(
            [Venom::Panic as u64, Venom::Abort as u64, Venom::Hang as u64],
            [0, 1, 2]
        );
    }
}
