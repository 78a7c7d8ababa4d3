//! A Redis of the farm's own. It holds rate limits and tickets, which nobody misses after a restart: nothing is saved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::RwLock;
use tokio::time::Instant;
use url::Url;

use crate::Error;
use crate::folder::{Folder, SocketFolder};
use crate::process::{LOOK_INTERVAL, Launch, Process, find_program, program_folders};
use crate::run_as::RunAs;
use crate::secrets;

const USER: &str = "flowai";
const SOCKET_PREFIX: &str = "redis-";
const START_DEADLINE: Duration = Duration::from_secs(20);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Secrets {
    password: String,
}

/// A running Redis on a unix socket, without TCP. Dropping it stops it and waits for it.
#[derive(Debug)]
pub struct Redis {
    // Fields are dropped in this order: the server first, the lock on its folder last.
    server: RwLock<Process>,
    socket: PathBuf,
    _sockets: SocketFolder,
    folder: Folder,
    run_as: RunAs,
    password: String,
    url: String,
}

impl Redis {
    /// Starts a Redis with its files in `folder` and waits until it answers.
    ///
    /// Its only user may not run scripts or functions, change or read the configuration, or list keys.
    ///
    /// # Errors
    /// [`Error::FolderInUse`] when another process holds the folder; [`Error::FolderUnreachable`] when the caller is root
    /// and the servers' user cannot get there; [`Error::Ended`] or [`Error::Deadline`] with the server's own words.
    pub async fn start(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let run_as = RunAs::choose()?;
        let folder = Folder::hold(folder.as_ref())?;
        folder.let_through(&run_as)?;
        let Secrets { password } =
            secrets::load_or_make(&folder.path().join("secrets.json"), || Secrets {
                password: secrets::random_secret(),
            })?;
        let sockets = SocketFolder::make(&folder, &run_as)?;
        sockets.clear(SOCKET_PREFIX)?;
        // A server whose farm was killed removes its socket as it ends, perhaps when this one listens already.
        let name = format!("{SOCKET_PREFIX}{}", hex::encode(rand::random::<[u8; 4]>()));
        let socket = sockets.path().join(name);
        let url = socket_url(&socket, &password)?;
        let server = start_server(&folder, &socket, &run_as, &password).await?;
        Ok(Self {
            server: RwLock::new(server),
            socket,
            _sockets: sockets,
            folder,
            run_as,
            password,
            url,
        })
    }

    /// How to reach it, password included; the same for as long as this value lives, also across [`Redis::restart`].
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Process id of the server.
    pub async fn pid(&self) -> i32 {
        self.server.read().await.pid().as_raw()
    }

    /// Stops in good order. Dropping does the same.
    pub async fn stop(&self) -> Result<(), Error> {
        self.server.read().await.stop().await
    }

    /// Ends it with SIGKILL, for tests of what a crash may cost.
    pub async fn kill(&self) {
        self.server.read().await.kill().await;
    }

    /// Waits until the server has ended, for whatever reason.
    pub async fn ended(&self) {
        let ended = self.server.read().await.ended();
        ended.await;
    }

    /// Starts it again, empty, at the same address, stopping it first if it runs.
    pub async fn restart(&self) -> Result<(), Error> {
        let mut server = self.server.write().await;
        server.stop().await?;
        *server = start_server(&self.folder, &self.socket, &self.run_as, &self.password).await?;
        Ok(())
    }
}

fn config(folder: &Folder, socket: &Path, password: &str) -> String {
    let hash = hex::encode(Sha256::digest(password));
    let working = socket.parent().unwrap_or(folder.path());
    format!(
        "port 0\n\
         unixsocket \"{}\"\n\
         unixsocketperm 700\n\
         dir \"{}\"\n\
         daemonize no\n\
         save \"\"\n\
         appendonly no\n\
         maxmemory 256mb\n\
         maxmemory-policy volatile-ttl\n\
         user default reset off\n\
         user {USER} on #{hash} ~* &* +@all -@admin -@dangerous -@scripting\n",
        socket.display(),
        working.display(),
    )
}

async fn start_server(
    folder: &Folder,
    socket: &Path,
    run_as: &RunAs,
    password: &str,
) -> Result<Process, Error> {
    let config_path = folder.path().join("redis.conf");
    secrets::write(&config_path, config(folder, socket, password).as_bytes())?;
    run_as.own(&config_path)?;
    let program = find_program("redis-server", program_folders())?;
    let server = Process::start(Launch {
        name: "redis",
        program: &program,
        args: vec![config_path.display().to_string()],
        env: Vec::new(),
        run_as,
        log: folder.path().join("redis.log"),
        stop_signal: Signal::SIGTERM,
        stop_deadline: STOP_DEADLINE,
    })?;
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if let Some(status) = server.status() {
            return Err(server.ended_early(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if let Ok(Ok(true)) = tokio::time::timeout(left, answers(socket, password)).await {
            return Ok(server);
        }
        if left.is_zero() {
            return Err(server.late("ready", START_DEADLINE));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Whether the server knows our user and answers its PING.
async fn answers(socket: &Path, password: &str) -> std::io::Result<bool> {
    const WANTED: &[u8] = b"+OK\r\n+PONG\r\n";
    let mut stream = UnixStream::connect(socket).await?;
    stream
        .write_all(format!("AUTH {USER} {password}\r\nPING\r\n").as_bytes())
        .await?;
    let mut answer = [0; WANTED.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer == WANTED)
}

/// `unix:///<socket>?user=flowai&pass=…`, as the redis crate reads it.
fn socket_url(socket: &Path, password: &str) -> Result<String, Error> {
    let mut url = Url::parse("unix:///").map_err(|error| Error::Address {
        name: "the embedded Redis",
        reason: error.to_string(),
    })?;
    url.set_path(&socket.display().to_string());
    url.query_pairs_mut()
        .append_pair("user", USER)
        .append_pair("pass", password);
    Ok(url.to_string())
}
