//! Goal: an engine that panics, loses its device or hangs takes no further job, and the farm hears of it by the process's end.
//! Method: engines that break in their first step.

use std::path::Path;
use std::time::Duration;

use flowai_actors::limits::{ENGINE_LEAVE_MS_MAX, NODE_BEAT_MS};
use flowai_actors::link::Faults;
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::{AssignAnswer, Phase, Verdict};
use flowai_actors::spec::RenderSpec;
use flowai_render_node::encoder::RgbFrame;
use flowai_render_node::engine::{AdapterFile, EngineError, EngineRun, RenderEngine, StageEngine};
use flowai_render_node::models::LocalModel;
use flowai_render_node::node::Ending;

use crate::kit::{Farm, Heard, LONG};

#[tokio::test]
async fn a_panic_and_a_lost_device_end_the_engine() {
    let panics = || -> Result<(), EngineError> { panic!("index out of bounds") };
    check(panics, "panicked: index out of bounds").await;
    let lost = || {
        Err(EngineError::Lost(
            "CUDA error: device-side assert".to_owned(),
        ))
    };
    check(lost, "CUDA error: device-side assert").await;
}

/// The paused clock jumps to whatever is due next.
#[tokio::test]
async fn an_engine_that_hangs_after_its_job_was_dropped_ends_the_node() {
    let hangs = || -> Result<(), EngineError> {
        loop {
            std::thread::park();
        }
    };
    let mut farm = Farm::start(Faults::none(), "hung", move || Broken { step: hangs }).await;
    let job = farm.job(b"a picture", &[]).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    farm.hear_progress(|progress| progress.phase == Phase::Denoising)
        .await;

    let next = farm.job(b"another picture", &[]).await;
    farm.set_policy(|policy| policy.verdict = Verdict::Drop);
    tokio::time::pause();
    let bound = Duration::from_millis(ENGINE_LEAVE_MS_MAX + NODE_BEAT_MS);
    let ended = tokio::time::timeout(bound, farm.node.ended()).await;
    assert_eq!(ended.unwrap().unwrap(), Ending::EngineHung);
    let busy = AssignAnswer::Busy { with: job.at };
    assert_eq!(farm.assign(&next).await, busy);
}

async fn check(step: fn() -> Result<(), EngineError>, reason: &str) {
    let mut farm = Farm::start(Faults::none(), "broken", move || Broken { step }).await;
    farm.hear_register().await;
    let job = farm.job(b"a picture", &[]).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    let lost = tokio::time::timeout(LONG, farm.engine.lost()).await;
    assert_eq!(lost.unwrap().reason, reason);

    // Until the process ends the attempt is running: a told failure would hide that the job killed a node.
    farm.relink();
    let next = |heard: &Heard| match heard {
        Heard::Register(register) => Some(register.running),
        Heard::Ended(ended) => panic!("{ended:?}"),
        Heard::Progress(_)
        | Heard::Targets(_)
        | Heard::Preview(_)
        | Heard::PreviewRefused
        | Heard::Checkpoint(_) => None,
    };
    assert_eq!(farm.hear(next).await, Some(job.at));
}

struct Broken {
    step: fn() -> Result<(), EngineError>,
}

impl StageEngine for Broken {
    fn load(&mut self, _: &LocalModel) -> Result<(), EngineError> {
        Ok(())
    }

    fn fuse(&mut self, _: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        Ok(Vec::new())
    }
}

impl RenderEngine for Broken {
    fn start<'a>(
        &'a mut self,
        _: &RenderSpec,
        _: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        Ok(Box::new(BrokenRun { step: self.step }))
    }
}

struct BrokenRun {
    step: fn() -> Result<(), EngineError>,
}

impl EngineRun for BrokenRun {
    fn step(&mut self) -> Result<(), EngineError> {
        (self.step)()
    }

    fn decode(
        &mut self,
        _: &mut dyn FnMut(RgbFrame) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        Ok(())
    }
}
