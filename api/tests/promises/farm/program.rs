//! The real program, with the settings that `flowai up` gives.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use flowai_actors::link::PeerId;
use flowai_actors::link::pki::Ca;
use flowai_embedded::Parts;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use url::Url;

use super::{DEADLINE, objects_config};

pub(crate) struct Program {
    env: Vec<(String, String)>,
    folder: PathBuf,
}

pub(crate) struct Running {
    pub(crate) url: Url,
    child: Child,
    log: PathBuf,
}

impl Program {
    pub(crate) fn new(parts: &Parts, folder: &Path) -> Self {
        let tls = folder.join("tls");
        let me: PeerId = "api-1.api".parse().unwrap();
        let ca = Ca::create(&folder.join("ca")).unwrap();
        ca.issue(&me).unwrap().save(&tls).unwrap();
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let s3 = objects_config(parts);
        let env = [
            ("FLOWAI_ID", "api-1".to_owned()),
            ("FLOWAI_DATA_DIR", path("state")),
            ("FLOWAI_TLS_DIR", path("tls")),
            ("FLOWAI_KEYS_DIR", path("keys")),
            ("FLOWAI_LISTEN", "127.0.0.1:0".to_owned()),
            ("FLOWAI_READY_FILE", path("ready.json")),
            // Reserved: nobody listens there.
            ("FLOWAI_COORDINATORS", "127.0.0.1:1".to_owned()),
            ("DATABASE_URL", parts.database().app.clone()),
            ("REDIS_URL", parts.redis_url().to_owned()),
            ("S3_ENDPOINT", s3.endpoint),
            ("S3_REGION", s3.region),
            ("S3_BUCKET", s3.bucket),
            ("S3_ACCESS_KEY_ID", s3.access_key_id),
            ("S3_SECRET_ACCESS_KEY", s3.secret_access_key),
        ];
        Self {
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            folder: folder.to_owned(),
        }
    }

    /// Starts it and waits until it serves.
    pub(crate) async fn start(&self) -> Running {
        let log = self.folder.join("log");
        let file = std::fs::File::create(&log).unwrap();
        let mut child = self.command().stderr(file).spawn().unwrap();
        let ready_file = self.folder.join("ready.json");
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        let ready = async {
            loop {
                if let Ok(text) = std::fs::read(&ready_file) {
                    return serde_json::from_slice::<Value>(&text).unwrap();
                }
                if let Some(status) = child.try_wait().unwrap() {
                    panic!("{status}: {}", std::fs::read_to_string(&log).unwrap());
                }
                looks.tick().await;
            }
        };
        let ready = timeout(DEADLINE, ready).await.unwrap();
        let address = ready["address"].as_str().unwrap();
        Running {
            url: Url::parse(&format!("http://{address}")).unwrap(),
            child,
            log,
        }
    }

    /// Starts it with one setting changed; panics unless it ends with this status and says these words.
    pub(crate) async fn refuses(&self, name: &str, value: &str, status: i32, words: &str) {
        let mut command = self.command();
        command.env(name, value).stderr(Stdio::piped());
        let output = timeout(DEADLINE, command.output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("{name}={value} serves"))
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{name}={value}: {said}");
        assert!(said.contains(words), "{name}={value}: {said}");
        assert!(!self.folder.join("ready.json").exists(), "{name}={value}");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowai-api"));
        command.env_clear().envs(self.env.iter().cloned());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

impl Running {
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }

    /// Waits for its end in order, asking for it when nobody has, and gives its log.
    pub(crate) async fn end(mut self) -> String {
        if self.child.try_wait().unwrap().is_none() {
            self.terminate();
        }
        let ended: ExitStatus = timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap();
        let log = std::fs::read_to_string(&self.log).unwrap();
        assert!(ended.success(), "{ended}: {log}");
        log
    }
}
