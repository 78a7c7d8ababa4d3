//! Goal: the first frames leave the engine while later ones are still latents, so that they are encoded meanwhile.
//! Method: a finished run, of which the last chunk cannot be decoded; all chunks before it must have come all the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use flowai_model::Preset;
use flowai_svd::{Checkpoint, Dtype, Engine, EngineError, Picture, Spec};
use safetensors::SafeTensors;
use serde_json::json;
use support::inputs;
use support::models::Model;

const FRAMES: usize = 5;
const CHUNK: usize = 2;

/// A run whose steps are done.
fn finished_run(model: &Model, engine: &Engine) -> Checkpoint {
    let picture = Picture::open(&inputs::write_picture(model.scratch(), 60, 40)).unwrap();
    let fields = json!({
        "height": 16, "width": 24, "frames": FRAMES, "steps": 1, "decode_chunk_size": CHUNK,
    });
    let spec = Spec::from_json(fields.as_object().unwrap(), engine.config()).unwrap();
    let mut run = engine
        .start(&engine.prepare(&spec, &picture).unwrap())
        .unwrap();
    run.step().unwrap();
    run.checkpoint().unwrap()
}

/// The finished run with latents that are no numbers from frame `first` on.
fn with_broken_latents(checkpoint: &Checkpoint, first: usize) -> Checkpoint {
    let mut bytes = checkpoint.to_bytes().unwrap();
    let (start, end) = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let latents = tensors.tensor("latents").unwrap();
        assert_eq!(latents.shape()[..2], [1, FRAMES]);
        let start = latents.data().as_ptr() as usize - bytes.as_ptr() as usize;
        let frame = latents.data().len() / FRAMES;
        (start + first * frame, start + FRAMES * frame)
    };
    for number in bytes[start..end].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    Checkpoint::from_bytes(bytes).unwrap()
}

#[test]
fn before_later_chunks_are_decoded() {
    let model = Model::write(&Preset::Tiny.config(), 81);
    let engine = model.engine(Dtype::Fp32);
    let finished = finished_run(&model, &engine);

    for (broken_from, expected) in [
        (0, vec![]),
        (CHUNK, vec![(0, 2)]),
        (2 * CHUNK, vec![(0, 2), (2, 2)]),
    ] {
        let run = engine
            .resume(&with_broken_latents(&finished, broken_from))
            .unwrap();
        let mut chunks = Vec::new();
        let decoded = run.decode(|frames| -> Result<(), EngineError> {
            chunks.push((frames.first, frames.count()));
            Ok(())
        });
        assert!(
            matches!(decoded, Err(EngineError::NotFinite { .. })),
            "{decoded:?}"
        );
        assert_eq!(chunks, expected, "broken from frame {broken_from}");
    }
}

/// Whoever cannot take a frame, because the encoder stopped, does not pay for the rest.
#[test]
fn and_stop_when_the_taker_does() {
    let model = Model::write(&Preset::Tiny.config(), 82);
    let engine = model.engine(Dtype::Fp32);
    let finished = finished_run(&model, &engine);
    let run = engine
        .resume(&with_broken_latents(&finished, CHUNK))
        .unwrap();

    #[derive(Debug, PartialEq)]
    struct EncoderStopped;
    impl From<EngineError> for EncoderStopped {
        fn from(error: EngineError) -> Self {
            panic!("decoded on: {error}")
        }
    }
    assert_eq!(run.decode(|_| Err(EncoderStopped)), Err(EncoderStopped));
}
