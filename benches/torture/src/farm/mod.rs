//! The farm under test: the programs that people run, and the parts they stand on.

mod parts;
mod program;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use flowai_actors::link::pki::Ca;
use flowai_actors::link::{PeerId, Role};
use flowai_model::safetensors::Dtype;
use flowai_model::{Preset, synthetic};

pub(crate) use parts::{Parts, serve_s3};
pub(crate) use program::{Program, faketime};

use crate::disk::Disk;
use crate::network::{Host, Network};
use crate::options::{Engine, Options};
use crate::proxy::{Proxy, Upstream};
use program::{Env, Plan, set};

/// The load of a test is no abuse.
const RATE_SCALE: &str = "100000";
/// Of the random model's weights.
const MODEL_SEED: u64 = 0;
const POSTGRES_BYTES: u64 = 16 << 30;
const S3_BYTES: u64 = 64 << 30;
const NODE_BYTES: u64 = 4 << 30;

#[derive(Debug)]
pub(crate) struct Farm {
    // Dropped in this order: programs first, what they stand on last.
    pub(crate) nodes: Vec<Program>,
    pub(crate) apis: Vec<Program>,
    pub(crate) coordinators: Vec<Program>,
    pub(crate) api_proxies: Vec<Arc<Proxy>>,
    pub(crate) link_proxies: Vec<Arc<Proxy>>,
    pub(crate) parts: Parts,
    pub(crate) network: Network,
    /// Where the run may mount some.
    pub(crate) disks: Option<Disks>,
    folder: PathBuf,
}

/// Disks that can be full.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) postgres: Disk,
    pub(crate) s3: Disk,
    /// Of the first node.
    pub(crate) node: Disk,
}

impl Disks {
    fn mount(folder: &Path) -> anyhow::Result<Self> {
        let images = folder.join("disks");
        fs::create_dir_all(&images)?;
        let disk =
            |name: &str, at: &str, bytes| Disk::mount(&images.join(name), folder.join(at), bytes);
        Ok(Self {
            postgres: disk("postgres", "postgres", POSTGRES_BYTES)?,
            s3: disk("s3", "s3", S3_BYTES)?,
            node: disk("node", "state/node-1", NODE_BYTES)?,
        })
    }
}

struct Maker<'a> {
    options: &'a Options,
    folder: &'a Path,
    ca: Ca,
}

impl Farm {
    /// Starts everything in `folder` and waits until it is ready.
    ///
    /// # Errors
    /// What did not start.
    pub(crate) async fn start(
        options: &Options,
        folder: &Path,
        mut network: Network,
    ) -> anyhow::Result<Self> {
        for name in ["clocks", "keys", "logs", "models", "ready", "state", "tls"] {
            let path = folder.join(name);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        }
        // The database's user passes through.
        fs::set_permissions(folder, Permissions::from_mode(0o711))?;
        let disks = network.has_namespaces().then(|| Disks::mount(folder));
        let disks = disks.transpose()?;
        let parts = Parts::start(folder, &mut network).await?;
        let model = folder.join("models/small");
        let preset = Preset::Small.config();
        tokio::task::spawn_blocking(move || {
            synthetic::write_model(&model, &preset, MODEL_SEED, Dtype::F32)
        })
        .await??;
        let maker = Maker {
            options,
            folder,
            ca: Ca::load_or_create(&folder.join("ca"))?,
        };

        let (mut coordinators, mut link_proxies) = (Vec::new(), Vec::new());
        for name in COORDINATORS.into_iter().take(options.coordinators) {
            let proxy = Arc::new(Proxy::start(name, network.hub(), Upstream::Nobody).await?);
            let host = network.host(name)?;
            coordinators.push(maker.coordinator(name, host, &parts, proxy.clone())?);
            link_proxies.push(proxy);
        }
        for coordinator in &coordinators {
            coordinator.ready().await?;
        }
        let addresses: Vec<String> = link_proxies
            .iter()
            .map(|proxy| proxy.address().to_string())
            .collect();
        let addresses = addresses.join(",");

        let (mut apis, mut api_proxies) = (Vec::new(), Vec::new());
        for name in APIS.into_iter().take(options.apis) {
            let proxy = Arc::new(Proxy::start(name, network.hub(), Upstream::Nobody).await?);
            let host = network.host(name)?;
            let api = maker.api(name, host, &network, &parts, &addresses, proxy.clone())?;
            // One after the other: the first makes the keys that all sign with.
            api.ready().await?;
            apis.push(api);
            api_proxies.push(proxy);
        }
        let mut nodes = Vec::new();
        for number in 1..=options.nodes {
            let name = format!("node-{number}");
            let host = network.host(&name)?;
            nodes.push(maker.node(name, host, &addresses)?);
        }
        for node in &nodes {
            node.ready().await?;
        }
        Ok(Self {
            nodes,
            apis,
            coordinators,
            api_proxies,
            link_proxies,
            parts,
            network,
            disks,
            folder: folder.to_owned(),
        })
    }

    pub(crate) fn programs(&self) -> impl Iterator<Item = &Program> {
        let users = self.coordinators.iter().chain(&self.apis);
        users.chain(&self.nodes).chain([&self.parts.s3])
    }

    /// Logs of all programs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// In order: the apis, the nodes, the coordinators, the parts.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        use futures::future::join_all;

        join_all(self.apis.into_iter().map(Program::stop)).await;
        join_all(self.nodes.into_iter().map(Program::stop)).await;
        join_all(self.coordinators.into_iter().map(Program::stop)).await;
        self.parts.stop().await
    }
}

pub(crate) const COORDINATORS: [&str; 3] = ["coordinator-1", "coordinator-2", "coordinator-3"];
pub(crate) const APIS: [&str; 2] = ["api-1", "api-2"];

impl Maker<'_> {
    fn plan(
        &self,
        role: Role,
        name: &str,
        host: Host,
        env: Env,
        proxy: Option<Arc<Proxy>>,
    ) -> anyhow::Result<Plan> {
        let executable = self.options.programs.join(match role {
            Role::Coordinator => "flowai-coordinator",
            Role::Api => "flowai-api",
            Role::Node => "flowai-render-node",
        });
        ensure!(
            executable.is_file(),
            "{} does not exist: build it, or say where the programs lie by --programs",
            executable.display()
        );
        let peer = PeerId::new(role, name).context("naming a program")?;
        let tls = self.folder.join("tls").join(name);
        self.ca.issue(&peer)?.save(&tls)?;
        let ready_file = self.folder.join(format!("ready/{name}.json"));
        let common = vec![
            set("FLOWAI_ID", name),
            set("FLOWAI_DATA_DIR", self.folder.join("state").join(name)),
            set("FLOWAI_TLS_DIR", tls),
            set("FLOWAI_READY_FILE", &ready_file),
            set("RUST_LOG", "info"),
            set("RUST_BACKTRACE", "0"),
        ];
        let inherited = std::env::vars_os().filter(|(name, _)| name == "LD_LIBRARY_PATH");
        Ok(Plan {
            name: name.to_owned(),
            host,
            executable,
            arguments: Vec::new(),
            env: inherited.chain(common).chain(env).collect(),
            log: self.folder.join(format!("logs/{name}.log")),
            ready_file,
            clock_file: self.folder.join("clocks").join(name),
            proxy,
        })
    }

    fn coordinator(
        &self,
        name: &str,
        host: Host,
        parts: &Parts,
        proxy: Arc<Proxy>,
    ) -> anyhow::Result<Program> {
        let mut env = vec![
            set("FLOWAI_LISTEN", format!("{}:0", host.address)),
            set("FLOWAI_ADVERTISE", proxy.address().to_string()),
            set("DATABASE_URL", &parts.addresses.database_coordinator),
        ];
        env.extend(object_store(parts));
        let plan = self.plan(Role::Coordinator, name, host, env, Some(proxy))?;
        Program::start(plan)
    }

    fn api(
        &self,
        name: &str,
        host: Host,
        network: &Network,
        parts: &Parts,
        coordinators: &str,
        proxy: Arc<Proxy>,
    ) -> anyhow::Result<Program> {
        let mut env = vec![
            set("FLOWAI_LISTEN", format!("{}:0", host.address)),
            // A namespace of the run's own is no loopback; nothing from outside gets there.
            set("FLOWAI_TLS_IN_FRONT", network.has_namespaces().to_string()),
            set("FLOWAI_PUBLIC_URL", "http://farm.example"),
            set("FLOWAI_COORDINATORS", coordinators),
            set("FLOWAI_KEYS_DIR", self.folder.join("keys")),
            set("FLOWAI_RATE_SCALE", RATE_SCALE),
            set("DATABASE_URL", &parts.addresses.database_app),
            set("REDIS_URL", &parts.addresses.redis),
        ];
        env.extend(object_store(parts));
        let plan = self.plan(Role::Api, name, host, env, Some(proxy))?;
        Program::start(plan)
    }

    fn node(&self, name: String, host: Host, coordinators: &str) -> anyhow::Result<Program> {
        let mut env = match self.options.engine {
            Engine::StandIn => vec![
                set("FLOWAI_ENGINE", "stand-in"),
                set("FLOWAI_STAND_IN_STEP_MS", self.options.step_ms.to_string()),
                set("FLOWAI_STAND_IN_POISON", "true"),
            ],
            Engine::Svd => vec![set("FLOWAI_ENGINE", "svd")],
        };
        env.extend([
            set("FLOWAI_COORDINATORS", coordinators),
            set("FLOWAI_MODELS_DIR", self.folder.join("models")),
            set("FLOWAI_DEVICE", "cpu"),
            set("FLOWAI_THREADS", "1"),
        ]);
        let plan = self.plan(Role::Node, &name, host, env, None)?;
        Program::start(plan)
    }
}

fn object_store(parts: &Parts) -> Env {
    let s3 = &parts.addresses.s3;
    vec![
        set("S3_ENDPOINT", &s3.endpoint),
        set("S3_REGION", &s3.region),
        set("S3_BUCKET", &s3.bucket),
        set("S3_ACCESS_KEY_ID", &s3.access_key_id),
        set("S3_SECRET_ACCESS_KEY", &s3.secret_access_key),
    ]
}
