//! Goal: what a file says cannot make its reader list, match or repeat without end.
//! Method: files that are well-formed and ask for far more than any real one; each must be judged within its bound.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::time::{Duration, Instant};

use flowai_model::adapter::{Adapter, AdapterFormat, ModuleTable};
use flowai_model::config::{ConfigError, ImageEncoderConfig, UnetConfig, VaeConfig};
use flowai_model::safetensors::{Limits, SafetensorsFile};
use flowai_model::{Preset, synthetic};
use serde_json::{Map, Value, json};

/// What an answer to a user may repeat of their file.
const TEXT_CHARS_MAX: usize = 1_000;

fn refused<T: std::fmt::Debug>(result: Result<T, ConfigError>, field: &str) {
    let text = result.unwrap_err().to_string();
    assert!(text.contains(&format!(": {field}: ")), "{text:.200}");
    assert!(text.chars().count() <= TEXT_CHARS_MAX, "{}", text.len());
}

#[test]
fn a_config_of_endless_layers_is_refused_by_its_field() {
    let unet = |field: &str, value: Value| {
        let json = json!({ field: value });
        refused(UnetConfig::from_json(UnetConfig::FILE, &json), field);
    };
    unet("layers_per_block", json!(1_048_576));
    unet("transformer_layers_per_block", json!([1, 1, 1, 1_048_576]));
    unet("block_out_channels", json!(vec![32; 100_000]));
    let vae = json!({ "block_out_channels": [32], "layers_per_block": 1_048_576 });
    refused(
        VaeConfig::from_json(VaeConfig::FILE, &vae),
        "layers_per_block",
    );
    let encoder = json!({ "num_hidden_layers": 1_048_576 });
    let encoder = ImageEncoderConfig::from_json(ImageEncoderConfig::FILE, &encoder);
    refused(encoder, "num_hidden_layers");
}

#[test]
fn errors_do_not_repeat_a_file() {
    let long = "ä".repeat(100_000);
    for field in ["block_out_channels", "layers_per_block", "_class_name"] {
        let json = json!({ field: long });
        refused(UnetConfig::from_json(UnetConfig::FILE, &json), field);
    }
    let mut header = r#"{"__metadata__":{"#.to_owned();
    for _ in 0..2 {
        write!(header, r#""{}":"","#, &long[..30_000]).unwrap();
    }
    header.pop();
    header.push_str("}}");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    let error = SafetensorsFile::parse(file.into(), &Limits::ADAPTER).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("is there twice"), "{text:.200}");
    assert!(text.chars().count() <= TEXT_CHARS_MAX, "{}", text.len());
}

/// Each pattern is tried with each of the modules that an adapter changes: 128 times 2,000 matches took seconds.
#[test]
fn an_adapter_with_thousands_of_expressions_is_refused() {
    let read = |patterns: Vec<String>| {
        let table = ModuleTable::of(&Preset::Dummy.config().unet);
        let spec = synthetic::AdapterSpec {
            format: AdapterFormat::Peft,
            targets: vec!["to_q".into(), "to_v".into()],
            ranks: vec![1],
            alphas: vec![],
            use_rslora: false,
            seed: 0,
        };
        let file = synthetic::adapter_bytes(&table, &spec).unwrap();
        let patterns: Map<String, Value> = patterns.into_iter().map(|p| (p, json!(2))).collect();
        let settings = json!({ "r": 1, "lora_alpha": 1, "alpha_pattern": patterns }).to_string();
        Adapter::read(file.into(), Some(&settings), &table)
    };
    let expressions = |count| {
        (0..count)
            .map(|i| format!("(.*[a-z]{{0,9}}.){{3}}{i}"))
            .collect()
    };
    let text = read(expressions(2_000)).unwrap_err().to_string();
    assert!(
        text.contains("2000 patterns that are more than a path"),
        "{text:.200}"
    );
    read(expressions(64)).unwrap();

    // Paths are as many as a model has modules.
    let started = Instant::now();
    let mut paths: Vec<String> = (0..1_999).map(|i| format!("attn1.to_q{i}")).collect();
    paths.push("attn1.to_q".to_owned());
    let adapter = read(paths).unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    for delta in &adapter.modules {
        let expected = if delta.module.ends_with(".attn1.to_q") {
            2.0
        } else {
            1.0
        };
        assert_eq!(delta.scale, expected, "{}", delta.module);
    }
}
