//! `flowai-svd ablate`: what each exact win saves, alone.

mod sites;
mod wins;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use flowai_model::ModelFolder;
use flowai_svd::params::{Params, Precision};
use flowai_svd::unet::Unet;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use self::sites::Sites;
use self::wins::Pair;
use crate::files::{check_target, write};
use crate::measure::{cpu_seconds, median};
use crate::spec_file::SpecFile;

const HELP: &str = "\
Every win is computed in two ways on the same weights and random inputs, at every place of the UNet where it is used: as
diffusers does it, with libtorch's operations, and as the engine does it. The two take turns. Times are of one pass of one clip
through the UNet; a step with guidance has two. CPU seconds count all threads, so they say more than wall time on a busy machine.
The difference is the largest one between the two results, by the largest value.";

/// Rounds that are thrown away.
const WARM_UP: usize = 1;

#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Ablate {
    /// Model folder in diffusers' layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Size, frames and threads, JSON, as of `animate`; fp32 on the CPU
    #[arg(long, value_name = "SPEC.json")]
    spec: PathBuf,
    /// Rounds that count
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Where all figures go as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Milliseconds, each round's.
#[derive(Default, Serialize)]
struct Times {
    wall_ms: Vec<f64>,
    cpu_ms: Vec<f64>,
}

#[derive(Serialize)]
struct Figures {
    win: &'static str,
    places: usize,
    plain: Times,
    ours: Times,
    /// Of the two results, by the largest value.
    difference: f64,
}

#[derive(Serialize)]
struct Report {
    /// One clip through the UNet.
    pass: Times,
    /// Both halves of guidance one after the other, and as one batch.
    halves_apart: Times,
    halves_together: Times,
    wins: Vec<Figures>,
}

impl Ablate {
    pub(crate) fn run(&self) -> Result<()> {
        check_target("--out", self.out.as_deref())?;
        let spec_file = SpecFile::read(&self.spec)?;
        let options = &spec_file.options;
        if options.dtype.kind() != Kind::Float || options.device.open()? != Device::Cpu {
            bail!("ablate measures fp32 on the CPU: leave dtype and device out of the spec");
        }
        if let Some(threads) = options.threads {
            tch::set_num_threads(i32::try_from(threads).context("threads")?);
        }
        let _no_grad = tch::no_grad_guard();
        let folder = ModelFolder::check(&self.model)?;
        let spec = spec_file.job(&folder.config)?;
        let precision = Precision {
            device: Device::Cpu,
            kind: Kind::Float,
            rounded_to: None,
        };
        // All of them: the plain cross-attention reads what the engine leaves out.
        let params = Params::load(&folder.unet, precision, |_| true)?;
        let factor = folder.config.vae_scale_factor() as i64;
        let (rows, columns) = (
            i64::from(spec.height) / factor,
            i64::from(spec.width) / factor,
        );
        let frames = i64::from(spec.frames);
        let sites = Sites::of(&folder.config.unet, rows, columns);
        let wins = wins::all(&params, &sites, frames)?;

        let unet = Unet::load(&params, &folder.config.unet)?;
        let pass = |batch: i64| pass(&unet, &folder, [batch, frames, rows, columns]);
        let (one, both) = (pass(1)?, pass(2)?);
        let mut report = Report {
            pass: Times::default(),
            halves_apart: Times::default(),
            halves_together: Times::default(),
            wins: wins
                .iter()
                .map(|win| Figures {
                    win: win.name,
                    places: win.pairs.len(),
                    plain: Times::default(),
                    ours: Times::default(),
                    difference: 0.0,
                })
                .collect(),
        };
        for round in 0..WARM_UP + self.rounds as usize {
            let mut throw_away = Times::default();
            let mut keep = |times: &mut Times, work: &dyn Fn() -> Result<()>| match round {
                ..WARM_UP => throw_away.of(work),
                _ => times.of(work),
            };
            keep(&mut report.pass, &one)?;
            keep(&mut report.halves_apart, &|| one().and_then(|()| one()))?;
            keep(&mut report.halves_together, &both)?;
            for (win, figures) in wins.iter().zip(&mut report.wins) {
                keep(&mut figures.plain, &|| {
                    each(&win.pairs, |pair| (pair.plain)())
                })?;
                keep(&mut figures.ours, &|| {
                    each(&win.pairs, |pair| (pair.ours)())
                })?;
                if round == 0 {
                    figures.difference = difference(&win.pairs)?;
                }
            }
        }
        report.print();
        if let Some(file) = &self.out {
            write(file, &serde_json::to_vec_pretty(&report)?)?;
        }
        Ok(())
    }
}

/// A pass of `[batch, frames, rows, columns]` latents.
fn pass<'a>(
    unet: &'a Unet,
    folder: &ModelFolder,
    [batch, frames, rows, columns]: [i64; 4],
) -> Result<impl Fn() -> Result<()> + 'a> {
    let options = (Kind::Float, Device::Cpu);
    let config = &folder.config.unet;
    let channels = config.in_channels as i64;
    let sample = Tensor::f_randn([batch, frames, channels, rows, columns], options)?;
    let width = config.levels[0].cross_attention_dim as i64;
    let context = unet.context(&Tensor::f_randn([batch, width], options)?, frames)?;
    let ids = Tensor::f_from_slice(&[6.0, 127.0, 0.02])?
        .f_to_kind(Kind::Float)?
        .f_unsqueeze(0)?;
    let times = unet.times(&[0.5], &ids)?;
    Ok(move || {
        drop(unet.forward(&sample, &times, 0, &context)?);
        Ok(())
    })
}

fn each(pairs: &[Pair], compute: impl Fn(&Pair) -> flowai_svd::Result<Tensor>) -> Result<()> {
    for pair in pairs {
        drop(compute(pair)?);
    }
    Ok(())
}

fn difference(pairs: &[Pair]) -> Result<f64> {
    let mut largest: f64 = 0.0;
    for pair in pairs {
        let (plain, ours) = ((pair.plain)()?, (pair.ours)()?);
        let of = |x: &Tensor| -> Result<f64> { Ok(x.f_abs()?.f_max()?.f_double_value(&[])?) };
        let here = of(&plain.f_sub(&ours.f_view_as(&plain)?)?)? / of(&plain)?;
        ensure!(here.is_finite(), "results are not finite, or all zero");
        largest = largest.max(here);
    }
    Ok(largest)
}

impl Times {
    fn of(&mut self, work: &dyn Fn() -> Result<()>) -> Result<()> {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        work()?;
        self.wall_ms.push(started.elapsed().as_secs_f64() * 1e3);
        self.cpu_ms.push((cpu_seconds() - cpu) * 1e3);
        Ok(())
    }
}

impl Report {
    fn print(&self) {
        let pass = median(&self.pass.cpu_ms);
        println!("| win | places | plain, CPU ms | ours | saved, of a pass | difference |");
        println!("|---|---|---|---|---|---|");
        for figures in &self.wins {
            let (plain, ours) = (median(&figures.plain.cpu_ms), median(&figures.ours.cpu_ms));
            println!(
                "| {} | {} | {plain:.1} | {ours:.1} | {:.1} % | {:.1e} |",
                figures.win,
                figures.places,
                100.0 * (plain - ours) / pass,
                figures.difference,
            );
        }
        println!();
        println!("A pass: {pass:.1} ms of CPU. Both halves of guidance:");
        println!(
            "{:.1} ms one after the other, {:.1} ms together.",
            median(&self.halves_apart.cpu_ms),
            median(&self.halves_together.cpu_ms),
        );
    }
}
