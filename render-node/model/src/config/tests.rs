use serde_json::{Value, json};

use super::*;

fn unet(change: impl FnOnce(&mut Value)) -> Result<UnetConfig, ConfigError> {
    let mut json = json!({
        "_class_name": "UNetSpatioTemporalConditionModel",
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
        "num_attention_heads": 8,
        "cross_attention_dim": 32,
        "projection_class_embeddings_input_dim": 96,
        "addition_time_embed_dim": 32,
    });
    change(&mut json);
    UnetConfig::from_json(UnetConfig::FILE, &json)
}

fn scheduler(change: impl FnOnce(&mut Value)) -> Result<SchedulerConfig, ConfigError> {
    let mut json = SchedulerConfig {
        sigma_min: 0.002,
        sigma_max: 700.0,
        timestep_spacing: TimestepSpacing::Leading,
    }
    .to_json();
    change(&mut json);
    SchedulerConfig::from_json(SchedulerConfig::FILE, &json)
}

/// Asserts that the error names `file` and `field`.
fn names<T: std::fmt::Debug>(result: Result<T, ConfigError>, file: &str, field: &str) {
    let text = result.expect_err(field).to_string();
    assert!(text.starts_with(&format!("{file}: {field}: ")), "{text}");
}

#[test]
fn absent_unet_fields_take_the_defaults_of_the_reference() {
    let config = UnetConfig::from_json(UnetConfig::FILE, &json!({})).unwrap();
    assert_eq!(config.in_channels, 8);
    assert_eq!(config.num_frames, 25);
    assert_eq!(config.sample_size, None);
    assert_eq!(config.down_attention, [true, true, true, false]);
    assert_eq!(config.up_attention, [false, true, true, true]);
    let column = |of: fn(&UnetLevel) -> usize| config.levels.iter().map(of).collect::<Vec<_>>();
    assert_eq!(column(|l| l.channels), [320, 640, 1280, 1280]);
    assert_eq!(column(|l| l.heads), [5, 10, 20, 20]);
    assert_eq!(column(|l| l.cross_attention_dim), [1024; 4]);
    assert_eq!(column(|l| l.layers), [2; 4]);
    assert_eq!(column(|l| l.transformer_layers), [1; 4]);
}

#[test]
fn one_value_and_a_list_of_equal_values_mean_the_same() {
    let one = unet(|_| {}).unwrap();
    let list = unet(|json| {
        json["num_attention_heads"] = json!([8, 8]);
        json["cross_attention_dim"] = json!([32, 32]);
        json["layers_per_block"] = json!([2, 2]);
        json["transformer_layers_per_block"] = json!([1, 1]);
    });
    assert_eq!(one, list.unwrap());
}

#[test]
fn unsupported_unet_values_name_file_and_field() {
    let cases: [(&str, Value); 14] = [
        ("_class_name", json!("UNet2DConditionModel")),
        ("block_out_channels", json!([30, 64])),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!("wide")),
        (
            "down_block_types",
            json!(["DownBlock3D", "DownBlockSpatioTemporal"]),
        ),
        ("down_block_types", json!(["DownBlockSpatioTemporal"])),
        ("down_block_types", Value::Null),
        ("up_block_types", json!(["UpBlockSpatioTemporal", 3])),
        ("num_attention_heads", json!([8, 8, 8])),
        ("num_attention_heads", json!(7)),
        ("layers_per_block", json!(0)),
        ("in_channels", json!(-1)),
        ("transformer_layers_per_block", json!([[1, 2], [1, 1]])),
        ("projection_class_embeddings_input_dim", json!(95)),
    ];
    for (field, value) in cases {
        names(unet(|json| json[field] = value), "unet/config.json", field);
    }
}

#[test]
fn unsupported_scheduler_values_name_file_and_field() {
    let cases: [(&str, Value); 9] = [
        ("_class_name", json!("DDIMScheduler")),
        ("prediction_type", json!("epsilon")),
        ("prediction_type", Value::Null),
        ("timestep_type", json!("discrete")),
        ("use_karras_sigmas", json!(false)),
        ("use_beta_sigmas", json!(true)),
        ("sigma_max", Value::Null),
        ("sigma_min", json!(900.0)),
        ("timestep_spacing", json!("random")),
    ];
    for (field, value) in cases {
        names(
            scheduler(|json| json[field] = value),
            "scheduler/scheduler_config.json",
            field,
        );
    }
}

#[test]
fn absent_image_encoder_activation_is_quick_gelu() {
    let parse = |json| ImageEncoderConfig::from_json(ImageEncoderConfig::FILE, &json);
    assert_eq!(parse(json!({})).unwrap().hidden_act, Activation::QuickGelu);
    assert_eq!(
        parse(json!({ "hidden_act": "gelu" })).unwrap().hidden_act,
        Activation::Gelu
    );
    assert_eq!(
        parse(json!({ "image_size": [224, 224], "patch_size": 14 }))
            .unwrap()
            .tokens(),
        257
    );
    let file = "image_encoder/config.json";
    names(parse(json!({ "hidden_act": "relu" })), file, "hidden_act");
    names(
        parse(json!({ "model_type": "siglip_vision_model" })),
        file,
        "model_type",
    );
    names(
        parse(json!({ "architectures": ["CLIPModel"] })),
        file,
        "architectures",
    );
    names(
        parse(json!({ "image_size": [224, 112] })),
        file,
        "image_size",
    );
    names(
        parse(json!({ "hidden_size": 30, "num_attention_heads": 4 })),
        file,
        "num_attention_heads",
    );
}

#[test]
fn vae_and_preprocessor_refusals_name_file_and_field() {
    let vae = |json| VaeConfig::from_json(VaeConfig::FILE, &json);
    assert_eq!(vae(json!({})).unwrap().block_out_channels, [64]);
    names(
        vae(json!({ "_class_name": "AutoencoderKL" })),
        "vae/config.json",
        "_class_name",
    );
    names(
        vae(json!({ "down_block_types": ["AttnDownEncoderBlock2D"] })),
        "vae/config.json",
        "down_block_types",
    );
    names(
        vae(json!({ "block_out_channels": [32, 64] })),
        "vae/config.json",
        "down_block_types",
    );
    names(
        vae(json!({ "in_channels": 4 })),
        "vae/config.json",
        "in_channels",
    );

    let preprocessor = |json| PreprocessorConfig::from_json(PreprocessorConfig::FILE, &json);
    assert_eq!(preprocessor(json!({})).unwrap(), PreprocessorConfig::CLIP);
    names(
        preprocessor(json!({ "image_std": [0, 1, 1] })),
        PreprocessorConfig::FILE,
        "image_std",
    );
    names(
        preprocessor(json!({ "image_mean": [1, 1] })),
        PreprocessorConfig::FILE,
        "image_mean",
    );
    names(
        preprocessor(json!({ "image_processor_type": "ViTImageProcessor" })),
        PreprocessorConfig::FILE,
        "image_processor_type",
    );
}

#[test]
fn another_pipeline_is_refused_by_its_index() {
    let check = |json: Value| ModelIndex::from_json(ModelIndex::FILE, &json);
    let mut index = ModelIndex::to_json();
    assert!(check(index.clone()).is_ok());
    index["vae"] = json!(["diffusers", "AutoencoderKL"]);
    names(check(index.clone()), "model_index.json", "vae");
    index["vae"] = Value::Null;
    names(check(index), "model_index.json", "vae");
    names(check(json!({})), "model_index.json", "_class_name");
}

#[test]
fn parts_that_do_not_fit_each_other_are_refused() {
    let config = ModelConfig {
        unet: unet(|_| {}).unwrap(),
        vae: VaeConfig::from_json(VaeConfig::FILE, &json!({})).unwrap(),
        image_encoder: ImageEncoderConfig::from_json(
            ImageEncoderConfig::FILE,
            &json!({ "projection_dim": 32, "hidden_size": 32, "num_attention_heads": 4 }),
        )
        .unwrap(),
        scheduler: scheduler(|_| {}).unwrap(),
        preprocessor: PreprocessorConfig::CLIP,
    };
    config.check_parts_fit().unwrap();

    let mut wrong = config.clone();
    wrong.unet.in_channels = 4;
    names(wrong.check_parts_fit(), "unet/config.json", "in_channels");
    let mut wrong = config.clone();
    wrong.vae.latent_channels = 8;
    wrong.unet.in_channels = 16;
    names(wrong.check_parts_fit(), "unet/config.json", "out_channels");
    let mut wrong = config;
    wrong.image_encoder.projection_dim = 64;
    names(
        wrong.check_parts_fit(),
        "unet/config.json",
        "cross_attention_dim",
    );
}
