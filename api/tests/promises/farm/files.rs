//! Pictures, adapters, models.

use std::io::Cursor;

use flowai_actors::ids::Sha256;
use flowai_actors::messages::{ModelFamily, ModelOffer};
use flowai_actors::spec::SpecLimits;
use flowai_model::adapter::{AdapterFormat, ModuleTable};
use flowai_model::synthetic::{AdapterSpec, adapter_bytes};
use flowai_model::{KeyframePreset, Preset};
use image::{ImageFormat, RgbImage};

/// A PNG of this size.
pub(crate) fn picture(width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 128]));
    let mut bytes = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    bytes
}

/// An adapter that fits `tiny`.
pub(crate) fn adapter(seed: u64) -> Vec<u8> {
    adapter_of(Preset::Tiny, seed)
}

pub(crate) fn adapter_of(preset: Preset, seed: u64) -> Vec<u8> {
    adapter_for(&ModuleTable::of(&preset.config().unet), seed)
}

/// One that fits a tiny keyframe model.
pub(crate) fn painter_adapter(seed: u64) -> Vec<u8> {
    let config = KeyframePreset::Tiny.config();
    let table = ModuleTable::of_stable_diffusion(&config.unet, &config.text_encoder);
    adapter_for(&table, seed)
}

fn adapter_for(table: &ModuleTable, seed: u64) -> Vec<u8> {
    let spec = AdapterSpec {
        format: AdapterFormat::Peft,
        targets: vec!["to_q".to_owned()],
        ranks: vec![2],
        alphas: Vec::new(),
        use_rslora: false,
        seed,
    };
    adapter_bytes(table, &spec).unwrap()
}

/// As a node would offer a tiny model.
pub(crate) fn tiny_offer(id: &str) -> ModelOffer {
    ModelOffer {
        id: id.parse().unwrap(),
        sha256: Sha256::from_bytes([1; 32]),
        family: ModelFamily::Svd,
        unet_config: Preset::Tiny.config().unet.to_json(),
        text_encoder_config: None,
        limits: SpecLimits {
            side_multiple: 8,
            frames_max: 25,
        },
    }
}

/// As a node would offer a tiny keyframe model.
pub(crate) fn painter_offer(id: &str) -> ModelOffer {
    let config = KeyframePreset::Tiny.config();
    ModelOffer {
        family: ModelFamily::Sd,
        unet_config: config.unet.to_json(),
        text_encoder_config: Some(config.text_encoder.to_json()),
        limits: SpecLimits {
            side_multiple: 8,
            frames_max: 1,
        },
        ..tiny_offer(id)
    }
}
