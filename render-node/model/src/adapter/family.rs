use super::key::{ParsedKey, Role, parse};
use super::table::KeyPath;
use crate::safetensors::SafetensorsFile;

/// The architecture that an adapter was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    StableVideoDiffusion,
    /// Stable Diffusion 1.x and 2.x: pictures from text. What most style adapters are made for.
    StableDiffusion,
    StableDiffusionXl,
    /// Motion modules beside Stable Diffusion 1.5.
    AnimateDiff,
}

/// Width of the text embeddings that cross-attention reads.
const CLIP_L_WIDTH: usize = 768;
const XL_WIDTH: usize = 2048;

/// Parts of paths, with `.` or with `_`, that only a video model has.
const VIDEO_MODULES: [&str; 4] = [
    "temporal_transformer_blocks",
    "spatial_res_block",
    "temporal_res_block",
    "time_pos_embed",
];

/// The family of a file that does not fit a model of family `here`, where its keys tell another one. Only for the hint in
/// the error.
pub(super) fn foreign(file: &SafetensorsFile, here: Family) -> Option<Family> {
    family(file).filter(|found| *found != here)
}

fn family(file: &SafetensorsFile) -> Option<Family> {
    let any = |prefixes: &[&str]| {
        let starts = |key: &String| prefixes.iter().any(|prefix| key.starts_with(prefix));
        file.tensors.keys().any(starts)
    };
    if file
        .tensors
        .keys()
        .any(|key| key.contains("motion_modules"))
    {
        return Some(Family::AnimateDiff);
    }
    let is_video = |key: &String| VIDEO_MODULES.iter().any(|module| key.contains(module));
    if file.tensors.keys().any(is_video) {
        return Some(Family::StableVideoDiffusion);
    }
    let context = context_width(file);
    if any(&["lora_te2_", "text_encoder_2."]) || context == Some(XL_WIDTH) {
        return Some(Family::StableDiffusionXl);
    }
    if any(&["lora_te_", "lora_te1_", "text_encoder."]) || context == Some(CLIP_L_WIDTH) {
        return Some(Family::StableDiffusion);
    }
    None
}

/// How wide the input of cross-attention's keys and values is.
fn context_width(file: &SafetensorsFile) -> Option<usize> {
    file.tensors.iter().find_map(|(key, tensor)| {
        let ParsedKey::Lora {
            path,
            role: Role::Down,
            ..
        } = parse(key)
        else {
            return None;
        };
        let is_context = match &path {
            KeyPath::Dotted(path) => path.ends_with("attn2.to_k") || path.ends_with("attn2.to_v"),
            KeyPath::Joined(path) => path.ends_with("attn2_to_k") || path.ends_with("attn2_to_v"),
            KeyPath::JoinedText(_) => false,
        };
        if is_context {
            tensor.shape.get(1).copied()
        } else {
            None
        }
    })
}
