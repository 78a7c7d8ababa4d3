//! The program: puts the parts together, runs until it is told to end or cannot go on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flowai_actors::ids::Generation;
use flowai_actors::kit::Tasks;
use flowai_actors::limits::{
    ADAPTER_BYTES_MAX, CHECKPOINT_BYTES_MAX, CHECKPOINT_INTERVAL_MS, IMAGE_BYTES_MAX,
};
use flowai_actors::link::pki::Identity;
use flowai_actors::link::{LinkConfig, PeerId, RactorLink, Rule};
use flowai_actors::manifest::EngineInfo;
use flowai_actors::messages::ModelFamily;
use flowai_actors::program::{DataDir, EndSignals, write_ready_file};
use flowai_actors::wire;

use flowai_render_node::cache::{Cache, CacheLimits, Disk};
use flowai_render_node::certificate::{Keeper, Lapsed};
use flowai_render_node::device::Device;
use flowai_render_node::engine::{
    AdapterMemory, EngineHandle, StandInEngine, SvdEngine, SvdOptions,
};
use flowai_render_node::job::{JobFolders, Workshop};
use flowai_render_node::manifest::Maker;
use flowai_render_node::models::{LocalModel, Models};
use flowai_render_node::node::{Ending, Node, NodeError, Setup};
use flowai_render_node::preview::PreviewMaps;
use flowai_render_node::settings::{EngineKind, Settings};
use flowai_render_node::uploader::Uploader;
use flowai_render_node::{encoder, http};
use flowai_svd::lora::HostAdapters;
use tokio::sync::watch;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Pictures are mostly used once, and again when a job is tried again.
const PICTURES_CACHE_BYTES_MAX: u64 = 1 << 30;
/// Stored pictures were encoded anew, without loss, and may be larger than what was uploaded.
const PICTURE_BYTES_MAX: u64 = 2 * IMAGE_BYTES_MAX;
/// A checkpoint is used once, and again when the job stops before the next one.
const CHECKPOINTS_CACHE_BYTES_MAX: u64 = 2 * CHECKPOINT_BYTES_MAX;
/// For the present step, the checkpoint's upload and the leader's answer. A supervisor that waits less than for this and
/// [`LAST_WORD_GRACE`] kills a node that is about to end.
const CLOSING_GRACE: Duration = Duration::from_secs(27);
/// From when the job is given up as it is, to the leader's answer.
const LAST_WORD_GRACE: Duration = Duration::from_secs(3);
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How the program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// In order, after SIGTERM or SIGINT.
    Closed,
    /// A newer process of this node is known to the farm.
    Replaced,
    /// The farm takes it no more, and says what to do about it.
    Refused(Rule),
    /// The engine cannot be used again; a new process can.
    EngineLost(String),
    /// A part that the node cannot be without has failed.
    Broken(String),
}

impl End {
    /// The status of the process: 0 in order, 1 something failed, 3 the engine is lost, [`Rule::status`] what the farm says. 2 is
    /// for settings.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Broken(_) => 1,
            Self::EngineLost(_) => 3,
            Self::Replaced => Rule::Stop.status(),
            Self::Refused(rule) => rule.status(),
        }
    }
}

/// Runs a node until it ends.
///
/// # Errors
/// It cannot start.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<End> {
    let mut signals = EndSignals::listen()?;
    let data_dir = DataDir::hold(&settings.data_dir).context("FLOWAI_DATA_DIR")?;
    let identity = Identity::load(&settings.tls_dir).context("FLOWAI_TLS_DIR")?;
    let me = PeerId::from(&settings.id);
    anyhow::ensure!(
        *identity.peer() == me,
        "FLOWAI_ID: the certificate in FLOWAI_TLS_DIR is that of {}, not of {me}",
        identity.peer()
    );
    let keeper = Keeper {
        node: settings.id.clone(),
        identity: identity.clone(),
        folder: settings.tls_dir.clone(),
    };
    if keeper.has_expired().context("FLOWAI_TLS_DIR")? {
        return Ok(End::Refused(Rule::Rejoin));
    }
    let models_dir = settings.models_dir.clone();
    let scanned = data_dir.path().to_owned();
    // All of them are read and hashed the first time, which takes minutes.
    let scan = tokio::task::spawn_blocking(move || Models::scan(&models_dir, &scanned));
    let models = tokio::select! {
        models = scan => models?.context("FLOWAI_MODELS_DIR")?,
        () = signals.received() => return Ok(End::Closed),
    };
    let models = Arc::new(models);
    // Before anything is written: a full disk gets room.
    let shelves = Shelves::open(&settings, &data_dir)?;
    let generation = data_dir.next_generation()?;
    let (workshop, setup) = build(&settings, shelves, models, generation)?;
    let engine = workshop.engine.clone();

    let config = LinkConfig {
        identity,
        generation,
        build: VERSION.to_owned(),
        schemas: wire::schemas(),
        may_send: wire::may_send,
    };
    let (link, events) = RactorLink::start(config).await?;
    let tasks = Tasks::new();
    let node = Node::start(
        setup,
        workshop,
        Arc::new(link.clone()),
        events,
        tasks.clone(),
    )
    .await?;
    // Kept: the link dials for as long as the list may change.
    let (_coordinators, targets) = watch::channel(settings.coordinators.clone());
    link.dial(targets)?;
    tracing::info!(node = %settings.id, %generation, "node is looking for its leader");

    // Also while it closes: a job that takes the engine along must not look like one that was stopped.
    let failed = async || {
        tokio::select! {
            lost = engine.lost() => End::EngineLost(lost.reason),
            failed = tasks.failed() => End::Broken(failed.to_string()),
            failed = link.failed() => End::Broken(failed.to_string()),
        }
    };
    let end = tokio::select! {
        ended = node.ended() => ended_as(ended),
        end = failed() => end,
        lapsed = keeper.keep_valid(&link) => match lapsed {
            Ok(Lapsed::Expired) => End::Refused(Rule::Rejoin),
            Ok(Lapsed::Revoked) => End::Refused(Rule::Stop),
            Err(error) => End::Broken(error.to_string()),
        },
        () = signals.received() => tokio::select! {
            end = close(&node) => end,
            end = failed() => end,
        },
        error = announce(&node, &settings, generation) => End::Broken(error),
    };
    tasks.shutdown(STOP_GRACE).await;
    link.shutdown().await;
    Ok(end)
}

async fn close(node: &Node) -> End {
    tracing::info!("node ends; its job stops at the next step boundary");
    if let Err(error) = node.close().await {
        return End::Broken(error.to_string());
    }
    if let Ok(ended) = tokio::time::timeout(CLOSING_GRACE, node.ended()).await {
        return ended_as(ended);
    }
    tracing::warn!(
        "job came to no end in time; another node begins it anew or goes on from its last checkpoint"
    );
    if let Err(error) = node.abandon().await {
        return End::Broken(error.to_string());
    }
    match tokio::time::timeout(LAST_WORD_GRACE, node.ended()).await {
        Ok(ended) => ended_as(ended),
        // The farm finds out by the lease.
        Err(_) => {
            tracing::warn!("no leader heard of it");
            End::Closed
        }
    }
}

fn ended_as(ended: Result<Ending, NodeError>) -> End {
    match ended {
        Ok(Ending::Closed) => End::Closed,
        Ok(Ending::Replaced) => End::Replaced,
        Ok(Ending::Refused(rule)) => End::Refused(rule),
        Ok(Ending::EngineHung) => {
            End::EngineLost("a stopped job did not come to a step boundary in its time".to_owned())
        }
        Err(error) => End::Broken(error.to_string()),
    }
}

/// Writes the ready file once a leader has welcomed the node. Resolves only with an error.
async fn announce(node: &Node, settings: &Settings, generation: Generation) -> String {
    node.registered().await;
    tracing::info!(node = %settings.id, %generation, "node is ready");
    let Some(path) = &settings.ready_file else {
        return std::future::pending().await;
    };
    // A node opens no port, so there is no address to tell.
    let ready = serde_json::json!({ "id": settings.id, "generation": generation });
    match write_ready_file(path, &ready) {
        Ok(()) => std::future::pending().await,
        Err(error) => format!("FLOWAI_READY_FILE: {}: {error}", path.display()),
    }
}

/// Files in the data folder that may go for others.
struct Shelves {
    pictures: Cache,
    adapters: Cache,
    checkpoints: Cache,
    folders: JobFolders,
}

impl Shelves {
    /// Clears what a crash left, and sees to it that a few small files can be written.
    fn open(settings: &Settings, data_dir: &DataDir) -> anyhow::Result<Self> {
        const SMALL_FILES_BYTES: u64 = 1 << 20;
        let (disk, client) = (Disk::default(), http::client()?);
        let cache = |name: &str, bytes_max, file_bytes_max| {
            let limits = CacheLimits {
                bytes_max,
                file_bytes_max,
            };
            Cache::open(&disk, &data_dir.path().join(name), limits, client.clone())
                .with_context(|| format!("FLOWAI_DATA_DIR: {name}"))
        };
        let shelves = Self {
            folders: JobFolders::open(&disk, &data_dir.path().join("jobs"))
                .context("FLOWAI_DATA_DIR: jobs")?,
            pictures: cache("pictures", PICTURES_CACHE_BYTES_MAX, PICTURE_BYTES_MAX)?,
            adapters: cache("adapters", settings.adapter_bytes.disk, ADAPTER_BYTES_MAX)?,
            checkpoints: cache(
                "checkpoints",
                CHECKPOINTS_CACHE_BYTES_MAX,
                CHECKPOINT_BYTES_MAX,
            )?,
        };
        disk.keep_free(data_dir.path(), SMALL_FILES_BYTES);
        Ok(shelves)
    }
}

fn build(
    settings: &Settings,
    shelves: Shelves,
    models: Arc<Models>,
    generation: Generation,
) -> anyhow::Result<(Workshop, Setup)> {
    let chosen = Chosen::of(settings)?;
    // Every job needs a video model, and only some a keyframe model.
    let is_svd = |model: &&Arc<LocalModel>| model.offer.family == ModelFamily::Svd;
    if let Some(model) = models.offered().find(is_svd) {
        chosen.engine.warm_up(model.clone());
    }
    let Shelves {
        pictures,
        adapters,
        checkpoints,
        folders,
    } = shelves;
    let workshop = Workshop {
        models,
        pictures,
        adapters,
        checkpoints,
        host_adapters: chosen.host_adapters,
        uploader: Uploader::new()?,
        engine: chosen.engine,
        folders,
        pace: Arc::default(),
        preview_steps: settings.preview_steps,
        checkpoint_every: Duration::from_millis(CHECKPOINT_INTERVAL_MS),
    };
    let setup = Setup {
        maker: Maker {
            node: settings.id.clone(),
            generation,
            engine: chosen.info,
            device_class: chosen.device_class,
        },
        version: VERSION.to_owned(),
        device: chosen.device,
    };
    Ok((workshop, setup))
}

/// The engine of the settings, and what is said of it.
struct Chosen {
    engine: EngineHandle,
    host_adapters: Option<HostAdapters>,
    info: EngineInfo,
    device: Device,
    device_class: String,
}

impl Chosen {
    fn of(settings: &Settings) -> anyhow::Result<Self> {
        let class = settings.device.class()?;
        let device = Device::describe(&class)?;
        let info = |name: &str, libtorch: Option<&str>, dtype: &str| EngineInfo {
            name: name.to_owned(),
            version: VERSION.to_owned(),
            libtorch: libtorch.map(str::to_owned),
            encoder: format!("libavcodec {}", encoder::version()),
            dtype: dtype.to_owned(),
            // The engine draws noise in the precision of the model.
            noise_dtype: dtype.to_owned(),
        };
        match settings.engine {
            EngineKind::Svd => {
                let options = SvdOptions {
                    device: settings.device,
                    dtype: settings.dtype,
                    threads: settings.threads,
                };
                let maps = PreviewMaps::open(settings.data_dir.join("preview-maps"))
                    .context("FLOWAI_DATA_DIR: preview-maps")?;
                let host = settings.adapter_bytes.host;
                let memory = AdapterMemory {
                    host: HostAdapters::new(host, settings.device),
                    device_bytes_max: settings.adapter_bytes.device,
                };
                Ok(Self {
                    host_adapters: Some(memory.host.clone()),
                    info: info(
                        SvdEngine::NAME,
                        Some(SvdEngine::LIBTORCH),
                        options.dtype_name(),
                    ),
                    device_class: options.device_class(&class),
                    engine: EngineHandle::start(move || {
                        SvdEngine::new(options, memory).with_previews(maps)
                    })?,
                    device,
                })
            }
            EngineKind::StandIn { step, obeys_poison } => Ok(Self {
                host_adapters: None,
                info: info(StandInEngine::NAME, None, "float32"),
                device_class: StandInEngine::NAME.to_owned(),
                engine: EngineHandle::start(move || match StandInEngine::new(step) {
                    engine if obeys_poison => engine.with_poison(),
                    engine => engine,
                })?,
                device,
            }),
        }
    }
}
