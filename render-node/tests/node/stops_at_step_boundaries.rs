//! Goal: a stop, a doubtful lease and an order to end take effect between two steps, not after the job.
//! Method: an engine whose steps the test lets through one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use flowai_actors::link::Faults;
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::{Assign, AssignAnswer, Outcome, Phase, Verdict};
use flowai_actors::spec::{KeyframeSpec, RenderSpec};
use flowai_render_node::encoder::RgbFrame;
use flowai_render_node::engine::{
    AdapterFile, EngineError, EngineRun, KeyframeEngine, KeyframeRun, RenderEngine, StageEngine,
};
use flowai_render_node::models::LocalModel;
use flowai_render_node::node::Ending;

use crate::kit::{Farm, LONG, STOPPED, leader_id, node_id};

#[tokio::test]
async fn a_stopped_job_takes_no_further_step() {
    let (gate, steps) = gated();
    let mut farm = Farm::start(Faults::none(), "gated", || steps).await;
    let job = farm.job(b"a picture", &[]).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    gate.let_one_through();
    farm.hear_progress(|progress| progress.phase == Phase::Denoising && progress.step == 1)
        .await;

    assert!(farm.stop(job.at).await);
    // The second step had begun; the job must not ask for a third.
    gate.let_one_through();
    assert_eq!(farm.hear_end().await.outcome, STOPPED);
}

#[tokio::test]
async fn a_job_stopped_in_its_keyframe_takes_no_further_step_and_makes_no_clip() {
    let (gate, steps) = gated();
    let mut farm = Farm::start(Faults::none(), "gated", || steps).await;
    let job = farm.keyframe_job("a lighthouse", &[], &[]).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    gate.let_one_through();
    farm.hear_progress(|progress| progress.phase == Phase::Keyframe && progress.step == 1)
        .await;

    assert!(farm.stop(job.at).await);
    // As above.
    gate.let_one_through();
    assert_eq!(farm.hear_end().await.outcome, STOPPED);
    while farm.job_folders() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn closing_stops_the_job_and_tells_its_end() {
    let (gate, steps) = gated();
    let mut farm = Farm::start(Faults::none(), "gated", || steps).await;
    let job = farm.job(b"a picture", &[]).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    gate.let_one_through();
    farm.hear_progress(|progress| progress.step == 1).await;

    farm.node.close().await.unwrap();
    // Asked after the order to end, so it is answered after it: the node has heard both.
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    gate.let_one_through();
    assert_eq!(farm.hear_end().await.outcome, STOPPED);
    let ended = tokio::time::timeout(LONG, farm.node.ended()).await.unwrap();
    assert_eq!(ended.unwrap(), Ending::Closed);
}

#[tokio::test]
async fn a_dropped_job_makes_room_when_it_has_left_the_engine() {
    let (gate, steps) = gated();
    let mut farm = Farm::start(Faults::none(), "gated", || steps).await;
    let job = farm.job(b"a picture", &[]).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    gate.let_one_through();
    farm.hear_progress(|progress| progress.step == 1).await;

    farm.set_policy(|policy| policy.verdict = Verdict::Drop);
    let next = farm.job(b"another picture", &[]).await;
    // The leader's word comes with the answer on the new link; the attempt has then ended here.
    farm.relink();
    while farm.assign(&job).await == AssignAnswer::Accepted {
        tokio::task::yield_now().await;
    }
    farm.hear_register().await;
    farm.relink();
    assert_eq!(farm.hear_register().await.running, Some(job.at));
    let busy = AssignAnswer::Busy { with: job.at };
    assert_eq!(farm.assign(&next).await, busy, "the engine is in a step");

    gate.let_one_through();
    while farm.assign(&next).await != AssignAnswer::Accepted {
        tokio::task::yield_now().await;
    }
    farm.set_policy(|policy| policy.verdict = Verdict::GoOn);
    gate.open();
    let ended = farm.hear_end().await;
    assert_eq!(ended.at, next.at, "of the dropped job nothing is said");
    assert!(matches!(ended.outcome, Outcome::Rendered { .. }));
}

#[tokio::test]
async fn a_job_whose_lease_is_in_doubt_waits_for_a_leaders_word() {
    check_waits(async |farm| farm.job(b"a picture", &[]).await).await;
}

#[tokio::test]
async fn a_job_whose_lease_is_in_doubt_in_its_keyframe_waits_as_well() {
    check_waits(async |farm| farm.keyframe_job("a lighthouse", &[], &[]).await).await;
}

async fn check_waits(make_job: impl AsyncFnOnce(&Farm) -> Assign) {
    let (gate, mut steps) = gated();
    let healed = Arc::new(AtomicBool::new(false));
    let third_step_before_healing = Arc::new(AtomicBool::new(false));
    let (is_healed, result) = (healed.clone(), third_step_before_healing.clone());
    steps.on_step = Box::new(move |step| {
        if step == 3 && !is_healed.load(Ordering::SeqCst) {
            result.store(true, Ordering::SeqCst);
        }
    });
    let mut farm = Farm::start(Faults::none(), "gated", || steps).await;
    let job = make_job(&farm).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    gate.let_one_through();
    farm.hear_progress(|progress| progress.step == 1).await;

    // While the clock is paused it jumps to whatever is due next; nothing waits for real input or output meanwhile.
    tokio::time::pause();
    for (from, to) in [(leader_id(), node_id()), (node_id(), leader_id())] {
        farm.net.cut(&from, &to);
    }
    tokio::time::sleep(LONG).await;
    tokio::time::resume();
    gate.open();
    healed.store(true, Ordering::SeqCst);
    for (from, to) in [(leader_id(), node_id()), (node_id(), leader_id())] {
        farm.net.heal(&from, &to);
    }
    assert_eq!(farm.hear_register().await.running, Some(job.at));
    let outcome = farm.hear_end().await.outcome;
    assert!(matches!(outcome, Outcome::Rendered { .. }), "{outcome:?}");
    assert!(!third_step_before_healing.load(Ordering::SeqCst));
}

/// Lets steps through.
struct Gate(mpsc::Sender<Pass>);

enum Pass {
    One,
    All,
}

struct Gated {
    gate: mpsc::Receiver<Pass>,
    is_open: bool,
    /// Hears the number of each step as it begins.
    on_step: Box<dyn FnMut(u32) + Send>,
}

fn gated() -> (Gate, Gated) {
    let (sender, gate) = mpsc::channel();
    let engine = Gated {
        gate,
        is_open: false,
        on_step: Box::new(|_| {}),
    };
    (Gate(sender), engine)
}

impl Gate {
    fn let_one_through(&self) {
        self.0.send(Pass::One).unwrap();
    }

    fn open(&self) {
        self.0.send(Pass::All).unwrap();
    }
}

impl Gated {
    fn step(&mut self, step: u32) -> Result<(), EngineError> {
        (self.on_step)(step);
        if !self.is_open {
            // A gate that is gone lets nobody through: the test has ended.
            match self.gate.recv().map_err(|_| EngineError::Stopped)? {
                Pass::One => {}
                Pass::All => self.is_open = true,
            }
        }
        Ok(())
    }
}

impl StageEngine for Gated {
    fn load(&mut self, _: &LocalModel) -> Result<(), EngineError> {
        Ok(())
    }

    fn fuse(&mut self, _: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        Ok(Vec::new())
    }
}

impl RenderEngine for Gated {
    fn keyframes(&mut self) -> Option<&mut dyn KeyframeEngine> {
        Some(self)
    }

    fn start<'a>(
        &'a mut self,
        spec: &RenderSpec,
        _: &std::path::Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        Ok(Box::new(GatedRun {
            engine: self,
            size: (spec.width, spec.height),
            frames: spec.frames,
            step: 0,
        }))
    }
}

impl KeyframeEngine for Gated {
    fn start<'a>(
        &'a mut self,
        spec: &KeyframeSpec,
    ) -> Result<Box<dyn KeyframeRun + 'a>, EngineError> {
        Ok(Box::new(GatedRun {
            engine: self,
            size: (spec.width, spec.height),
            frames: 1,
            step: 0,
        }))
    }
}

/// Black pictures.
struct GatedRun<'a> {
    engine: &'a mut Gated,
    /// Width and height.
    size: (u32, u32),
    frames: u32,
    step: u32,
}

impl GatedRun<'_> {
    fn next_step(&mut self) -> Result<(), EngineError> {
        self.step += 1;
        self.engine.step(self.step)
    }

    fn frame(&self) -> RgbFrame {
        let (width, height) = self.size;
        RgbFrame::new(width, height)
    }
}

impl EngineRun for GatedRun<'_> {
    fn step(&mut self) -> Result<(), EngineError> {
        self.next_step()
    }

    fn decode(
        &mut self,
        sink: &mut dyn FnMut(RgbFrame) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        (0..self.frames).try_for_each(|_| sink(self.frame()))
    }
}

impl KeyframeRun for GatedRun<'_> {
    fn step(&mut self) -> Result<(), EngineError> {
        self.next_step()
    }

    fn decode(&mut self) -> Result<RgbFrame, EngineError> {
        Ok(self.frame())
    }

    fn tokens_cut(&self) -> [u32; 2] {
        [0, 0]
    }
}
