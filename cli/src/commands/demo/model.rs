//! The model that the demo animates with, trained by `ops/tiny-model`, and its adapters: part of the program, so that it needs
//! no files.

use std::fs;
use std::io;
use std::path::Path;

/// Its name on the demo's farm.
pub(super) const NAME: &str = "tiny";

macro_rules! file {
    ($path:literal) => {
        (
            $path,
            include_bytes!(concat!("../../../../ops/tiny-model/model/", $path)),
        )
    };
}

const FILES: [(&str, &[u8]); 9] = [
    file!("model_index.json"),
    file!("feature_extractor/preprocessor_config.json"),
    file!("image_encoder/config.json"),
    file!("image_encoder/model.safetensors"),
    file!("scheduler/scheduler_config.json"),
    file!("unet/config.json"),
    file!("unet/diffusion_pytorch_model.safetensors"),
    file!("vae/config.json"),
    file!("vae/diffusion_pytorch_model.safetensors"),
];

/// A motion in place of the model's own, a slow zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Motion {
    /// The picture moves to the left
    PanLeft,
    /// It turns clockwise
    Rotate,
}

impl Motion {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PanLeft => "pan-left",
            Self::Rotate => "rotate",
        }
    }

    /// Its adapter's file.
    pub(super) const fn adapter(self) -> &'static [u8] {
        match self {
            Self::PanLeft => file!("pan-left.safetensors").1,
            Self::Rotate => file!("rotate.safetensors").1,
        }
    }
}

/// Writes the model's folder below `models`.
pub(super) fn write(models: &Path) -> io::Result<()> {
    for (path, bytes) in FILES {
        let path = models.join(NAME).join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, bytes)?;
    }
    Ok(())
}
