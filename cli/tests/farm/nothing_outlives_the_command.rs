//! Goal: whether `flowai up` is stopped or killed, none of its programs and servers goes on, and the next start has all the
//! data.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use flowai::client::{Client, Secret};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Flowai, all_end, descendants, runs, within};

/// A running `flowai up` and what it said.
struct Up {
    child: Child,
    // Kept open: a command that cannot write would end for another reason.
    _stdout: BufReader<ChildStdout>,
    ready: Value,
}

impl Up {
    async fn start(folder: &Path) -> Self {
        let mut command = Flowai::command(folder);
        command
            .args([
                "up",
                "--json",
                "--engine",
                "stand-in",
                "--listen",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(folder.join("data"))
            .stdout(Stdio::piped());
        let started = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            (child, stdout, line)
        });
        let (child, stdout, line) = within("the farm is up", started).await.unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready", "{ready}");
        Self {
            child,
            _stdout: stdout,
            ready,
        }
    }

    fn url(&self) -> url::Url {
        self.ready["url"].as_str().unwrap().parse().unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    async fn wait(mut self) -> Option<i32> {
        let ended = tokio::task::spawn_blocking(move || self.child.wait().unwrap());
        within("the command ends", ended).await.unwrap().code()
    }
}

async fn owner_of(up: &Up, folder: &Path) -> Client {
    let text = std::fs::read(up.ready["owner"].as_str().unwrap()).unwrap();
    let owner: Value = serde_json::from_slice(&text).unwrap();
    let key = Secret::new(owner["account"]["api_key"].as_str().unwrap());
    // The same key signs later commands in.
    let stored = std::fs::read_to_string(folder.join("config/flowai/credentials.json")).unwrap();
    assert!(stored.contains(key.reveal()));
    Client::new(&up.url(), key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_the_command() {
    let folder = tempfile::Builder::new()
        .prefix("flowai-up-")
        .tempdir()
        .unwrap();
    // Servers may run as another user, who has to get there.
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o711),
    )
    .unwrap();

    let up = Up::start(folder.path()).await;
    let owner = owner_of(&up, folder.path()).await;
    let account = owner.me().await.unwrap();
    assert_eq!(account.role, "admin");
    assert_eq!(owner.nodes().await.unwrap().len(), 1);
    let programs = descendants(up.pid());
    assert!(programs.len() >= 5, "{programs:?}");
    kill(up.pid(), Signal::SIGINT).unwrap();
    assert_eq!(up.wait().await, Some(0));
    assert!(programs.iter().all(|pid| !runs(*pid)));

    let up = Up::start(folder.path()).await;
    let again = owner_of(&up, folder.path()).await;
    assert_eq!(again.me().await.unwrap().id, account.id);
    let programs = descendants(up.pid());
    kill(up.pid(), Signal::SIGKILL).unwrap();
    assert_eq!(up.wait().await, None);
    all_end(&programs).await;
}
