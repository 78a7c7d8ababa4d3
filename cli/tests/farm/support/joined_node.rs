//! A machine that joins the farm as an operator would have it: by a token, with the command, and with the node program started
//! from the settings that it wrote.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::{Flowai, TestFarm, User, programs};

/// Its program ends with the value.
pub(crate) struct JoinedNode {
    pub(crate) name: String,
    program: Child,
}

impl JoinedNode {
    /// A token with the label `pool=far`, shown to nobody else.
    pub(crate) async fn token(farm: &TestFarm, operator: &User, folder: &Path) -> String {
        let args = ["token", "create", "--labels", "pool=far", "--json"];
        let made = Flowai::run(farm, operator, folder, &args).await;
        assert_eq!(made.status, Some(0), "{made:?}");
        made.objects()[0]["token"].as_str().unwrap().to_owned()
    }

    /// `flowai node join`, as somebody without an account.
    pub(crate) async fn join(farm: &TestFarm, token: &str, folder: &Path) -> Flowai {
        let mut command = Flowai::command(folder);
        command.args([
            "node",
            "join",
            farm.url().as_str(),
            "--data",
            "node",
            "--json",
        ]);
        command.env("FLOWAI_JOIN_TOKEN", token);
        Flowai::finish(command).await
    }

    /// Joins and starts.
    pub(crate) async fn start(farm: &TestFarm, operator: &User, folder: &Path) -> Self {
        let token = Self::token(farm, operator, folder).await;
        let joined = Self::join(farm, &token, folder).await;
        assert_eq!(joined.status, Some(0), "{joined:?}");
        let joined = &joined.objects()[0];
        assert_eq!(joined["labels"], serde_json::json!({ "pool": "far" }));
        Self {
            name: joined["node"].as_str().unwrap().to_owned(),
            program: Self::program(farm, folder),
        }
    }

    /// The node program with what the command wrote.
    pub(crate) fn program(farm: &TestFarm, folder: &Path) -> Child {
        let settings = std::fs::read_to_string(folder.join("node/node.env")).unwrap();
        let settings = settings.lines().map(|line| line.split_once('=').unwrap());
        let mut command = Command::new(programs().join("flowai-render-node"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLOWAI_") {
                command.env_remove(name);
            }
        }
        command
            .envs(settings.map(|(name, value)| (name, value.trim_matches('"'))))
            .env("FLOWAI_MODELS_DIR", farm.farm().folder().models())
            .env("FLOWAI_ENGINE", "stand-in")
            .env("FLOWAI_STAND_IN_STEP_MS", "100")
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Its end, with its last words.
    pub(crate) async fn ended(self) -> Output {
        let ended = self.program.wait_with_output();
        super::within("a node program ends", ended).await.unwrap()
    }
}

/// What `flowai nodes` says of a node.
pub(crate) async fn node_shown(farm: &TestFarm, operator: &User, name: &str) -> Option<Value> {
    let folder = tempfile::tempdir().unwrap();
    let nodes = Flowai::run(farm, operator, folder.path(), &["nodes", "--json"]).await;
    assert_eq!(nodes.status, Some(0), "{nodes:?}");
    nodes.objects().into_iter().find(|node| node["id"] == name)
}

/// Waits until it is in this state.
pub(crate) async fn node_is(farm: &TestFarm, operator: &User, name: &str, state: &str) -> Value {
    let looking = async {
        loop {
            if let Some(node) = node_shown(farm, operator, name).await
                && node["state"] == state
            {
                return node;
            }
        }
    };
    super::within(&format!("{name} is {state}"), looking).await
}
