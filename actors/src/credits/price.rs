//! What a render costs: a pure function of the book of prices and of what is rendered, known before it is accepted.

use serde::Serialize;

use super::Millicredits;
use crate::limits::{ADAPTERS_MAX, FRAMES_MAX, KEYFRAME_PIXELS_MAX, PIXELS_MAX, STEPS_MAX};
use crate::spec::RenderSpec;

/// A millionth of a milli-credit: the rates' unit, so that only the sum is rounded.
const MICRO: u128 = 1_000_000;

/// Rates by which prices are reckoned. A version never changes once something was sold by it; a change is a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PriceBook {
    /// 1 and up. Kept with each hold.
    pub version: u32,
    /// Of each render, whatever its size: a model is kept ready, files are moved.
    pub render_mc: u64,
    /// Of each adapter, of either stage: it is fetched and fused.
    pub adapter_mc: u64,
    /// Millionths of a milli-credit of each step of each pixel of each frame.
    pub step_pixel_frame_umc: u64,
    /// Millionths of a milli-credit of each pixel of each frame, for encoding and decoding.
    pub pixel_frame_umc: u64,
    /// Millionths of a milli-credit of each step of each pixel of a picture that is made from words.
    pub keyframe_step_pixel_umc: u64,
    /// Percent that a draft costs of what the same render costs otherwise.
    pub draft_percent: u64,
}

impl PriceBook {
    /// 25 frames of 1024x576 in 25 steps, as SVD-XT makes them by default, are about ten credits.
    pub const CURRENT: Self = Self {
        version: 1,
        render_mc: 50,
        adapter_mc: 50,
        step_pixel_frame_umc: 25,
        pixel_frame_umc: 50,
        keyframe_step_pixel_umc: 50,
        draft_percent: 50,
    };

    /// Rounded up once, and at least one milli-credit. A spec beyond the limits saturates at [`Millicredits::MAX`], which
    /// nobody has; none within them comes near it.
    pub fn price(&self, spec: &RenderSpec, rendering: Rendering) -> Price {
        let product = |factors: &[u32], rate: u64| {
            let factors = factors.iter().copied().map(u128::from);
            factors.fold(u128::from(rate), u128::saturating_mul)
        };
        let clip = [spec.frames, spec.width, spec.height];
        let keyframe = spec.keyframe().map_or(0, |keyframe| {
            let steps = [keyframe.width, keyframe.height, keyframe.steps];
            product(&steps, self.keyframe_step_pixel_umc)
        });
        let adapters: usize = spec.stages().map(|(_, adapters)| adapters.len()).sum();
        let sum = [
            u128::from(self.render_mc) * MICRO,
            (u128::from(self.adapter_mc) * MICRO).saturating_mul(adapters as u128),
            product(&clip, self.pixel_frame_umc),
            product(&clip, self.step_pixel_frame_umc).saturating_mul(spec.steps.into()),
            keyframe,
        ]
        .into_iter()
        .fold(0, u128::saturating_add);
        let percent = match rendering {
            Rendering::Full => 100,
            Rendering::Draft => u128::from(self.draft_percent),
        };
        let amount = sum.saturating_mul(percent).div_ceil(100 * MICRO).max(1);
        Price {
            amount: Millicredits::new(u64::try_from(amount).unwrap_or(u64::MAX)),
            book: self.version,
        }
    }

    /// Of the most that can be asked for.
    const fn most_mc(&self) -> u128 {
        let pixels = FRAMES_MAX as u128 * PIXELS_MAX as u128;
        let clip = pixels
            * (self.pixel_frame_umc as u128
                + self.step_pixel_frame_umc as u128 * STEPS_MAX as u128);
        let keyframe =
            KEYFRAME_PIXELS_MAX as u128 * STEPS_MAX as u128 * self.keyframe_step_pixel_umc as u128;
        let adapters = 2 * ADAPTERS_MAX as u128 * self.adapter_mc as u128;
        (clip + keyframe) / MICRO + adapters + self.render_mc as u128 + 1
    }
}

const _: () = assert!(
    PriceBook::CURRENT.most_mc() < Millicredits::MAX.get() as u128 / 1_000_000,
    "a million of the dearest renders are paid without an overflow"
);

/// Whether a render is what was asked for, or a look at what it may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rendering {
    Full,
    Draft,
}

/// What a render costs, and by which book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Price {
    pub amount: Millicredits,
    /// [`PriceBook::version`].
    pub book: u32,
}

impl Price {
    /// By the present prices.
    pub fn of(spec: &RenderSpec, rendering: Rendering) -> Self {
        PriceBook::CURRENT.price(spec, rendering)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Sha256;
    use crate::spec::{AdapterUse, FirstFrame, KeyframeSpec};

    fn spec(frames: u32, (width, height): (u32, u32), steps: u32) -> RenderSpec {
        RenderSpec {
            frames,
            width,
            height,
            steps,
            ..RenderSpec::small("m".parse().unwrap(), Sha256::from_bytes([1; 32]))
        }
    }

    fn full(spec: &RenderSpec) -> u64 {
        Price::of(spec, Rendering::Full).amount.get()
    }

    /// Whoever changes a price makes a new version.
    #[test]
    fn the_prices_of_version_1_stay_as_they_are() {
        let default = spec(25, (1024, 576), 25);
        // 50 + 25 · 589,824 · (50 + 25 · 25) µmc = 50 + 9,953.28
        assert_eq!(full(&default), 10_004);
        assert_eq!(full(&spec(2, (64, 64), 2)), 51);
        let draft = spec(8, (512, 320), 8);
        // (50 + 8 · 163,840 · (50 + 8 · 25) µmc) / 2 = (50 + 327.68) / 2
        let price = Price::of(&draft, Rendering::Draft);
        assert_eq!((price.amount.get(), price.book), (189, 1));

        let adapter = AdapterUse {
            sha256: Sha256::from_bytes([2; 32]),
            weight: 1.0,
        };
        let keyframe = KeyframeSpec {
            width: 512,
            height: 512,
            steps: 20,
            adapters: vec![adapter.clone()],
            ..KeyframeSpec::small("sd".parse().unwrap(), "a cat")
        };
        let words = RenderSpec {
            adapters: vec![adapter],
            first_frame: FirstFrame::Keyframe(Box::new(keyframe)),
            ..default
        };
        // And two adapters, and 512 · 512 · 20 · 50 µmc = 262.144
        assert_eq!(full(&words), 10_366);
    }

    #[test]
    fn more_is_never_cheaper_and_a_draft_never_dearer() {
        let base = spec(8, (512, 320), 8);
        let price = full(&base);
        for more in [
            spec(9, (512, 320), 8),
            spec(8, (576, 320), 8),
            spec(8, (512, 384), 8),
            spec(8, (512, 320), 9),
        ] {
            assert!(full(&more) > price);
            assert!(Price::of(&more, Rendering::Draft).amount.get() < full(&more));
        }
    }

    #[test]
    fn what_no_limit_allows_costs_what_nobody_has() {
        let most = spec(u32::MAX, (u32::MAX, u32::MAX), u32::MAX);
        assert_eq!(full(&most), Millicredits::MAX.get());
        let free = PriceBook {
            render_mc: 0,
            pixel_frame_umc: 0,
            step_pixel_frame_umc: 0,
            ..PriceBook::CURRENT
        };
        let nothing = free.price(&spec(1, (16, 16), 1), Rendering::Full);
        assert_eq!(nothing.amount.get(), 1, "nothing is free by rounding");
    }
}
