//! Farms, users, jobs and waits for tests.

mod adapter;
mod command;
mod database;
mod far_node;
mod follow;
mod joined_node;
mod probe;
mod processes;
mod zombie;

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flowai::client::{Account, Client, NewVideo, Purpose, Secret};
use flowai::farm::{Engine, Farm, FarmOptions, ProgramState};
use flowai_store::accounts::make_admin;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use tokio::sync::watch;
use url::Url;

pub(crate) use adapter::store_random_adapter;
pub(crate) use command::Flowai;
pub(crate) use far_node::FarNode;
pub(crate) use follow::Follow;
pub(crate) use joined_node::{JoinedNode, node_is, node_shown};
pub(crate) use probe::{Probe, probe, sha256_of};
pub(crate) use processes::{all_end, descendants, runs};
pub(crate) use zombie::{Zombie, first_attempt};

/// Longer than anything takes on a busy machine: a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// The sample picture, a photograph.
pub(crate) const PICTURE: &[u8] = include_bytes!("../../../assets/chelsea.png");

/// A farm in a temporary folder.
pub(crate) struct TestFarm {
    farm: Farm,
    users: AtomicU32,
    // Dropped last: the farm lies in it.
    _data: TempDir,
}

/// An account with an API key.
pub(crate) struct User {
    pub(crate) email: String,
    pub(crate) key: Secret,
    pub(crate) client: Client,
}

impl TestFarm {
    /// One coordinator and one node that renders with Stable Video Diffusion, unless `change` says otherwise.
    pub(crate) async fn start(change: impl FnOnce(&mut FarmOptions)) -> Self {
        let data = tempfile::Builder::new()
            .prefix("flowai-test-")
            .tempdir()
            .unwrap();
        let mut options = FarmOptions::new(data.path().to_owned(), programs());
        change(&mut options);
        let farm = within("the farm starts", Farm::start(options)).await;
        Self {
            farm: farm.unwrap_or_else(|error| panic!("{:#}", describe(&error))),
            users: AtomicU32::new(0),
            _data: data,
        }
    }

    /// A farm whose nodes render no model, a step taking so long: for faults.
    pub(crate) async fn stand_in(step: Duration, change: impl FnOnce(&mut FarmOptions)) -> Self {
        Self::start(|options| {
            options.engine = Engine::StandIn { step };
            change(options);
        })
        .await
    }

    pub(crate) fn farm(&self) -> &Farm {
        &self.farm
    }

    pub(crate) fn url(&self) -> Url {
        self.farm.url().expect("the api is up")
    }

    /// Another user of the farm.
    pub(crate) async fn user(&self) -> User {
        self.make_user(&["videos", "adapters"], false).await
    }

    /// A user who may look at the farm.
    pub(crate) async fn operator(&self) -> User {
        self.make_user(&["videos", "adapters", "farm", "credits"], true)
            .await
    }

    async fn make_user(&self, scopes: &[&str], is_admin: bool) -> User {
        let number = self.users.fetch_add(1, Ordering::Relaxed);
        let email = format!("user-{number}@example.org");
        let (url, password) = (self.url(), Secret::new("a long enough password"));
        Client::sign_up(&url, &email, &password).await.unwrap();
        if is_admin {
            let owner_url = &self.farm.parts().database().owner;
            assert!(make_admin(owner_url, &email).await.unwrap());
        }
        let login = Client::log_in(&url, &email, &password).await.unwrap();
        let Account { api_key, .. } = login.make_key("test", scopes).await.unwrap();
        let client = Client::new(&url, api_key.clone()).unwrap();
        User {
            email,
            key: api_key,
            client,
        }
    }

    /// Sends a signal to a program by its name.
    pub(crate) fn signal(&self, program: &str, signal: Signal) {
        let pid = self.program_state(program);
        let pid = match *pid.borrow() {
            ProgramState::Starting { pid } | ProgramState::Ready { pid, .. } => pid,
            ProgramState::Down | ProgramState::Stopped => panic!("{program} does not run"),
        };
        kill(pid, signal).unwrap();
    }

    /// Kills a program as a crash would, and waits until it runs again.
    pub(crate) async fn kill_and_see_it_come_back(&self, program: &str) {
        let mut state = self.program_state(program);
        let before = *state.borrow();
        self.signal(program, Signal::SIGKILL);
        let is_back =
            |state: &ProgramState| matches!(state, ProgramState::Ready { .. }) && *state != before;
        within("the program comes back", state.wait_for(is_back))
            .await
            .unwrap();
    }

    /// Files below a folder of the farm, by their paths from there.
    pub(crate) fn files_below(&self, folder: &str) -> Vec<String> {
        let root = self.farm.folder().root().join(folder);
        let mut folders = vec![root.clone()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(path.strip_prefix(&root).unwrap().display().to_string()),
                }
            }
        }
        files
    }

    /// Rots every picture that was uploaded, in the store and on the first node's disk.
    pub(crate) fn spoil_pictures(&self) {
        let root = self.farm.folder().root();
        let mut folders = vec![root.join("s3"), root.join("state/node-1/pictures")];
        let mut spoiled = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.to_string_lossy();
                if path.is_dir() {
                    folders.push(path);
                } else if name.ends_with(".png") || name.contains("/pictures/") {
                    let mut bytes = std::fs::read(&path).unwrap();
                    *bytes.last_mut().unwrap() ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                    spoiled += 1;
                }
            }
        }
        assert!(spoiled > 0);
    }

    fn program_state(&self, program: &str) -> watch::Receiver<ProgramState> {
        let program = self.farm.program(program);
        program.expect("the program's name").state()
    }

    pub(crate) async fn stop(self) {
        within("the farm stops", self.farm.stop()).await.unwrap();
    }
}

impl User {
    /// What a path of the farm answers, redirects followed, which must be a 200.
    pub(crate) async fn get(&self, farm: &TestFarm, path: &str) -> reqwest::Response {
        let request = reqwest::Client::new().get(farm.url().join(path).unwrap());
        let answer = request.bearer_auth(self.key.reveal()).send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer
    }

    /// A small render of the sample picture, to be changed as needed.
    pub(crate) async fn small_video(&self) -> NewVideo {
        let image = self
            .client
            .upload(Purpose::Image, "cat.png", PICTURE.into())
            .await;
        NewVideo {
            image: Some(image.unwrap().id),
            frames: Some(4),
            fps: Some(8),
            width: Some(64),
            height: Some(48),
            steps: Some(3),
            seed: Some(1),
            ..NewVideo::default()
        }
    }

    /// Submits a small render of so many steps and returns its id.
    pub(crate) async fn submit(&self, steps: u32) -> String {
        let video = NewVideo {
            steps: Some(steps),
            ..self.small_video().await
        };
        self.client.submit(&video).await.unwrap().id
    }

    /// Watches one of the user's jobs.
    pub(crate) fn follow(&self, job: &str) -> Follow<'_> {
        Follow::new(self.client.watch(job))
    }
}

/// Where the programs were built: beside the command.
pub(crate) fn programs() -> PathBuf {
    let command = PathBuf::from(env!("CARGO_BIN_EXE_flowai"));
    command.parent().expect("a folder").to_owned()
}

/// The value, or a failure that says what did not happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("within {PATIENCE:?}: {what}"),
    }
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
