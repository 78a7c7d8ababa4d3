//! The program's settings: flags, environment variables of the same name, or files that such a variable names.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use flowai_actors::ids::NodeId;
use flowai_actors::limits::{ADAPTER_BYTES_MAX, STEPS_MAX};
use flowai_actors::program::{SettingError, Source, Value};
use flowai_svd::{DeviceName, Dtype};

/// How long a step of the stand-in engine takes, in ms. For fault tests only, so there is no flag.
const STAND_IN_STEP_MS: &str = "FLOWAI_STAND_IN_STEP_MS";
const STAND_IN_STEP_MS_DEFAULT: u64 = 10;
/// Whether jobs may take the stand-in engine down, `true` or `false`. For fault tests only, so there is no flag.
const STAND_IN_POISON: &str = "FLOWAI_STAND_IN_POISON";

/// Everything that the program must know.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub id: NodeId,
    pub data_dir: PathBuf,
    pub tls_dir: PathBuf,
    /// host:port of each coordinator's link.
    pub coordinators: Vec<String>,
    pub models_dir: PathBuf,
    pub engine: EngineKind,
    pub device: DeviceName,
    pub dtype: Dtype,
    /// Of CPU kernels.
    pub threads: usize,
    pub adapter_bytes: AdapterBytes,
    /// A preview after so many steps each; 0 for none.
    pub preview_steps: u32,
    /// Written once a leader has welcomed the node.
    pub ready_file: Option<PathBuf>,
}

/// How much of adapters each memory of the node keeps. What a job uses stays, whatever the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterBytes {
    /// Factors on a GPU.
    pub device: u64,
    /// Read and checked in the machine's memory, on a GPU's machine page-locked.
    pub host: u64,
    /// Files.
    pub disk: u64,
}

/// Some 75 adapters of rank 16 for all attention layers in 16 bits: a small part of any GPU that holds the model.
const ADAPTER_DEVICE_BYTES_DEFAULT: u64 = 1 << 30;
/// Twice that, because what is here spares reading, hashing and checking a file.
const ADAPTER_HOST_BYTES_DEFAULT: u64 = 2 << 30;
/// Adapters are fetched once and used by many jobs.
const ADAPTER_DISK_BYTES_DEFAULT: u64 = 16 << 30;

const _: () = assert!(ADAPTER_DEVICE_BYTES_DEFAULT <= ADAPTER_HOST_BYTES_DEFAULT);
const _: () = assert!(ADAPTER_HOST_BYTES_DEFAULT <= ADAPTER_DISK_BYTES_DEFAULT);
// Any one adapter has its place.
const _: () = assert!(ADAPTER_BYTES_MAX <= ADAPTER_DEVICE_BYTES_DEFAULT);

/// Which engine renders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    Svd,
    /// For fault tests: renders no model.
    StandIn {
        step: Duration,
        /// Seeds of [`Poison`](crate::engine::Poison) take the process down.
        obeys_poison: bool,
    },
}

/// A setting that cannot be used. The program ends with status 2.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// What clap says: help, version, an unknown flag.
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

/// One FlowAI render node: one process per GPU. It dials the coordinators, takes one job at a time and opens no port.
#[derive(Debug, Parser)]
#[command(name = "flowai-render-node", version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

// Read as text and parsed below, so that a flag, a variable and a file are refused in the same words.
#[derive(Debug, Default, Args)]
struct Flags {
    /// This node's name, a DNS label, as in its certificate [env: FLOWAI_ID]
    #[arg(long)]
    id: Option<String>,
    /// Its own folder: the count of its starts, caches [env: FLOWAI_DATA_DIR]
    #[arg(long)]
    data_dir: Option<String>,
    /// Certificate, key and CA of the link [env: FLOWAI_TLS_DIR]
    #[arg(long)]
    tls_dir: Option<String>,
    /// Link addresses of the coordinators, host:port, comma-separated [env: FLOWAI_COORDINATORS]
    #[arg(long)]
    coordinators: Option<String>,
    /// One folder a model, diffusers layout, read-only [env: FLOWAI_MODELS_DIR]
    #[arg(long)]
    models_dir: Option<String>,
    /// svd, or stand-in for fault tests [env: FLOWAI_ENGINE] [default: svd]
    #[arg(long)]
    engine: Option<String>,
    /// cpu, cuda or cuda:N [env: FLOWAI_DEVICE] [default: cpu]
    #[arg(long)]
    device: Option<String>,
    /// float32, bfloat16 or float16 [env: FLOWAI_DTYPE] [default: float32]
    #[arg(long)]
    dtype: Option<String>,
    /// Threads of CPU kernels [env: FLOWAI_THREADS] [default: all cores]
    #[arg(long)]
    threads: Option<String>,
    /// Bytes of adapters' factors kept on a GPU [env: FLOWAI_ADAPTER_DEVICE_BYTES] [default: 1073741824]
    #[arg(long)]
    adapter_device_bytes: Option<String>,
    /// Bytes of checked adapters kept in memory [env: FLOWAI_ADAPTER_HOST_BYTES] [default: 2147483648]
    #[arg(long)]
    adapter_host_bytes: Option<String>,
    /// Bytes of adapter files kept on disk [env: FLOWAI_ADAPTER_DISK_BYTES] [default: 17179869184]
    #[arg(long)]
    adapter_disk_bytes: Option<String>,
    /// A preview after so many steps each, at most one in two seconds; 0 for none [env: FLOWAI_PREVIEW_STEPS] [default: 1]
    #[arg(long)]
    preview_steps: Option<String>,
    /// Written when ready, as one JSON object [env: FLOWAI_READY_FILE]
    #[arg(long)]
    ready_file: Option<String>,
}

impl Settings {
    /// Reads the command line (with the program's name first) and the environment; a flag wins over both a variable and
    /// the file that `NAME_FILE` names, of which there may be one.
    ///
    /// # Errors
    /// The first setting that is missing or cannot be used, by name.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let matches = Cli::command().try_get_matches_from(args)?;
        let Flags {
            id,
            data_dir,
            tls_dir,
            coordinators,
            models_dir,
            engine,
            device,
            dtype,
            threads,
            adapter_device_bytes,
            adapter_host_bytes,
            adapter_disk_bytes,
            preview_steps,
            ready_file,
        } = Cli::from_arg_matches(&matches)?.flags;
        let source = Source::new(env);
        let bytes = |flag, name, default: u64| {
            source
                .or(flag, name, &default.to_string())?
                .number(0..=u64::MAX)
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            id: source.required(id, "FLOWAI_ID")?.parsed("a DNS label")?,
            data_dir: source.required(data_dir, "FLOWAI_DATA_DIR")?.into(),
            tls_dir: source.required(tls_dir, "FLOWAI_TLS_DIR")?.into(),
            coordinators: source
                .required(coordinators, "FLOWAI_COORDINATORS")?
                .addresses()?,
            models_dir: source.required(models_dir, "FLOWAI_MODELS_DIR")?.into(),
            engine: engine_kind(&source, engine)?,
            device: source
                .or(device, "FLOWAI_DEVICE", "cpu")?
                .parsed("cpu, cuda or cuda:N")?,
            dtype: self::dtype(source.or(dtype, "FLOWAI_DTYPE", "float32")?)?,
            threads: source
                .or(threads, "FLOWAI_THREADS", &cores.to_string())?
                .number(1..=1_024)?,
            adapter_bytes: AdapterBytes {
                device: bytes(
                    adapter_device_bytes,
                    "FLOWAI_ADAPTER_DEVICE_BYTES",
                    ADAPTER_DEVICE_BYTES_DEFAULT,
                )?,
                host: bytes(
                    adapter_host_bytes,
                    "FLOWAI_ADAPTER_HOST_BYTES",
                    ADAPTER_HOST_BYTES_DEFAULT,
                )?,
                disk: bytes(
                    adapter_disk_bytes,
                    "FLOWAI_ADAPTER_DISK_BYTES",
                    ADAPTER_DISK_BYTES_DEFAULT,
                )?,
            },
            preview_steps: source
                .or(preview_steps, "FLOWAI_PREVIEW_STEPS", "1")?
                .number(0..=STEPS_MAX)?,
            ready_file: source
                .optional(ready_file, "FLOWAI_READY_FILE")?
                .map(Value::into),
        })
    }
}

fn dtype(value: Value) -> Result<Dtype, SettingsError> {
    match value.text() {
        "float32" => Ok(Dtype::Fp32),
        "bfloat16" => Ok(Dtype::Bf16),
        "float16" => Ok(Dtype::Fp16),
        _ => Err(value.invalid("float32, bfloat16 or float16").into()),
    }
}

fn engine_kind<E: Fn(&str) -> Option<String>>(
    source: &Source<E>,
    flag: Option<String>,
) -> Result<EngineKind, SettingsError> {
    let value = source.or(flag, "FLOWAI_ENGINE", "svd")?;
    match value.text() {
        "svd" => Ok(EngineKind::Svd),
        "stand-in" => {
            let default = STAND_IN_STEP_MS_DEFAULT.to_string();
            let step_ms = source.or(None, STAND_IN_STEP_MS, &default)?;
            let step = Duration::from_millis(step_ms.number(0..=600_000)?);
            let obeys_poison = source.or(None, STAND_IN_POISON, "false")?;
            Ok(EngineKind::StandIn {
                step,
                obeys_poison: obeys_poison.parsed("true or false")?,
            })
        }
        _ => Err(value.invalid("svd or stand-in").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs;

    const NEEDED: [(&str, &str); 5] = [
        ("FLOWAI_ID", "n1"),
        ("FLOWAI_DATA_DIR", "/data"),
        ("FLOWAI_TLS_DIR", "/tls"),
        ("FLOWAI_COORDINATORS", "127.0.0.1:7600, c2.example:7600"),
        ("FLOWAI_MODELS_DIR", "/models"),
    ];

    fn read(flags: &[&str], env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let env: HashMap<String, String> = NEEDED
            .iter()
            .chain(env)
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let args = std::iter::once("flowai-render-node").chain(flags.iter().copied());
        Settings::read(args.map(OsString::from), |name| env.get(name).cloned())
    }

    #[test]
    fn defaults_are_those_of_the_operations_page() {
        let settings = read(&[], &[]).unwrap();
        assert_eq!(settings.id.as_str(), "n1");
        assert_eq!(settings.coordinators, ["127.0.0.1:7600", "c2.example:7600"]);
        assert_eq!(settings.engine, EngineKind::Svd);
        assert_eq!(settings.device, DeviceName::Cpu);
        assert_eq!(settings.dtype, Dtype::Fp32);
        assert_eq!(
            settings.threads,
            std::thread::available_parallelism().unwrap().get()
        );
        let AdapterBytes { device, host, disk } = settings.adapter_bytes;
        assert_eq!([device, host, disk], [1 << 30, 2 << 30, 16 << 30]);
        assert_eq!(settings.preview_steps, 1);
        assert_eq!(settings.ready_file, None);
    }

    #[test]
    fn a_flag_wins_over_a_variable_or_a_file_of_which_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("threads");
        fs::write(&file, "3\n").unwrap();
        let file = ("FLOWAI_THREADS_FILE", file.to_str().unwrap());
        let variable = ("FLOWAI_THREADS", "2");
        assert_eq!(read(&[], &[file]).unwrap().threads, 3);
        assert_eq!(read(&[], &[variable]).unwrap().threads, 2);
        let both = read(&[], &[file, variable]).unwrap_err().to_string();
        assert!(both.contains("FLOWAI_THREADS is given both"), "{both}");
        let flagged = read(&["--threads", "1"], &[file, variable]);
        assert_eq!(flagged.unwrap().threads, 1);
        let bytes = ("FLOWAI_ADAPTER_HOST_BYTES", "7");
        assert_eq!(read(&[], &[bytes]).unwrap().adapter_bytes.host, 7);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let check = |env: (&str, &str), words: &[&str]| {
            let error = read(&[], &[env]).unwrap_err().to_string();
            assert!(error.contains(env.0), "{error}");
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        };
        for (name, _) in NEEDED {
            check((name, ""), &["is missing"]);
        }
        check(("FLOWAI_ID", "N1"), &["DNS label", "N1"]);
        check(("FLOWAI_COORDINATORS", "c1"), &["host:port", "c1"]);
        check(("FLOWAI_ENGINE", "magic"), &["svd or stand-in", "magic"]);
        check(("FLOWAI_DEVICE", "tpu"), &["cpu, cuda or cuda:N"]);
        check(("FLOWAI_DTYPE", "int8"), &["bfloat16"]);
        check(("FLOWAI_THREADS", "0"), &["1..=1024"]);
        check(("FLOWAI_ADAPTER_DISK_BYTES", "16G"), &["a number", "16G"]);
        check(
            ("FLOWAI_READY_FILE_FILE", "/no/such/file"),
            &["/no/such/file"],
        );
    }

    #[test]
    fn the_stand_in_is_never_the_default() {
        let stand_in = |step_ms| EngineKind::StandIn {
            step: Duration::from_millis(step_ms),
            obeys_poison: false,
        };
        let engine = |env: &[(&str, &str)]| read(&[], env).unwrap().engine;
        let chosen = ("FLOWAI_ENGINE", "stand-in");
        let step = (STAND_IN_STEP_MS, "250");
        assert_eq!(engine(&[step]), EngineKind::Svd);
        assert_eq!(engine(&[chosen]), stand_in(10));
        assert_eq!(engine(&[chosen, step]), stand_in(250));
        let poison = engine(&[chosen, (STAND_IN_POISON, "true")]);
        assert!(matches!(
            poison,
            EngineKind::StandIn {
                obeys_poison: true,
                ..
            }
        ));
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        let error = read(&["--gpu", "1"], &[]).unwrap_err();
        assert!(matches!(error, SettingsError::Usage(_)), "{error}");
    }
}
