//! Goal: numbers that are not finite end a job by name; no clip is made of them, which would look like one that succeeded.
//! Method: models in folders with one broken weight, in the UNet or in the VAE's decoder, of a clip and of a keyframe.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;

use flowai_model::{KeyframePreset, Preset};
use flowai_svd::{Dtype, EngineError, Frames, KeyframeSpec, Picture, Spec};
use safetensors::SafeTensors;
use serde_json::json;
use support::inputs;
use support::keyframe::{KeyframeModel, prompt};
use support::models::Model;

const STEPS: usize = 2;
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// What becomes of a clip when the first number of a weight is `value`, and how many chunks were handed out.
fn render(file: &str, weight: &str, value: f32) -> (Result<(), EngineError>, usize) {
    let model = Model::write(&Preset::Tiny.config(), 80);
    write_number(&model.path().join(file), weight, value);
    let engine = model.engine(Dtype::Fp32);
    let picture = Picture::open(&inputs::write_picture(model.scratch(), 60, 40)).unwrap();
    let fields = json!({
        "height": 16, "width": 24, "frames": 2, "steps": STEPS, "decode_chunk_size": 1,
    });
    let spec = Spec::from_json(fields.as_object().unwrap(), engine.config()).unwrap();
    let conditioning = engine.prepare(&spec, &picture).unwrap();
    let mut chunks = 0;
    let mut render = || {
        let mut run = engine.start(&conditioning)?;
        while !run.is_finished() {
            run.step()?;
        }
        run.decode(|_: Frames| -> Result<(), EngineError> {
            chunks += 1;
            Ok(())
        })
    };
    (render(), chunks)
}

fn write_number(file: &Path, weight: &str, value: f32) {
    let mut bytes = fs::read(file).unwrap();
    let place = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor(weight).unwrap();
        tensor.data().as_ptr() as usize - bytes.as_ptr() as usize
    };
    bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(file, bytes).unwrap();
}

fn check(file: &str, weight: &str, step: usize) {
    let (whole, chunks) = render(file, weight, 0.5);
    assert!(whole.is_ok() && chunks == 2, "{weight}: {whole:?}");
    for value in [f32::NAN, f32::INFINITY] {
        match render(file, weight, value) {
            (Err(EngineError::NotFinite { step: found }), 0) => assert_eq!(found, step, "{weight}"),
            other => panic!("{value} in {weight} must be not finite, got {other:?}"),
        }
    }
}

#[test]
fn in_the_latents_of_a_step() {
    check(UNET, "conv_out.bias", 1);
}

#[test]
fn in_the_decoded_frames() {
    check(VAE, "decoder.time_conv_out.bias", STEPS);
    check(
        VAE,
        "decoder.mid_block.resnets.0.spatial_res_block.conv1.bias",
        STEPS,
    );
}

/// What becomes of a keyframe when the first number of a weight is `value`.
fn render_keyframe(file: &str, weight: &str, value: f32) -> Result<Frames, EngineError> {
    let model = KeyframeModel::write(&KeyframePreset::Tiny.config(), 81);
    write_number(&model.path().join(file), weight, value);
    let keyframer = model.keyframer(Dtype::Fp32);
    let fields = json!({ "height": 16, "width": 24, "steps": STEPS });
    let spec = KeyframeSpec::from_json(fields.as_object().unwrap(), keyframer.config()).unwrap();
    let mut run = keyframer.start(&keyframer.prepare(&spec, &prompt(""))?)?;
    while !run.is_finished() {
        run.step()?;
    }
    run.decode()
}

#[test]
fn of_a_keyframe() {
    let text = "text_encoder/model.safetensors";
    let cases = [
        (UNET, "conv_out.bias", 1),
        (text, "text_model.final_layer_norm.bias", 1),
        (VAE, "decoder.conv_out.bias", STEPS),
        (VAE, "post_quant_conv.bias", STEPS),
    ];
    for (file, weight, step) in cases {
        assert!(render_keyframe(file, weight, 0.5).is_ok(), "{weight}");
        for value in [f32::NAN, f32::INFINITY] {
            match render_keyframe(file, weight, value) {
                Err(EngineError::NotFinite { step: found }) => assert_eq!(found, step, "{weight}"),
                other => panic!("{value} in {weight} must be not finite, got {other:?}"),
            }
        }
    }
}
