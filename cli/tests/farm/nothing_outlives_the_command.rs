//! Goal: whether `flowai up` is stopped or killed, none of its programs and servers goes on, and the next start has all the
//! data.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use flowai::client::{Client, Secret};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Flowai, within};

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

/// Every process below `pid` at this moment.
fn descendants(pid: Pid) -> BTreeSet<Pid> {
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; state and parent follow it.
        stat.rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    let all: Vec<(i32, i32)> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut found = BTreeSet::from([pid.as_raw()]);
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|(child, parent)| found.contains(parent) && !found.contains(child))
            .map(|(child, _)| *child)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    found.remove(&pid.as_raw());
    found.into_iter().map(Pid::from_raw).collect()
}

fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest.trim_start());
    // A zombie has ended; its new parent may take a moment to notice.
    !state.is_empty() && !state.starts_with('Z')
}

async fn all_end(pids: &BTreeSet<Pid>) {
    let gone = async {
        while pids.iter().any(|pid| runs(*pid)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("every process has ended", gone).await;
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
