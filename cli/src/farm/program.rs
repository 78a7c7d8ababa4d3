//! One program of the farm, started again whenever it ends by itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flowai_actors::kit::Backoff;
use flowai_actors::link::Rule;
use flowai_embedded::{Launch, Process, RunAs};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::FarmError;
use super::settings::{Env, set};

/// How often the ready file of a starting program is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Loading a full-size model from a slow disk is the longest start.
const START_DEADLINE: Duration = Duration::from_secs(300);
/// From SIGTERM to SIGKILL: longer than the longest drain of a program, so that it is a last resort.
const STOP_DEADLINE: Duration = Duration::from_secs(40);
/// Waits before a program is started again, from …
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// … to.
const RESTART_MOST: Duration = Duration::from_secs(10);
/// Statuses of a render node that is to be upgraded, or was revoked or replaced: starting it again changes nothing.
const STAYS_DOWN: [i32; 2] = [Rule::Upgrade.status() as i32, Rule::Stop.status() as i32];
/// A program that was ready for so long before it ended is not in a loop of crashes.
const STEADY: Duration = Duration::from_secs(60);

/// What to start.
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    pub(crate) env: Env,
    /// What it is told to listen on, if it listens. Port 0 becomes the port it got, so that a restart keeps its address.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) log: PathBuf,
    pub(crate) ready_file: PathBuf,
}

/// Where a program stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramState {
    /// Started, and not ready yet.
    Starting { pid: Pid },
    /// `address`: where it listens, if it does.
    Ready {
        pid: Pid,
        address: Option<SocketAddr>,
    },
    /// It ended by itself and is started again soon.
    Down,
    /// It has ended and is not started again: it was told to stop, or said that it is not to come back.
    Stopped,
}

/// A program that runs until it is stopped. Dropping it ends it without waiting.
#[derive(Debug)]
pub struct Program {
    name: String,
    state: watch::Receiver<ProgramState>,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

/// What a program writes when it is ready.
#[derive(Deserialize)]
struct Ready {
    address: Option<SocketAddr>,
}

impl Program {
    /// Starts it and waits until it is ready; from then on it is kept running.
    ///
    /// # Errors
    /// [`FarmError::Process`] with the program's last words when it ends or stays silent before it is ready.
    pub(crate) async fn start(mut plan: Plan) -> Result<Self, FarmError> {
        let process = launch(&plan)?;
        let address = wait_until_ready(&plan, &process).await?;
        plan.listen = plan.listen.and(address);
        let ready = ProgramState::Ready {
            pid: process.pid(),
            address,
        };
        let (told, state) = watch::channel(ready);
        let stop = CancellationToken::new();
        let name = plan.name.clone();
        let keeper = tokio::spawn(keep_running(plan, process, told, stop.clone()));
        Ok(Self {
            name,
            state,
            stop,
            keeper,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands now and next, for whoever waits for a crash or a restart.
    pub fn state(&self) -> watch::Receiver<ProgramState> {
        self.state.clone()
    }

    /// Where it listens, while it is ready.
    pub fn address(&self) -> Option<SocketAddr> {
        match *self.state.borrow() {
            ProgramState::Ready { address, .. } => address,
            ProgramState::Starting { .. } | ProgramState::Down | ProgramState::Stopped => None,
        }
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<Pid> {
        match *self.state.borrow() {
            ProgramState::Starting { pid } | ProgramState::Ready { pid, .. } => Some(pid),
            ProgramState::Down | ProgramState::Stopped => None,
        }
    }

    /// Asks it to end in order, and waits for that; one that takes too long is killed.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.keeper).await {
            tracing::error!(program = self.name, %error, "the keeper of a program failed");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Drops the process, which stops it.
        self.keeper.abort();
    }
}

async fn keep_running(
    mut plan: Plan,
    mut process: Process,
    told: watch::Sender<ProgramState>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(RESTART_FIRST, RESTART_MOST);
    let mut ready_since = Some(Instant::now());
    loop {
        let was_told = tokio::select! {
            () = stop.cancelled() => true,
            () = process.ended() => false,
        };
        if was_told {
            if let Err(error) = process.stop().await {
                tracing::warn!(program = plan.name, %error, "a program had to be killed");
            }
            told.send_replace(ProgramState::Stopped);
            return;
        }
        let status = process.status().and_then(|status| status.code());
        if let Some(status) = status.filter(|status| STAYS_DOWN.contains(status)) {
            tracing::error!(
                program = plan.name,
                status,
                "a program says that it is not to come back"
            );
            told.send_replace(ProgramState::Stopped);
            return;
        }
        told.send_replace(ProgramState::Down);
        tracing::warn!(program = plan.name, status = ?process.status(), "a program ended by itself, starting it again");
        if ready_since.is_some_and(|since| since.elapsed() >= STEADY) {
            backoff.reset();
        }
        // `None`: it was told to stop while it was down.
        let Some((next, is_ready)) = restart(&mut plan, &mut backoff, &told, &stop).await else {
            told.send_replace(ProgramState::Stopped);
            return;
        };
        process = next;
        ready_since = is_ready.then(Instant::now);
    }
}

/// Starts the program until it runs. `false`: it runs, and ended or stayed silent before it was ready.
async fn restart(
    plan: &mut Plan,
    backoff: &mut Backoff,
    told: &watch::Sender<ProgramState>,
    stop: &CancellationToken,
) -> Option<(Process, bool)> {
    loop {
        let wait = backoff.next_wait(&mut rand::rng());
        stop.run_until_cancelled(tokio::time::sleep(wait)).await?;
        let process = match launch(plan) {
            Ok(process) => process,
            Err(error) => {
                tracing::error!(program = plan.name, %error, "a program cannot be started");
                continue;
            }
        };
        let pid = process.pid();
        told.send_replace(ProgramState::Starting { pid });
        let ready = stop
            .run_until_cancelled(wait_until_ready(plan, &process))
            .await;
        match ready {
            Some(Ok(address)) => {
                told.send_replace(ProgramState::Ready { pid, address });
                return Some((process, true));
            }
            Some(Err(error)) => {
                tracing::error!(program = plan.name, %error, "a program does not get ready");
                process.kill().await;
                return Some((process, false));
            }
            // The caller sees the token and stops it in order.
            None => return Some((process, false)),
        }
    }
}

fn launch(plan: &Plan) -> Result<Process, FarmError> {
    match std::fs::remove_file(&plan.ready_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let what = format!("removing {}", plan.ready_file.display());
            return Err(FarmError::io(what)(error));
        }
        _ => {}
    }
    let mut env = plan.env.clone();
    if let Some(listen) = plan.listen {
        env.push(set("FLOWAI_LISTEN", listen.to_string()));
    }
    Ok(Process::start(Launch {
        name: &plan.name,
        program: &plan.executable,
        args: Vec::new(),
        env,
        run_as: &RunAs::caller(),
        log: plan.log.clone(),
        stop_signal: Signal::SIGTERM,
        stop_deadline: STOP_DEADLINE,
    })?)
}

async fn wait_until_ready(plan: &Plan, process: &Process) -> Result<Option<SocketAddr>, FarmError> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if let Some(status) = process.status() {
            return Err(process.ended_early(status).into());
        }
        // A file that is being written reads as damaged; the next look sees it whole.
        if let Ok(text) = std::fs::read(&plan.ready_file)
            && let Ok(ready) = serde_json::from_slice::<Ready>(&text)
        {
            return match (plan.listen, ready.address) {
                (Some(_), None) => Err(FarmError::NoAddress {
                    program: plan.name.clone(),
                }),
                (_, address) => Ok(address),
            };
        }
        if Instant::now() >= deadline {
            return Err(process.late("ready", START_DEADLINE).into());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
