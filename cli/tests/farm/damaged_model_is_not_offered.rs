//! Goal: a model folder with a missing file is not offered, the node says why, and its other models are.

use flowai_model::safetensors::Dtype;
use flowai_model::{Preset, synthetic};

use crate::support::TestFarm;

#[tokio::test(flavor = "multi_thread")]
async fn damaged_model_is_not_offered() {
    let models = tempfile::tempdir().unwrap();
    for name in ["whole", "damaged"] {
        let folder = models.path().join(name);
        synthetic::write_model(&folder, &Preset::Small.config(), 0, Dtype::F32).unwrap();
    }
    let missing = "damaged/vae/diffusion_pytorch_model.safetensors";
    std::fs::remove_file(models.path().join(missing)).unwrap();

    let farm = TestFarm::start(|options| options.models = Some(models.path().to_owned())).await;

    let operator = farm.operator().await;
    let nodes = operator.client.nodes().await.unwrap();
    let [node] = &nodes[..] else {
        panic!("{nodes:?}");
    };
    assert_eq!(node.models, ["whole"]);
    let [refused] = &node.refused_models[..] else {
        panic!("{nodes:?}");
    };
    assert_eq!(refused.folder, "damaged");
    assert!(refused.reason.contains("vae"), "{}", refused.reason);
    let offered = operator.client.models().await.unwrap();
    assert_eq!(offered.len(), 1);
    assert_eq!(offered[0].id, "whole");
    farm.stop().await;
}
