//! A provider that is an operator's own program.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use flowai_actors::limits::AUTOSCALE_OUTPUT_BYTES_MAX;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process;

use super::provider::{Call, Provider, ProviderError};

/// What every program may see of the coordinator's environment, which holds secrets.
const SHOWN: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// Bytes that are read at a time.
const READ_BYTES: usize = 4 << 10;

/// Runs `PROGRAM --class CLASS --wanted N --ready M [--drained NODE]…`, without a shell and without input. What it starts has ended
/// when it has: its whole process group is killed after it, or when its time is over.
#[derive(Debug, Clone)]
pub struct Command {
    program: PathBuf,
    limit: Duration,
    environment: Vec<(OsString, OsString)>,
}

impl Command {
    /// `limit`: the time it has. `shown`: variables that it sees besides `PATH`, `HOME` and such.
    pub fn new(program: PathBuf, limit: Duration, shown: &[String]) -> Self {
        let names = SHOWN.into_iter().chain(shown.iter().map(String::as_str));
        let environment = names
            .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
            .collect();
        Self {
            program,
            limit,
            environment,
        }
    }

    fn command(&self, call: &Call) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command
            .arg("--class")
            .arg(&call.class)
            .arg("--wanted")
            .arg(call.wanted.to_string())
            .arg("--ready")
            .arg(call.ready.to_string());
        for node in &call.drained {
            command.arg("--drained").arg(node.as_str());
        }
        command
            .env_clear()
            .envs(self.environment.iter().cloned())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

impl Provider for Command {
    const DRAINS: bool = true;

    async fn want(&self, call: &Call) -> Result<(), ProviderError> {
        let mut child = self.command(call).spawn().map_err(ProviderError::Start)?;
        // Also when the term ends meanwhile and this future is dropped.
        let family = Family::of(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let running = async {
            let both = async { tokio::join!(beginning(stdout), beginning(stderr)) };
            let ended = async {
                let status = child.wait().await;
                // Whoever else holds its output open would be read for ever.
                family.kill();
                status
            };
            tokio::join!(both, ended)
        };
        let ended = tokio::time::timeout(self.limit, running).await;
        let ((stdout, stderr), status) = ended.map_err(|_| ProviderError::Late(self.limit))?;
        let status: ExitStatus = status.map_err(ProviderError::Wait)?;
        let said = if stderr.is_empty() { stdout } else { stderr };
        match status.code() {
            Some(0) => {
                tracing::info!(
                    class = call.class,
                    wanted = call.wanted,
                    ready = call.ready,
                    drained = call.drained.len(),
                    said,
                    "autoscaler's program was told"
                );
                Ok(())
            }
            code => {
                tracing::debug!(?code, signal = ?status.signal(), "autoscaler's program failed");
                Err(ProviderError::Status { status, said })
            }
        }
    }
}

/// The process group of a program.
struct Family(Option<Pid>);

impl Family {
    fn of(child: &process::Child) -> Self {
        Self(child.id().map(|id| Pid::from_raw(id.cast_signed())))
    }

    fn kill(&self) {
        if let Some(group) = self.0 {
            // It fails when nobody of it is left, as it should be.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first [`AUTOSCALE_OUTPUT_BYTES_MAX`] of what it says; the rest is read and dropped, so that it is not held up.
async fn beginning(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0; READ_BYTES];
    // What cannot be read is no reason to call the program failed.
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        let room = AUTOSCALE_OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend(&buffer[..read.min(room)]);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
