//! A PostgreSQL cluster of the farm's own.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::RwLock;
use tokio::time::Instant;
use url::Url;

use crate::Error;
use crate::folder::{Folder, SocketFolder};
use crate::process::{LOOK_INTERVAL, Launch, Process, command, find_program, program_folders};
use crate::run_as::RunAs;
use crate::secrets::{self, DatabasePasswords};

/// The cluster's first role. It owns the database and runs migrations; nothing else may use it.
const OWNER: &str = "flowai_owner";
const DATABASE: &str = "flowai";

/// Who may connect from where (`pg_hba.conf`): everybody with a password, from this machine.
const CONNECTION_RULES: &str = "\
local all all              scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
";

/// What a cluster's folder is called until it is whole.
const PART_PREFIX: &str = "cluster.part-";

/// Recovery after a crash replays at most one checkpoint interval, which takes seconds here.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// A fast shutdown ends all sessions and writes one checkpoint.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Whether the server also listens on TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// Only on a unix socket, which only the servers' user and the caller can open.
    #[default]
    Socket,
    /// Also on this port of 127.0.0.1, for programs that cannot use a unix socket. A password is demanded as everywhere.
    Loopback { port: u16 },
}

impl Listen {
    /// Also of the socket's name.
    const fn port(self) -> u16 {
        match self {
            Self::Socket => 5432,
            Self::Loopback { port } => port,
        }
    }
}

/// How the farm's programs reach the database, one URL for each role.
#[derive(Clone)]
pub struct DatabaseUrls {
    /// For migrations only: this role bypasses row level security.
    pub owner: String,
    /// For the API; migrations make the role `flowai_app`.
    pub app: String,
    /// For the coordinator; migrations make the role `flowai_coordinator`.
    pub coordinator: String,
}

impl std::fmt::Debug for DatabaseUrls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseUrls").finish_non_exhaustive()
    }
}

impl DatabaseUrls {
    /// The other roles' URLs from the owner's: the same server and database with their names and passwords.
    pub(crate) fn from_owner(owner: &Url, passwords: &DatabasePasswords) -> Result<Self, Error> {
        let for_role = |role: &str, password: &str| {
            let mut url = owner.clone();
            match url
                .set_username(role)
                .and_then(|()| url.set_password(Some(password)))
            {
                Ok(()) => Ok(url.to_string()),
                Err(()) => Err(Error::Address {
                    name: "DATABASE_URL",
                    reason: "it must name a host: postgres://owner:password@host/database"
                        .to_owned(),
                }),
            }
        };
        Ok(Self {
            owner: owner.to_string(),
            app: for_role("flowai_app", &passwords.app)?,
            coordinator: for_role("flowai_coordinator", &passwords.coordinator)?,
        })
    }
}

/// A running cluster. Dropping it stops the server in good order and waits for it.
#[derive(Debug)]
pub struct Postgres {
    // Fields are dropped in this order: the server first, the lock on its folder last.
    server: RwLock<Process>,
    sockets: SocketFolder,
    folder: Folder,
    programs: PathBuf,
    cluster: PathBuf,
    run_as: RunAs,
    listen: Listen,
    passwords: DatabasePasswords,
    urls: DatabaseUrls,
}

impl Postgres {
    /// Starts the cluster in `folder`, which is made the first time, and waits until it takes connections.
    ///
    /// After a crash it recovers what was committed. A server of this folder that outlived its parent is stopped first.
    ///
    /// # Errors
    /// [`Error::FolderInUse`] when another process holds the folder; [`Error::FolderUnreachable`] when the caller is root
    /// and the servers' user cannot get there; [`Error::Ended`] or [`Error::Deadline`] with the server's own words.
    pub async fn start(folder: impl AsRef<Path>, listen: Listen) -> Result<Self, Error> {
        let run_as = RunAs::choose()?;
        let folder = Folder::hold(folder.as_ref())?;
        folder.let_through(&run_as)?;
        let programs = programs()?;
        let passwords = secrets::load_or_make(
            &folder.path().join("secrets.json"),
            DatabasePasswords::random,
        )?;

        let cluster = folder.path().join("cluster");
        if cluster.exists() {
            check_version(&cluster, &programs)?;
        } else {
            make_cluster(&folder, &cluster, &programs, &run_as, &passwords).await?;
        }

        let sockets = SocketFolder::make(&folder, &run_as)?;
        let server =
            start_server(&folder, &cluster, &programs, &run_as, listen, &sockets, &[]).await?;
        let urls =
            DatabaseUrls::from_owner(&owner_url(&sockets, listen.port(), &passwords)?, &passwords)?;
        Ok(Self {
            server: RwLock::new(server),
            sockets,
            folder,
            programs,
            cluster,
            run_as,
            listen,
            passwords,
            urls,
        })
    }

    /// How to reach it; the same for as long as this value lives, also across [`Postgres::restart`].
    pub fn urls(&self) -> &DatabaseUrls {
        &self.urls
    }

    /// What the migrations set as the roles' passwords.
    pub fn passwords(&self) -> &DatabasePasswords {
        &self.passwords
    }

    /// Where the unix socket lies.
    pub fn socket_folder(&self) -> &Path {
        self.sockets.path()
    }

    /// Process id of the server's first process.
    pub async fn pid(&self) -> i32 {
        self.server.read().await.pid().as_raw()
    }

    /// Stops in good order: sessions are ended, what was committed is on disk. Dropping does the same.
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

    /// Starts it again on the same data and the same address, stopping it first if it runs.
    pub async fn restart(&self) -> Result<(), Error> {
        self.restart_with(&[]).await
    }

    /// The same with other settings for as long as it runs then, by their names in `postgresql.conf`. They replace those of the
    /// farm, which `alter system` cannot change, as they are given on the server's command line.
    pub async fn restart_with(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        let mut server = self.server.write().await;
        server.stop().await?;
        *server = start_server(
            &self.folder,
            &self.cluster,
            &self.programs,
            &self.run_as,
            self.listen,
            &self.sockets,
            settings,
        )
        .await?;
        Ok(())
    }
}

/// The folder of the newest installed server programs.
fn programs() -> Result<PathBuf, Error> {
    let mut folders = program_folders();
    // Debian keeps the server programs of each major version in a folder of its own, outside of PATH.
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort();
    folders.extend(versions.into_iter().rev().map(|(_, folder)| folder));
    let mut initdb = find_program("initdb", folders)?;
    initdb.pop();
    Ok(initdb)
}

/// Refuses a cluster of another major version, which the server would refuse in less helpful words.
fn check_version(cluster: &Path, programs: &Path) -> Result<(), Error> {
    let made_by =
        fs::read_to_string(cluster.join("PG_VERSION")).map_err(Error::io("reading PG_VERSION"))?;
    let output = Command::new(programs.join("postgres"))
        .arg("--version")
        .output()
        .map_err(Error::io("asking postgres for its version"))?;
    // "postgres (PostgreSQL) 15.18 (Debian …)"
    let output = String::from_utf8_lossy(&output.stdout);
    let installed = output
        .split_whitespace()
        .nth(2)
        .and_then(|version| version.split('.').next())
        .unwrap_or_default();
    if made_by.trim() == installed {
        return Ok(());
    }
    Err(Error::PostgresVersion {
        folder: cluster.to_owned(),
        found: made_by.trim().to_owned(),
        installed: installed.to_owned(),
    })
}

/// Makes a cluster with one role and one database. It gets its final name when it is whole: an interrupted start leaves
/// nothing that looks like a cluster.
async fn make_cluster(
    folder: &Folder,
    cluster: &Path,
    programs: &Path,
    run_as: &RunAs,
    passwords: &DatabasePasswords,
) -> Result<(), Error> {
    remove_unfinished_clusters(folder);
    let part = folder.make_for(
        run_as,
        &format!("{PART_PREFIX}{}", hex::encode(rand::random::<[u8; 4]>())),
    )?;

    let mut initdb = command(&programs.join("initdb"), run_as, Some(Signal::SIGKILL));
    initdb
        .arg(format!("--pgdata={}", part.display()))
        .arg(format!("--username={OWNER}"));
    initdb.args([
        "--auth=reject",
        "--encoding=UTF8",
        "--locale=C",
        "--data-checksums",
    ]);
    run_with_input("initdb", initdb, String::new()).await?;

    let rules = part.join("pg_hba.conf");
    fs::write(&rules, CONNECTION_RULES)
        .map_err(Error::io(format!("writing {}", rules.display())))?;

    // A server for one standard input: nobody can connect to the cluster before its owner has a password. The password
    // is no argument, which anybody could see in the process list.
    let mut single = command(&programs.join("postgres"), run_as, Some(Signal::SIGKILL));
    single
        .args(["--single", "-j", "-D"])
        .arg(&part)
        .arg("postgres");
    let statements = format!(
        "alter role {OWNER} password '{}';\n\ncreate database {DATABASE} owner {OWNER};\n\n",
        passwords.owner
    );
    run_with_input("postgres --single", single, statements).await?;

    fs::rename(&part, cluster).map_err(Error::io(format!("naming {}", cluster.display())))
}

/// Removes what interrupted starts have left. A program of such a start may still be on its way out and write there:
/// what cannot be removed now is removed the next time, and the new cluster has a name of its own.
fn remove_unfinished_clusters(folder: &Folder) {
    let entries = fs::read_dir(folder.path()).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| {
        entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PART_PREFIX.as_bytes())
    }) {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::debug!(%error, path = %entry.path().display(), "an unfinished cluster stays for now");
        }
    }
}

async fn run_with_input(
    program: &'static str,
    mut command: Command,
    input: String,
) -> Result<(), Error> {
    let run = move || {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ended without reading says why in its output, which is the better error.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let output = tokio::task::spawn_blocking(run)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(Error::io(format!("running {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let log = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Err(Error::Ended {
        program: program.to_owned(),
        status: output.status,
        log: log.trim().to_owned(),
    })
}

/// The pid of the server that says it runs on this cluster, and whether it is ready, from its `postmaster.pid`.
fn postmaster(cluster: &Path) -> Option<(Pid, bool)> {
    let text = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let ready = lines.nth(6).is_some_and(|status| status.trim() == "ready");
    Some((Pid::from_raw(pid), ready))
}

/// Who works in a cluster, as far as this process may know.
#[derive(Debug, Default)]
struct Working {
    processes: Vec<Pid>,
    /// Some server's processes may not be looked into, and could be in there as well: root may have to do without
    /// `CAP_SYS_PTRACE`, as in a container.
    is_unsure: bool,
}

/// Every process of a server makes its cluster its working folder.
fn working_in(cluster: &Path) -> Working {
    let mut working = Working::default();
    // Servers of other users work elsewhere.
    let own = fs::metadata(cluster).map(|folder| folder.uid()).ok();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        match fs::read_link(entry.path().join("cwd")) {
            Ok(folder) if folder == cluster => working.processes.push(Pid::from_raw(pid)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let name = fs::read_to_string(entry.path().join("comm"));
                let is_server = name.is_ok_and(|name| name.trim() == "postgres");
                let owner = entry.metadata().map(|process| process.uid()).ok();
                working.is_unsure |= is_server && owner == own;
            }
            Ok(_) | Err(_) => {}
        }
    }
    working
}

/// Makes sure that nothing of an earlier server is left in the cluster: neither a server whose farm is gone, nor sessions
/// that have not yet noticed that their server was killed, nor a `postmaster.pid` or a lock beside the socket whose number belongs to
/// somebody else by now, which would keep a new server from starting.
///
/// The folder's lock is ours, so whatever works there belongs to no living farm.
async fn end_leftovers(cluster: &Path, sockets: &SocketFolder) -> Result<(), Error> {
    if let Some((pid, _)) = postmaster(cluster)
        && working_in(cluster).processes.contains(&pid)
    {
        tracing::warn!(%pid, "stopping a postgres whose farm is gone");
        // It may end between the look and the signal, which is as good.
        let _ = kill(pid, Signal::SIGINT);
    }
    let deadline = Instant::now() + STOP_DEADLINE;
    let is_unsure = loop {
        let Working {
            processes: left,
            is_unsure,
        } = working_in(cluster);
        if left.is_empty() {
            break is_unsure;
        }
        if Instant::now() >= deadline {
            return Err(Error::Deadline {
                program: "postgres".to_owned(),
                wanted: "stopped",
                deadline: STOP_DEADLINE,
                log: format!("processes {left:?} of an earlier farm still run"),
            });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    };
    if is_unsure {
        // Two servers on one cluster destroy it: the new one looks at the file itself, and starts if nobody else runs there.
        return Ok(());
    }
    sockets.clear(".s.PGSQL.")?;
    let pid_file = cluster.join("postmaster.pid");
    match fs::remove_file(&pid_file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", pid_file.display()))(error))
        }
        _ => Ok(()),
    }
}

async fn start_server(
    folder: &Folder,
    cluster: &Path,
    programs: &Path,
    run_as: &RunAs,
    listen: Listen,
    sockets: &SocketFolder,
    settings: &[(&str, &str)],
) -> Result<Process, Error> {
    let addresses = match listen {
        Listen::Socket => "",
        Listen::Loopback { .. } => "127.0.0.1",
    };
    let mut args = vec!["-D".to_owned(), cluster.display().to_string()];
    for (name, value) in [
        ("listen_addresses", addresses),
        ("port", &listen.port().to_string()),
        (
            "unix_socket_directories",
            &sockets.path().display().to_string(),
        ),
        ("unix_socket_permissions", "0700"),
        ("max_connections", "200"),
        ("shared_buffers", "128MB"),
        // What was acknowledged survives a power failure (INV-4). On is the default; it is said so that nobody's
        // postgresql.conf can switch it off.
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        // A program that froze inside a transaction must not hold its locks for ever.
        ("idle_in_transaction_session_timeout", "60s"),
        ("timezone", "UTC"),
        // Short queries on small tables: compiling them takes longer than running them.
        ("jit", "off"),
    ] {
        args.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    // The last of several counts.
    for (name, value) in settings {
        args.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    end_leftovers(cluster, sockets).await?;
    let server = Process::start(Launch {
        name: "postgres",
        program: &programs.join("postgres"),
        args,
        env: Vec::new(),
        run_as,
        log: folder.path().join("postgres.log"),
        stop_signal: Signal::SIGINT,
        stop_deadline: STOP_DEADLINE,
    })?;
    wait_until_ready(&server, cluster).await?;
    Ok(server)
}

async fn wait_until_ready(server: &Process, cluster: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if let Some(status) = server.status() {
            return Err(server.ended_early(status));
        }
        if postmaster(cluster) == Some((server.pid(), true)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(server.late("ready", START_DEADLINE));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// `postgres://owner:…@localhost:5432/flowai?sslmode=disable&host=<socket folder>`: the host in the query is what sqlx and libpq connect
/// to. What is left open is read from `PG…` variables, which are somebody else's.
fn owner_url(
    sockets: &SocketFolder,
    port: u16,
    passwords: &DatabasePasswords,
) -> Result<Url, Error> {
    let base = format!(
        "postgres://{OWNER}:{}@localhost:{port}/{DATABASE}",
        passwords.owner
    );
    let mut url = Url::parse(&base).map_err(|error| Error::Address {
        name: "the embedded database",
        reason: error.to_string(),
    })?;
    url.query_pairs_mut()
        .append_pair("sslmode", "disable")
        .append_pair("host", &sockets.path().display().to_string());
    Ok(url)
}
