//! Server processes that never outlive their parent.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{LazyLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::Error;
use crate::run_as::RunAs;

/// How often a starting or stopping server is looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A log longer than this is moved aside.
const LOG_BYTES_MAX: u64 = 16 << 20;
const LOG_LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How much of the log's end an error shows.
const LOG_SHOWN_BYTES: u64 = 2_000;

/// What to start, and how it is told to stop.
pub struct Launch<'a> {
    pub name: &'a str,
    pub program: &'a Path,
    pub args: Vec<String>,
    /// Beside `PATH`, `LC_ALL` and `TZ`, which these may replace: nothing of the caller's own environment leaks in.
    pub env: Vec<(OsString, OsString)>,
    pub run_as: &'a RunAs,
    /// Appended to; moved aside when it has grown large.
    pub log: PathBuf,
    /// Asks the server to stop at once, in good order. The kernel also sends it when this process dies.
    pub stop_signal: Signal,
    /// From the signal to SIGKILL.
    pub stop_deadline: Duration,
}

/// A running server. Dropping it stops it and waits until it has ended.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    stop_signal: Signal,
    stop_deadline: Duration,
    log: PathBuf,
    log_start: u64,
    /// Written by the thread that waits for the child; `None` while the child runs.
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// # Errors
    /// [`Error::Io`] when the program or its log cannot be opened. One that starts and ends at once is no error here.
    pub fn start(launch: Launch<'_>) -> Result<Self, Error> {
        let (log, log_start) = open_log(&launch.log)?;
        let second = log.try_clone().map_err(Error::io("sharing a log file"))?;
        let mut command = command(launch.program, launch.run_as, Some(launch.stop_signal));
        command
            .args(&launch.args)
            .envs(launch.env)
            // A Ctrl-C at the terminal is for the caller, who stops its servers in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second);

        let mut child = spawn(command).map_err(Error::io(format!("starting {}", launch.name)))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let (ended, exit) = watch::channel(None);
        let (runs, over) = mpsc::channel::<()>();
        let thread =
            |name: &str| std::thread::Builder::new().name(format!("{name}-{}", launch.name));
        thread("wait")
            .spawn(move || {
                let status = child.wait().unwrap_or_default();
                ended.send_replace(Some(status));
                drop(runs);
            })
            .map_err(Error::io("starting a thread"))?;
        let path = launch.log.clone();
        thread("log")
            .spawn(move || keep_short(&path, LOG_BYTES_MAX, LOG_LOOK_INTERVAL, &over))
            .map_err(Error::io("starting a thread"))?;
        tracing::debug!(program = launch.name, %pid, "started");
        Ok(Self {
            name: launch.name.to_owned(),
            pid,
            stop_signal: launch.stop_signal,
            stop_deadline: launch.stop_deadline,
            log: launch.log,
            log_start,
            exit,
        })
    }

    /// Stays its number, to be sent nothing, after it has ended.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The exit status, once the server has ended.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Resolves when the server has ended, for whatever reason. Borrows nothing, so that nobody who waits is in the way of
    /// somebody who acts.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut exit = self.exit.clone();
        async move {
            // The waiting thread sends before it drops its end: an error means "ended" as well.
            let _ = exit.wait_for(Option::is_some).await;
        }
    }

    /// Asks the server to stop and waits for it; past its deadline it is killed, which is an error.
    pub async fn stop(&self) -> Result<(), Error> {
        self.signal(self.stop_signal);
        if tokio::time::timeout(self.stop_deadline, self.ended())
            .await
            .is_ok()
        {
            return Ok(());
        }
        self.kill().await;
        Err(self.late("stopped", self.stop_deadline))
    }

    /// SIGKILL, as a crash would end it.
    pub async fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Sends a signal unless the server has ended.
    pub fn signal(&self, signal: Signal) {
        if self.status().is_none() {
            // It can only fail when the server ended this very moment, which is what all callers wait for anyway.
            let _ = kill(self.pid, signal);
        }
    }

    /// What the server has logged since this start: its end.
    pub fn log_end(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            // Its beginning is gone when it was moved aside since.
            let start = if length < self.log_start {
                0
            } else {
                self.log_start
            };
            file.seek(SeekFrom::Start(
                start.max(length.saturating_sub(LOG_SHOWN_BYTES)),
            ))?;
            let mut end = Vec::new();
            file.take(LOG_SHOWN_BYTES).read_to_end(&mut end)?;
            Ok(String::from_utf8_lossy(&end).trim().to_owned())
        };
        read().unwrap_or_else(|error| format!("{} cannot be read: {error}", self.log.display()))
    }

    /// The error of a server that ended before it was ready, with its last words.
    pub fn ended_early(&self, status: ExitStatus) -> Error {
        Error::Ended {
            program: self.name.clone(),
            status,
            log: self.log_end(),
        }
    }

    /// The error of a server that was not `wanted` (ready, stopped) in time, with its last words.
    pub fn late(&self, wanted: &'static str, deadline: Duration) -> Error {
        Error::Deadline {
            program: self.name.clone(),
            wanted,
            deadline,
            log: self.log_end(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(self.stop_signal);
        let deadline = Instant::now() + self.stop_deadline;
        while self.status().is_none() {
            if Instant::now() >= deadline {
                self.signal(Signal::SIGKILL);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// A command that runs as `run_as`, in an environment that nothing of the caller's leaks into, and gets `at_parent_death`
/// when this process dies. `setpriv` (util-linux, essential in Debian) sets both between fork and exec.
pub(crate) fn command(program: &Path, run_as: &RunAs, at_parent_death: Option<Signal>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some((uid, gid)) = run_as.ids() {
        command.args([
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
        ]);
    }
    if let Some(signal) = at_parent_death {
        command.arg(format!(
            "--pdeathsig={}",
            signal.as_str().trim_start_matches("SIG")
        ));
    }
    command.arg("--").arg(program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
    // The caller's folder may be one that the servers' user cannot enter.
    command.current_dir("/");
    command
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a child from a thread that never ends. The kernel's "parent" of a parent-death signal is the *thread* that
/// forked, and async runtimes end theirs whenever they like.
fn spawn(command: Command) -> std::io::Result<Child> {
    static SPAWNER: LazyLock<std::io::Result<std::sync::Mutex<mpsc::Sender<Order>>>> =
        LazyLock::new(|| {
            let (orders, inbox) = mpsc::channel::<Order>();
            std::thread::Builder::new()
                .name("spawn-servers".to_owned())
                .spawn(move || {
                    for (mut command, answer) in inbox {
                        // The asker waits for the answer; were it gone, nobody would wait for the child, so it must end.
                        if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                            let _ = orphan.kill();
                        }
                    }
                })?;
            Ok(std::sync::Mutex::new(orders))
        });
    let gone = || std::io::Error::other("the thread that starts servers has ended");
    let orders = SPAWNER
        .as_ref()
        .map_err(|error| std::io::Error::new(error.kind(), error.to_string()))?;
    let (answer, child) = mpsc::channel();
    orders
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// Until the server has ended. What it writes between the copy and the cut is lost: it goes on writing to the same file.
fn keep_short(path: &Path, bytes_max: u64, every: Duration, over: &mpsc::Receiver<()>) {
    while over.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
        if !path.metadata().is_ok_and(|log| log.len() > bytes_max) {
            continue;
        }
        let cut = || OpenOptions::new().write(true).open(path)?.set_len(0);
        let moved = std::fs::copy(path, path.with_extension("log.1")).and_then(|_| cut());
        if let Err(error) = moved {
            tracing::warn!(path = %path.display(), %error, "a log cannot be moved aside");
        }
    }
}

fn open_log(path: &Path) -> Result<(File, u64), Error> {
    let doing = || Error::io(format!("opening {}", path.display()));
    if path
        .metadata()
        .is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX)
    {
        std::fs::rename(path, path.with_extension("log.1")).map_err(doing())?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(doing())?;
    let length = log.metadata().map_err(doing())?.len();
    Ok((log, length))
}

/// The first of `folders` that holds `program`.
pub(crate) fn find_program(
    program: &'static str,
    folders: impl IntoIterator<Item = PathBuf>,
) -> Result<PathBuf, Error> {
    folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or(Error::ProgramMissing { program })
}

/// Where programs lie: the caller's `PATH`, then Debian's folders.
pub(crate) fn program_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    folders.extend(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    folders
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_that_grows_is_moved_aside_under_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.log");
        let (mut log, _) = open_log(&path).unwrap();
        let (runs, over) = mpsc::channel();
        let kept = path.clone();
        let keeper = std::thread::spawn(move || {
            keep_short(&kept, 1_000, Duration::from_millis(1), &over);
        });
        log.write_all(&[b'a'; 2_000]).unwrap();
        let aside = path.with_extension("log.1");
        let is_short = || path.metadata().unwrap().len() == 0;
        while !(aside.exists() && is_short()) {
            std::thread::sleep(LOOK_INTERVAL);
        }
        log.write_all(b"goes on").unwrap();
        drop(runs);
        keeper.join().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "goes on");
        assert_eq!(std::fs::read(&aside).unwrap(), [b'a'; 2_000]);
    }
}
