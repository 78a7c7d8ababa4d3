//! Adapters of keyframe models, whose files may change the text encoder too.

use serde_json::Value;

use super::*;
use crate::KeyframePreset;
use crate::synthetic::write_adapter;

const TEXT: &str = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj";

fn table() -> ModuleTable {
    let config = KeyframePreset::Tiny.config();
    ModuleTable::of_stable_diffusion(&config.unet, &config.text_encoder)
}

fn read(
    tensors: &[(&str, &[usize], f32)],
    metadata: Option<&str>,
) -> Result<Adapter, AdapterError> {
    let metadata = metadata.map(|text| ("lora_adapter_metadata", text));
    let metadata = metadata.map(|(key, text)| json!({ key: text }));
    Adapter::read(f32_file(tensors, metadata).into(), None, &table())
}

#[test]
fn every_format_says_the_same_of_both_components() {
    let spec = |format| AdapterSpec {
        format,
        targets: ["to_k", "proj_in", "conv1", "q_proj", "fc2"]
            .map(str::to_owned)
            .to_vec(),
        ranks: vec![2, 3],
        alphas: vec![1.0, 5.0],
        use_rslora: false,
        seed: 3,
    };
    let dir = tempfile::tempdir().unwrap();
    let written = |format| {
        let folder = dir.path().join(format!("{format:?}"));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("adapter_model.safetensors");
        write_adapter(&path, &table(), &spec(format)).unwrap();
        let adapter = Adapter::open(&path, &table()).unwrap();
        assert_eq!(adapter.report.family, Family::StableDiffusion);
        assert_eq!(adapter.report.formats, [format].into());
        content(&adapter)
    };
    let peft = written(AdapterFormat::Peft);
    let text = peft
        .iter()
        .filter(|(module, ..)| module.starts_with(TEXT_ENCODER_PREFIX));
    assert_eq!(
        text.count(),
        2 * KeyframePreset::Tiny.config().text_encoder.num_hidden_layers
    );
    for format in &FORMATS[1..] {
        assert!(written(*format) == peft, "{format:?}");
    }
}

#[test]
fn keys_of_cross_attention_matter_here() {
    let key = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k";
    let (down, up) = (
        format!("{key}.lora_A.weight"),
        format!("{key}.lora_B.weight"),
    );
    let adapter = read(&[(&down, &[4, 32], 1.0), (&up, &[64, 4], 1.0)], None).unwrap();
    assert_eq!(
        (adapter.report.modules, adapter.report.noop_modules),
        (1, 0)
    );
}

#[test]
fn names_of_text_encoders_with_and_without_their_inner_model_are_one() {
    for path in [TEXT, &TEXT.replace("text_model.", "")] {
        let (down, up) = (
            format!("{path}.lora_A.weight"),
            format!("{path}.lora_B.weight"),
        );
        let adapter = read(&[(&down, &[4, 32], 1.0), (&up, &[32, 4], 1.0)], None).unwrap();
        assert_eq!(adapter.modules[0].module, TEXT);
    }
}

#[test]
fn each_component_has_its_own_settings() {
    let (unet, text) = ("conv_in", TEXT);
    let keys = [unet, text].map(|path| {
        [
            format!("{path}.lora_A.weight"),
            format!("{path}.lora_B.weight"),
        ]
    });
    let tensors: [(&str, &[usize], f32); 4] = [
        (&keys[0][0], &[4, 4, 3, 3], 1.0),
        (&keys[0][1], &[32, 4, 1, 1], 1.0),
        (&keys[1][0], &[4, 32], 1.0),
        (&keys[1][1], &[32, 4], 1.0),
    ];
    let scales = |metadata: Value| -> [f64; 2] {
        let adapter = read(&tensors, Some(&metadata.to_string())).unwrap();
        [unet, text].map(|path| {
            let module = adapter.modules.iter().find(|delta| delta.module == path);
            module.unwrap().scale
        })
    };
    let both = json!({
        "unet.r": 4, "unet.lora_alpha": 2, "text_encoder.r": 4, "text_encoder.lora_alpha": 12,
        "text_encoder.alpha_pattern": { "fc1": 7 },
    });
    assert_eq!(scales(both), [0.5, 3.0]);
    assert_eq!(
        scales(json!({ "unet.r": 4, "unet.lora_alpha": 2 })),
        [0.5, 1.0]
    );
    let pattern = json!({ "text_encoder.r": 4, "text_encoder.alpha_pattern": { "q_proj": 8 } });
    assert_eq!(scales(pattern), [1.0, 2.0]);
    assert_eq!(scales(json!({ "r": 4, "lora_alpha": 2 })), [0.5, 0.5]);
}

#[test]
fn a_motion_adapter_comes_with_a_hint_and_a_style_with_none() {
    let refused = |key: &str| read(&[(key, &[4, 32], 1.0)], None).unwrap_err();
    let motion =
        "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q.lora_A.weight";
    for key in [
        motion,
        &format!(
            "lora_unet_{}.lora_down.weight",
            "up_blocks_0_resnets_0_temporal_res_block_conv1"
        ),
    ] {
        let text = refused(key).to_string();
        assert!(
            text.contains("fits the video model, not the keyframe model"),
            "{text}"
        );
    }
    let text =
        refused("text_encoder.text_model.encoder.layers.99.mlp.fc1.lora_A.weight").to_string();
    assert!(!text.contains("fits"), "{text}");
}
