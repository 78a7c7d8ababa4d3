use flowai::client::{Client, Purpose};
use flowai_actors::ids::Sha256;
use flowai_model::ModelFolder;
use flowai_model::adapter::{AdapterFormat, ModuleTable};
use flowai_model::synthetic::{AdapterSpec, adapter_bytes};

use super::TestFarm;

/// Stores a random adapter for the farm's first model.
pub(crate) async fn store_random_adapter(farm: &TestFarm, client: &Client) -> (String, Sha256) {
    let model = ModelFolder::check(&farm.farm().folder().models().join("small")).unwrap();
    let spec = AdapterSpec {
        format: AdapterFormat::Kohya,
        targets: vec!["to_q".to_owned(), "to_v".to_owned()],
        ranks: vec![2],
        alphas: vec![2.0],
        use_rslora: false,
        seed: 5,
    };
    let bytes = adapter_bytes(&ModuleTable::of(&model.config.unet), &spec).unwrap();
    let upload = client
        .upload(Purpose::Adapter, "style.safetensors", bytes.into())
        .await;
    let adapter = client
        .make_adapter(&upload.unwrap(), "small", "style")
        .await
        .unwrap();
    (adapter.id, adapter.sha256)
}
