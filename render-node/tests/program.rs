//! Goal: the program finds its leader, says when it is ready, counts its starts, ends in order when told to, and logs no prompt.
//! Method: the real program over the real link; this process is the leader.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, Sha256};
use flowai_actors::link::{
    LinkConfig, LinkEvent, LinkEvents, PeerId, RactorLink, Request, Standing, pki::Ca,
};
use flowai_actors::messages::{
    Assign, AssignAnswer, AttemptRef, Beat, BeatAnswer, Body, Ended, EndedAnswer, FirstFrameSource,
    ModelFamily, Outcome, Phase, Progress, Register, Registered, Source, Verdict,
};
use flowai_actors::spec::{FirstFrame, KeyframeSampler, KeyframeSpec, RenderSpec};
use flowai_actors::wire;
use flowai_model::safetensors::Dtype;
use flowai_model::{KeyframePreset, Preset, synthetic};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::Digest as _;
use tokio::process::{Child, Command};

const LONG: Duration = Duration::from_secs(60);
/// An end of which nothing is kept.
const STOPPED: Outcome = Outcome::Stopped { checkpoint: None };
const EPOCH: Epoch = Epoch::new(1);
const PICTURE: &[u8] = b"the stand-in does not look at it";

/// The leader's end of the link. A process can have one link, so everything below is one test.
struct Leader {
    link: RactorLink,
    events: LinkEvents,
}

enum Heard {
    Register(Register),
    Progress(Progress),
    Ended(Ended),
}

impl Leader {
    async fn hear<T>(&mut self, wanted: impl Fn(Heard) -> Option<T>) -> T {
        let hearing = async {
            loop {
                let heard = match self.events.next().await.expect("link has ended") {
                    LinkEvent::Message(delivery) => {
                        Heard::Progress(wire::open(&delivery.envelope).unwrap())
                    }
                    LinkEvent::Request(request) => match answer(request) {
                        Some(heard) => heard,
                        None => continue,
                    },
                    _ => continue,
                };
                if let Some(found) = wanted(heard) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LONG, hearing)
            .await
            .expect("not heard in time")
    }
}

fn answer(request: Request) -> Option<Heard> {
    let Request {
        envelope, reply, ..
    } = request;
    let (answer, heard) = match envelope.kind {
        Register::KIND => {
            let welcome = Registered::Welcome {
                epoch: EPOCH,
                running: Verdict::Idle,
            };
            let heard = Heard::Register(wire::open(&envelope).unwrap());
            (wire::seal(EPOCH, &welcome), Some(heard))
        }
        Beat::KIND => {
            let beat: Beat = wire::open(&envelope).unwrap();
            let running = match beat.running {
                Some(_) => Verdict::GoOn,
                None => Verdict::Idle,
            };
            let renewed = BeatAnswer::Renewed {
                epoch: EPOCH,
                running,
            };
            (wire::seal(EPOCH, &renewed), None)
        }
        Ended::KIND => {
            let heard = Heard::Ended(wire::open(&envelope).unwrap());
            (wire::seal(EPOCH, &EndedAnswer::Settled), Some(heard))
        }
        _ => {
            reply.unsupported();
            return None;
        }
    };
    reply.send(answer.unwrap()).unwrap();
    heard
}

fn program(folder: &Path, coordinator: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowai-render-node"));
    command
        .env("FLOWAI_ID", "n1")
        .env("FLOWAI_DATA_DIR", folder.join("data"))
        .env("FLOWAI_TLS_DIR", folder.join("tls"))
        .env("FLOWAI_COORDINATORS", coordinator)
        .env("FLOWAI_MODELS_DIR", folder.join("models"))
        .env("FLOWAI_ENGINE", "stand-in")
        .env("FLOWAI_STAND_IN_STEP_MS", "20")
        .env("FLOWAI_READY_FILE", folder.join("ready"))
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Ends with the test, also with a failed one.
struct Running(Child);

impl Running {
    fn start(folder: &Path, coordinator: &str) -> Self {
        Self(program(folder, coordinator).spawn().unwrap())
    }

    fn slow(folder: &Path, coordinator: &str) -> Self {
        let mut command = program(folder, coordinator);
        Self(
            command
                .env("FLOWAI_STAND_IN_STEP_MS", "60000")
                .spawn()
                .unwrap(),
        )
    }

    /// With the real engine, and everything that it says in a file.
    fn logging(folder: &Path, coordinator: &str, log: &Path) -> Self {
        let mut command = program(folder, coordinator);
        command
            .env("FLOWAI_ENGINE", "svd")
            .env("FLOWAI_THREADS", "1")
            .env("RUST_LOG", "trace")
            .stderr(std::fs::File::create(log).unwrap());
        Self(command.spawn().unwrap())
    }

    fn terminate(&self) {
        let pid = self.0.id().expect("program has ended");
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).unwrap();
    }

    async fn status(mut self) -> i32 {
        let ended = tokio::time::timeout(LONG, self.0.wait()).await;
        let status = ended.expect("program does not end").unwrap();
        status.code().expect("ended by a signal")
    }
}

/// A job whose picture is in the node's cache already.
fn job(folder: &Path, offered: &Register, store: &str) -> Assign {
    let image = Sha256::from_bytes(sha2::Sha256::digest(PICTURE).into());
    std::fs::write(
        folder.join("data/pictures").join(image.to_string()),
        PICTURE,
    )
    .unwrap();
    Assign {
        at: AttemptRef {
            job: JobId::generate(),
            attempt: Attempt::new(1),
            epoch: EPOCH,
        },
        spec: RenderSpec {
            width: 32,
            height: 32,
            steps: 100,
            ..RenderSpec::small(offered.models[0].id.clone(), image)
        },
        model_sha256: offered.models[0].sha256,
        first_frame: FirstFrameSource::Image(Source {
            sha256: image,
            bytes: PICTURE.len() as u64,
            url: format!("{store}/picture"),
        }),
        adapters: Vec::new(),
        resume: None,
    }
}

/// A job that needs nothing but words.
fn words_job(offered: &Register) -> Assign {
    let model = |family| {
        let mut models = offered.models.iter();
        models.find(|model| model.family == family).unwrap()
    };
    let (video, keyframe) = (model(ModelFamily::Svd), model(ModelFamily::Sd));
    let spec = RenderSpec {
        steps: 100,
        ..RenderSpec::small(video.id.clone(), Sha256::from_bytes([0; 32]))
    };
    Assign {
        at: AttemptRef {
            job: JobId::generate(),
            attempt: Attempt::new(1),
            epoch: EPOCH,
        },
        spec: RenderSpec {
            first_frame: FirstFrame::Keyframe(Box::new(KeyframeSpec {
                model: keyframe.id.clone(),
                prompt: "a canary-coloured lighthouse".into(),
                negative_prompt: "another canary".into(),
                adapters: Vec::new(),
                width: 32,
                height: 32,
                steps: 2,
                sampler: KeyframeSampler::Ddim,
                guidance_scale: 7.5,
                seed: 1,
            })),
            ..spec
        },
        model_sha256: video.sha256,
        first_frame: FirstFrameSource::Keyframe {
            model_sha256: keyframe.sha256,
            adapters: Vec::new(),
        },
        adapters: Vec::new(),
        resume: None,
    }
}

/// A store that answers 404 to everything.
async fn empty_store() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async { axum::serve(listener, axum::Router::new()).await };
    tokio::spawn(serving);
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_finds_its_leader_takes_a_job_and_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ca = Ca::create(&folder.join("ca")).unwrap();
    let me: PeerId = "c1.coordinator".parse().unwrap();
    let node: PeerId = "n1.node".parse().unwrap();
    ca.issue(&node).unwrap().save(&folder.join("tls")).unwrap();
    let model = folder.join("models/tiny");
    synthetic::write_model(&model, &Preset::Tiny.config(), 1, Dtype::F32).unwrap();
    let words = folder.join("models/words");
    let config = KeyframePreset::Tiny.config();
    synthetic::write_stable_diffusion(&words, &config, 1, Dtype::F32).unwrap();
    std::fs::create_dir(folder.join("models/empty")).unwrap();

    let config = LinkConfig {
        identity: ca.issue(&me).unwrap(),
        generation: Generation::new(1),
        build: "test".to_owned(),
        schemas: wire::schemas(),
        may_send: wire::may_send,
    };
    let (link, events) = RactorLink::start(config).await.unwrap();
    link.set_standing(Standing::Leading);
    let address = link.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = address.to_string();
    let mut leader = Leader { link, events };

    // A first process: it is told to end in the middle of a job.
    let first = Running::start(folder, &address);
    let register = leader.hear(registered).await;
    assert_eq!(register.generation, Generation::new(1));
    assert_eq!(register.device_class, "stand-in");
    assert!(register.memory_bytes > 0 && !register.device.is_empty());
    let offered: Vec<&str> = register.models.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(offered, ["tiny", "words"]);
    assert_eq!(register.refused_models[0].folder, "empty");
    assert!(
        register.refused_models[0]
            .reason
            .contains("model_index.json")
    );

    // Two of one folder would be told apart by nobody.
    let second = Running::start(folder, &address);
    assert_eq!(second.status().await, 1);

    let job = job(folder, &register, &empty_store().await);
    let answer = wire::ask(&leader.link, &node, EPOCH, &job, LONG).await;
    // The cache looked into its folder when the program started; this picture is new to it.
    assert_eq!(answer.unwrap(), AssignAnswer::Accepted);
    let ended = leader.hear(self::ended).await;
    assert!(
        matches!(&ended.outcome, Outcome::Failed { code, retryable: true, .. } if code == "input_unavailable"),
        "{ended:?}"
    );
    first.terminate();
    assert_eq!(first.status().await, 0);

    // The next process: a greater generation, the picture at hand, and stopped in the middle of the job.
    let next = Running::start(folder, &address);
    let register = leader.hear(registered).await;
    assert_eq!(register.generation, Generation::new(2));
    let mut job = job;
    job.at.attempt = Attempt::new(2);
    let answer = wire::ask(&leader.link, &node, EPOCH, &job, LONG).await;
    assert_eq!(answer.unwrap(), AssignAnswer::Accepted);
    leader
        .hear(|heard| match heard {
            Heard::Progress(Progress {
                phase: Phase::Denoising,
                step: 1..,
                ..
            }) => Some(()),
            _ => None,
        })
        .await;
    let ready = std::fs::read_to_string(folder.join("ready")).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(ready, serde_json::json!({ "id": "n1", "generation": 2 }));
    next.terminate();
    let ended = leader.hear(self::ended).await;
    assert_eq!((ended.at, ended.outcome), (job.at, STOPPED));
    assert_eq!(next.status().await, 0);

    // A step of a minute is not waited for, and the leader need not wait for the lease.
    let slow = Running::slow(folder, &address);
    leader.hear(registered).await;
    job.at.attempt = Attempt::new(3);
    let answer = wire::ask(&leader.link, &node, EPOCH, &job, LONG).await;
    assert_eq!(answer.unwrap(), AssignAnswer::Accepted);
    let denoising = |heard| match heard {
        Heard::Progress(progress) => (progress.phase == Phase::Denoising).then_some(()),
        _ => None,
    };
    leader.hear(denoising).await;
    slow.terminate();
    let ended = leader.hear(self::ended).await;
    assert_eq!((ended.at, ended.outcome), (job.at, STOPPED));
    assert_eq!(slow.status().await, 0);

    // The last one has the real engine and writes all that it ever would: of a prompt there is nothing.
    let log = folder.join("log");
    let last = Running::logging(folder, &address, &log);
    let register = leader.hear(registered).await;
    let of_words = words_job(&register);
    let answer = wire::ask(&leader.link, &node, EPOCH, &of_words, LONG).await;
    assert_eq!(answer.unwrap(), AssignAnswer::Accepted);
    leader
        .hear(|heard| match heard {
            Heard::Progress(progress) => (progress.phase == Phase::Denoising).then_some(()),
            Heard::Ended(ended) => panic!("{ended:?}"),
            Heard::Register(_) => None,
        })
        .await;
    last.terminate();
    let ended = leader.hear(self::ended).await;
    assert_eq!(ended.outcome, STOPPED);
    assert_eq!(last.status().await, 0);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("job is taken"), "{log}");
    assert!(!log.contains("canary"), "{log}");
}

fn ended(heard: Heard) -> Option<Ended> {
    match heard {
        Heard::Ended(ended) => Some(ended),
        _ => None,
    }
}

fn registered(heard: Heard) -> Option<Register> {
    match heard {
        Heard::Register(register) => Some(register),
        _ => None,
    }
}

/// Runs to the end: status and what was said.
async fn refused(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stderr(Stdio::piped()).output();
    let output = tokio::time::timeout(LONG, output).await.unwrap().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test]
async fn a_missing_or_wrong_setting_is_named_with_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let mut missing = program(folder.path(), "127.0.0.1:1");
    missing.env_remove("FLOWAI_MODELS_DIR");
    let mut wrong = program(folder.path(), "127.0.0.1:1");
    wrong.env("FLOWAI_DTYPE", "int8");
    for (command, words) in [
        (&mut missing, "FLOWAI_MODELS_DIR is missing"),
        (&mut wrong, "FLOWAI_DTYPE must be float32"),
    ] {
        let (status, text) = refused(command).await;
        assert_eq!(status, Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::create(&folder.path().join("ca")).unwrap();
    let other = ca.issue(&"n2.node".parse().unwrap()).unwrap();
    other.save(&folder.path().join("tls")).unwrap();
    let (status, text) = refused(&mut program(folder.path(), "127.0.0.1:1")).await;
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("n2.node") && text.contains("n1.node"),
        "{text}"
    );
}
