//! The command itself, as people and scripts run it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::{TestFarm, User};

/// What a run of `flowai` came to.
#[derive(Debug)]
pub(crate) struct Flowai {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Flowai {
    /// Runs the command as a user of a farm, in a folder.
    pub(crate) async fn run(farm: &TestFarm, user: &User, folder: &Path, args: &[&str]) -> Self {
        let mut command = Self::command(folder);
        command
            .env("FLOWAI_URL", farm.url().as_str())
            .env("FLOWAI_API_KEY", user.key.reveal())
            .args(args);
        Self::finish(command).await
    }

    /// The command with nobody's settings and credentials.
    pub(crate) fn command(folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowai"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLOWAI_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(folder)
            .env("XDG_CONFIG_HOME", folder.join("config"));
        command
    }

    /// Killed when nobody waits for it any more, so that a test that has failed ends.
    pub(crate) async fn finish(command: Command) -> Self {
        let mut command = tokio::process::Command::from(command);
        let Output {
            status,
            stdout,
            stderr,
        } = command.kill_on_drop(true).output().await.unwrap();
        Self {
            status: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// The objects on standard output, which must be one a line and nothing else.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// It ended with this status and said these words on standard error.
    pub(crate) fn assert_refused(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in {:?}",
                self.stderr
            );
        }
    }
}
