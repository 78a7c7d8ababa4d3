//! Goal: each module alone equals its counterpart in diffusers and transformers, so that a difference has an address.
//! Method: random models in which every parameter is random, random inputs, outputs of the live oracle. All in fp32; H is
//! never W, five frames, two clips in a batch.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use flowai_model::Preset;
use flowai_model::config::ModelConfig;
use flowai_svd::clip::ClipVision;
use flowai_svd::nn::{
    AttentionBlock, ResnetBlock2D, ResnetEps, SpatioTemporalResBlock, TemporalResnetBlock,
    from_maps, to_maps,
};
use flowai_svd::params::Params;
use flowai_svd::sampler::Sampler;
use flowai_svd::unet::{
    Downsample, TemporalTransformerBlock, TransformerBlock, TransformerSpatioTemporal, Unet,
    Upsample,
};
use flowai_svd::vae::{VaeDecoder, VaeEncoder};
use serde_json::json;
use support::comparison::Comparison;
use support::inputs::values;
use support::models::{self, Model};
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-5;
const BATCH: i64 = 2;
const FRAMES: i64 = 5;

#[test]
fn image_encoder() {
    for (config, seed) in [(models::dummy(), 1), (models::four_levels(), 2)] {
        let model = Model::write(&config, seed);
        let params = model.image_encoder_params();
        let encoder = ClipVision::load(&params, &config.image_encoder).unwrap();
        let side = config.image_encoder.image_size as i64;
        let pixels = values("pixels", &[BATCH, 3, side, side], seed);
        let found = encoder.forward(&pixels).unwrap();
        let mut comparison = Comparison::of(&model);
        comparison.add(
            "image embeds",
            "image_encoder",
            json!({}),
            &[&pixels],
            found,
        );
        comparison.check(TOLERANCE);
    }
}

#[test]
fn vae() {
    // One layer a block: the decoder's middle attention is in the file and never runs. Two layers: it runs.
    for (config, seed) in [(models::dummy(), 3), (models::four_levels(), 4)] {
        let model = Model::write(&config, seed);
        let params = model.vae_params();
        let mut comparison = Comparison::of(&model);

        let encoder = VaeEncoder::load(&params, &config.vae).unwrap();
        let pixels = values("pixels", &[BATCH, 3, 24, 40], seed);
        let found = encoder.forward(&pixels).unwrap();
        comparison.add("image latents", "vae_encoder", json!({}), &[&pixels], found);

        let decoder = VaeDecoder::load(&params, &config.vae).unwrap();
        for chunk in [1, 2, 5] {
            let latents = values("latents", &[chunk, 4, 12, 20], seed);
            let found = decoder.forward(&latents).unwrap();
            let name = format!("chunk of {chunk}");
            comparison.add(&name, "vae_decoder", json!({}), &[&latents], found);
        }
        comparison.check(TOLERANCE);
    }
}

/// Frames so large that the decoder takes them one after the other in every place where it does: upsampler, resnets, output.
/// In a million values some are a rounding further apart than in the small ones above.
#[test]
fn vae_decoder_frame_by_frame() {
    let config = Preset::Small.config();
    let model = Model::write(&config, 11);
    let decoder = VaeDecoder::load(&model.vae_params(), &config.vae).unwrap();
    let latents = values("latents", &[2, 4, 48, 64], 11);
    let found = decoder.forward(&latents).unwrap();
    let mut comparison = Comparison::of(&model);
    comparison.add("large frames", "vae_decoder", json!({}), &[&latents], found);
    comparison.check_beside_exact(TOLERANCE, 3.0);
}

/// Away from the edges every channel is one value, so norms magnify the rounding of their statistics up to a thousandfold,
/// the reference's own too.
#[test]
fn vae_encoder_of_one_colour() {
    for (config, seed) in [(models::dummy(), 3), (models::four_levels(), 4)] {
        let model = Model::write(&config, seed);
        let encoder = VaeEncoder::load(&model.vae_params(), &config.vae).unwrap();
        let mut comparison = Comparison::of(&model);
        for (name, grey) in [("black", 0), ("dark", 50), ("grey", 128), ("white", 255)] {
            for (height, width) in [(24, 40), (128, 128)] {
                let level = f64::from(grey) / 255.0 * 2.0 - 1.0;
                let shape = [1, 3, height, width];
                let pixels = Tensor::full(shape, level, (Kind::Float, Device::Cpu));
                let found = encoder.forward(&pixels).unwrap();
                let name = format!("{name}, {height}x{width}");
                comparison.add(&name, "vae_encoder", json!({}), &[&pixels], found);
            }
        }
        comparison.check_beside_exact(TOLERANCE, 3.0);
    }
}

#[test]
fn unet_of_two_levels() {
    // Odd sizes: the upsampler must give the size of the skip.
    check_unet(&models::dummy(), 5, &[(13, 21), (16, 10)]);
}

#[test]
fn unet_of_four_levels() {
    check_unet(&models::four_levels(), 6, &[(20, 12), (12, 20)]);
}

#[test]
fn unet_of_uneven_levels() {
    check_unet(&models::uneven_levels(), 7, &[(10, 14)]);
}

fn check_unet(config: &ModelConfig, seed: u64, sizes: &[(i64, i64)]) {
    let model = Model::write(config, seed);
    let params = model.unet_params();
    let unet = Unet::load(&params, &config.unet).unwrap();
    let mut comparison = Comparison::of(&model);
    for &(height, width) in sizes {
        for timestep in [1.637_77_f32, -0.5] {
            let channels = config.unet.in_channels as i64;
            let sample = values("sample", &[BATCH, FRAMES, channels, height, width], seed);
            let embeds = values("embeds", &[BATCH, 32], seed);
            let ids = Tensor::from_slice(&[6.0_f32, 127.0, 0.02]).view([1, 3]);
            let context = unet.context(&embeds, FRAMES).unwrap();
            let times = unet.times(&[0.0, timestep], &ids).unwrap();
            let found = unet.forward(&sample, &times, 1, &context).unwrap();
            comparison.add(
                &format!("{height}x{width} at {timestep}"),
                "unet",
                json!({ "timestep": timestep }),
                &[&sample, &embeds, &ids.expand([BATCH, 3], false)],
                found,
            );
        }
    }
    comparison.check(TOLERANCE);
}

#[test]
fn unet_with_other_ids_for_each_clip() {
    let config = models::dummy();
    let model = Model::write(&config, 8);
    let params = model.unet_params();
    let unet = Unet::load(&params, &config.unet).unwrap();
    let sample = values("sample", &[BATCH, FRAMES, 8, 6, 10], 8);
    let embeds = values("embeds", &[BATCH, 32], 8);
    let ids = Tensor::from_slice(&[6.0_f32, 127.0, 0.02, 24.0, 30.0, 0.5]).view([2, 3]);
    let context = unet.context(&embeds, FRAMES).unwrap();
    let times = unet.times(&[-1.0, 0.25, 1.0], &ids).unwrap();
    let found = unet.forward(&sample, &times, 1, &context).unwrap();
    let mut comparison = Comparison::of(&model);
    let settings = json!({ "timestep": 0.25 });
    comparison.add(
        "unlike clips",
        "unet",
        settings,
        &[&sample, &embeds, &ids],
        found,
    );
    comparison.check(TOLERANCE);
}

/// Inputs of one layer, in our layout and in the reference's.
struct Layer<'a, 'm> {
    comparison: &'a mut Comparison<'m>,
    params: &'a Params,
    path: &'static str,
    /// (B, F, H, W, C)
    maps: Tensor,
    /// (B, T) before its SiLU.
    time: Tensor,
    /// (B, 32)
    embeds: Tensor,
}

impl<'a, 'm> Layer<'a, 'm> {
    fn new(
        comparison: &'a mut Comparison<'m>,
        params: &'a Params,
        path: &'static str,
        channels: i64,
    ) -> Self {
        let clip = values(path, &[BATCH, FRAMES, channels, 6, 10], 9);
        Self {
            comparison,
            params,
            path,
            maps: to_maps(&clip).unwrap(),
            time: values("time", &[BATCH, 128], 9),
            embeds: values("embeds", &[BATCH, 32], 9),
        }
    }

    fn scope(&self) -> flowai_svd::params::Scope<'a> {
        // Paths in the oracle begin with the component.
        let (_, path) = self.path.split_once('.').unwrap();
        self.params.root().at(path)
    }

    /// (B * F, C, H, W)
    fn pictures(&self) -> Tensor {
        from_maps(&self.maps).unwrap().flatten(0, 1)
    }

    /// (B * F, H * W, C)
    fn tokens(&self) -> Tensor {
        self.maps.flatten(2, 3).flatten(0, 1)
    }

    /// (B * F, T)
    fn time_of_frames(&self) -> Tensor {
        self.time.repeat_interleave_self_int(FRAMES, 0, None)
    }

    /// (B * F, 1, 32)
    fn embeds_of_frames(&self) -> Tensor {
        self.embeds
            .repeat_interleave_self_int(FRAMES, 0, None)
            .unsqueeze(1)
    }

    fn settings(&self) -> serde_json::Value {
        json!({ "path": self.path, "batch": BATCH, "frames": FRAMES })
    }

    fn add(self, kind: &str, inputs: &[&Tensor], found: Tensor) {
        let settings = self.settings();
        self.comparison
            .add(self.path, kind, settings, inputs, found);
    }

    fn resnet_2d(self, in_channels: usize, out_channels: usize, eps: f64) {
        let block =
            ResnetBlock2D::load(&self.scope(), in_channels, out_channels, true, eps).unwrap();
        let biases = block.biases(&self.time.silu()).unwrap();
        let found = block.forward(&self.maps, Some(&biases)).unwrap();
        let found = from_maps(&found).unwrap().flatten(0, 1);
        let (x, time) = (self.pictures(), self.time_of_frames());
        self.add("resnet_2d", &[&x, &time], found);
    }

    fn temporal_resnet(self, eps: f64) {
        let block = TemporalResnetBlock::load(&self.scope(), true, eps).unwrap();
        let biases = block.biases(&self.time.silu()).unwrap();
        let found = block.forward(&self.maps, Some(&biases)).unwrap();
        // (B, C, F, H, W)
        let by_channel = |maps: &Tensor| maps.permute([0, 4, 1, 2, 3]);
        let time = self.time_of_frames().view([BATCH, FRAMES, -1]);
        let x = by_channel(&self.maps);
        self.add("temporal_resnet", &[&x, &time], by_channel(&found));
    }

    fn spatio_temporal_resnet(self, in_channels: usize, out_channels: usize, eps: f64) {
        let block =
            SpatioTemporalResBlock::load_unet(&self.scope(), in_channels, out_channels, eps)
                .unwrap();
        let biases = block.biases(&self.time.silu()).unwrap();
        let found = block
            .forward(self.maps.shallow_clone(), Some(&biases))
            .unwrap();
        let found = from_maps(&found).unwrap().flatten(0, 1);
        let (x, time) = (self.pictures(), self.time_of_frames());
        self.add("spatio_temporal_resnet", &[&x, &time], found);
    }

    fn decoder_resnet(self, in_channels: usize, out_channels: usize) {
        let eps = ResnetEps {
            spatial: 1e-6,
            temporal: 1e-5,
        };
        let block =
            SpatioTemporalResBlock::load_decoder(&self.scope(), in_channels, out_channels, eps)
                .unwrap();
        let found = block.forward(self.maps.shallow_clone(), None).unwrap();
        let found = from_maps(&found).unwrap().flatten(0, 1);
        let x = self.pictures();
        self.add("spatio_temporal_resnet", &[&x], found);
    }

    fn vae_attention(self) {
        let block = AttentionBlock::load(&self.scope()).unwrap();
        let found = from_maps(&block.forward(&self.maps).unwrap()).unwrap();
        let x = self.pictures();
        self.add("vae_attention", &[&x], found.flatten(0, 1));
    }

    fn transformer_block(self, heads: usize) {
        let block = TransformerBlock::load(&self.scope(), heads).unwrap();
        let constant = block.constant(&self.embeds).unwrap();
        let found = block.forward(self.maps.copy(), &constant).unwrap();
        let (x, embeds) = (self.tokens(), self.embeds_of_frames());
        self.add(
            "transformer_block",
            &[&x, &embeds],
            found.flatten(2, 3).flatten(0, 1),
        );
    }

    fn temporal_transformer_block(self, heads: usize) {
        let block = TemporalTransformerBlock::load(&self.scope(), heads).unwrap();
        let constant = block.constant(&self.embeds).unwrap();
        let found = block.forward(self.maps.copy(), &constant).unwrap();
        // One row for each place of each clip: it attends over that place's frames.
        let places = self.maps.size()[2] * self.maps.size()[3];
        let embeds = self
            .embeds
            .repeat_interleave_self_int(places, 0, None)
            .unsqueeze(1);
        let x = self.tokens();
        let found = found.flatten(2, 3).flatten(0, 1);
        self.add("temporal_transformer_block", &[&x, &embeds], found);
    }

    fn transformer(self, channels: usize, heads: usize, layers: usize) {
        let scope = self.scope();
        let transformer = TransformerSpatioTemporal::load(&scope, channels, heads, layers).unwrap();
        let context = transformer.context(&self.embeds, FRAMES).unwrap();
        let found = transformer.forward(&self.maps, &context).unwrap();
        let found = from_maps(&found).unwrap().flatten(0, 1);
        let (x, embeds) = (self.pictures(), self.embeds_of_frames());
        self.add("transformer", &[&x, &embeds], found);
    }

    fn downsampler(self) {
        let found = Downsample::load(&self.scope())
            .unwrap()
            .forward(&self.maps)
            .unwrap();
        let found = from_maps(&found).unwrap().flatten(0, 1);
        let x = self.pictures();
        self.add("downsampler", &[&x], found);
    }

    fn upsampler(self, height: i64, width: i64) {
        let upsample = Upsample::load(&self.scope()).unwrap();
        let found = upsample.forward(&self.maps, height, width).unwrap();
        let found = from_maps(&found).unwrap().flatten(0, 1);
        let mut settings = self.settings();
        settings["size"] = json!([height, width]);
        let x = self.pictures();
        self.comparison
            .add(self.path, "upsampler", settings, &[&x], found);
    }
}

#[test]
fn single_layers() {
    let config = models::uneven_levels();
    let model = Model::write(&config, 9);
    let (unet, vae) = (model.unet_params(), model.vae_params());
    let mut comparison = Comparison::of(&model);
    let c = &mut comparison;

    let level_0 = "unet.down_blocks.0.resnets.0.spatial_res_block";
    Layer::new(c, &unet, level_0, 32).resnet_2d(32, 32, 1e-6);
    let wider = "unet.down_blocks.1.resnets.0.spatial_res_block";
    Layer::new(c, &unet, wider, 32).resnet_2d(32, 64, 1e-5);
    let temporal = "unet.mid_block.resnets.1.temporal_res_block";
    Layer::new(c, &unet, temporal, 64).temporal_resnet(1e-5);
    let up = "unet.up_blocks.1.resnets.0";
    Layer::new(c, &unet, up, 96).spatio_temporal_resnet(96, 32, 1e-6);
    let down = "unet.down_blocks.1.resnets.1";
    Layer::new(c, &unet, down, 64).spatio_temporal_resnet(64, 64, 1e-5);

    let spatial = "unet.up_blocks.1.attentions.0.transformer_blocks.0";
    Layer::new(c, &unet, spatial, 32).transformer_block(4);
    let temporal = "unet.mid_block.attentions.0.temporal_transformer_blocks.1";
    Layer::new(c, &unet, temporal, 64).temporal_transformer_block(16);
    let one_layer = "unet.down_blocks.0.attentions.0";
    Layer::new(c, &unet, one_layer, 32).transformer(32, 4, 1);
    let two_layers = "unet.mid_block.attentions.0";
    Layer::new(c, &unet, two_layers, 64).transformer(64, 16, 2);

    Layer::new(c, &unet, "unet.down_blocks.0.downsamplers.0", 32).downsampler();
    Layer::new(c, &unet, "unet.up_blocks.0.upsamplers.0", 64).upsampler(11, 19);

    Layer::new(c, &vae, "vae.decoder.mid_block.attentions.0", 64).vae_attention();
    Layer::new(c, &vae, "vae.encoder.mid_block.attentions.0", 64).vae_attention();
    Layer::new(c, &vae, "vae.decoder.mid_block.resnets.0", 64).decoder_resnet(64, 64);
    Layer::new(c, &vae, "vae.decoder.up_blocks.1.resnets.0", 64).decoder_resnet(64, 32);
    comparison.check(TOLERANCE);
}

#[test]
fn sampler() {
    let model = Model::write(&models::dummy(), 10);
    let mut comparison = Comparison::of(&model);
    let latents = values("latents", &[1, FRAMES, 4, 6, 10], 10);
    for steps in [1_usize, 2, 3, 25, 50] {
        let sampler = Sampler::new(&model.config().scheduler, steps);
        let times: Vec<f32> = (0..steps).map(|i| sampler.timestep(i)).collect();
        let schedule = [sampler.sigmas(), &times, &[sampler.init_noise_sigma()]].concat();
        comparison.add(
            &format!("schedule of {steps}"),
            "schedule",
            json!({ "steps": steps }),
            &[],
            Tensor::from_slice(&schedule),
        );

        let shape = [&[steps as i64], latents.size().as_slice()].concat();
        let predictions = values("predictions", &shape, 10);
        let rows: Vec<Tensor> = (0..steps)
            .map(|i| {
                let scaled = sampler.scale_input(i, &latents).unwrap();
                let next = sampler
                    .step(i, &predictions.get(i as i64), &latents)
                    .unwrap();
                Tensor::stack(&[scaled, next], 0)
            })
            .collect();
        comparison.add(
            &format!("steps of {steps}"),
            "sampler",
            json!({ "steps": steps }),
            &[&latents, &predictions],
            Tensor::stack(&rows, 0).to_kind(Kind::Float),
        );
    }
    comparison.check(TOLERANCE);
}
