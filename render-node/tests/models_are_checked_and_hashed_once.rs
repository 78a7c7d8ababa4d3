//! Goal: only whole models are offered, others are refused by name and reason, and hashing is not repeated without need.
//! Method: folders with a good model, a damaged one and things that are none.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flowai_actors::ids::ModelId;
use flowai_actors::messages::ModelFamily;
use flowai_model::adapter::{Family, ModuleTable};
use flowai_model::safetensors::Dtype;
use flowai_model::{KeyframePreset, ModelFolder, Preset, StableDiffusionFolder, synthetic};
use flowai_render_node::models::Models;

struct Folders {
    folder: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("models")).unwrap();
        Self { folder }
    }

    fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    fn write(&self, name: &str, seed: u64) -> PathBuf {
        let dir = self.models().join(name);
        synthetic::write_model(&dir, &Preset::Tiny.config(), seed, Dtype::F32).unwrap();
        dir
    }

    fn scan(&self) -> Models {
        Models::scan(&self.models(), self.folder.path()).unwrap()
    }

    fn sha256(&self, name: &str) -> String {
        let id: ModelId = name.parse().unwrap();
        self.scan().get(&id).unwrap().offer.sha256.to_string()
    }
}

fn set_times(dir: &Path, to: SystemTime) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            set_times(&path, to);
        } else {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(to).unwrap();
        }
    }
}

#[test]
fn whole_models_are_offered_and_others_refused_by_reason() {
    let folders = Folders::new();
    let good = folders.write("tiny", 1);
    let damaged = folders.write("damaged", 1);
    fs::remove_file(damaged.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    folders.write("Bad Name", 1);
    fs::create_dir(folders.models().join("empty")).unwrap();
    fs::create_dir(folders.models().join(".hidden")).unwrap();
    fs::write(folders.models().join("README"), "no folder").unwrap();

    let models = folders.scan();
    let offers: Vec<_> = models.offered().map(|model| &model.offer).collect();
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].id.as_str(), "tiny");
    assert_eq!(offers[0].family, ModelFamily::Svd);
    let identity = ModelFolder::check(&good).unwrap().identify().unwrap();
    assert_eq!(offers[0].sha256.to_string(), identity.sha256.to_string());
    let config = fs::read(good.join("unet/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(offers[0].unet_config, config);

    let refused: Vec<_> = models.refused().iter().map(|r| r.folder.as_str()).collect();
    assert_eq!(refused, ["Bad Name", "damaged", "empty"]);
    for (refused, word) in models
        .refused()
        .iter()
        .zip(["name", "vae", "model_index.json"])
    {
        assert!(refused.reason.contains(word), "{refused:?}");
    }
}

#[test]
fn models_of_both_families_are_told_apart() {
    let folders = Folders::new();
    folders.write("tiny", 1);
    let config = KeyframePreset::Tiny.config();
    let dir = folders.models().join("words");
    synthetic::write_stable_diffusion(&dir, &config, 1, Dtype::F32).unwrap();
    let models = folders.scan();
    let model = |name: &str| models.get(&name.parse().unwrap()).unwrap();
    let (video, keyframe) = (model("tiny"), model("words"));
    assert_eq!(video.offer.family, ModelFamily::Svd);
    assert_eq!(video.offer.text_encoder_config, None);
    let table = video.module_table().unwrap();
    assert_eq!(table.family(), Family::StableVideoDiffusion);

    let offer = &keyframe.offer;
    assert_eq!(offer.family, ModelFamily::Sd);
    let read = |file: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(dir.join(file)).unwrap()).unwrap()
    };
    assert_eq!(offer.unet_config, read("unet/config.json"));
    let text_encoder = read("text_encoder/config.json");
    assert_eq!(offer.text_encoder_config, Some(text_encoder));
    assert_eq!(
        (offer.limits.side_multiple, offer.limits.frames_max),
        (8, 1)
    );
    let folder = StableDiffusionFolder::check(&dir).unwrap();
    let identity = folder.identify().unwrap().sha256.to_string();
    assert_eq!(offer.sha256.to_string(), identity);
    let table = keyframe.module_table().unwrap();
    let expected = ModuleTable::of_stable_diffusion(&config.unet, &config.text_encoder);
    assert_eq!(table.modules(), expected.modules());
}

#[test]
fn a_model_is_hashed_again_only_when_its_files_look_different() {
    let folders = Folders::new();
    let dir = folders.write("tiny", 1);
    let weights = dir.join("unet/diffusion_pytorch_model.safetensors");
    let then = SystemTime::now() - Duration::from_secs(3_600);
    set_times(&dir, then);
    let first = folders.sha256("tiny");

    // Other bytes of the same size and time: only a hash that is computed anew would see them.
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, &bytes).unwrap();
    set_times(&dir, then);
    assert_eq!(folders.sha256("tiny"), first, "taken from memory");

    set_times(&dir, SystemTime::now());
    let second = folders.sha256("tiny");
    assert_ne!(second, first, "a newer time");

    fs::write(folders.folder.path().join("model-hashes.json"), "{").unwrap();
    assert_eq!(
        folders.sha256("tiny"),
        second,
        "damaged memory is no memory"
    );
}

#[test]
fn another_folder_of_the_same_name_is_another_model() {
    let (one, other) = (Folders::new(), Folders::new());
    let then = SystemTime::now() - Duration::from_secs(3_600);
    set_times(&one.write("tiny", 1), then);
    set_times(&other.write("tiny", 2), then);
    let data = tempfile::tempdir().unwrap();
    let sha256 = |folders: &Folders| {
        let models = Models::scan(&folders.models(), data.path()).unwrap();
        models.offered().next().unwrap().offer.sha256
    };
    assert_ne!(sha256(&one), sha256(&other));
}
