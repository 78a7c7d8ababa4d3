use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use flowai_svd::{KeyframeRun, KeyframeSpec, Keyframer, Prompt};
use image::{ImageFormat, RgbImage};

use crate::adapter::{self, AdapterArgument};
use crate::files::{check_target, write};
use crate::measure::{Measurements, cpu_seconds, seconds, since_process_start};
use crate::spec_file::SpecFile;
use crate::stages::Stages;

const HELP: &str = "\
KEYFRAME.json is one object, all fields optional, unknown ones refused. The job: height, width (the model's own size), steps
(50), sampler (ddim; or euler), timestep_spacing (the model's own; or leading, linspace, trailing), guidance_scale (7.5), seed
(0). The engine: dtype (fp32; or bf16, fp16), device (cpu; or cuda, cuda:N), threads (of the CPU).

The picture is what `flowai-svd animate --image` takes. One JSON line on stderr tells the seconds of each stage and the peak
memory. Exit code 0: all was written. 1: an error, which stderr names. 2: arguments that cannot be understood.";

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Keyframe {
    /// Folder of Stable Diffusion 1.x or 2.x in diffusers' layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What the picture shall show
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// What it shall not
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative_prompt: String,
    /// The job and the engine's settings, JSON
    #[arg(long, value_name = "KEYFRAME.json")]
    spec: PathBuf,
    /// Where the picture goes, as PNG
    #[arg(long, value_name = "FRAME.png")]
    out: PathBuf,
    /// LoRA file with its weight; may be given several times. A file that does not fit the model whole is an error
    #[arg(long = "adapter", value_name = "FILE=WEIGHT")]
    adapters: Vec<AdapterArgument>,
    /// Also write text_embeds, negative_embeds, the latents after every step (latents_0, latents_1, ..) and frame, before
    /// rounding
    #[arg(long, value_name = "FILE")]
    dump_stages: Option<PathBuf>,
}

impl Keyframe {
    pub(crate) fn run(&self) -> Result<()> {
        let mut measured = Measurements::default();
        check_target("--out", Some(&self.out))?;
        check_target("--dump-stages", self.dump_stages.as_deref())?;
        let spec_file = SpecFile::read(&self.spec)?;

        let started = Instant::now();
        let mut keyframer = Keyframer::load(&self.model, spec_file.options.clone())?;
        measured.load_s = seconds(started.elapsed());
        let spec = KeyframeSpec::from_json(&spec_file.job, keyframer.config())?;
        let started = Instant::now();
        let read = |file: &std::path::Path| keyframer.read_adapter(file);
        let (set, applied) = adapter::read_all(&self.adapters, read)?;
        keyframer.set_adapters(&set)?;
        measured.adapters = applied;
        measured.adapters_s = seconds(started.elapsed());
        let (loaded, loaded_cpu) = (Instant::now(), cpu_seconds());

        let mut stages = Stages::new(self.dump_stages.is_some());
        let mut run = self.start(&keyframer, &spec, &mut measured, &mut stages)?;
        measured.start_to_first_step_s = since_process_start();
        while !run.is_finished() {
            let report = run.step()?;
            measured.steps_s.push(seconds(report.elapsed));
            stages.keep(&format!("latents_{}", report.step - 1), run.latents())?;
        }
        let started = Instant::now();
        let frame = run.decode()?;
        let png = png(&spec, frame.to_rgb8()?)?;
        measured.decode_s = seconds(started.elapsed());
        measured.render_s = seconds(loaded.elapsed());
        measured.render_cpu_s = cpu_seconds() - loaded_cpu;
        write(&self.out, &png)?;
        if let Some(file) = &self.dump_stages {
            stages.keep("frame", frame.tensor())?;
            write(file, &stages.to_bytes()?)?;
        }
        measured.peak_device_memory_bytes = spec_file.options.device.peak_memory_bytes()?;
        measured.report();
        Ok(())
    }

    fn start<'a>(
        &self,
        keyframer: &'a Keyframer,
        spec: &KeyframeSpec,
        measured: &mut Measurements,
        stages: &mut Stages,
    ) -> Result<KeyframeRun<'a>> {
        let prompt = Prompt {
            text: self.prompt.clone(),
            negative: self.negative_prompt.clone(),
        };
        let conditioning = keyframer.prepare(spec, &prompt)?;
        for (option, cut) in ["--prompt", "--negative-prompt"]
            .iter()
            .zip(conditioning.tokens_cut)
        {
            if cut > 0 {
                eprintln!("warning: {option} is too long: its last {cut} tokens are not read");
            }
        }
        measured.text_s = Some(seconds(conditioning.text));
        stages.keep("text_embeds", &conditioning.text_embeds)?;
        if let Some(negative) = &conditioning.negative_embeds {
            stages.keep("negative_embeds", negative)?;
        }
        Ok(keyframer.start(&conditioning)?)
    }
}

fn png(spec: &KeyframeSpec, rgb: Vec<u8>) -> Result<Vec<u8>> {
    let picture =
        RgbImage::from_raw(spec.width, spec.height, rgb).context("frame of another size")?;
    let mut bytes = Vec::new();
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Png)?;
    Ok(bytes)
}
