//! A whole farm on one machine: the embedded parts, and the same programs as in production, supervised.
//!
//! - Everything lies in one data folder and is there again after a restart; one process at a time uses a folder.
//! - A program that ends by itself is started again, at the same address. None outlives this process.
//! - It stops in order: the api first, so that nobody is promised anything, the parts last.

mod error;
mod folder;
mod options;
mod program;
mod settings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowai_actors::link::pki::Ca;
use flowai_actors::link::{PeerId, Role};
use flowai_embedded::Parts;
use flowai_model::safetensors::Dtype;
use flowai_model::{Preset, synthetic};
use flowai_store::database::{RolePasswords, migrate};
use futures::future::try_join_all;
use tokio::task::JoinHandle;
use url::Url;

pub use error::FarmError;
pub use folder::DataFolder;
pub use options::{ApiOptions, Engine, FarmOptions};
pub use program::{Program, ProgramState};

use program::Plan;

/// The model that a farm without models starts with, and the seed of its weights.
const FIRST_MODEL: (&str, Preset, u64) = ("small", Preset::Small, 0);

/// A running farm. [`Farm::stop`] ends it in order; dropping it ends everything without order.
#[derive(Debug)]
pub struct Farm {
    // Fields are dropped in this order: who promises first, what it stands on last.
    api: Option<Program>,
    nodes: Vec<Program>,
    coordinators: Vec<Program>,
    parts_keeper: JoinHandle<()>,
    parts: Arc<Parts>,
    folder: DataFolder,
}

impl Farm {
    /// Starts parts and programs and waits until all are ready.
    ///
    /// # Errors
    /// [`FarmError`] says what did not start, with its last words; what had started by then is stopped again.
    pub async fn start(options: FarmOptions) -> Result<Self, FarmError> {
        options.check()?;
        let executables = Executables::find(&options.programs)?;
        let folder = DataFolder::at(&options.data)?;
        let parts = Arc::new(Parts::start(folder.root(), options.external.clone()).await?);
        folder.furnish()?;
        let parts_keeper = tokio::spawn({
            let parts = Arc::clone(&parts);
            async move { parts.keep_running().await }
        });
        let mut farm = Self {
            api: None,
            nodes: Vec::new(),
            coordinators: Vec::new(),
            parts_keeper,
            parts,
            folder,
        };
        match farm.start_programs(&options, &executables).await {
            Ok(()) => Ok(farm),
            Err(error) => {
                if let Err(error) = farm.stop().await {
                    tracing::warn!(%error, "a part did not stop in order");
                }
                Err(error)
            }
        }
    }

    async fn start_programs(
        &mut self,
        options: &FarmOptions,
        executables: &Executables,
    ) -> Result<(), FarmError> {
        let passwords = self.parts.database_passwords();
        let passwords = RolePasswords {
            app: &passwords.app,
            coordinator: &passwords.coordinator,
        };
        migrate(&self.parts.database().owner, passwords).await?;
        let models = models_of(options, &self.folder).await?;
        let ca = Ca::load_or_create(&self.folder.ca())?;
        let inherited = settings::inherited(options.external.database_url.is_some());
        let plan = |role: Role, number: Option<usize>, listen, settings| {
            plan(
                &self.folder,
                &ca,
                executables,
                role,
                number,
                listen,
                [inherited.clone(), settings].concat(),
            )
        };

        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let coordinators = (1..=options.coordinators)
            .map(|number| {
                let settings = settings::coordinator(&self.folder, &self.parts);
                plan(Role::Coordinator, Some(number), Some(any_port), settings)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let coordinators = try_join_all(coordinators.into_iter().map(Program::start)).await?;
        let addresses: Vec<String> = coordinators
            .iter()
            .filter_map(Program::address)
            .map(|address| address.to_string())
            .collect();
        let addresses = addresses.join(",");

        let api = plan(
            Role::Api,
            None,
            Some(options.listen),
            settings::api(options, &self.folder, &self.parts, &addresses),
        )?;
        let nodes = (0..options.nodes)
            .map(|index| {
                let settings = settings::node(options, &models, index, &addresses);
                plan(Role::Node, Some(index + 1), None, settings)
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.coordinators = coordinators;
        let nodes = try_join_all(nodes.into_iter().map(Program::start));
        let (api, nodes) = tokio::try_join!(Program::start(api), nodes)?;
        self.api = Some(api);
        self.nodes = nodes;
        Ok(())
    }

    /// Where the api listens. `None` while it is down.
    pub fn url(&self) -> Option<Url> {
        let address = self.api.as_ref()?.address()?;
        Url::parse(&format!("http://{address}")).ok()
    }

    /// A program by its name: `coordinator-1`, `api`, `node-1`.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs().find(|program| program.name() == name)
    }

    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.coordinators.iter().chain(&self.api).chain(&self.nodes)
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Stops in order: the api, the nodes, the coordinators, the parts.
    pub async fn stop(self) -> Result<(), FarmError> {
        if let Some(api) = self.api {
            api.stop().await;
        }
        futures::future::join_all(self.nodes.into_iter().map(Program::stop)).await;
        futures::future::join_all(self.coordinators.into_iter().map(Program::stop)).await;
        self.parts_keeper.abort();
        // Cancelled, as asked; waited for because it holds the parts.
        let _ = self.parts_keeper.await;
        if let Some(parts) = Arc::into_inner(self.parts) {
            parts.stop().await?;
        }
        Ok(())
    }
}

/// Where the programs lie, all of them found before anything starts.
struct Executables {
    coordinator: PathBuf,
    api: PathBuf,
    node: PathBuf,
}

impl Executables {
    fn find(folder: &Path) -> Result<Self, FarmError> {
        let find = |program: &'static str| {
            let path = folder.join(program);
            if path.is_file() {
                Ok(path)
            } else {
                Err(FarmError::ProgramMissing {
                    program,
                    folder: folder.to_owned(),
                })
            }
        };
        Ok(Self {
            coordinator: find("flowai-coordinator")?,
            api: find("flowai-api")?,
            node: find("flowai-render-node")?,
        })
    }
}

/// What to start for one peer of the link, certified anew.
fn plan(
    folder: &DataFolder,
    ca: &Ca,
    executables: &Executables,
    role: Role,
    number: Option<usize>,
    listen: Option<SocketAddr>,
    settings: settings::Env,
) -> Result<Plan, FarmError> {
    let name = match number {
        Some(number) => format!("{role}-{number}"),
        None => role.to_string(),
    };
    // Names made of a role and a number are labels.
    if let Ok(peer) = PeerId::new(role, &name) {
        ca.issue(&peer)?.save(&folder.tls(&name))?;
    }
    let executable = match role {
        Role::Coordinator => &executables.coordinator,
        Role::Api => &executables.api,
        Role::Node => &executables.node,
    };
    let common = settings::common(folder, &name);
    Ok(Plan {
        executable: executable.clone(),
        env: [settings, common].concat(),
        listen,
        log: folder.log(&name),
        ready_file: folder.ready_file(&name),
        name,
    })
}

/// The folder of models, with a small random one made where the farm's own folder has none.
async fn models_of(options: &FarmOptions, folder: &DataFolder) -> Result<PathBuf, FarmError> {
    if let Some(models) = &options.models {
        return models.canonicalize().map_err(FarmError::io(format!(
            "opening models {}",
            models.display()
        )));
    }
    let models = folder.models();
    let (name, preset, seed) = FIRST_MODEL;
    let has_one = std::fs::read_dir(&models)
        .map_err(FarmError::io(format!("reading {}", models.display())))?
        .flatten()
        .any(|entry| entry.path().join("model_index.json").is_file());
    if !has_one {
        let path = models.join(name);
        let written = tokio::task::spawn_blocking(move || {
            synthetic::write_model(&path, &preset.config(), seed, Dtype::F32)
        });
        written
            .await
            .map_err(std::io::Error::other)
            .map_err(FarmError::io("making the first model"))??;
    }
    Ok(models)
}
