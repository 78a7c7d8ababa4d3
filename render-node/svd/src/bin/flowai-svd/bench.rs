//! `flowai-svd bench`: where a clip's time goes, stage by stage, on a device; random weights take as long as trained ones.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use flowai_model::config::ModelConfig;
use flowai_model::safetensors::Dtype as FileDtype;
use flowai_model::{Preset, synthetic};
use flowai_svd::{
    DeviceName, Dtype, Engine, EngineError, Frames, LoadOptions, Picture, PreviewMap, Run, Spec,
};
use serde::Serialize;
use serde_json::json;

use crate::measure::{milliseconds, seconds};
use crate::switch::{Switch, dtype};

const HELP: &str = "\
Prints a table and, as the last line on stderr, all figures as JSON. Switching adapters, on the attention layers alone, comes
last. Compare with `oracle/bench_diffusers.py` on the same model folder, picture and spec: the folder holds all three.";

/// Both numbers that are used with 25 frames: 14 is the most that fits in one convolution, 8 is safe everywhere.
const DECODE_CHUNKS: [u32; 2] = [8, 14];
/// Where a run is interrupted and taken up again: a boundary in the middle of the shortest run.
const RESUMED_AT: usize = 1;

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Bench {
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// fp32, bf16 or fp16 [default: fp16 on a GPU, fp32 on a CPU]
    #[arg(long, value_parser = dtype)]
    dtype: Option<Dtype>,
    /// tiny, middle, full-svd, ..
    #[arg(long, value_name = "NAME", default_value = "full-svd")]
    preset: String,
    /// Folder of the model, random weights; made where there is none (4.5 GB for full-svd on a GPU, and its adapters)
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[arg(long, default_value_t = 25)]
    frames: u32,
    #[arg(long, default_value_t = 1024)]
    width: u32,
    #[arg(long, default_value_t = 576)]
    height: u32,
    /// Steps with guidance that are timed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=100))]
    steps: u32,
    /// Of the CPU kernels; by default libtorch's choice
    #[arg(long)]
    threads: Option<usize>,
}

/// Seconds of wall time; the device has done its work at each end.
#[derive(Serialize)]
struct Figures {
    device: String,
    dtype: Dtype,
    spec: Spec,
    /// From a folder that was read before to weights on the device.
    load_s: f64,
    clip_s: f64,
    vae_encode_s: f64,
    steps_s: Vec<f64>,
    /// Once a model.
    preview_fit_s: f64,
    previews_s: Vec<f64>,
    /// All frames, by the frames that are decoded at a time.
    decode_s: Vec<(u32, f64)>,
    /// Whether a run that was taken up from a checkpoint has the bits of one that was not interrupted.
    is_resumed_bit_equal: bool,
    peak_device_memory_bytes: Option<u64>,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        let class = self.device.class()?;
        let threads = self.threads.unwrap_or(tch::get_num_threads() as usize);
        let dtype = self.dtype.unwrap_or(match self.device {
            DeviceName::Cpu => Dtype::Fp32,
            DeviceName::Cuda(_) => Dtype::Fp16,
        });
        let model = self.dir.join("model");
        self.write_case(&model, dtype, threads)?;
        let options = LoadOptions {
            dtype,
            device: self.device,
            threads: Some(threads),
            identity: None,
        };
        // The first one fills the page cache.
        drop(Engine::load(&model, options.clone())?);
        let started = Instant::now();
        let engine = Engine::load(&model, options)?;
        let load_s = seconds(started.elapsed());
        let figures = self.measure(&engine, class.text(threads), dtype, load_s)?;
        println!("{}", figures.table());
        eprintln!("{}", serde_json::to_string(&figures)?);
        ensure!(
            figures.is_resumed_bit_equal,
            "a run that was taken up again has other bits than one that was not"
        );
        drop(engine);
        Switch::of(self.preset, self.dir.join("adapters"), self.device, dtype).run()
    }

    /// Model, picture and spec, for this program and for others.
    fn write_case(&self, model: &Path, dtype: Dtype, threads: usize) -> Result<()> {
        let config = self.preset.parse::<Preset>()?.config();
        if !model.exists() {
            let stored = match dtype {
                Dtype::Fp32 => FileDtype::F32,
                Dtype::Fp16 => FileDtype::F16,
                Dtype::Bf16 => FileDtype::Bf16,
            };
            synthetic::write_model(model, &config, 0, stored)?;
        }
        let colour = |x, y| image::Rgb([x, y, x ^ y].map(|value: u32| (value * 7 % 256) as u8));
        image::RgbImage::from_fn(self.width, self.height, colour)
            .save(self.dir.join("first.png"))?;
        let mut spec = json!(self.job(&config)?);
        spec["dtype"] = json!(dtype);
        spec["device"] = self.device.to_string().into();
        spec["threads"] = threads.into();
        Ok(std::fs::write(
            self.dir.join("spec.json"),
            spec.to_string(),
        )?)
    }

    fn job(&self, model: &ModelConfig) -> Result<Spec> {
        let job = json!({
            "height": self.height, "width": self.width, "frames": self.frames, "steps": self.steps,
            "decode_chunk_size": self.frames.min(DECODE_CHUNKS[0]),
        });
        let none = serde_json::Map::new();
        Ok(Spec::from_json(job.as_object().unwrap_or(&none), model)?)
    }

    fn measure(
        &self,
        engine: &Engine,
        device: String,
        dtype: Dtype,
        load_s: f64,
    ) -> Result<Figures> {
        let spec = self.job(engine.config())?;
        let picture = Picture::open(&self.dir.join("first.png"))?;
        // Kernels are chosen and memory is reserved in the first pass.
        let warm = Spec {
            steps: 1,
            ..spec.clone()
        };
        engine.start(&engine.prepare(&warm, &picture)?)?.step()?;

        let conditioning = engine.prepare(&spec, &picture)?;
        let started = Instant::now();
        let map = engine.fit_preview()?;
        let preview_fit_s = seconds(started.elapsed());
        let mut run = engine.start(&conditioning)?;
        let (mut steps_s, mut previews_s) = (Vec::new(), Vec::new());
        let mut checkpoint = None;
        while !run.is_finished() {
            steps_s.push(seconds(run.step()?.elapsed));
            previews_s.push(timed_preview(&run, &map)?);
            if run.steps_done() == RESUMED_AT {
                checkpoint = Some(run.checkpoint()?);
            }
        }
        let is_resumed_bit_equal = match checkpoint {
            None => false,
            Some(checkpoint) => {
                let mut resumed = engine.resume(&checkpoint)?;
                while !resumed.is_finished() {
                    resumed.step()?;
                }
                resumed.latents().f_equal(run.latents())?
            }
        };
        drop(run);
        let mut decode_s = Vec::new();
        for chunk in DECODE_CHUNKS
            .into_iter()
            .filter(|&chunk| chunk <= self.frames)
        {
            let short = Spec {
                decode_chunk_size: chunk,
                ..warm.clone()
            };
            let mut run = engine.start(&engine.prepare(&short, &picture)?)?;
            run.step()?;
            decode(&run)?;
            let started = Instant::now();
            decode(&run)?;
            decode_s.push((chunk, seconds(started.elapsed())));
        }
        Ok(Figures {
            device,
            dtype,
            spec,
            load_s,
            clip_s: seconds(conditioning.timings.clip),
            vae_encode_s: seconds(conditioning.timings.vae_encode),
            steps_s,
            preview_fit_s,
            previews_s,
            decode_s,
            is_resumed_bit_equal,
            peak_device_memory_bytes: self.device.peak_memory_bytes()?,
        })
    }
}

fn timed_preview(run: &Run<'_>, map: &PreviewMap) -> Result<f64> {
    let started = Instant::now();
    run.preview(map)?;
    Ok(seconds(started.elapsed()))
}

/// All frames, as 8 bits in this machine's memory.
fn decode(run: &Run<'_>) -> Result<()> {
    Ok(run.decode(|chunk: Frames| -> Result<(), EngineError> { chunk.to_rgb8().map(drop) })?)
}

impl Figures {
    fn table(&self) -> String {
        let Spec {
            frames,
            width,
            height,
            ..
        } = self.spec;
        let mut rows = vec![
            format!(
                "| {} {:?} | {frames} frames of {width}x{height} |",
                self.device, self.dtype
            ),
            "|---|---|".to_owned(),
        ];
        let mut row = |stage: &str, figure: String| rows.push(format!("| {stage} | {figure} |"));
        row("load", format!("{:.2} s", self.load_s));
        row("CLIP", milliseconds(&[self.clip_s]));
        row("VAE encode", milliseconds(&[self.vae_encode_s]));
        row("step with guidance", milliseconds(&self.steps_s));
        row("preview", milliseconds(&self.previews_s));
        row(
            "preview map, once a model",
            milliseconds(&[self.preview_fit_s]),
        );
        for (chunk, decode_s) in &self.decode_s {
            row(
                &format!("decode, {chunk} frames at a time"),
                milliseconds(&[*decode_s]),
            );
        }
        let equal = match self.is_resumed_bit_equal {
            true => "yes",
            false => "NO",
        };
        row("taken up again, equal bits", equal.to_owned());
        if let Some(bytes) = self.peak_device_memory_bytes {
            row(
                "peak memory of the device",
                format!("{:.2} GB", bytes as f64 / 1e9),
            );
        }
        rows.join("\n")
    }
}
