//! The rule from (name, shape, seed) to numbers. A change here changes every golden file and the Python twin.

/// Increment of splitmix64's state: 2^64 over the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
/// Mean of the sum of four 16-bit lanes.
const LANES_MEAN: f64 = 131_070.0;
/// Standard deviation of that sum: `sqrt(4 (2^32 - 1) / 12)`, rounded to one decimal.
const LANES_STD: f64 = 37_837.2;

/// The values of the parameter `name`, row-major.
///
/// With n(i) the i-th draw of the name's stream, about N(0, 1):
/// - a norm's scale (one dimension, `.weight`): `1 + 0.2 n`;
/// - a `.bias`: `0.1 n`;
/// - a `.mix_factor`: `n`;
/// - everything else (weights, embeddings): `n / sqrt(fan_in)`, where fan-in is the product of all dimensions but the
///   first, or the only dimension there is.
///
/// Computed in f64 and rounded once to f32.
pub fn tensor(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let (offset, scale) = offset_and_scale(name, shape);
    let elements: usize = shape.iter().product();
    let stream = fnv1a64(name.as_bytes()) ^ seed;
    (0..elements as u64)
        .map(|i| (offset + scale.apply(normal(stream, i))) as f32)
        .collect()
}

/// How a draw is scaled. Kept apart from multiplying by a reciprocal, which rounds differently.
#[derive(Clone, Copy)]
enum Scale {
    Times(f64),
    Over(f64),
}

impl Scale {
    fn apply(self, n: f64) -> f64 {
        match self {
            Self::Times(factor) => factor * n,
            Self::Over(divisor) => n / divisor,
        }
    }
}

fn offset_and_scale(name: &str, shape: &[usize]) -> (f64, Scale) {
    if name.ends_with(".bias") {
        return (0.0, Scale::Times(0.1));
    }
    if name.ends_with(".mix_factor") {
        return (0.0, Scale::Times(1.0));
    }
    match shape {
        [_] if name.ends_with(".weight") => (1.0, Scale::Times(0.2)),
        [width] => (0.0, Scale::Over((*width as f64).sqrt())),
        _ => (
            0.0,
            Scale::Over((shape.iter().skip(1).product::<usize>() as f64).sqrt()),
        ),
    }
}

/// The `i`-th draw of a stream: a sum of four uniform lanes, near enough to N(0, 1) and exact in every language.
fn normal(stream: u64, i: u64) -> f64 {
    let z = splitmix64(stream.wrapping_add(GAMMA.wrapping_mul(i + 1)));
    let sum = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
    (sum as f64 - LANES_MEAN) / LANES_STD
}

/// The output function of splitmix64 (Steele, Lea, Flood 2014).
fn splitmix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_and_stream_are_the_published_ones() {
        assert_eq!(fnv1a64(b"foobar"), 0x8594_4171_f739_67e8);
        // First outputs of splitmix64 from state 1234567.
        let stream: Vec<u64> = (1..=2)
            .map(|i| splitmix64(1_234_567_u64.wrapping_add(GAMMA.wrapping_mul(i))))
            .collect();
        assert_eq!(
            stream,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
        );
    }

    #[test]
    fn draws_have_the_asked_mean_and_deviation() {
        let check = |name: &str, shape: &[usize], mean: f64, deviation: f64| {
            let values = tensor(name, shape, 7);
            let count = values.len() as f64;
            let found = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
            let variance = values
                .iter()
                .map(|&v| (f64::from(v) - found).powi(2))
                .sum::<f64>()
                / count;
            assert!(
                (found - mean).abs() < 0.05 * deviation,
                "{name}: mean {found}"
            );
            assert!(
                (variance.sqrt() / deviation - 1.0).abs() < 0.05,
                "{name}: deviation {}",
                variance.sqrt()
            );
        };
        check("unet.norm1.weight", &[4096], 1.0, 0.2);
        check("unet.conv1.bias", &[4096], 0.0, 0.1);
        check("vae.time_mixer.mix_factor", &[4096], 0.0, 1.0);
        check("unet.conv1.weight", &[64, 16, 3, 3], 0.0, 1.0 / 12.0);
        check(
            "image_encoder.embeddings.class_embedding",
            &[4096],
            0.0,
            1.0 / 64.0,
        );
    }

    #[test]
    fn name_and_seed_choose_the_stream() {
        let shape = [8];
        let a = tensor("a.bias", &shape, 0);
        assert_eq!(a, tensor("a.bias", &shape, 0));
        assert_ne!(a, tensor("b.bias", &shape, 0));
        assert_ne!(a, tensor("a.bias", &shape, 1));
        assert_eq!(a[..4], tensor("a.bias", &[4], 0));
    }
}
