//! Goal: the one command that a newcomer runs makes a clip that plays, says what it was made from and how long that took, and
//! leaves nothing of its farm.
//! Method: a run as a person sees it, looked at from outside while it renders and after its end.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use flowai::commands::demo::video;
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::{Flowai, descendants, probe, runs, sha256_of, within};

#[tokio::test(flavor = "multi_thread")]
async fn demo_makes_a_clip() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Flowai::command(folder.path());
    demo.args(["demo", "--adapter", "pan-left", "--out", "out/demo.mp4"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());

    let (run, below) = within("the demo ends", run_and_look_below(demo)).await;

    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(below.len() >= 5, "{below:?}");
    assert!(below.iter().all(|pid| !runs(*pid)), "{below:?}");
    assert!(run.stderr.contains("\ndenoising\n"), "{run:?}");
    let clip = folder.path().join("out/demo.mp4");
    let (manifest, times) = run.stdout.split_once("\nTime\n").unwrap();
    assert_eq!(times.lines().last(), Some("out/demo.mp4"));
    assert_times(times);
    let bytes = clip.metadata().unwrap().len();
    let asked = video(String::new());
    let found = probe(&clip);
    assert_eq!(found.frames, asked.frames.unwrap().to_string());
    assert_eq!(found.width, u64::from(asked.width.unwrap()));
    let spec = format!(
        "\n  spec     {} frames of {}x{} at {} a second, {} steps, seed {}\n",
        found.frames,
        found.width,
        found.height,
        asked.fps.unwrap(),
        asked.steps.unwrap(),
        asked.seed.unwrap(),
    );
    for words in [
        &format!("\n  clip     {bytes} bytes, sha256 {}\n", sha256_of(&clip)),
        "\n  model    tiny, sha256 ",
        "\n  adapter  ",
        " at 1, 132 modules",
        "\n  picture  sha256 ",
        &spec,
        "\n  made by  svd ",
        " on node-1 (",
        ", attempt 1\n",
    ] {
        assert!(manifest.contains(words), "{words:?} is not in {manifest}");
    }
}

/// Each stage has a row; those that cannot take no time, did not.
fn assert_times(times: &str) {
    for (stage, ms_min) in [
        ("start of the farm", 1),
        ("fetch", 0),
        ("fuse the adapter", 0),
        ("prepare", 1),
        ("denoise", 1),
        ("decode and encode", 1),
        ("rest of encoding", 0),
        ("upload", 0),
        ("submission to done", 1),
    ] {
        let mut rows = times.lines().map(str::trim);
        let took = rows.find_map(|row| row.strip_prefix(stage));
        let took = took.unwrap_or_else(|| panic!("{stage:?} is not in {times}"));
        let ms: u64 = took.trim().strip_suffix(" ms").unwrap().parse().unwrap();
        assert!(ms >= ms_min, "{times}");
    }
}

/// What the command came to, and what ran below it when it had submitted.
async fn run_and_look_below(command: Command) -> (Flowai, BTreeSet<Pid>) {
    let mut command = tokio::process::Command::from(command);
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut below = BTreeSet::new();
    let mut stderr = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.starts_with("submitted ") {
            below = descendants(pid);
        }
        stderr.push_str(&line);
        stderr.push('\n');
    }
    let output = child.wait_with_output().await.unwrap();
    let run = Flowai {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr,
    };
    (run, below)
}
