use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, Args as _, Command};
use flowai_actors::credits::Millicredits;
use flowai_actors::program::with_causes;
use flowai_embedded::{External, default_data_dir};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use url::Url;

use super::{CommandError, account};
use crate::exit::Exit;
use crate::farm::{ApiOptions, Engine, Farm, FarmOptions};
use crate::output::Output;
use crate::owner;

/// Start a farm on this machine and keep it running
///
/// Brings its own PostgreSQL, Redis and S3. DATABASE_URL, REDIS_URL and S3_ENDPOINT (with S3_BUCKET, S3_ACCESS_KEY_ID,
/// S3_SECRET_ACCESS_KEY and S3_REGION) each replace one of them. Everything is there again at the next start.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where everything lies [default: /var/lib/flowai for root, else ~/.local/share/flowai]
    #[arg(long, env = "FLOWAI_DATA_DIR")]
    data: Option<PathBuf>,
    /// Where the API listens; port 0 is any free one
    #[arg(long, env = "FLOWAI_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How browsers reach the API, whose origin alone may change anything [default: where it listens]
    #[arg(long, env = "FLOWAI_PUBLIC_URL")]
    public_url: Option<Url>,
    /// A proxy ends TLS in front of the API, so that it may listen on addresses that others reach
    #[arg(long, env = "FLOWAI_TLS_IN_FRONT", requires = "public_url")]
    tls_in_front: bool,
    /// Where /metrics of the API is served, on loopback [default: nowhere]
    #[arg(long, env = "FLOWAI_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// Credits that a new account begins with [default: 1000]
    #[arg(long, env = "FLOWAI_SIGNUP_GIFT")]
    signup_gift: Option<Millicredits>,
    /// Multiplies every rate limit and how many videos of one user may wait, for load tests [default: 1]
    #[arg(long, env = "FLOWAI_RATE_SCALE")]
    rate_scale: Option<u32>,
    /// Render nodes: one a GPU
    #[arg(long, env = "FLOWAI_NODES", default_value_t = 1)]
    nodes: usize,
    /// One leads, the others stand by
    #[arg(long, env = "FLOWAI_COORDINATOR_COUNT", default_value_t = 1)]
    coordinators: usize,
    /// Models, one folder each [default: models/ in the data folder, with a small random one to begin with]
    #[arg(long, env = "FLOWAI_MODELS_DIR")]
    models: Option<PathBuf>,
    /// What the nodes compute on, in turn: cpu, cuda:0, …
    #[arg(
        long,
        env = "FLOWAI_DEVICE",
        default_value = "cpu",
        value_delimiter = ','
    )]
    device: Vec<String>,
    /// float32, bfloat16 or float16
    #[arg(long, env = "FLOWAI_DTYPE", default_value = "float32")]
    dtype: String,
    /// Threads of each node [default: the cores shared out among the nodes]
    #[arg(long, env = "FLOWAI_THREADS")]
    threads: Option<usize>,
    /// Show each job as it is denoised after so many steps each; 0 for not at all
    #[arg(long, env = "FLOWAI_PREVIEW_STEPS", default_value_t = 1)]
    preview_steps: u32,
    /// What the nodes render with
    #[arg(long, env = "FLOWAI_ENGINE", value_enum, default_value_t = EngineName::Svd)]
    engine: EngineName,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum EngineName {
    /// Stable Video Diffusion
    Svd,
    /// Renders no model, and says so in the manifest: for trying out faults
    StandIn,
}

impl EngineName {
    const fn engine(self) -> Engine {
        match self {
            Self::Svd => Engine::Svd,
            Self::StandIn => Engine::StandIn {
                step: Duration::from_millis(10),
            },
        }
    }
}

pub(super) async fn run(args: Args, output: Output) -> Result<(), CommandError> {
    let set: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    let command = Args::augment_args(Command::new("up"));
    let ignored = ignored(&command, set.iter().map(String::as_str));
    if !ignored.is_empty() {
        output.object(&json!({ "event": "ignored", "settings": ignored }));
        output.note(format_args!(
            "`flowai up` knows nothing of {}: start the programs by themselves to set it (docs/operations.md)",
            ignored.join(", ")
        ));
    }
    let options = FarmOptions {
        data: args.data.unwrap_or_else(default_data_dir),
        programs: programs_folder()?,
        listen: args.listen,
        nodes: args.nodes,
        coordinators: args.coordinators,
        models: args.models,
        engine: args.engine.engine(),
        devices: args.device,
        dtype: args.dtype,
        threads: args.threads,
        preview_steps: args.preview_steps,
        external: External::from_env().map_err(crate::farm::FarmError::from)?,
        api: ApiOptions {
            public_url: args.public_url,
            is_tls_in_front: args.tls_in_front,
            metrics_listen: args.metrics_listen,
            signup_gift: args.signup_gift,
            rate_scale: args.rate_scale,
        },
    };
    let has_own_models = options.models.is_none();
    let spinner = output.working("starting the farm");
    let farm = tokio::select! {
        farm = Farm::start(options) => farm?,
        interrupted = interrupted() => return interrupted.and(Err(CommandError::Interrupted)),
    };
    drop(spinner);
    let result = tokio::select! {
        result = serve(&farm, has_own_models, output) => result,
        interrupted = interrupted() => interrupted,
    };
    let stopped = stop(farm, output).await;
    result.and(stopped)
}

/// Stops the farm in order; whoever asks meanwhile does not wait for that.
pub(super) async fn stop(farm: Farm, output: Output) -> Result<(), CommandError> {
    let _spinner = output.working("stopping the farm in order; Ctrl-C ends it at once");
    tokio::select! {
        stopped = farm.stop() => Ok(stopped?),
        interrupted = interrupted() => {
            interrupted?;
            // Its programs end with it. Dropping them would wait for each.
            std::process::exit(Exit::Interrupted.code().into());
        }
    }
}

/// Names of the farm's settings that are set here and that this command knows nothing of: those of its programs reach none of them.
fn ignored<'a>(command: &Command, set: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const OF_OTHER_COMMANDS: [&str; 7] = [
        // Of the scripts that set a checkout up.
        "FLOWAI_CACHE",
        "FLOWAI_URL",
        "FLOWAI_API_KEY",
        "FLOWAI_PASSWORD",
        "FLOWAI_JOIN_TOKEN",
        "FLOWAI_APP_PASSWORD",
        "FLOWAI_COORDINATOR_PASSWORD",
    ];
    let known: BTreeSet<&OsStr> = command.get_arguments().filter_map(Arg::get_env).collect();
    let is_ignored = |name: &&str| {
        name.starts_with("FLOWAI_")
            && !OF_OTHER_COMMANDS.contains(&name.strip_suffix("_FILE").unwrap_or(name))
            && !known.contains(OsStr::new(name))
    };
    let mut names: Vec<&str> = set.filter(is_ignored).collect();
    names.sort_unstable();
    names
}

/// The programs of a farm are built and installed side by side.
pub(super) fn programs_folder() -> Result<PathBuf, CommandError> {
    let me = std::env::current_exe().map_err(CommandError::io("finding the farm's programs"))?;
    Ok(me.parent().map(Path::to_owned).unwrap_or_default())
}

/// Says how to use the farm, and stays until it is told to stop.
async fn serve(farm: &Farm, has_own_models: bool, output: Output) -> Result<(), CommandError> {
    let Some(url) = farm.url() else {
        return Err(CommandError::Failed(
            "the api ended right after its start".to_owned(),
        ));
    };
    let owner = owner::of(farm, &url).await?;
    let email = owner.email.clone();
    let signed_in = match account::remember(&url, owner) {
        Ok(_) => ", signed in on this machine",
        Err(error) => {
            output.note(format_args!(
                "this account is not signed in for later commands ({}): give them FLOWAI_API_KEY",
                with_causes(&error)
            ));
            ""
        }
    };
    let logs = farm.folder().logs();
    let owner_file = farm.folder().owner();
    output.object(&json!({
        "event": "ready",
        "url": url.as_str(),
        "email": email,
        "owner": owner_file,
        "logs": logs,
    }));
    // Seldom in the search path: it was built in a checkout.
    let command = std::env::current_exe().map_err(CommandError::io("finding this command"))?;
    let models = has_own_models.then(|| {
        let folder = farm.folder().models();
        format!(
            "  models   {}; the one to begin with has random weights and makes noise: put Stable Video Diffusion beside it, and start again\n",
            folder.display()
        )
    });
    output.line(format_args!(
        "FlowAI listens at {url}\n\
         \x20 account  {email}{signed_in}; password and API key lie in {owner_file}\n\
         \x20 submit   {command} render PICTURE --out clip.mp4\n\
         \x20 look     {command} jobs (or nodes, models); the API is described at {url}docs\n\
         {models}\
         \x20 logs     {logs}\n\
         \x20 stop     Ctrl-C",
        models = models.unwrap_or_default(),
        owner_file = owner_file.display(),
        command = command.display(),
        logs = logs.display(),
    ));
    std::future::pending().await
}

/// Resolves at Ctrl-C or SIGTERM.
pub(super) async fn interrupted() -> Result<(), CommandError> {
    let doing = || CommandError::io("waiting for signals");
    let mut terminate = signal(SignalKind::terminate()).map_err(doing())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(doing()),
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_reach_no_program_are_named() {
        let set = [
            "PATH",
            "FLOWAI_QUEUED_MAX",
            "FLOWAI_LISTEN",
            "FLOWAI_API_KEY_FILE",
            "FLOWAI_JOIN_TOKEN",
            "FLOWAI_CACHE",
            "FLOWAI_AUTOSCALE",
            "DATABASE_URL",
        ];
        let command = Args::augment_args(Command::new("up"));
        let named = ignored(&command, set.into_iter());
        assert_eq!(named, ["FLOWAI_AUTOSCALE", "FLOWAI_QUEUED_MAX"]);
    }
}
