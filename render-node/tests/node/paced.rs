//! An engine whose steps the test lets through one by one, and the frames after them.

use std::path::Path;
use std::sync::mpsc;

use flowai_actors::manifest::FusedAdapter;
use flowai_actors::spec::RenderSpec;
use flowai_render_node::encoder::RgbFrame;
use flowai_render_node::engine::{AdapterFile, EngineError, EngineRun, RenderEngine, StageEngine};
use flowai_render_node::models::LocalModel;

pub(crate) struct Paced<E> {
    pub(crate) engine: E,
    /// One for each step that may be taken, and one for the frames.
    pub(crate) passes: mpsc::Receiver<()>,
}

impl<E: StageEngine> StageEngine for Paced<E> {
    fn load(&mut self, model: &LocalModel) -> Result<(), EngineError> {
        self.engine.load(model)
    }

    fn fuse(&mut self, adapters: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        self.engine.fuse(adapters)
    }
}

impl<E: RenderEngine> RenderEngine for Paced<E> {
    fn start<'a>(
        &'a mut self,
        spec: &RenderSpec,
        image: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        let run = self.engine.start(spec, image)?;
        let passes = &self.passes;
        Ok(Box::new(PacedRun { run, passes }))
    }
}

struct PacedRun<'a> {
    run: Box<dyn EngineRun + 'a>,
    passes: &'a mpsc::Receiver<()>,
}

impl PacedRun<'_> {
    fn pass(&self) -> Result<(), EngineError> {
        // Whoever has dropped the passes lets nothing through: the test has ended.
        self.passes.recv().map_err(|_| EngineError::Stopped)
    }
}

impl EngineRun for PacedRun<'_> {
    fn step(&mut self) -> Result<(), EngineError> {
        self.pass()?;
        self.run.step()
    }

    fn checkpoint(&self) -> Result<Option<Vec<u8>>, EngineError> {
        self.run.checkpoint()
    }

    fn decode(
        &mut self,
        sink: &mut dyn FnMut(RgbFrame) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        self.pass()?;
        self.run.decode(sink)
    }
}
