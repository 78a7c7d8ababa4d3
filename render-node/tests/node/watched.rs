//! An engine with something that happens when a render starts.

use std::path::Path;

use flowai_actors::manifest::FusedAdapter;
use flowai_actors::spec::RenderSpec;
use flowai_render_node::engine::{
    AdapterFile, EngineError, EngineRun, KeyframeEngine, RenderEngine, StageEngine,
};
use flowai_render_node::models::LocalModel;

pub(crate) struct Watched<E, F> {
    pub(crate) engine: E,
    /// Sees the picture's file before the engine does; the render fails as it says.
    pub(crate) on_start: F,
}

impl<E: StageEngine, F> StageEngine for Watched<E, F> {
    fn load(&mut self, model: &LocalModel) -> Result<(), EngineError> {
        self.engine.load(model)
    }

    fn fuse(&mut self, adapters: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        self.engine.fuse(adapters)
    }
}

impl<E, F> RenderEngine for Watched<E, F>
where
    E: RenderEngine,
    F: FnMut(&Path) -> Result<(), EngineError>,
{
    fn keyframes(&mut self) -> Option<&mut dyn KeyframeEngine> {
        self.engine.keyframes()
    }

    fn start<'a>(
        &'a mut self,
        spec: &RenderSpec,
        image: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        (self.on_start)(image)?;
        self.engine.start(spec, image)
    }
}
