//! One program of the farm: kept running, and killed, frozen or made to crash when the run says so.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use flowai_embedded::{Launch, Process, RunAs};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::At;
use crate::network::Host;
use crate::proxy::{Proxy, Upstream};

const LOOK_INTERVAL: Duration = Duration::from_millis(10);
const READY_DEADLINE: Duration = Duration::from_secs(180);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// As a supervisor waits that does not spin.
const RESTART_WAIT: Duration = Duration::from_millis(300);

pub(crate) type Env = Vec<(OsString, OsString)>;

pub(crate) fn set(name: &str, value: impl Into<OsString>) -> (OsString, OsString) {
    (name.into(), value.into())
}

/// What to start.
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) host: Host,
    pub(crate) executable: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) env: Env,
    pub(crate) log: PathBuf,
    pub(crate) ready_file: PathBuf,
    /// What its clock says beside the machine's, once it has one of its own.
    pub(crate) clock_file: PathBuf,
    /// Leads to where it listens.
    pub(crate) proxy: Option<Arc<Proxy>>,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) pid: Option<Pid>,
    /// Of this start.
    pub(crate) is_ready: bool,
    pub(crate) starts: u32,
}

/// An end that nobody asked for in good order.
#[derive(Debug, Clone)]
pub(crate) struct Exit {
    pub(crate) at: At,
    pub(crate) status: ExitStatus,
}

/// What the next start is told, once.
#[derive(Debug, Default)]
struct NextStart {
    env: Env,
    not_before: Option<tokio::time::Instant>,
}

/// Ended in good order by [`Program::stop`], else with the value.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    host: Host,
    log: PathBuf,
    clock_file: PathBuf,
    standing: watch::Receiver<Standing>,
    exits: Arc<Mutex<Vec<Exit>>>,
    next: Arc<Mutex<NextStart>>,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

#[derive(Deserialize)]
struct Ready {
    address: Option<SocketAddr>,
}

/// A process that was told to stand still, and has to be let go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frozen {
    pub(crate) pid: Pid,
    /// It was seen to.
    pub(crate) stands_still: bool,
}

impl Program {
    /// Starts it and keeps it running. It may not be ready yet.
    ///
    /// # Errors
    /// It cannot be started at all.
    pub(crate) fn start(plan: Plan) -> anyhow::Result<Self> {
        let process = launch(&plan, Vec::new())?;
        let (told, standing) = watch::channel(Standing {
            pid: Some(process.pid()),
            is_ready: false,
            starts: 1,
        });
        let exits = Arc::<Mutex<Vec<Exit>>>::default();
        let next = Arc::<Mutex<NextStart>>::default();
        let stop = CancellationToken::new();
        let (name, host) = (plan.name.clone(), plan.host.clone());
        let (log, clock_file) = (plan.log.clone(), plan.clock_file.clone());
        let kept = Kept {
            plan,
            told,
            exits: exits.clone(),
            next: next.clone(),
            stop: stop.clone(),
        };
        Ok(Self {
            name,
            host,
            log,
            clock_file,
            standing,
            exits,
            next,
            stop,
            keeper: tokio::spawn(kept.run(process)),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    pub(crate) fn exits(&self) -> Vec<Exit> {
        locked(&self.exits).clone()
    }

    /// # Errors
    /// It is not ready in time.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        self.reach("ready", |standing| standing.is_ready).await
    }

    async fn reach(&self, what: &str, wanted: impl Fn(&Standing) -> bool) -> anyhow::Result<()> {
        let mut standing = self.standing.clone();
        let reached = tokio::time::timeout(READY_DEADLINE, standing.wait_for(wanted)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("{}: its keeper has ended", self.name),
            Err(_) => bail!("{} is not {what} within {READY_DEADLINE:?}", self.name),
        }
    }

    /// SIGKILL; it stays down for at least so long. Gives whether the signal was what ended it.
    pub(crate) async fn kill(&self, down: Duration) -> anyhow::Result<bool> {
        use std::os::unix::process::ExitStatusExt as _;

        let before = self.standing();
        let Some(pid) = before.pid else {
            return Ok(false);
        };
        let exits = self.exits().len();
        locked(&self.next).not_before = Some(tokio::time::Instant::now() + down);
        kill(pid, Signal::SIGKILL)?;
        self.reach("dead", |standing| standing.pid != Some(pid))
            .await?;
        let exit = self.exits().get(exits).cloned();
        Ok(exit.is_some_and(|exit| exit.status.signal() == Some(Signal::SIGKILL as i32)))
    }

    /// Kills it; its next start ends at this point of its code.
    pub(crate) async fn arm(&self, crash_point: &'static str) -> anyhow::Result<()> {
        locked(&self.next).env = vec![set("FLOWAI_CRASH_AT", crash_point)];
        self.kill(Duration::ZERO).await.map(drop)
    }

    /// Kills it; its next start has a clock of its own, which says what the machine's does until it is [set](Self::set_clock).
    ///
    /// # Errors
    /// libfaketime is not installed.
    pub(crate) async fn unhitch_clock(&self) -> anyhow::Result<()> {
        let library = faketime().context("libfaketimeMT.so.1 of Debian's package libfaketime")?;
        self.set_clock(0)?;
        locked(&self.next).env = vec![
            set("LD_PRELOAD", library),
            set("FAKETIME_TIMESTAMP_FILE", &self.clock_file),
            // Seconds for which an old setting counts.
            set("FAKETIME_CACHE_DURATION", "1"),
            set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        self.kill(Duration::ZERO).await.map(drop)
    }

    /// Its clock is so many seconds ahead from now on.
    pub(crate) fn set_clock(&self, ahead_s: i64) -> anyhow::Result<()> {
        Ok(fs::write(&self.clock_file, format!("{ahead_s:+}\n"))?)
    }

    /// Everything that it wrote from the byte `from` on.
    pub(crate) fn logged(&self, from: u64) -> anyhow::Result<String> {
        let log = fs::read(&self.log)?;
        let new = log.get(usize::try_from(from)?..).unwrap_or_default();
        Ok(String::from_utf8_lossy(new).into_owned())
    }

    /// Bytes that it has written.
    pub(crate) fn logged_bytes(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    /// Waits until it has ended more than `exits` times. Gives whether the newest end was by abort.
    pub(crate) async fn aborts(&self, exits: usize, patience: Duration) -> bool {
        use std::os::unix::process::ExitStatusExt as _;

        let mut standing = self.standing.clone();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let ended = self.exits();
            if ended.len() > exits {
                let signal = ended.last().and_then(|exit| exit.status.signal());
                return signal == Some(Signal::SIGABRT as i32);
            }
            let changed = tokio::time::timeout_at(deadline, standing.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return false;
            }
        }
    }

    /// Freezes it. `None` where there is no process, or it has just ended.
    pub(crate) async fn freeze(&self) -> anyhow::Result<Option<Frozen>> {
        let Some(pid) = self.standing().pid else {
            return Ok(None);
        };
        match kill(pid, Signal::SIGSTOP) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(5 * LOOK_INTERVAL).await;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let stands_still = state.starts_with('T');
        Ok(Some(Frozen { pid, stands_still }))
    }

    /// Lets it go on, if it is still the same process.
    pub(crate) fn thaw(&self, pid: Pid) {
        if self.standing().pid == Some(pid) {
            kill(pid, Signal::SIGCONT).ok();
        }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.keeper).await {
            tracing::error!(program = self.name, %error, "the keeper of a program failed");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Drops the process, which ends it.
        self.keeper.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Kept {
    plan: Plan,
    told: watch::Sender<Standing>,
    exits: Arc<Mutex<Vec<Exit>>>,
    next: Arc<Mutex<NextStart>>,
    stop: CancellationToken,
}

impl Kept {
    async fn run(self, mut process: Process) {
        loop {
            let readiness = self.announce(&process);
            let was_told = tokio::select! {
                () = self.stop.cancelled() => true,
                () = process.ended() => false,
                () = readiness => false,
            };
            if was_told {
                if let Err(error) = process.stop().await {
                    tracing::warn!(program = self.plan.name, %error, "a program had to be killed");
                }
                return;
            }
            if let Some(status) = process.status() {
                locked(&self.exits).push(Exit {
                    at: At::now(),
                    status,
                });
            }
            if let Some(proxy) = &self.plan.proxy {
                proxy.lead_to(Upstream::Nobody);
            }
            self.told.send_modify(|standing| {
                (standing.pid, standing.is_ready) = (None, false);
            });
            match self.start_again().await {
                Some(next) => process = next,
                None => return,
            }
        }
    }

    async fn start_again(&self) -> Option<Process> {
        loop {
            let pause = tokio::time::sleep(RESTART_WAIT);
            self.stop.run_until_cancelled(pause).await?;
            let NextStart { env, not_before } = std::mem::take(&mut *locked(&self.next));
            if let Some(not_before) = not_before {
                let pause = tokio::time::sleep_until(not_before);
                self.stop.run_until_cancelled(pause).await?;
            }
            match launch(&self.plan, env) {
                Ok(process) => {
                    self.told.send_modify(|standing| {
                        standing.pid = Some(process.pid());
                        standing.starts += 1;
                    });
                    return Some(process);
                }
                Err(error) => {
                    tracing::error!(program = self.plan.name, %error, "a program cannot be started");
                }
            }
        }
    }

    /// Says when it is ready, and never resolves.
    async fn announce(&self, process: &Process) {
        let ready = loop {
            if let Ok(text) = fs::read_to_string(&self.plan.ready_file) {
                break serde_json::from_str::<Ready>(&text);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        match (ready, &self.plan.proxy) {
            (Ok(Ready { address: Some(at) }), Some(proxy)) => proxy.lead_to(Upstream::Tcp(at)),
            (Ok(_), _) => {}
            (Err(error), _) => {
                tracing::error!(program = self.plan.name, %error, "a ready file cannot be read");
            }
        }
        let pid = process.pid();
        self.told.send_modify(|standing| {
            standing.is_ready = standing.pid == Some(pid);
        });
        std::future::pending().await
    }
}

/// Where Debian puts the library that gives a program a clock of its own.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?;
    let libraries = folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| library.is_file())
}

fn launch(plan: &Plan, once: Env) -> anyhow::Result<Process> {
    match fs::remove_file(&plan.ready_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| plan.ready_file.display().to_string());
        }
        _ => {}
    }
    let mut words = plan.host.enter();
    words.push(plan.executable.display().to_string());
    words.extend(plan.arguments.iter().cloned());
    // `setpriv`, which starts it, looks it up itself.
    let program = words.remove(0);
    let env = plan.env.iter().cloned().chain(once).collect();
    let process = Process::start(Launch {
        name: &plan.name,
        program: Path::new(&program),
        args: words,
        env,
        run_as: &RunAs::caller(),
        log: plan.log.clone(),
        stop_signal: Signal::SIGTERM,
        stop_deadline: STOP_DEADLINE,
    })?;
    Ok(process)
}
