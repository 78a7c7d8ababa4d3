//! Goal: what fuzzing found once, and what it starts from, keeps its promises with every build.
//! Method: each file of the fuzzers' corpus through the function that they run.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

#[allow(unreachable_pub, reason = "there it is a library's")]
#[path = "../../fuzz/src/promises.rs"]
mod promises;

fn check(target: &str, promise: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut files = 0;
    for entry in fs::read_dir(folder.join(target)).unwrap() {
        let path = entry.unwrap().path();
        // So that a panic says of which file it is.
        println!("{}", path.display());
        promise(&fs::read(path).unwrap());
        files += 1;
    }
    assert!(files > 0, "{target} has no corpus");
}

#[test]
fn of_safetensors() {
    check("safetensors_gate", promises::safetensors_gate);
}

#[test]
fn of_adapter_keys() {
    check("adapter_keys", promises::adapter_keys);
}

#[test]
fn of_model_configs() {
    check("model_configs", promises::model_configs);
}

#[test]
fn of_pictures() {
    check("picture_gate", promises::picture_gate);
}
