use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use flowai_svd::tensor_file::{self, StoredTensor};
use flowai_svd::{Checkpoint, Engine, EngineError, Picture, Run, Spec};
use tch::Tensor;

use crate::adapter::{self, AdapterArgument};
use crate::files::{check_target, write};
use crate::guesses::Previews;
use crate::measure::{Measurements, cpu_seconds, seconds, since_process_start};
use crate::spec_file::SpecFile;
use crate::stages::Stages;

const HELP: &str = "\
SPEC.json is one object, all fields optional, unknown ones refused. The job: height, width (the model's own size), frames
(the model's own number), steps (25), fps (7), motion_bucket_id (127), noise_aug_strength (0.02), min_guidance_scale (1),
max_guidance_scale (3), decode_chunk_size (all frames), seed (0). The engine: dtype (fp32; or bf16, fp16), device (cpu; or
cuda, cuda:N), threads (of the CPU).

One JSON line on stderr tells the seconds of each stage and the peak memory. Exit code 0: all was written. 1: an error, which
stderr names. 2: arguments that cannot be understood.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Animate {
    /// Model folder in diffusers' layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Picture to start from: PNG, JPEG or WebP
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    image: Option<PathBuf>,
    /// The job and the engine's settings, JSON
    #[arg(long, value_name = "SPEC.json")]
    spec: PathBuf,
    /// Where the frames go: one tensor `frames`, f32, (F, 3, H, W), in 0..1 before any rounding
    #[arg(
        long,
        value_name = "FRAMES.safetensors",
        required_unless_present = "checkpoint_at"
    )]
    out: Option<PathBuf>,
    /// LoRA file with its weight; may be given several times. A file that does not fit the model whole is an error
    #[arg(long = "adapter", value_name = "FILE=WEIGHT")]
    adapters: Vec<AdapterArgument>,
    /// Write a checkpoint when K steps are done. Stop there unless --out is given too
    #[arg(long, value_name = "K", requires = "checkpoint")]
    checkpoint_at: Option<usize>,
    /// Where the checkpoint goes
    #[arg(long, value_name = "FILE", requires = "checkpoint_at")]
    checkpoint: Option<PathBuf>,
    /// Go on from a checkpoint of the same model, adapters, spec and device; the picture is not needed
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Also write image_embeds, image_latents and, after every step of this process, the latents: latents_0, latents_1, ..
    #[arg(long, value_name = "FILE")]
    dump_stages: Option<PathBuf>,
    /// Where the clip goes as it is guessed after every step of this process, for people to look at: preview_0, preview_1, ..,
    /// small frames as those of --out
    #[arg(long, value_name = "FILE")]
    previews: Option<PathBuf>,
}

impl Animate {
    pub(crate) fn run(&self) -> Result<()> {
        // A resumed run looks at no picture.
        let mut measured = Measurements {
            clip_s: Some(0.0),
            vae_encode_s: Some(0.0),
            ..Measurements::default()
        };
        check_target("--out", self.out.as_deref())?;
        check_target("--checkpoint", self.checkpoint.as_deref())?;
        check_target("--dump-stages", self.dump_stages.as_deref())?;
        check_target("--previews", self.previews.as_deref())?;
        let spec_file = SpecFile::read(&self.spec)?;

        let started = Instant::now();
        let mut engine = Engine::load(&self.model, spec_file.options.clone())?;
        measured.load_s = seconds(started.elapsed());
        let spec = spec_file.job(engine.config())?;
        let started = Instant::now();
        let (set, applied) = adapter::read_all(&self.adapters, |file| engine.read_adapter(file))?;
        engine.set_adapters(&set)?;
        measured.adapters = applied;
        measured.adapters_s = seconds(started.elapsed());
        let mut previews = match &self.previews {
            Some(_) => Some(Previews::fit(&engine)?),
            None => None,
        };
        let (loaded, loaded_cpu) = (Instant::now(), cpu_seconds());

        let mut stages = Stages::new(self.dump_stages.is_some());
        let mut run = match &self.resume {
            Some(file) => resume(&engine, &spec, file)?,
            None => self.start(&engine, &spec, &mut measured, &mut stages)?,
        };
        self.check_boundary(&run)?;
        measured.start_to_first_step_s = since_process_start();
        loop {
            if let (Some(k), Some(file)) = (self.checkpoint_at, &self.checkpoint)
                && k == run.steps_done()
            {
                write(file, &run.checkpoint()?.to_bytes()?)?;
                if self.out.is_none() {
                    break;
                }
            }
            if run.is_finished() {
                break;
            }
            let report = run.step()?;
            measured.steps_s.push(seconds(report.elapsed));
            stages.keep(&format!("latents_{}", report.step - 1), run.latents())?;
            if let Some(previews) = &mut previews {
                previews.keep(&run)?;
            }
        }
        if let Some(file) = &self.dump_stages {
            write(file, &stages.to_bytes()?)?;
        }
        if let (Some(file), Some(previews)) = (&self.previews, previews) {
            measured.preview_fit_s = Some(previews.fit_s);
            measured.previews_s = Some(previews.each_s.clone());
            write(file, &previews.to_bytes()?)?;
        }
        if let Some(file) = &self.out {
            let started = Instant::now();
            let frames = decode(&run)?;
            measured.decode_s = seconds(started.elapsed());
            measured.render_s = seconds(loaded.elapsed());
            measured.render_cpu_s = cpu_seconds() - loaded_cpu;
            write(file, &tensor_file::serialize(&[("frames", frames)], None)?)?;
        }
        measured.peak_device_memory_bytes = spec_file.options.device.peak_memory_bytes()?;
        measured.report();
        Ok(())
    }

    /// Errors: a step to write the checkpoint at that this run never reaches.
    fn check_boundary(&self, run: &Run<'_>) -> Result<()> {
        let (done, steps) = (run.steps_done(), run.spec().steps as usize);
        match self.checkpoint_at {
            Some(k) if !(done..=steps).contains(&k) => {
                bail!("--checkpoint-at must be {done}..={steps} (got {k})")
            }
            _ => Ok(()),
        }
    }

    fn start<'a>(
        &self,
        engine: &'a Engine,
        spec: &Spec,
        measured: &mut Measurements,
        stages: &mut Stages,
    ) -> Result<Run<'a>> {
        let Some(file) = &self.image else {
            bail!("--image must be given unless --resume is");
        };
        let picture = Picture::open(file).context("image")?;
        let conditioning = engine.prepare(spec, &picture)?;
        measured.clip_s = Some(seconds(conditioning.timings.clip));
        measured.vae_encode_s = Some(seconds(conditioning.timings.vae_encode));
        stages.keep("image_embeds", &conditioning.image_embeds)?;
        stages.keep("image_latents", &conditioning.image_latents)?;
        Ok(engine.start(&conditioning)?)
    }
}

fn resume<'a>(engine: &'a Engine, spec: &Spec, file: &Path) -> Result<Run<'a>> {
    let resume = || -> Result<Run<'a>> {
        let checkpoint = Checkpoint::from_bytes(fs::read(file)?)?;
        let same_spec = checkpoint.header.require_same_spec(spec);
        same_spec.map_err(EngineError::from)?;
        Ok(engine.resume(&checkpoint)?)
    };
    resume().with_context(|| format!("--resume {}", file.display()))
}

/// All frames of a finished run: (F, 3, H, W).
fn decode(run: &Run<'_>) -> Result<StoredTensor> {
    let (frames, height, width) = (run.spec().frames, run.spec().height, run.spec().width);
    let mut values: Vec<f32> = Vec::with_capacity(3 * (frames * height * width) as usize);
    run.decode(|chunk| -> Result<(), EngineError> {
        values.extend(chunk.to_f32()?);
        Ok(())
    })?;
    let shape = [frames, 3, height, width].map(i64::from);
    let frames = Tensor::f_from_slice(&values)?.f_view(shape)?;
    Ok(StoredTensor::new(&frames)?)
}
