//! Goal: each module of the keyframe stage alone equals its counterpart in diffusers and transformers.
//! Method: random models in which every parameter is random, random inputs, outputs of the live oracle. All in fp32; H is
//! never W, two items in a batch.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use flowai_model::config::TimestepSpacing;
use flowai_model::config::stable_diffusion::{Prediction, SpecialToken, StableDiffusionConfig};
use flowai_svd::keyframe::sampler::{KeyframeSampler, steps_max};
use flowai_svd::keyframe::{
    KeyframeDecoder, SamplerKind, TextEncoder, Tokenizer, Transformer2d, TransformerBlock, Unet2d,
};
use flowai_svd::nn::{AttentionBlock, CrossAttention, ResnetBlock2D, from_maps, to_maps};
use flowai_svd::params::Scope;
use serde_json::{Value, json};
use support::comparison::Comparison;
use support::inputs::values;
use support::keyframe::{self, KeyframeModel, PROMPT, params};
use support::oracle;
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-5;
const BATCH: i64 = 2;
/// Tokens of a text.
const LENGTH: i64 = 77;

/// Texts in which tokenizers differ: spaces, capitals whose small letters are others, composed and decomposed letters,
/// digits that are none, scripts without spaces, endings, special tokens in any spelling, and too much.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        PROMPT,
        "  two\t\tspaces\u{a0}and\u{2003}\u{85}\u{feff}\u{200b}\u{180e}others\r\n",
        "CAPITALS, İstanbul, STRASSE, ẞ, ΟΔΥΣΣΕΥΣ, Ǆ, \u{130}",
        "é e\u{301} Å Å \u{1e9b}\u{323} 한 한 q\u{307}\u{323}",
        "1 23 ½ ² Ⅷ ٣ 四 \u{1d7d9}",
        "浮世絵の猫 กขค हिन्दी emoji 👩‍🚀🏽 ❤️",
        "it's we're they'd i'm you'll o've don't 's 'T",
        "<|startoftext|>a<|endoftext|> <|EndOfText|> b<|endoftext|>c < | > <|>",
        "hello! world!! a! !a",
        "punctuation... (like:1.2), [this]; and—that_one #tag @me \"quoted\" 100%",
        "\u{0}\u{1b}[31mcontrol\u{7f}\u{fffd}",
        "of the being in eating at water of",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.push("word ".repeat(15));
    texts.push("eating of the water ".repeat(200));
    texts.push("é".repeat(5000));
    // Just fits, and just does not.
    texts.push("! ".repeat(75));
    texts.push("! ".repeat(76));
    texts
}

#[test]
fn tokens() {
    let normalized = |content: &str| SpecialToken {
        normalized: true,
        ..SpecialToken::plain(content)
    };
    let mut first = keyframe::dummy();
    // As in the folders of Stable Diffusion 1.5.
    first.tokenizer.bos_token = normalized("<|startoftext|>");
    first.tokenizer.eos_token = normalized("<|endoftext|>");
    first.tokenizer.unk_token = normalized("<|endoftext|>");
    for config in [keyframe::dummy(), first, keyframe::second_generation()] {
        let model = KeyframeModel::write(&config, 30);
        assert_eq!(model.config(), &config);
        let tokenizer = Tokenizer::new(&config.tokenizer).unwrap();
        let rows: Vec<Tensor> = texts()
            .iter()
            .map(|text| {
                let ids = tokenizer.encode(text).unwrap().ids;
                Tensor::from_slice(&ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>())
            })
            .collect();
        let case = json!({
            "model": model.path(),
            "dtype": "fp32",
            "calls": [{ "name": "tokens", "kind": "tokens", "texts": texts(), "inputs": [] }],
        });
        let expected = oracle::ask("keyframe_modules.py", &case, &[]);
        for ((text, found), i) in texts().iter().zip(&rows).zip(0..) {
            let expected = expected["tokens"].get(i);
            assert_eq!(
                Vec::<i64>::try_from(found).unwrap(),
                Vec::<i64>::try_from(&expected).unwrap(),
                "{:?}",
                text.chars().take(60).collect::<String>()
            );
        }
    }
}

#[test]
fn what_does_not_fit_is_counted() {
    let tokenizer = Tokenizer::new(&keyframe::dummy().tokenizer).unwrap();
    let cut = |text: &str| tokenizer.encode(text).unwrap().cut;
    assert_eq!(cut(""), 0);
    assert_eq!(cut(&"! ".repeat(75)), 0);
    assert_eq!(cut(&"! ".repeat(78)), 3);
}

#[test]
fn text_encoder() {
    for (config, seed) in [
        (keyframe::dummy(), 31),
        (keyframe::first_generation(), 32),
        (keyframe::second_generation(), 33),
    ] {
        let model = KeyframeModel::write(&config, seed);
        let tokenizer = Tokenizer::new(&config.tokenizer).unwrap();
        let params = params(&model.folder.text_encoder);
        let encoder = TextEncoder::load(&params, &config.text_encoder).unwrap();
        let mut comparison = Comparison::of_keyframe(&model);
        for (name, text) in [
            ("empty", String::new()),
            ("short", PROMPT.to_owned()),
            ("long", PROMPT.repeat(9)),
        ] {
            let found = encoder.forward(&tokenizer.encode(&text).unwrap()).unwrap();
            comparison.add(name, "text_encoder", json!({ "texts": [text] }), &[], found);
        }
        comparison.check(TOLERANCE);
    }
}

#[test]
fn vae_decoder() {
    for (config, seed) in [
        (keyframe::dummy(), 34),
        (keyframe::first_generation(), 35),
        (keyframe::second_generation(), 36),
    ] {
        let model = KeyframeModel::write(&config, seed);
        let decoder = KeyframeDecoder::load(&params(&model.folder.vae), &config.vae).unwrap();
        let mut comparison = Comparison::of_keyframe(&model);
        for (height, width) in [(12, 20), (7, 5)] {
            let latents = values("latents", &[BATCH, 4, height, width], seed);
            let found = decoder.forward(&latents).unwrap();
            let name = format!("{height}x{width}");
            comparison.add(&name, "vae_decoder", json!({}), &[&latents], found);
        }
        // Sums of thousands of products of this size: a little more than the tolerance of smaller values.
        comparison.check_beside_exact(TOLERANCE, 3.0);
    }
}

#[test]
fn unet_of_diffusers_own_test() {
    check_unet(&keyframe::dummy(), 37, &[(13, 21), (16, 10)]);
}

#[test]
fn unet_of_the_first_generation() {
    // Odd sizes: the upsampler must give the size of the skip.
    check_unet(&keyframe::first_generation(), 38, &[(12, 20), (13, 7)]);
}

#[test]
fn unet_of_the_second_generation() {
    check_unet(&keyframe::second_generation(), 39, &[(10, 14)]);
}

fn check_unet(config: &StableDiffusionConfig, seed: u64, sizes: &[(i64, i64)]) {
    let model = KeyframeModel::write(config, seed);
    let params = params(&model.folder.unet);
    let unet = Unet2d::load(&params, &config.unet).unwrap();
    let mut comparison = Comparison::of_keyframe(&model);
    let width_of_text = config.unet.cross_attention_dim as i64;
    for &(height, width) in sizes {
        // Euler's timesteps lie between whole ones.
        for timestep in [981.0_f32, 466.2, 0.0] {
            let latents = values("latents", &[BATCH, 4, height, width], seed);
            let text = values("text", &[BATCH, LENGTH, width_of_text], seed);
            let context = unet.context(&text).unwrap();
            let time = unet.time(timestep).unwrap();
            let found = unet.forward(&latents, &time, &context).unwrap();
            comparison.add(
                &format!("{height}x{width} at {timestep}"),
                "unet",
                json!({ "timestep": timestep }),
                &[&latents, &text],
                found,
            );
        }
    }
    comparison.check(TOLERANCE);
}

/// Inputs of one layer, in our layout and in the reference's.
struct Layer {
    path: &'static str,
    /// (B, 1, H, W, C)
    maps: Tensor,
    /// (B, L, D)
    text: Tensor,
}

impl Layer {
    fn new(path: &'static str, channels: i64) -> Self {
        let pictures = values(path, &[BATCH, 1, channels, 6, 10], 40);
        Self {
            path,
            maps: to_maps(&pictures).unwrap(),
            text: values("text", &[BATCH, LENGTH, 32], 40),
        }
    }

    /// Where the module lies below its component.
    fn below(&self) -> &'static str {
        self.path.split_once('.').unwrap().1
    }

    fn pictures(&self) -> Tensor {
        from_maps(&self.maps).unwrap().squeeze_dim(1)
    }

    /// (B, H * W, C)
    fn tokens(maps: &Tensor) -> Tensor {
        maps.squeeze_dim(1).flatten(1, 2)
    }

    fn settings(&self) -> Value {
        json!({ "path": self.path })
    }
}

#[test]
fn single_layers() {
    for (config, seed) in [
        (keyframe::first_generation(), 40),
        (keyframe::second_generation(), 41),
    ] {
        let model = KeyframeModel::write(&config, seed);
        let (unet, vae) = (params(&model.folder.unet), params(&model.folder.vae));
        let mut comparison = Comparison::of_keyframe(&model);
        let c = &mut comparison;
        let groups = config.unet.norm_num_groups;
        let at = |layer: &Layer| -> Scope<'_> { unet.root().at(layer.below()) };

        let layer = Layer::new("unet.down_blocks.1.resnets.0", 32);
        let norms = (groups, config.unet.norm_eps);
        let block = ResnetBlock2D::load_grouped(&at(&layer), 32, 64, true, norms).unwrap();
        let time = values("time", &[BATCH, 128], 40);
        let biases = block.biases(&time.silu()).unwrap();
        let found = block.forward(&layer.maps, Some(&biases)).unwrap();
        let found = from_maps(&found).unwrap().squeeze_dim(1);
        c.add(
            layer.path,
            "resnet_2d",
            layer.settings(),
            &[&layer.pictures(), &time],
            found,
        );

        let layer = Layer::new("unet.down_blocks.1.attentions.0", 64);
        let transformer = Transformer2d::load(&at(&layer), &config.unet, 1).unwrap();
        let context = transformer.context(&layer.text).unwrap();
        let found = from_maps(&transformer.forward(&layer.maps, &context).unwrap()).unwrap();
        c.add(
            layer.path,
            "transformer",
            layer.settings(),
            &[&layer.pictures(), &layer.text],
            found.squeeze_dim(1),
        );

        let heads = config.unet.levels[1].heads;
        let layer = Layer::new("unet.down_blocks.1.attentions.0.transformer_blocks.0", 64);
        let block = TransformerBlock::load(&at(&layer), heads).unwrap();
        let context = block.context(&layer.text).unwrap();
        let found = block.forward(layer.maps.copy(), &context).unwrap();
        let tokens = Layer::tokens(&layer.maps);
        let inputs = [&tokens, &layer.text];
        c.add(
            layer.path,
            "transformer_block",
            layer.settings(),
            &inputs,
            Layer::tokens(&found),
        );

        let layer = Layer::new(
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2",
            64,
        );
        let attention = CrossAttention::load(&at(&layer), heads).unwrap();
        let context = attention.context(&layer.text).unwrap();
        let found = attention.forward(&layer.maps, &context).unwrap();
        let tokens = Layer::tokens(&layer.maps);
        let inputs = [&tokens, &layer.text];
        c.add(
            layer.path,
            "cross_attention",
            layer.settings(),
            &inputs,
            Layer::tokens(&found),
        );

        let layer = Layer::new("vae.decoder.mid_block.attentions.0", 64);
        let groups = config.vae.norm_num_groups;
        let scope = vae.root().at(layer.below());
        let attention = AttentionBlock::load_grouped(&scope, groups).unwrap();
        let found = from_maps(&attention.forward(&layer.maps).unwrap()).unwrap();
        let found = found.squeeze_dim(1);
        c.add(
            layer.path,
            "vae_attention",
            layer.settings(),
            &[&layer.pictures()],
            found,
        );

        comparison.check(TOLERANCE);
    }
}

#[test]
fn samplers() {
    for (prediction, set_alpha_to_one) in [
        (Prediction::Epsilon, false),
        (Prediction::Velocity, true),
        (Prediction::Epsilon, true),
    ] {
        let mut config = keyframe::dummy();
        config.noise_schedule.prediction = prediction;
        config.noise_schedule.set_alpha_to_one = set_alpha_to_one;
        let model = KeyframeModel::write(&config, 42);
        let schedule = &model.config().noise_schedule;
        let mut comparison = Comparison::of_keyframe(&model);
        let latents = values("latents", &[1, 4, 6, 10], 42);
        for kind in [SamplerKind::Ddim, SamplerKind::Euler] {
            for spacing in [
                TimestepSpacing::Leading,
                TimestepSpacing::Linspace,
                TimestepSpacing::Trailing,
            ] {
                for steps in [1, 2, 3, 7, 25, 50] {
                    let sampler = KeyframeSampler::new(schedule, kind, spacing, steps).unwrap();
                    let spec =
                        json!({ "sampler": kind, "timestep_spacing": spacing, "steps": steps });
                    let settings = json!({ "spec": spec });
                    let mut found: Vec<f32> = (0..steps).map(|i| sampler.timestep(i)).collect();
                    found.push(sampler.init_noise_sigma());
                    let name = format!("{kind:?} {spacing:?} {steps}");
                    let found = Tensor::from_slice(&found);
                    comparison.add(
                        &format!("{name}, times"),
                        "schedule",
                        settings.clone(),
                        &[],
                        found,
                    );

                    let shape = [&[steps as i64], latents.size().as_slice()].concat();
                    let predictions = values("predictions", &shape, 42);
                    let rows: Vec<Tensor> = (0..steps)
                        .map(|i| {
                            let scaled = sampler.scale_input(i, &latents).unwrap();
                            let prediction = predictions.get(i as i64);
                            let next = sampler.step(i, &prediction, &latents).unwrap();
                            Tensor::stack(&[scaled, next], 0)
                        })
                        .collect();
                    let found = Tensor::stack(&rows, 0);
                    let inputs = [&latents, &predictions];
                    comparison.add(&name, "samples", settings, &inputs, found);
                }
            }
        }
        comparison.check(TOLERANCE);
    }
}

/// As many steps as there are timesteps, and other numbers at which rounding decides.
#[test]
fn schedules_of_many_steps() {
    let model = KeyframeModel::write(&keyframe::dummy(), 43);
    let schedule = &model.config().noise_schedule;
    let mut comparison = Comparison::of_keyframe(&model);
    for kind in [SamplerKind::Ddim, SamplerKind::Euler] {
        for spacing in [
            TimestepSpacing::Leading,
            TimestepSpacing::Linspace,
            TimestepSpacing::Trailing,
        ] {
            for steps in [16, 33, 64, 333, 500, 501, steps_max(schedule, spacing)] {
                let sampler = KeyframeSampler::new(schedule, kind, spacing, steps).unwrap();
                let mut found: Vec<f32> = (0..steps).map(|i| sampler.timestep(i)).collect();
                found.push(sampler.init_noise_sigma());
                let spec = json!({ "sampler": kind, "timestep_spacing": spacing, "steps": steps });
                comparison.add(
                    &format!("{kind:?} {spacing:?} {steps}"),
                    "schedule",
                    json!({ "spec": spec }),
                    &[],
                    Tensor::from_slice(&found)
                        .to_kind(Kind::Float)
                        .to_device(Device::Cpu),
                );
            }
        }
    }
    comparison.check(TOLERANCE);
}
