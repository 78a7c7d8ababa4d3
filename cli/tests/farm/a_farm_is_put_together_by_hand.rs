//! Goal: operators put a farm together from its programs, on machines of their own, by the commands that `docs/operations.md` names.
//! Method: those commands as typed, with a database, a Redis and an object store that are there already.

use std::path::{Path, PathBuf};
use std::process::{Command as Typed, Stdio};

use flowai_embedded::{External, Parts};
use flowai_model::safetensors::Dtype;
use flowai_model::{Preset, synthetic};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{Flowai, PICTURE, probe, programs, within};

struct ByHand {
    parts: Parts,
    folder: TempDir,
    _data: TempDir,
}

impl ByHand {
    async fn start() -> Self {
        let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let parts = Parts::start(data.path(), External::default()).await;
        Self {
            parts: parts.unwrap(),
            folder,
            _data: data,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the command says, which must do what it is for.
    async fn typed(&self, args: &[&str], env: &[(&str, &str)]) -> Flowai {
        let mut command: Typed = Flowai::command(self.folder.path());
        command.args(args).envs(env.iter().copied());
        let done = within("a command ends", Flowai::finish(command)).await;
        assert_eq!(done.status, Some(0), "{args:?}: {done:?}");
        done
    }

    /// A program with these settings beside those that all have. Gives what it says when it is ready.
    async fn program(&self, name: &str, env: &[(&str, &str)]) -> (Child, Value) {
        let (id, ready) = (format!("{name}-1"), self.path(&format!("{name}.json")));
        let s3 = self.parts.s3();
        let mut command = Command::new(programs().join(format!("flowai-{name}")));
        let child = command
            .env_clear()
            .env(
                "LD_LIBRARY_PATH",
                std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default(),
            )
            .envs([
                ("FLOWAI_ID", id.as_str()),
                ("S3_ENDPOINT", &s3.endpoint),
                ("S3_REGION", &s3.region),
                ("S3_BUCKET", &s3.bucket),
                ("S3_ACCESS_KEY_ID", &s3.access_key_id),
                ("S3_SECRET_ACCESS_KEY", &s3.secret_access_key),
            ])
            .env("FLOWAI_DATA_DIR", self.path(name))
            .env("FLOWAI_TLS_DIR", self.path(&format!("{name}/tls")))
            .env("FLOWAI_READY_FILE", &ready)
            .envs(env.iter().copied())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        (child, is_ready(&ready).await)
    }
}

async fn is_ready(file: &Path) -> Value {
    let reading = async {
        loop {
            match std::fs::read(file) {
                Ok(text) => return serde_json::from_slice(&text).unwrap(),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    };
    within("a program is ready", reading).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_is_put_together_by_hand() {
    let farm = ByHand::start().await;
    let (urls, passwords) = (farm.parts.database(), farm.parts.database_passwords());
    let database = [
        ("DATABASE_URL", urls.owner.as_str()),
        ("FLOWAI_APP_PASSWORD", &passwords.app),
        ("FLOWAI_COORDINATOR_PASSWORD", &passwords.coordinator),
    ];
    farm.typed(&["migrate"], &database).await;
    let stranger = ["certify", "api", "s", "--ca", "elsewhere", "--tls", "s"];
    let made = farm.typed(&stranger, &[]).await;
    assert!(made.stderr.contains("new CA"), "{made:?}");
    for program in ["coordinator", "api"] {
        let (id, tls) = (format!("{program}-1"), format!("{program}/tls"));
        let certify = ["certify", program, &id, "--ca", "ca", "--tls", &tls];
        farm.typed(&certify, &[]).await;
        // Once more is the next certificate of the same program, and no other's.
        farm.typed(&certify, &[]).await;
        let mut other = Flowai::command(farm.folder.path());
        other.args(["certify", program, "other", "--ca", "ca", "--tls", &tls]);
        let refused = Flowai::finish(other).await;
        refused.assert_refused(2, &["--tls", &id]);
        // A slip of the pen makes no second CA, and no certificate that nobody believes.
        for wrong in ["cb", "elsewhere"] {
            let mut slip = Flowai::command(farm.folder.path());
            slip.args(["certify", program, &id, "--ca", wrong, "--tls", &tls]);
            Flowai::finish(slip)
                .await
                .assert_refused(2, &["--ca", wrong, &id]);
        }
    }

    let (ca, keys) = (farm.path("ca"), farm.path("keys"));
    let coordinator = [
        ("DATABASE_URL", urls.coordinator.as_str()),
        ("FLOWAI_CA_DIR", ca.to_str().unwrap()),
        ("FLOWAI_LISTEN", "127.0.0.1:0"),
    ];
    let (_coordinator, ready) = farm.program("coordinator", &coordinator).await;
    let api = [
        ("DATABASE_URL", urls.app.as_str()),
        ("REDIS_URL", farm.parts.redis_url()),
        ("FLOWAI_KEYS_DIR", keys.to_str().unwrap()),
        ("FLOWAI_COORDINATORS", ready["address"].as_str().unwrap()),
        ("FLOWAI_LISTEN", "127.0.0.1:0"),
    ];
    let (_api, ready) = farm.program("api", &api).await;
    let url = format!("http://{}", ready["address"].as_str().unwrap());

    let operator = "operator@example.org";
    let signed_in = [
        ("FLOWAI_URL", url.as_str()),
        ("FLOWAI_PASSWORD", "a long enough password"),
    ];
    farm.typed(&["signup", operator], &signed_in).await;
    farm.typed(&["migrate", "--admin", operator], &database)
        .await;
    let tier = format!("{operator}=pro");
    farm.typed(&["migrate", "--tier", &tier], &database).await;
    let mut unknown = Flowai::command(farm.folder.path());
    unknown.args(["migrate", "--tier", "nobody@example.org=pro"]);
    unknown.envs(database);
    let refused = Flowai::finish(unknown).await;
    refused.assert_refused(2, &["nobody@example.org"]);
    let mut owner = PgConnection::connect(&urls.owner).await.unwrap();
    let told: String = sqlx::query_scalar("select tier from account where email = $1")
        .bind(operator)
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(told, "pro");
    farm.typed(&["login", operator], &signed_in).await;
    let made = farm.typed(&["token", "create", "--json"], &signed_in).await;
    let token = made.objects()[0]["token"].as_str().unwrap().to_owned();
    let join = [
        "node",
        "join",
        &url,
        "--token",
        &token,
        "--data",
        "render-node",
    ];
    farm.typed(&join, &[]).await;

    let models = farm.path("models");
    synthetic_model(&models);
    let settings = std::fs::read_to_string(farm.path("render-node/node.env")).unwrap();
    let settings = settings.lines().map(|line| line.split_once('=').unwrap());
    let mut node: Vec<(&str, &str)> = settings
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    node.extend([
        ("FLOWAI_MODELS_DIR", models.to_str().unwrap()),
        ("FLOWAI_ENGINE", "stand-in"),
    ]);
    let (_node, _) = farm.program("render-node", &node).await;

    std::fs::write(farm.path("cat.png"), PICTURE).unwrap();
    let render = ["render", "cat.png", "--out", "cat.mp4"];
    farm.typed(&render, &signed_in).await;
    assert_eq!(probe(&farm.path("cat.mp4")).codec, "h264");
}

fn synthetic_model(models: &Path) {
    let folder = models.join("tiny");
    std::fs::create_dir_all(&folder).unwrap();
    synthetic::write_model(&folder, &Preset::Tiny.config(), 1, Dtype::F32).unwrap();
}
