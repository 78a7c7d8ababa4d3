use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use flowai_model::adapter::{Adapter, AdapterFormat, ModuleDelta, ModuleTable};
use flowai_model::config::UnetConfig;
use flowai_model::inventory::{self, Component, TensorSpec};
use flowai_model::safetensors::Dtype as FileDtype;
use flowai_model::synthetic::{self, AdapterSpec};
use flowai_model::{Preset, Sha256Digest, Weights};
use flowai_svd::lora::{Fuser, HostAdapter, HostAdapters};
use flowai_svd::params::{Params, Precision};
use flowai_svd::{AdapterSet, DeviceName, Dtype};
use serde::Serialize;
use tch::{Cuda, Device, Tensor};

use crate::measure::{milliseconds, seconds};

/// The projections of all attention layers, which most adapters change.
const TARGETS: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];
/// Of how strong the adapters are.
const WEIGHT: f64 = 0.7;
/// Far beyond any cache.
const COPIED_BYTES: i64 = 256 << 20;
const CACHE_BYTES_MAX: u64 = 1 << 30;

#[derive(Args)]
pub(crate) struct Switch {
    /// Whose layers: tiny, middle, full-svd, ..
    #[arg(long, value_name = "NAME", default_value = "full-svd")]
    preset: String,
    /// Folder of the weights and two adapters, all random; made where there is none (0.8 GB for full-svd in fp32)
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Of both adapters
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Measured rounds, after one that is thrown away
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of the CPU kernels; by default libtorch's choice
    #[arg(long)]
    threads: Option<i32>,
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// fp32, bf16 or fp16
    #[arg(long, default_value = "fp32", value_parser = dtype)]
    dtype: Dtype,
}

/// The last line on stderr. Seconds of wall time, one a round; a bandwidth counts each byte that is read or written.
#[derive(Default, Serialize)]
struct Figures {
    preset: String,
    rank: usize,
    /// Linear layers that the adapters name.
    linears: usize,
    /// Of them, those that change the result.
    fused_modules: usize,
    /// What a switch must move at least: each pristine weight in, each fused one out, the factors in.
    moved_bytes: u64,
    /// From the file to the fused weights.
    load_s: Vec<f64>,
    /// From one fused adapter to another, both in memory.
    switch_s: Vec<f64>,
    /// From a fused adapter to none.
    restore_s: Vec<f64>,
    /// Bytes a second of copying memory, the best of all rounds.
    copy_bytes_per_s: f64,
    /// How long `moved_bytes` take at that.
    bandwidth_s: f64,
}

pub(crate) fn dtype(name: &str) -> std::result::Result<Dtype, String> {
    serde_json::from_value(name.into()).map_err(|_| "must be fp32, bf16 or fp16".to_owned())
}

/// The layers with two adapters for them, as files.
struct Case {
    config: UnetConfig,
    tensors: Vec<TensorSpec>,
    adapters: [(Sha256Digest, PathBuf); 2],
}

impl Switch {
    /// As the command is by default, on a device.
    pub(crate) fn of(preset: String, dir: PathBuf, device: DeviceName, dtype: Dtype) -> Self {
        Self {
            preset,
            dir,
            rank: 16,
            rounds: 5,
            threads: None,
            device,
            dtype,
        }
    }

    pub(crate) fn run(self) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        ensure!(self.rounds > 0, "--rounds must be 1 or more");
        if let Some(threads) = self.threads {
            ensure!(threads > 0, "--threads must be 1 or more");
            tch::set_num_threads(threads);
        }
        let case = self.case()?;
        let figures = self.measure(&case)?;
        println!("{figures}");
        eprintln!("{}", serde_json::to_string(&figures)?);
        Ok(())
    }

    fn case(&self) -> Result<Case> {
        let config = self.preset.parse::<Preset>()?.config().unet;
        let tensors: Vec<TensorSpec> = inventory::unet(&config)
            .into_iter()
            .filter(|tensor| is_attention(&tensor.name))
            .collect();
        if !self.dir.join(Component::Unet.dir()).exists() {
            let (tensors, dtype) = (tensors.clone(), FileDtype::F32);
            synthetic::write_weights(&self.dir, Component::Unet.layout(), tensors, 0, dtype)?;
        }
        let table = ModuleTable::of(&config);
        let adapter = |seed: u64| -> Result<_> {
            let path = self.dir.join(format!("adapter-{seed}.safetensors"));
            let spec = AdapterSpec {
                format: AdapterFormat::Peft,
                targets: TARGETS.map(str::to_owned).to_vec(),
                ranks: vec![self.rank],
                alphas: vec![self.rank as f64],
                use_rslora: false,
                seed,
            };
            synthetic::write_adapter(&path, &table, &spec)?;
            Ok((Sha256Digest::of_file(&path)?, path))
        };
        Ok(Case {
            adapters: [adapter(1)?, adapter(2)?],
            config,
            tensors,
        })
    }

    fn measure(&self, case: &Case) -> Result<Figures> {
        let device = self.device.open()?;
        let precision = Precision {
            device,
            kind: self.dtype.kind(),
            rounded_to: None,
        };
        let weights = Weights::open(&self.dir, Component::Unet.layout(), &case.tensors)?;
        let mut params = Params::load(&weights, precision, |_| true)?;
        let mut fuser = Fuser::on(device, CACHE_BYTES_MAX);
        let mut timed = |adapters: &AdapterSet| -> Result<f64> {
            let started = Instant::now();
            fuser.apply(&mut params, adapters)?;
            synchronize(device);
            Ok(seconds(started.elapsed()))
        };
        let cache = || HostAdapters::new(CACHE_BYTES_MAX, self.device);
        let kept = cache();
        let held = [case.hold(&kept, 0)?, case.hold(&kept, 1)?];
        let [first, second] = [set(&held[0])?, set(&held[1])?];
        let copies = Copies::new(precision)?;

        let adapter = held[0].adapter();
        let mut figures = Figures {
            preset: self.preset.clone(),
            rank: self.rank,
            linears: adapter.modules.len() + adapter.noop_modules.len(),
            fused_modules: adapter.modules.len(),
            moved_bytes: moved_bytes(adapter, self.dtype),
            ..Figures::default()
        };
        for round in 0..=self.rounds {
            let started = Instant::now();
            let read = case.hold(&cache(), 0)?;
            let read_s = seconds(started.elapsed());
            let load_s = read_s + timed(&set(&read)?)?;
            let switches_s = [timed(&second)?, timed(&first)?];
            let restore_s = timed(&AdapterSet::default())?;
            let copied = copies.bytes_per_s(device)?;
            // The first round maps files and makes room.
            if round > 0 {
                figures.load_s.push(load_s);
                figures.switch_s.extend(switches_s);
                figures.restore_s.push(restore_s);
                figures.copy_bytes_per_s = figures.copy_bytes_per_s.max(copied);
            }
        }
        figures.bandwidth_s = figures.moved_bytes as f64 / figures.copy_bytes_per_s;
        Ok(figures)
    }
}

impl Case {
    fn hold(&self, cache: &HostAdapters, index: usize) -> Result<HostAdapter> {
        let (sha256, path) = &self.adapters[index];
        let model = Sha256Digest::of(b"attention layers");
        let table = || ModuleTable::of(&self.config);
        Ok(cache.hold(model, *sha256, path, table)?)
    }
}

fn is_attention(name: &str) -> bool {
    let module = name.strip_suffix(".weight");
    module.is_some_and(|module| {
        TARGETS
            .iter()
            .any(|target| module.ends_with(&format!(".{target}")))
    })
}

fn set(held: &HostAdapter) -> Result<AdapterSet> {
    Ok(AdapterSet::new(vec![(held.adapter().clone(), WEIGHT)])?)
}

fn moved_bytes(adapter: &Adapter, dtype: Dtype) -> u64 {
    let weights = adapter.modules.iter().map(ModuleDelta::weight_shape);
    let elements: usize = weights.map(|shape| shape.iter().product::<usize>()).sum();
    let factors = adapter.modules.iter();
    let factors: usize = factors.map(|d| d.down.data.len() + d.up.data.len()).sum();
    (2 * elements * dtype.kind().elt_size_in_bytes() + factors) as u64
}

/// Two stretches of memory that are copied to see how fast memory is.
struct Copies {
    from: Tensor,
    to: Tensor,
}

impl Copies {
    fn new(precision: Precision) -> Result<Self> {
        let elements = COPIED_BYTES / precision.kind.elt_size_in_bytes() as i64;
        let place = (precision.kind, precision.device);
        Ok(Self {
            from: Tensor::f_zeros([elements], place)?,
            to: Tensor::f_zeros([elements], place)?,
        })
    }

    /// The faster of two copies.
    fn bytes_per_s(&self, device: Device) -> Result<f64> {
        let mut fastest: f64 = 0.0;
        for _ in 0..2 {
            let started = Instant::now();
            self.to.shallow_clone().f_copy_(&self.from)?;
            synchronize(device);
            let taken_s = seconds(started.elapsed());
            fastest = fastest.max(2.0 * COPIED_BYTES as f64 / taken_s);
        }
        Ok(fastest)
    }
}

/// Waits until the device has done what it was told.
fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            preset,
            rank,
            linears,
            fused_modules,
            ..
        } = self;
        writeln!(
            f,
            "{preset}: adapters of rank {rank} for {linears} linear layers, {fused_modules} with effect"
        )?;
        for (name, times_s) in [
            ("load", &self.load_s),
            ("switch", &self.switch_s),
            ("restore", &self.restore_s),
        ] {
            writeln!(f, "  {name:8} {}", milliseconds(times_s))?;
        }
        write!(
            f,
            "  a switch moves {:.2} GB; memory copies {:.1} GB/s, which allows {:.1} ms",
            self.moved_bytes as f64 / 1e9,
            self.copy_bytes_per_s / 1e9,
            1e3 * self.bandwidth_s,
        )
    }
}
