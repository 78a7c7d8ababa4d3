//! A provider that is an operator's own program.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use flowai_actors::limits::AUTOSCALE_OUTPUT_BYTES_MAX;
use futures::future::{Either, join, select};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process;

use super::provider::{Call, Provider, ProviderError};

/// What every program may see of the coordinator's environment, which holds secrets.
const SHOWN: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// Bytes that are read at a time.
const READ_BYTES: usize = 4 << 10;
/// A program that has ended is listened to for so long: whoever has left its process group may hold its output open for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
        let mut family = Family::of(&child);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let reading = join(beginning(out, &mut stdout), beginning(err, &mut stderr));
        let ending = async {
            let ended = tokio::time::timeout(self.limit, child.wait()).await;
            family.kill();
            ended
        };
        let ended = match select(pin!(ending), pin!(reading)).await {
            Either::Left((ended, reading)) => {
                // How it ended counts, whether or not all of its words came.
                let _ = tokio::time::timeout(LAST_WORDS, reading).await;
                ended
            }
            Either::Right((_, ending)) => ending.await,
        };
        let ended = ended.map_err(|_| ProviderError::Late(self.limit))?;
        let status: ExitStatus = ended.map_err(ProviderError::Wait)?;
        let (stdout, stderr) = (text(&stdout), text(&stderr));
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

/// The process group of a program, until it was killed: its id may belong to others after that.
struct Family(Option<Pid>);

impl Family {
    fn of(child: &process::Child) -> Self {
        Self(child.id().map(|id| Pid::from_raw(id.cast_signed())))
    }

    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
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

/// Keeps the first [`AUTOSCALE_OUTPUT_BYTES_MAX`] of what it says; the rest is read and dropped, so that it is not held up.
async fn beginning(output: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut output) = output else {
        return;
    };
    let mut buffer = [0; READ_BYTES];
    // What cannot be read is no reason to call the program failed.
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        let room = AUTOSCALE_OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend(&buffer[..read.min(room)]);
    }
}

fn text(said: &[u8]) -> String {
    String::from_utf8_lossy(said).trim().to_owned()
}
