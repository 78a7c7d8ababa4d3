//! Goal: an engine that panics or loses its device takes no further job, and the farm hears of it by the process's end.
//! Method: engines that break in their first step.

use std::path::Path;

use flowai_actors::link::Faults;
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::AssignAnswer;
use flowai_actors::spec::RenderSpec;
use flowai_render_node::encoder::RgbFrame;
use flowai_render_node::engine::{AdapterFile, EngineError, EngineRun, RenderEngine};
use flowai_render_node::models::LocalModel;

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
        Heard::Progress(_) | Heard::Targets(_) => None,
    };
    assert_eq!(farm.hear(next).await, Some(job.at));
}

struct Broken {
    step: fn() -> Result<(), EngineError>,
}

impl RenderEngine for Broken {
    fn load(&mut self, _: &LocalModel) -> Result<(), EngineError> {
        Ok(())
    }

    fn fuse(&mut self, _: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        Ok(Vec::new())
    }

    fn start<'a>(
        &'a mut self,
        _: &RenderSpec,
        _: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        Ok(Box::new(BrokenRun { step: self.step }))
    }

    fn device_class(&self) -> String {
        "broken".to_owned()
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
