//! Goal: a model folder is offered only when it is whole, and its name depends on every byte that the engine reads.
//! Method: write a random model, damage or rearrange it in one way, look again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flowai_model::inventory::Component;
use flowai_model::safetensors::{Dtype, Limits, SafetensorsFile};
use flowai_model::{
    FolderError, ModelFolder, Preset, Sha256Digest, TensorProblem, TensorProblems, WeightsError,
    synthetic,
};
use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// (dtype, shape, bytes) by name: what a weight file holds, for changing it.
type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

fn dummy_model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    synthetic::write_model(dir.path(), &Preset::Dummy.config(), 1, Dtype::F16).unwrap();
    dir
}

fn weights_path(dir: &Path, component: Component) -> PathBuf {
    dir.join(component.dir())
        .join(format!("{}.safetensors", component.weights_stem()))
}

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| {
            (
                name.to_owned(),
                (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
            )
        })
        .collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Rewrites a component's weight file after `change`.
fn change(dir: &Path, component: Component, change: impl FnOnce(&mut Tensors)) {
    let path = weights_path(dir, component);
    let mut tensors = read(&path);
    change(&mut tensors);
    write(&path, &tensors);
}

/// The problems that the check lists.
fn problems(dir: &Path) -> Vec<TensorProblem> {
    match ModelFolder::check(dir) {
        Err(FolderError::Weights(WeightsError::Tensors {
            problems: TensorProblems(problems),
            ..
        })) => problems,
        other => panic!("expected tensor problems, got {other:?}"),
    }
}

#[test]
fn every_tensor_of_a_whole_folder_is_there_without_copies() {
    let dir = dummy_model();
    let folder = ModelFolder::check(dir.path()).unwrap();
    assert_eq!(folder.config, Preset::Dummy.config());
    for (component, weights) in [
        (Component::Unet, &folder.unet),
        (Component::Vae, &folder.vae),
        (Component::ImageEncoder, &folder.image_encoder),
    ] {
        let inventory = component.inventory(&folder.config);
        assert_eq!(weights.iter().count(), inventory.len());
        for spec in inventory {
            let tensor = weights.get(&spec.name).unwrap();
            assert_eq!(
                (tensor.dtype, &tensor.shape),
                (Dtype::F16, &spec.shape),
                "{}",
                spec.name
            );
            assert_eq!(tensor.data.len(), 2 * spec.elements());
        }
    }
    assert!(folder.unet.get("conv_in").is_none());
}

#[test]
fn all_tensors_that_do_not_fit_are_listed_in_one_error() {
    let dir = dummy_model();
    change(dir.path(), Component::Unet, |tensors| {
        tensors.remove("conv_in.bias").unwrap();
        let surplus = tensors["conv_out.bias"].clone();
        tensors.insert("conv_out.scale".into(), surplus);
        tensors.get_mut("conv_in.weight").unwrap().1 = vec![8, 32, 3, 3];
        let (dtype, _, data) = tensors.get_mut("conv_norm_out.bias").unwrap();
        (*dtype, *data) = (safetensors::Dtype::I64, vec![0; 32 * 8]);
    });
    assert_eq!(
        problems(dir.path()),
        [
            TensorProblem::Missing {
                name: "conv_in.bias".into()
            },
            TensorProblem::Unknown {
                name: "conv_out.scale".into()
            },
            TensorProblem::Shape {
                name: "conv_in.weight".into(),
                found: vec![8, 32, 3, 3],
                expected: vec![32, 8, 3, 3]
            },
            TensorProblem::Dtype {
                name: "conv_norm_out.bias".into(),
                found: "I64"
            },
        ]
    );
    let text = ModelFolder::check(dir.path()).unwrap_err().to_string();
    for name in [
        "unet",
        "conv_in.bias",
        "conv_out.scale",
        "[8, 32, 3, 3]",
        "I64",
    ] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn long_lists_are_kept_whole_and_shown_short() {
    let dir = dummy_model();
    change(dir.path(), Component::Unet, |tensors| tensors.clear());
    assert_eq!(problems(dir.path()).len(), 626);
    let text = ModelFolder::check(dir.path()).unwrap_err().to_string();
    assert!(
        text.ends_with("; and 594 more") && text.len() < 4000,
        "{text}"
    );
}

#[test]
fn a_missing_file_is_named() {
    for file in Preset::Dummy
        .config()
        .to_files()
        .into_iter()
        .map(|(path, _)| path)
    {
        let dir = dummy_model();
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = ModelFolder::check(dir.path()).unwrap_err();
        assert!(
            matches!(error, FolderError::Config(_)) && error.to_string().contains(file),
            "{error}"
        );
    }
    for component in Component::ALL {
        let dir = dummy_model();
        fs::remove_file(weights_path(dir.path(), component)).unwrap();
        let error = ModelFolder::check(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, FolderError::Weights(WeightsError::Missing { .. })),
            "{text}"
        );
        assert!(
            text.contains(component.dir()) && text.contains(component.weights_stem()),
            "{text}"
        );
    }
}

#[test]
fn a_cut_weight_file_is_refused() {
    let dir = dummy_model();
    let path = weights_path(dir.path(), Component::Vae);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let text = ModelFolder::check(dir.path()).unwrap_err().to_string();
    assert!(
        text.starts_with("vae/diffusion_pytorch_model.safetensors: "),
        "{text}"
    );
}

#[test]
fn the_half_precision_file_name_is_found() {
    let dir = dummy_model();
    for component in Component::ALL {
        let path = weights_path(dir.path(), component);
        fs::rename(&path, path.with_extension("fp16.safetensors")).unwrap();
    }
    let folder = ModelFolder::check(dir.path()).unwrap();
    assert_eq!(
        folder.unet.files(),
        [Path::new("unet/diffusion_pytorch_model.fp16.safetensors")]
    );
}

/// Splits the UNet into two shards and writes `index`, or an honest one.
fn shard(dir: &Path, index: Option<&str>) {
    let path = weights_path(dir, Component::Unet);
    let mut first = read(&path);
    fs::remove_file(&path).unwrap();
    let second = first.split_off("mid");
    let names = [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ];
    let mut map = serde_json::Map::new();
    for (shard, name) in [first, second].iter().zip(names) {
        write(&dir.join("unet").join(name), shard);
        map.extend(shard.keys().map(|tensor| (tensor.clone(), name.into())));
    }
    let honest =
        serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
    let path = dir.join("unet/diffusion_pytorch_model.safetensors.index.json");
    fs::write(path, index.unwrap_or(&honest)).unwrap();
}

#[test]
fn shards_are_one_set_of_weights() {
    let dir = dummy_model();
    let whole = ModelFolder::check(dir.path()).unwrap();
    let expected: Vec<(String, Vec<u8>)> = whole
        .unet
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.data.to_vec()))
        .collect();
    shard(dir.path(), None);
    let folder = ModelFolder::check(dir.path()).unwrap();
    assert_eq!(folder.unet.files().len(), 2);
    let found: Vec<(String, Vec<u8>)> = folder
        .unet
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.data.to_vec()))
        .collect();
    assert!(found == expected);
}

#[test]
fn an_index_that_leaves_the_folder_or_lies_is_refused() {
    let check = |index: &str, expected: &str| {
        let dir = dummy_model();
        shard(dir.path(), Some(index));
        let text = ModelFolder::check(dir.path()).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    };
    check(
        r#"{"weight_map":{"a":"../vae/diffusion_pytorch_model.safetensors"}}"#,
        "beside it",
    );
    check(r#"{"weight_map":{"a":"/etc/passwd"}}"#, "beside it");
    check(r#"{"weight_map":{"a":"config.json"}}"#, "beside it");
    check(r#"{"weight_map":{}}"#, "weight_map is empty");
    check(r#"{"weight_map":[]}"#, "is no index of shards");
    check(
        r#"{"weight_map":{"a":"gone.safetensors"}}"#,
        "unet/gone.safetensors: cannot be read",
    );
    check(
        r#"{"weight_map":{"a":"diffusion_pytorch_model-00001-of-00002.safetensors"}}"#,
        "is missing",
    );
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let dir = dummy_model();
    shard(dir.path(), None);
    let second = dir
        .path()
        .join("unet/diffusion_pytorch_model-00002-of-00002.safetensors");
    let mut tensors = read(&second);
    let first = read(
        &dir.path()
            .join("unet/diffusion_pytorch_model-00001-of-00002.safetensors"),
    );
    tensors.insert("conv_in.bias".into(), first["conv_in.bias"].clone());
    write(&second, &tensors);
    assert_eq!(
        problems(dir.path()),
        [TensorProblem::Twice {
            name: "conv_in.bias".into()
        }]
    );
}

#[test]
fn names_of_older_files_are_read() {
    let dir = dummy_model();
    let path = weights_path(dir.path(), Component::Vae);
    let expected = read(&path)["decoder.mid_block.attentions.0.to_out.0.weight"]
        .2
        .clone();
    change(dir.path(), Component::Vae, |tensors| {
        let old = std::mem::take(tensors);
        tensors.extend(old.into_iter().map(|(name, tensor)| {
            let name = name
                .replace("to_q", "query")
                .replace("to_k", "key")
                .replace("to_v", "value");
            (name.replace("to_out.0", "proj_attn"), tensor)
        }));
    });
    change(dir.path(), Component::ImageEncoder, |tensors| {
        let ids = (safetensors::Dtype::I64, vec![1, 2], vec![0; 16]);
        tensors.insert("vision_model.embeddings.position_ids".into(), ids);
    });
    let folder = ModelFolder::check(dir.path()).unwrap();
    assert_eq!(
        folder
            .vae
            .get("decoder.mid_block.attentions.0.to_out.0.weight")
            .unwrap()
            .data,
        expected
    );
    assert!(
        folder
            .image_encoder
            .get("vision_model.embeddings.position_ids")
            .is_none()
    );
}

#[test]
fn identity_covers_what_the_engine_reads_and_nothing_else() {
    let dir = dummy_model();
    let identify = || ModelFolder::check(dir.path()).unwrap().identify().unwrap();
    let before = identify();

    let mut paths: Vec<&str> = before.files.iter().map(|file| file.path.as_str()).collect();
    let expected_paths = [
        "feature_extractor/preprocessor_config.json",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ];
    assert_eq!(paths, expected_paths);
    paths.sort_unstable();
    let lines: String = paths
        .iter()
        .map(|path| {
            format!(
                "{}  {path}\n",
                Sha256Digest::of(&fs::read(dir.path().join(path)).unwrap())
            )
        })
        .collect();
    assert_eq!(before.sha256, Sha256Digest::of(lines.as_bytes()));

    fs::write(dir.path().join("README.md"), "licence").unwrap();
    assert_eq!(identify(), before);

    change(dir.path(), Component::Unet, |tensors| {
        tensors.get_mut("conv_in.bias").unwrap().2[0] ^= 1
    });
    assert_ne!(identify().sha256, before.sha256);
}

#[test]
fn a_model_is_not_written_over_another() {
    let dir = dummy_model();
    let error =
        synthetic::write_model(dir.path(), &Preset::Dummy.config(), 2, Dtype::F32).unwrap_err();
    assert!(
        matches!(error, synthetic::WriteModelError::Exists { .. }),
        "{error}"
    );
}

#[test]
fn equal_seeds_write_equal_files() {
    let (a, b) = (dummy_model(), dummy_model());
    let identify = |dir: &TempDir| ModelFolder::check(dir.path()).unwrap().identify().unwrap();
    assert_eq!(identify(&a), identify(&b));
    let file =
        SafetensorsFile::map(&weights_path(a.path(), Component::Unet), &Limits::MODEL).unwrap();
    assert_eq!(file.metadata["format"], "pt");
}
