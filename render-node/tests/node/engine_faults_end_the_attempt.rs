//! Goal: too little memory, numbers that are not finite and a fault in libtorch end the attempt by their own code, and the
//! same engine then renders the next job as if nothing had been.
//! Method: the real engine. Memory is really too little: a limit on the address space of a process of its own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flowai_actors::ids::{JobId, Sha256};
use flowai_actors::link::Faults;
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::{Assign, Outcome};
use flowai_actors::spec::{KeyframeSpec, RenderSpec};
use flowai_model::Preset;
use flowai_render_node::engine::{
    AdapterFile, EngineError, EngineRun, KeyframeEngine, KeyframeRun, RenderEngine, StageEngine,
    StandInEngine, SvdEngine,
};
use flowai_render_node::failure::{FailureCode, JobFailure};
use flowai_render_node::models::LocalModel;
use flowai_svd::{EngineError as SvdError, Picture};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::bad_jobs_fail_by_name::{check, outcome};
use crate::kit::Farm;
use crate::svd_makes_the_clip::{adapter, clip_sha256, engine_with, farm, picture};
use crate::watched::Watched;
use crate::words_become_a_clip::keyframe_of;

/// Set for the process whose memory is limited.
const LIMITED: &str = "FLOWAI_TEST_LIMITED_MEMORY";
/// What is left beside what the process holds when the large job comes. Some stages fit into each and later ones do not.
const LEFT_BYTES: [u64; 3] = [64 << 20, 160 << 20, 400 << 20];
/// The same for a large keyframe. With more it would begin, and take minutes; with less not even the stacks of threads fit.
const LEFT_FOR_KEYFRAME_BYTES: u64 = 64 << 20;

#[test]
fn too_little_memory() {
    let test = "engine_faults_end_the_attempt::too_little_memory_in_a_process_of_its_own";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(LIMITED, "1")
        // Names of functions take more memory than there is.
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn too_little_memory_in_a_process_of_its_own() {
    // Run by the test above.
    if std::env::var_os(LIMITED).is_none() {
        return;
    }
    let mut farm = farm().await;
    let mut good = farm.job(&picture(), &[]).await;
    let clip = rendered(&mut farm, &mut good).await;
    for left in LEFT_BYTES {
        let mut large = farm.job(&picture(), &[]).await;
        (large.spec.width, large.spec.height, large.spec.frames) = (1024, 1024, 16);
        check_too_little(&mut farm, &large, left, "out of memory").await;
        assert_eq!(rendered(&mut farm, &mut good).await, clip, "{left} bytes");
    }

    let mut good = farm.keyframe_job("a lighthouse", &[], &[]).await;
    let clip = rendered(&mut farm, &mut good).await;
    assert!(farm.engine.holdings().keyframe_fused.is_some());
    let mut large = farm.keyframe_job("a lighthouse", &[], &[]).await;
    let keyframe = keyframe_of(&mut large);
    (keyframe.width, keyframe.height) = (1024, 1024);
    let words = "keyframe: out of memory";
    check_too_little(&mut farm, &large, LEFT_FOR_KEYFRAME_BYTES, words).await;
    // Its model has left the memory, and comes back.
    farm.hear_beat(|beat| beat.running.is_none()).await;
    assert_eq!(farm.engine.holdings().keyframe_fused, None);
    assert_eq!(rendered(&mut farm, &mut good).await, clip);
}

async fn check_too_little(farm: &mut Farm, large: &Assign, left: u64, words: &str) {
    // The node is at rest: a thread that begins when nothing is left would end the process.
    farm.hear_beat(|beat| beat.running.is_none()).await;
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, address_space() + left, hard).unwrap();
    check(farm, large, "out_of_memory", true, &[words]).await;
    setrlimit(Resource::RLIMIT_AS, hard, hard).unwrap();
}

#[tokio::test]
async fn numbers_that_are_not_finite() {
    let mut farm = farm().await;
    let mut good = farm.job(&picture(), &[]).await;
    let clip = rendered(&mut farm, &mut good).await;
    // Finite in every weight, and too much for the sums of a layer.
    let mut strong = adapter(Preset::Tiny, &["conv_out"], 1);
    strong.truncate(strong.len() - 4);
    strong.extend_from_slice(&1e37_f32.to_le_bytes());
    let broken = farm.job(&picture(), &[(&strong, 1.0)]).await;
    check(&mut farm, &broken, "not_finite", false, &["not finite"]).await;
    assert_eq!(rendered(&mut farm, &mut good).await, clip);
}

#[tokio::test]
async fn a_fault_in_libtorch() {
    let mut is_first = true;
    let throws_once = move |image: &Path| {
        if !std::mem::take(&mut is_first) {
            return Ok(());
        }
        // A side of less than nothing: libtorch's own refusal.
        let scaled = Picture::open(image).map_err(SvdError::from);
        let scaled = scaled.and_then(|picture| picture.clip_pixels(-1, [0.0; 3], [1.0; 3]));
        scaled.map(drop).map_err(Into::into)
    };
    let (host, engine) = engine_with(64 << 20);
    let engine = move || Watched {
        engine: engine(),
        on_start: throws_once,
    };
    let mut farm = Farm::start_with(Faults::none(), SvdEngine::NAME, Some(host), engine).await;
    let mut job = farm.job(&picture(), &[]).await;
    check(&mut farm, &job, "libtorch_failed", true, &["libtorch: "]).await;
    let after = rendered(&mut farm, &mut job).await;

    let mut fresh = self::farm().await;
    let mut alone = fresh.job(&picture(), &[]).await;
    assert_eq!(rendered(&mut fresh, &mut alone).await, after);
}

/// A stand-in whose keyframe model leaves a clip no room.
struct Crowded {
    engine: StandInEngine,
    has_idle_model: bool,
    keyframes: Arc<AtomicU32>,
}

impl Crowded {
    fn new(has_idle_model: bool, keyframes: &Arc<AtomicU32>) -> Self {
        Self {
            engine: StandInEngine::new(Duration::from_millis(1)),
            has_idle_model,
            keyframes: keyframes.clone(),
        }
    }
}

impl KeyframeEngine for Crowded {
    fn start<'a>(
        &'a mut self,
        spec: &KeyframeSpec,
    ) -> Result<Box<dyn KeyframeRun + 'a>, EngineError> {
        self.has_idle_model = true;
        self.keyframes.fetch_add(1, Ordering::Relaxed);
        KeyframeEngine::start(&mut self.engine, spec)
    }
}

impl StageEngine for Crowded {
    fn load(&mut self, model: &LocalModel) -> Result<(), EngineError> {
        self.engine.load(model)
    }

    fn fuse(&mut self, adapters: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        self.engine.fuse(adapters)
    }
}

impl RenderEngine for Crowded {
    fn keyframes(&mut self) -> Option<&mut dyn KeyframeEngine> {
        Some(self)
    }

    fn release_memory(&mut self) -> bool {
        std::mem::take(&mut self.has_idle_model)
    }

    fn start<'a>(
        &'a mut self,
        spec: &RenderSpec,
        image: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        if self.has_idle_model || spec.width > 512 {
            return Err(JobFailure::new(FailureCode::OutOfMemory, "out of memory").into());
        }
        RenderEngine::start(&mut self.engine, spec, image)
    }
}

#[tokio::test]
async fn a_clip_is_begun_once_more_without_the_idle_model_that_was_in_its_way() {
    let engine = || Crowded::new(true, &Arc::default());
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    let mut job = farm.job(b"a picture", &[]).await;
    rendered(&mut farm, &mut job).await;
    let mut large = farm.job(b"another picture", &[]).await;
    large.spec.width = 1024;
    check(&mut farm, &large, "out_of_memory", true, &["out of memory"]).await;
}

#[tokio::test]
async fn a_clip_whose_keyframe_was_made_needs_its_model_no_more() {
    let keyframes = Arc::new(AtomicU32::new(0));
    let counted = keyframes.clone();
    let engine = move || Crowded::new(false, &counted);
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    let mut job = farm.keyframe_job("a lighthouse", &[], &[]).await;
    rendered(&mut farm, &mut job).await;
    assert_eq!(keyframes.load(Ordering::Relaxed), 1);
}

async fn rendered(farm: &mut Farm, job: &mut Assign) -> Sha256 {
    job.at.job = JobId::generate();
    let outcome: Outcome = outcome(farm, job).await;
    clip_sha256(outcome)
}

/// Bytes of this process's address space.
fn address_space() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').next().unwrap().parse().unwrap();
    pages * 4096
}
