//! Goal: adapters that PEFT and diffusers write mean here what they mean there: modules, ranks, scales.
//! Method: let the reference's own writers write files in each format, compare with the layers that PEFT made.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oracle;

use std::collections::BTreeMap;

use flowai_model::adapter::{Adapter, ModuleTable};
use flowai_model::safetensors::Dtype;
use flowai_model::{Preset, synthetic};

#[test]
fn adapters_of_the_references_writers_mean_the_same() {
    let config = Preset::Dummy.config();
    let table = ModuleTable::of(&config.unet);
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("model"), dir.path().join("adapters"));
    synthetic::write_model(&model, &config, 0, Dtype::F32).unwrap();
    std::fs::create_dir(&out).unwrap();

    let output = oracle::run("adapters.py", [&model, &out]);
    let expected: BTreeMap<String, BTreeMap<String, (usize, f64)>> =
        serde_json::from_str(&output).unwrap();
    assert_eq!(expected.len(), 7);
    for (file, theirs) in expected {
        let adapter = Adapter::open(&out.join(&file), &table)
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut ours: BTreeMap<String, (usize, f64)> = adapter
            .modules
            .iter()
            .map(|delta| (delta.module.clone(), (delta.rank, delta.scale)))
            .collect();
        assert!(!adapter.noop_modules.is_empty());
        for module in &adapter.noop_modules {
            assert!(
                ours.insert(module.clone(), theirs[module]).is_none(),
                "{file}: {module}"
            );
        }
        assert_eq!(ours, theirs, "{file}");
    }
}
