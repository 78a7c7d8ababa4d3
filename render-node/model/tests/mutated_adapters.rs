//! Goal: no file of a user makes the gate panic, and what it lets through is a safetensors file to other readers too.
//! Method: mutate good adapters by a seeded generator; whatever passes must read the same in the `safetensors` crate.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use flowai_model::adapter::{Adapter, AdapterFormat, ModuleTable};
use flowai_model::safetensors::{Limits, SafetensorsFile};
use flowai_model::{Preset, synthetic};

const EXECUTIONS: u64 = 40_000;

/// Splitmix64: a failing execution is reproduced by its number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn good_adapters(table: &ModuleTable) -> Vec<Vec<u8>> {
    [
        AdapterFormat::Peft,
        AdapterFormat::DiffusersOld,
        AdapterFormat::Kohya,
    ]
    .into_iter()
    .map(|format| {
        let spec = synthetic::AdapterSpec {
            format,
            targets: vec!["conv_in".into(), "time_embedding.linear_1".into()],
            ranks: vec![1, 2],
            alphas: vec![1.0],
            use_rslora: false,
            seed: 0,
        };
        synthetic::adapter_bytes(table, &spec).unwrap()
    })
    .collect()
}

/// Changes a few bytes, mostly in the header, where the promises are.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    for _ in 0..=random.below(3) {
        let anywhere = random.below(8) == 0;
        let place = random.below(if anywhere {
            bytes.len()
        } else {
            header.min(bytes.len())
        });
        match random.below(6) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place.min(bytes.len()), random.next() as u8),
            2 => bytes.extend_from_slice(&random.next().to_le_bytes()),
            // Digits for digits: shapes and offsets that stay JSON.
            3 if bytes.get(place).is_some_and(u8::is_ascii_digit) => {
                bytes[place] = b'0' + random.below(10) as u8
            }
            4 if !bytes.is_empty() => {
                let from = random.below(bytes.len());
                let piece = bytes[from..(from + random.below(64)).min(bytes.len())].to_vec();
                let place = place.min(bytes.len());
                bytes.splice(place..place, piece);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    // Half of the mutants tell the true length of their header, so that the rest of it is looked at.
    if random.below(2) == 0
        && bytes.len() > 8
        && let Some(end) = bytes.windows(2).rposition(|pair| pair == b"}}")
    {
        let length = (end + 2).saturating_sub(8) as u64;
        bytes[..8].copy_from_slice(&length.to_le_bytes());
    }
}

#[test]
fn mutated_adapters_are_refused_or_read_like_everywhere() {
    let table = ModuleTable::of(&Preset::Dummy.config().unet);
    let good = good_adapters(&table);
    for bytes in &good {
        Adapter::read(bytes.clone().into(), None, &table).unwrap();
    }

    let (mut files, mut adapters) = (0, 0);
    for execution in 0..EXECUTIONS {
        let mut random = Random(execution);
        let mut bytes = good[random.below(good.len())].clone();
        mutate(&mut bytes, &mut random);

        adapters += usize::from(Adapter::read(bytes.clone().into(), None, &table).is_ok());
        let Ok(ours) = SafetensorsFile::parse(bytes.clone().into(), &Limits::ADAPTER) else {
            continue;
        };
        files += 1;
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|error| {
            panic!("execution {execution} passes here, but not there: {error}")
        });
        assert_eq!(ours.tensors.len(), theirs.len(), "execution {execution}");
        for (name, tensor) in &ours.tensors {
            let view = theirs.tensor(name).unwrap();
            assert_eq!(
                (tensor.shape.as_slice(), &tensor.data[..]),
                (view.shape(), view.data()),
                "execution {execution}"
            );
        }
    }
    // A generator whose mutants all fail at once would prove nothing.
    assert!(
        files > EXECUTIONS / 100 && adapters > 0,
        "{files} files and {adapters} adapters passed"
    );
}
