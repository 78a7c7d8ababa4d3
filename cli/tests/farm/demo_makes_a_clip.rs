//! Goal: the one command that a newcomer runs makes a clip that plays and says what it was made from.

use std::process::Stdio;

use crate::support::{Flowai, probe, sha256_of, within};

#[tokio::test(flavor = "multi_thread")]
async fn demo_makes_a_clip() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Flowai::command(folder.path());
    demo.args(["demo", "--out", "out/demo.mp4", "--json"])
        .stdin(Stdio::null());

    let run = within("the demo ends", Flowai::finish(demo)).await;

    assert_eq!(run.status, Some(0), "{run:?}");
    let objects = run.objects();
    let rendered = objects.last().unwrap();
    assert_eq!(rendered["event"], "rendered");
    let clip = folder.path().join(rendered["path"].as_str().unwrap());
    let manifest = &rendered["manifest"];
    assert_eq!(manifest["clip_sha256"], sha256_of(&clip));
    assert_eq!(manifest["engine"]["name"], "svd");
    assert_eq!(manifest["adapters"].as_array().unwrap().len(), 1);
    let found = probe(&clip);
    assert_eq!(found.frames, manifest["spec"]["frames"].to_string());
    assert_eq!(found.width, manifest["spec"]["width"].as_u64().unwrap());
    assert!(objects.iter().any(|object| object["event"] == "progress"));
}
