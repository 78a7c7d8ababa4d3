//! One function a target. Each panics when its promise is broken; a panic below it breaks it as well.
#![allow(clippy::unwrap_used, reason = "a broken promise panics")]

use std::fmt::Display;
use std::sync::LazyLock;

use flowai_model::adapter::{Adapter, ModuleTable};
use flowai_model::config::stable_diffusion::{
    AutoencoderConfig, NoiseScheduleConfig, TextEncoderConfig, Unet2dConfig,
};
use flowai_model::config::{
    ImageEncoderConfig, ModelIndex, PreprocessorConfig, SchedulerConfig, UnetConfig, VaeConfig,
};
use flowai_model::safetensors::{Limits, SafetensorsFile};
use flowai_model::{KeyframePreset, Preset};
use flowai_model::{gate, inventory, picture};
use serde_json::{Value, json};

/// Texts go to users and into logs; however long a file's own words are, they are cut. Two keys may be named in full.
const ERROR_CHARS_MAX: usize = 16 << 10;
/// Of an adapter 32 problems are told, each of which may name two keys.
const PROBLEMS_CHARS_MAX: usize = 32 * ERROR_CHARS_MAX;
/// Far more than any model has, and what a folder's check may list without harm.
const INVENTORY_MAX: usize = 1 << 18;
/// Of an adapter that is made here: what it costs is for other targets.
const ELEMENTS_MAX: usize = 1 << 12;

/// What the gate lets through is finite, fills its file exactly, and reads the same in the format's own reader.
pub fn safetensors_gate(bytes: &[u8]) {
    let file = match gate::check(bytes.to_vec().into()) {
        Ok(file) => file,
        Err(error) => return short(&error, ERROR_CHARS_MAX),
    };
    let theirs = safetensors::SafeTensors::deserialize(bytes).unwrap();
    assert_eq!(file.tensors.len(), theirs.len());
    for (name, tensor) in &file.tensors {
        let view = theirs.tensor(name).unwrap();
        assert_eq!((&*tensor.shape, &*tensor.data), (view.shape(), view.data()));
        assert!(tensor.to_f32().iter().all(|number| number.is_finite()));
    }
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let data: usize = file.tensors.values().map(|tensor| tensor.data.len()).sum();
    assert_eq!(8 + header + data, bytes.len());
}

/// A file whose keys all name modules is taken with every key, and any other is refused; the settings are part of it.
///
/// `bytes` are lines: the settings as JSON, or nothing; then `key shape` a tensor, as in `conv_in.lora_A.weight 4,8,3,3`.
pub fn adapter_keys(bytes: &[u8]) {
    static TABLES: LazyLock<[ModuleTable; 2]> = LazyLock::new(|| {
        let keyframe = KeyframePreset::Dummy.config();
        [
            ModuleTable::of(&Preset::Dummy.config().unet),
            ModuleTable::of_stable_diffusion(&keyframe.unet, &keyframe.text_encoder),
        ]
    });
    let Some((settings, file)) = std::str::from_utf8(bytes).ok().and_then(adapter_file) else {
        return;
    };
    for table in TABLES.iter() {
        adapter_of(&file, settings.as_deref(), table);
    }
}

fn adapter_of(file: &[u8], settings: Option<&str>, table: &ModuleTable) {
    let tensors = SafetensorsFile::parse(file.to_vec().into(), &Limits::ADAPTER);
    let adapter = match Adapter::read(file.to_vec().into(), settings, table) {
        Ok(adapter) => adapter,
        Err(error) => return short(&error, PROBLEMS_CHARS_MAX),
    };
    let tensors = tensors.unwrap().tensors;
    // What a module may have beside its two halves.
    let beside = ["alpha", "lora_magnitude_vector", "dora_scale"];
    let is_half = |key: &String| !beside.iter().any(|name| key.contains(name));
    let halves = tensors.keys().filter(|key| is_half(key)).count();
    let modules = adapter.report.modules + adapter.report.noop_modules;
    assert_eq!(halves, 2 * modules, "a key was left out");
    for delta in &adapter.modules {
        let shape = delta.weight_shape();
        let module = table.modules().iter().find(|m| m.path == delta.module);
        assert_eq!(module.unwrap().weight_shape, shape);
    }
}

/// A config that is taken has a bounded inventory, and means the same when it is written and read again.
///
/// `bytes` are a digit, which picks the reader, and JSON.
pub fn model_configs(bytes: &[u8]) {
    let Some((reader, text)) = bytes.split_first() else {
        return;
    };
    let Ok(json) = serde_json::from_slice::<Value>(text) else {
        return;
    };
    match reader {
        b'0' => again(
            &json,
            ModelIndex::from_json,
            |_| ModelIndex::to_json(),
            |_| 0,
        ),
        b'1' => again(
            &json,
            UnetConfig::from_json,
            UnetConfig::to_json,
            |config| inventory::unet(config).len(),
        ),
        b'2' => again(&json, VaeConfig::from_json, VaeConfig::to_json, |config| {
            inventory::vae(config).len()
        }),
        b'3' => again(
            &json,
            ImageEncoderConfig::from_json,
            ImageEncoderConfig::to_json,
            |config| inventory::image_encoder(config).len(),
        ),
        b'4' => again(
            &json,
            SchedulerConfig::from_json,
            SchedulerConfig::to_json,
            |_| 0,
        ),
        b'5' => again(
            &json,
            PreprocessorConfig::from_json,
            |config| config.to_json(224),
            |_| 0,
        ),
        b'6' => again(
            &json,
            Unet2dConfig::from_json,
            Unet2dConfig::to_json,
            |config| inventory::stable_diffusion::unet(config).len(),
        ),
        b'7' => again(
            &json,
            AutoencoderConfig::from_json,
            AutoencoderConfig::to_json,
            |config| inventory::stable_diffusion::vae(config).len(),
        ),
        b'8' => again(
            &json,
            TextEncoderConfig::from_json,
            TextEncoderConfig::to_json,
            |config| inventory::stable_diffusion::text_encoder(config).len(),
        ),
        b'9' => again(
            &json,
            NoiseScheduleConfig::from_json,
            NoiseScheduleConfig::to_json,
            |_| 0,
        ),
        _ => {}
    }
}

/// A picture that is taken has as many pixels as it says, within the limits.
pub fn picture_gate(bytes: &[u8]) {
    match picture::decode(bytes) {
        Ok(picture) => {
            let (width, height) = picture.dimensions();
            picture::check_size(width, height).unwrap();
            assert_eq!(picture.as_raw().len(), width as usize * height as usize * 3);
        }
        Err(error) => short(&error, ERROR_CHARS_MAX),
    }
}

fn short(error: &dyn Display, chars_max: usize) {
    let chars = error.to_string().chars().count();
    assert!(chars <= chars_max, "an error of {chars} characters");
}

fn again<C: PartialEq + std::fmt::Debug, E: Display>(
    json: &Value,
    read: impl Fn(&str, &Value) -> Result<C, E>,
    write: impl Fn(&C) -> Value,
    tensors: impl Fn(&C) -> usize,
) {
    match read("config.json", json) {
        Ok(config) => {
            let count = tensors(&config);
            assert!(count <= INVENTORY_MAX, "{count} tensors");
            match read("config.json", &write(&config)) {
                Ok(read) => assert_eq!(read, config),
                Err(error) => panic!("what was written is refused: {error}"),
            }
        }
        Err(error) => short(&error, ERROR_CHARS_MAX),
    }
}

/// A well-formed safetensors file of zeros with the keys and shapes of `lines`, and the settings beside it.
fn adapter_file(lines: &str) -> Option<(Option<String>, Vec<u8>)> {
    let (settings, tensors) = lines.split_once('\n')?;
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for line in tensors.lines() {
        let (key, shape) = line.rsplit_once(' ')?;
        let sides = shape.split(',').filter(|side| !side.is_empty());
        let sides: Vec<usize> = sides.map(|side| side.parse().ok()).collect::<Option<_>>()?;
        let elements = sides
            .iter()
            .try_fold(1_usize, |product, &side| product.checked_mul(side))
            .filter(|&elements| elements <= ELEMENTS_MAX)?;
        let begin = end;
        end += 4 * elements;
        let entry = json!({ "dtype": "F32", "shape": sides, "data_offsets": [begin, end] });
        header.insert(key.to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + end, 0);
    let settings = (!settings.is_empty()).then(|| settings.to_owned());
    Some((settings, file))
}
