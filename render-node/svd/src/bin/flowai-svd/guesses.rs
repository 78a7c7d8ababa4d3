//! What `--previews` keeps, and what it cost.

use std::time::Instant;

use anyhow::Result;
use flowai_svd::tensor_file::{self, StoredTensor};
use flowai_svd::{Engine, Preview, PreviewMap, Run};
use tch::{Kind, Tensor};

use crate::measure::seconds;

pub(crate) struct Previews {
    map: PreviewMap,
    /// Seconds of wall time.
    pub(crate) fit_s: f64,
    /// Of each step.
    pub(crate) each_s: Vec<f64>,
    kept: Vec<(String, StoredTensor)>,
}

impl Previews {
    pub(crate) fn fit(engine: &Engine) -> Result<Self> {
        let started = Instant::now();
        let map = engine.fit_preview()?;
        Ok(Self {
            map,
            fit_s: seconds(started.elapsed()),
            each_s: Vec::new(),
            kept: Vec::new(),
        })
    }

    /// What the clip will be after the step that was just done.
    pub(crate) fn keep(&mut self, run: &Run<'_>) -> Result<()> {
        let started = Instant::now();
        let preview = run.preview(&self.map)?;
        self.each_s.push(seconds(started.elapsed()));
        if let Some(preview) = preview {
            let name = format!("preview_{}", preview.step - 1);
            self.kept.push((name, tensor(&preview)?));
        }
        Ok(())
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(tensor_file::serialize(&self.kept, None)?)
    }
}

/// f32, (F, 3, h, w) in 0..1, as frames are.
fn tensor(preview: &Preview) -> Result<StoredTensor> {
    let pixels = preview.frames.concat();
    let (frames, height, width) = (preview.frames.len(), preview.height, preview.width);
    let shape = [frames as i64, i64::from(height), i64::from(width), 3];
    let bytes = Tensor::f_from_slice(&pixels)?.f_view(shape)?;
    let frames = bytes.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
    Ok(StoredTensor::new(&frames.f_mul_scalar(1.0 / 255.0)?)?)
}
