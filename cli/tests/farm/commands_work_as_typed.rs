//! Goal: every command does what its help says, for people and for programs, and ends with the exit code that it promises.
//! Method: the real command against a real farm, one user's day from signing up to signing out.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use flowai::client::{Client, Credentials};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::support::{Flowai, PICTURE, TestFarm, probe, within};

const PASSWORD: &str = "correct horse battery";

/// A user's terminal: a folder, and no credential but what the command itself remembers.
struct Terminal<'a> {
    farm: &'a TestFarm,
    folder: &'a Path,
}

impl Terminal<'_> {
    async fn run(&self, args: &[&str]) -> Flowai {
        let mut command = Flowai::command(self.folder);
        command
            .env("FLOWAI_URL", self.farm.url().as_str())
            .env("FLOWAI_PASSWORD", PASSWORD)
            .args(args);
        Flowai::finish(command).await
    }

    /// The objects of a run that must succeed.
    async fn json(&self, args: &[&str]) -> Vec<Value> {
        let ran = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(ran.status, Some(0), "{args:?}: {ran:?}");
        ran.objects()
    }

    /// Whoever has the key that the command remembers now.
    fn client(&self) -> Client {
        let path = self.folder.join("config/flowai/credentials.json");
        let account = Credentials::load(&path).unwrap();
        let account = account.account(&self.farm.url()).unwrap().clone();
        Client::new(&self.farm.url(), account.api_key).unwrap()
    }

    /// What a run that must succeed printed as its result.
    async fn text(&self, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.status, Some(0), "{args:?}: {ran:?}");
        ran.stdout
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_at_the_terminal() {
    let farm = TestFarm::start(|_| ()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cat.png"), PICTURE).unwrap();
    let terminal = Terminal {
        farm: &farm,
        folder: folder.path(),
    };

    terminal.run(&["jobs"]).await.assert_refused(3, &["signup"]);
    terminal.text(&["signup", "ada@example.org"]).await;
    let models = terminal.json(&["models", "list"]).await;
    assert_eq!(models[0]["id"], "small", "{models:?}");

    let small = [
        "--frames", "4", "--width", "64", "--height", "48", "--steps", "3",
    ];
    let rendered = terminal
        .text(&[&["render", "cat.png", "--out", "clip.mp4"], &small[..]].concat())
        .await;
    assert_eq!(rendered.trim(), "clip.mp4");
    assert_eq!(probe(&folder.path().join("clip.mp4")).frames, "4");
    // What is there is not overwritten unasked.
    let again = terminal
        .run(&["render", "cat.png", "--out", "clip.mp4"])
        .await;
    again.assert_refused(2, &["clip.mp4", "--force"]);

    let detached = [&["render", "cat.png", "--detach"], &small[..]].concat();
    let job = terminal.text(&detached).await.trim().to_owned();
    let watched = terminal
        .json(&["watch", &job, "--out", "watched.mp4"])
        .await;
    let statuses: Vec<_> = watched
        .iter()
        .filter_map(|event| event["video"]["status"].as_str())
        .collect();
    assert_eq!(statuses.last(), Some(&"done"), "{watched:?}");
    assert_eq!(watched.last().unwrap()["event"], "saved", "{watched:?}");
    assert_eq!(probe(&folder.path().join("watched.mp4")).frames, "4");
    let over = ["watch", &job, "--out", "watched.mp4"];
    terminal
        .run(&over)
        .await
        .assert_refused(2, &["watched.mp4", "--force"]);
    terminal.text(&[&over[..], &["--force"]].concat()).await;
    let jobs = terminal.json(&["jobs"]).await;
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    assert!(terminal.text(&["jobs"]).await.contains(&job));

    // An operator's view is not for everybody.
    terminal
        .run(&["nodes"])
        .await
        .assert_refused(3, &["operator"]);
    terminal.text(&["logout"]).await;
    terminal.run(&["jobs"]).await.assert_refused(3, &["login"]);
    terminal.text(&["login", "ada@example.org"]).await;
    terminal.text(&["jobs"]).await;
    // A key that is not remembered any more is good for nothing.
    let first = terminal.client();
    terminal.text(&["login", "ada@example.org"]).await;
    terminal.text(&["jobs"]).await;
    let ended = first.me().await.unwrap_err();
    assert_eq!(ended.code(), Some("token_invalid"), "{ended:?}");
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_jobs_end_commands_with_their_own_codes() {
    let farm = TestFarm::stand_in(Duration::from_millis(500), |_| ()).await;
    let user = farm.user().await;
    let operator = farm.operator().await;
    let folder = tempfile::tempdir().unwrap();
    let run = async |args: &[&str]| Flowai::run(&farm, &user, folder.path(), args).await;

    let job = user.submit(100).await;
    user.follow(&job).until_denoising().await;
    let late = run(&["watch", &job, "--timeout", "1"]).await;
    late.assert_refused(8, &[&job, "goes on"]);
    let node_runs_it = async {
        loop {
            let nodes = Flowai::run(&farm, &operator, folder.path(), &["nodes", "--json"]).await;
            let [node] = &nodes.objects()[..] else {
                panic!("{nodes:?}");
            };
            // As its last beat said.
            if node["running"]["video"] == job.as_str() {
                return;
            }
        }
    };
    within("the node says what it runs", node_runs_it).await;

    let cancelled = run(&["cancel", &job]).await;
    assert_eq!(cancelled.status, Some(0), "{cancelled:?}");
    run(&["watch", &job])
        .await
        .assert_refused(6, &["cancelled"]);
    let video = user.small_video().await;
    farm.spoil_pictures();
    let failed = user.client.submit(&video).await.unwrap().id;
    run(&["watch", &failed])
        .await
        .assert_refused(5, &["input_corrupt"]);

    let long = user.submit(100).await;
    let mut watching = Flowai::command(folder.path());
    watching
        .env("FLOWAI_URL", farm.url().as_str())
        .env("FLOWAI_API_KEY", user.key.reveal())
        .args(["watch", &long, "--json"]);
    let mut watching = GoesOn::start(watching);
    watching.until("{").await;
    let (status, said) = watching.interrupt().await;
    assert_eq!(status, Some(130), "{said}");
    let goes_on = user.client.video(&long).await.unwrap();
    assert!(!goes_on.status.is_end(), "{goes_on:?}");

    let nobodys = "0198c0de-0000-7000-8000-000000000000";
    run(&["watch", nobodys])
        .await
        .assert_refused(4, &["does not exist"]);
    run(&["watch", "x"])
        .await
        .assert_refused(2, &["flowai jobs"]);

    let mut gone = Flowai::command(folder.path());
    gone.env("FLOWAI_URL", farm.url().as_str())
        .env("FLOWAI_API_KEY", user.key.reveal())
        .arg("jobs");
    farm.stop().await;
    let gone = Flowai::finish(gone).await;
    gone.assert_refused(7, &["cannot be reached"]);
}

/// A command that goes on until it is interrupted. Dropped before, it is killed.
struct GoesOn {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    said: String,
}

impl GoesOn {
    fn start(command: Command) -> Self {
        let mut command = tokio::process::Command::from(command);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            stdout,
            said: String::new(),
        }
    }

    /// Reads until a line contains `word`.
    async fn until(&mut self, word: &str) {
        let line = async {
            while !self.said.contains(word) {
                let line = self.stdout.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("no {word} in {}", self.said));
                self.said.push_str(&line);
                self.said.push('\n');
            }
        };
        within(word, line).await;
    }

    /// How it ends when it is interrupted, and all that it printed.
    async fn interrupt(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().unwrap();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
        let end = async {
            while let Some(line) = self.stdout.next_line().await.unwrap() {
                self.said.push_str(&line);
                self.said.push('\n');
            }
            self.child.wait().await.unwrap().code()
        };
        let status = within("the command ends", end).await;
        (status, self.said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_made_and_checked_without_a_farm() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |args: &[&str]| {
        let mut command = Flowai::command(folder.path());
        command.args(args);
        Flowai::finish(command).await
    };
    let made = run(&["models", "make", "mine", "--preset", "tiny"]).await;
    assert_eq!(made.status, Some(0), "{made:?}");
    assert_eq!(run(&["models", "check", "mine"]).await.status, Some(0));
    let weights = folder
        .path()
        .join("mine/unet/diffusion_pytorch_model.safetensors");
    std::fs::remove_file(weights).unwrap();
    run(&["models", "check", "mine"])
        .await
        .assert_refused(2, &["unet"]);

    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).await;
        assert!(script.stdout.contains("flowai"), "{shell}: {script:?}");
    }
    let page = run(&["man"]).await;
    assert!(page.stdout.contains(".TH"), "{page:?}");
    let codes = run(&["help", "exit-codes"]).await;
    assert!(codes.stdout.ends_with(&flowai::exit::table()), "{codes:?}");
    // Whoever read it is gone.
    for args in [&["completions", "bash"][..], &["exit-codes"], &["man"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Flowai::command(folder.path());
        let status = command.args(args).stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn up_says_how_the_farm_is_used_and_tells_the_api_its_options() {
    let folder = tempfile::Builder::new()
        .prefix("flowai-up-")
        .tempdir()
        .unwrap();
    let listen = free_address();
    let metrics = free_address();
    let mut up = Flowai::command(folder.path());
    up.args(["up", "--engine", "stand-in", "--public-url"])
        .args(["https://films.example", "--listen", &listen])
        .args(["--metrics-listen", &metrics, "--data"])
        .arg(folder.path().join("data"));
    let mut up = GoesOn::start(up);
    up.until("Ctrl-C").await;
    let get = async |url: String| reqwest::get(&url).await.unwrap();
    let live = get(format!("http://{listen}/healthz")).await;
    let counted = get(format!("http://{metrics}/metrics")).await;
    let counted = counted.text().await.unwrap();
    let (status, said) = up.interrupt().await;

    assert_eq!(status, Some(0), "{said}");
    let program = env!("CARGO_BIN_EXE_flowai");
    for words in [
        &format!("FlowAI listens at http://{listen}/"),
        "signed in on this machine",
        &format!("{program} render PICTURE --out clip.mp4"),
        &format!("http://{listen}/docs"),
        "data/models; the one to begin with has random weights",
        "data/logs",
    ] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    let headers = live.headers();
    // Only of an api that is reached over https.
    assert!(
        headers.contains_key("strict-transport-security"),
        "{headers:?}"
    );
    assert!(counted.contains("flowai_api_requests_total"), "{counted}");
}

/// An address of this machine where nobody listens at this moment.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
