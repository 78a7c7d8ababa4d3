//! Goal: programs written for the OpenAI videos API run against FlowAI by changing the base URL and the key. Method: the
//! official clients from PyPI and npm, unchanged, as `make setup` installs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{PICTURE, TestFarm, probe, store_random_adapter, within};

/// Where `ops/setup/clients.sh` put the clients.
fn clients() -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let clients = checkout.join(".clients");
    assert!(
        clients.is_dir(),
        "{} is missing: run `make setup`",
        clients.display()
    );
    clients
}

async fn check(mut client: Command, farm: &TestFarm) {
    let user = farm.user().await;
    let (adapter, sha256) = store_random_adapter(farm, &user.client).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cat.png"), PICTURE).unwrap();
    client
        .current_dir(folder.path())
        .env(
            "OPENAI_BASE_URL",
            farm.url().join("/openai/v1").unwrap().as_str(),
        )
        .env("OPENAI_API_KEY", user.key.reveal())
        .env("ADAPTER", adapter);

    let run = tokio::task::spawn_blocking(move || client.output());
    let run = within("the client ends", run).await.unwrap().unwrap();

    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let clip = probe(&folder.path().join("clip.mp4"));
    assert_eq!(
        (clip.width, clip.height, clip.frames.as_str()),
        (96, 64, "4")
    );
    // The weight of the form is the weight of the clip.
    let videos = user.client.videos(10, None).await.unwrap();
    let manifest = user.client.manifest(&videos[0].id).await.unwrap();
    let fused: Vec<_> = manifest
        .adapters
        .iter()
        .map(|a| (a.sha256, a.weight))
        .collect();
    assert_eq!(fused, [(sha256, 0.5)]);
    let thumbnail = std::fs::read(folder.path().join("thumbnail.webp")).unwrap();
    assert_eq!(&thumbnail[8..12], b"WEBP");
    let spritesheet = std::fs::read(folder.path().join("spritesheet.jpg")).unwrap();
    assert_eq!(&spritesheet[..2], [0xff, 0xd8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_client_works_unchanged() {
    let farm = TestFarm::start(|_| ()).await;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/farm/openai");

    let mut python = Command::new(clients().join("bin/python"));
    python.arg(scripts.join("client.py"));
    check(python, &farm).await;

    let mut node = Command::new(clients().join("bin/node"));
    node.arg(scripts.join("client.cjs"))
        .env("NODE_PATH", clients().join("node_modules"));
    check(node, &farm).await;
    farm.stop().await;
}
