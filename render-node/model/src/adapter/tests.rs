mod stable_diffusion;

use serde_json::json;

use super::*;
use crate::preset::Preset;
use crate::safetensors::corpus::f32_file;
use crate::synthetic::{AdapterSpec, adapter_bytes, dora_bytes, write_adapter};

const BLOCK: &str = "down_blocks.0.attentions.0.transformer_blocks.0";
const FORMATS: [AdapterFormat; 4] = [
    AdapterFormat::Peft,
    AdapterFormat::PeftFolder,
    AdapterFormat::DiffusersOld,
    AdapterFormat::Kohya,
];

fn table() -> ModuleTable {
    ModuleTable::of(&Preset::Dummy.config().unet)
}

fn read(bytes: Vec<u8>) -> Result<Adapter, AdapterError> {
    Adapter::read(bytes.into(), None, &table())
}

/// The problems of a file with these f32 tensors, and its family.
fn problems(tensors: &[(&str, &[usize])]) -> (Vec<AdapterProblem>, Option<Family>) {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(key, shape)| (*key, *shape, 1.0))
        .collect();
    match read(f32_file(&tensors, None)) {
        Err(AdapterError::DoesNotFit { problems, family }) => (problems.0, family),
        other => panic!("expected problems, got {other:?}"),
    }
}

/// (module, rank, scale, down, up) of every change.
fn content(adapter: &Adapter) -> Vec<(String, usize, f64, TensorView, TensorView)> {
    let delta = |d: &ModuleDelta| {
        (
            d.module.clone(),
            d.rank,
            d.scale,
            d.down.clone(),
            d.up.clone(),
        )
    };
    adapter.modules.iter().map(delta).collect()
}

/// Everything that can be changed, with ranks and alphas that differ between modules.
fn spec(format: AdapterFormat) -> AdapterSpec {
    let ends = [
        "to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "proj_in", "proj_out", "conv1",
        "conv2",
    ];
    let more = [
        "conv",
        "conv_in",
        "conv_out",
        "conv_shortcut",
        "time_emb_proj",
        "linear_1",
        "linear_2",
    ];
    AdapterSpec {
        format,
        targets: ends
            .iter()
            .chain(&more)
            .map(|&end| end.to_owned())
            .collect(),
        ranks: vec![2, 4, 3],
        alphas: vec![1.0, 6.0],
        use_rslora: false,
        seed: 5,
    }
}

fn adapter(format: AdapterFormat) -> Adapter {
    read(adapter_bytes(&table(), &spec(format)).unwrap()).unwrap()
}

#[test]
fn every_format_says_the_same_thing() {
    let table = table();
    let dir = tempfile::tempdir().unwrap();
    let mut contents = Vec::new();
    for format in FORMATS {
        let path = dir.path().join("adapter_model.safetensors");
        write_adapter(&path, &table, &spec(format)).unwrap();
        let adapter = Adapter::open(&path, &table).unwrap();
        assert_eq!(adapter.report.formats, BTreeSet::from([format]));
        assert_eq!(
            adapter.modules.len() + adapter.noop_modules.len(),
            table.modules().len()
        );
        let of_file = Sha256Digest::of(&std::fs::read(&path).unwrap());
        assert_eq!(
            adapter.sha256 == of_file,
            format != AdapterFormat::PeftFolder
        );
        contents.push(content(&adapter));
        std::fs::remove_dir_all(dir.path()).unwrap();
        std::fs::create_dir(dir.path()).unwrap();
    }
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]));

    let modules = table.modules();
    for (path, rank, scale, down, up) in &contents[0] {
        let i = modules
            .iter()
            .position(|module| module.path == *path)
            .unwrap();
        let shape = &modules[i].weight_shape;
        assert_eq!(*rank, [2, 4, 3][i % 3]);
        assert_eq!(*scale, [1.0, 6.0][i % 2] / *rank as f64);
        assert_eq!((down.shape[0], &down.shape[1..]), (*rank, &shape[1..]));
        assert_eq!((up.shape[0], up.shape[1]), (shape[0], *rank));
    }
    for delta in &adapter(AdapterFormat::Kohya).modules {
        let module = modules
            .iter()
            .find(|module| module.path == delta.module)
            .unwrap();
        assert_eq!(delta.weight_shape(), module.weight_shape);
    }
}

#[test]
fn an_alpha_beside_the_file_counts_for_the_hash() {
    let bytes = adapter_bytes(&table(), &spec(AdapterFormat::PeftFolder)).unwrap();
    let hash = |config: &str| {
        let adapter = Adapter::read(bytes.clone().into(), Some(config), &table()).unwrap();
        adapter.sha256
    };
    let (one, two) = (
        r#"{"r": 2, "lora_alpha": 1}"#,
        r#"{"r": 2, "lora_alpha": 2}"#,
    );
    assert_eq!(hash(one), hash(one));
    assert_ne!(hash(one), hash(two));
}

#[test]
fn all_paths_differ_when_joined() {
    for preset in Preset::ALL {
        let table = ModuleTable::of(&preset.config().unet);
        let joined: BTreeSet<String> = table
            .modules()
            .iter()
            .map(|module| module.path.replace('.', "_"))
            .collect();
        assert_eq!(joined.len(), table.modules().len(), "{preset}");
    }
}

#[test]
fn queries_and_keys_of_cross_attention_are_noops() {
    let mut spec = spec(AdapterFormat::Kohya);
    spec.targets = vec![
        "attn2.to_q".into(),
        "attn2.to_k".into(),
        "attn2.to_v".into(),
    ];
    let adapter = read(adapter_bytes(&table(), &spec).unwrap()).unwrap();
    assert_eq!(adapter.report.modules, adapter.modules.len());
    assert_eq!(adapter.noop_modules.len(), 2 * adapter.modules.len());
    assert!(
        adapter
            .modules
            .iter()
            .all(|delta| delta.module.ends_with("attn2.to_v"))
    );
    let json = serde_json::to_value(&adapter.report).unwrap();
    assert_eq!(json["family"], "stable_video_diffusion");
    assert_eq!(json["formats"], json!(["kohya"]));
    assert_eq!(json["noop_modules"], adapter.noop_modules.len());
    let total: u64 = json["ranks"]
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert_eq!(
        total as usize,
        adapter.modules.len() + adapter.noop_modules.len()
    );
}

#[test]
fn scale_is_one_where_nothing_says_alpha() {
    for format in [
        AdapterFormat::Peft,
        AdapterFormat::DiffusersOld,
        AdapterFormat::Kohya,
    ] {
        let spec = AdapterSpec {
            alphas: vec![],
            ..spec(format)
        };
        let adapter = read(adapter_bytes(&table(), &spec).unwrap()).unwrap();
        assert!(adapter.modules.iter().all(|delta| delta.scale == 1.0));
    }
}

/// The scale of `conv_in` (rank 4) under a PEFT config.
fn scale_under(config: serde_json::Value) -> Result<f64, AdapterError> {
    let tensors: [(&str, &[usize], f32); 2] = [
        ("conv_in.lora_A.weight", &[4, 8, 3, 3], 1.0),
        ("conv_in.lora_B.weight", &[32, 4, 1, 1], 1.0),
    ];
    let metadata = json!({ "lora_adapter_metadata": config.to_string(), "format": "pt" });
    let in_file = read(f32_file(&tensors, Some(metadata))).map(|adapter| adapter.modules[0].scale);
    let beside = Adapter::read(
        f32_file(&tensors, None).into(),
        Some(&config.to_string()),
        &table(),
    );
    assert_eq!(
        in_file.as_ref().ok(),
        beside.ok().map(|adapter| adapter.modules[0].scale).as_ref()
    );
    in_file
}

#[test]
fn settings_scale_as_peft_does() {
    let check = |config, expected: f64| assert_eq!(scale_under(config).unwrap(), expected);
    check(json!({ "r": 4, "lora_alpha": 8 }), 2.0);
    check(json!({ "unet.r": 4, "unet.lora_alpha": 8 }), 2.0);
    check(json!({ "r": 4, "lora_alpha": 8, "use_rslora": true }), 4.0);
    check(json!({ "r": 4 }), 2.0);
    check(
        json!({ "r": 4, "lora_alpha": 8, "alpha_pattern": { "conv_in": 2 } }),
        0.5,
    );
    check(
        json!({ "r": 4, "lora_alpha": 8, "alpha_pattern": { "conv_(in|out)": 2 } }),
        0.5,
    );
    check(
        json!({ "r": 4, "lora_alpha": 8, "alpha_pattern": { "v_in": 2, "conv": 2 } }),
        2.0,
    );
    check(
        json!({ "r": 4, "lora_alpha": 8, "use_dora": false, "init_lora_weights": true }),
        2.0,
    );
    check(
        json!({ "text_encoder.r": 4, "text_encoder.lora_alpha": 8 }),
        1.0,
    );
}

#[test]
fn settings_of_another_function_are_refused_by_name() {
    let check = |config: serde_json::Value, expected: &str| {
        let error = scale_under(config).unwrap_err();
        assert!(
            matches!(&error, AdapterError::Settings { field, .. } if field == expected),
            "{error}"
        );
    };
    check(json!({ "r": 4, "use_dora": 1 }), "use_dora");
    check(json!({ "r": 4, "lora_bias": true }), "lora_bias");
    check(json!({ "r": 4, "arrow_config": {} }), "arrow_config");
    check(
        json!({ "r": 4, "init_lora_weights": "pissa_niter_4" }),
        "init_lora_weights",
    );
    check(
        json!({ "r": 4, "init_lora_weights": "OLoRA" }),
        "init_lora_weights",
    );
    check(json!({ "r": 4, "lora_alpha": "8" }), "lora_alpha");
    check(json!({ "r": 4, "use_rslora": 1 }), "use_rslora");
    check(
        json!({ "r": 4, "alpha_pattern": { "(": 1 } }),
        "alpha_pattern",
    );
    check(
        json!({ "r": 4, "alpha_pattern": { "(?:x{1000}){1000}": 1 } }),
        "alpha_pattern",
    );
    check(json!({ "r": 4, "alpha_pattern": [] }), "alpha_pattern");
}

#[test]
fn an_adapter_is_refused_with_all_its_unknown_keys() {
    let (problems, family) = problems(&[
        ("conv_in.lora_A.weight", &[4, 8, 3, 3]),
        ("conv_in.lora_B.weight", &[32, 4, 1, 1]),
        ("unet.conv_norm_out.lora_A.weight", &[4, 32]),
        ("down_blocks.9.attentions.0.proj_in.lora_A.weight", &[4, 32]),
        (
            "lora_unet_mid_block_resnets_7_spatial_res_block_conv1.lora_up.weight",
            &[4, 32],
        ),
        ("something else", &[1]),
    ]);
    let unknown = |key: &str| AdapterProblem::UnknownKey {
        key: key.to_owned(),
    };
    assert_eq!(
        problems,
        [
            unknown("down_blocks.9.attentions.0.proj_in.lora_A.weight"),
            unknown("lora_unet_mid_block_resnets_7_spatial_res_block_conv1.lora_up.weight"),
            unknown("something else"),
            unknown("unet.conv_norm_out.lora_A.weight"),
        ]
    );
    assert_eq!(family, None);
}

#[test]
fn wrong_shapes_are_refused_with_what_they_must_be() {
    let to_q = format!("{BLOCK}.attn1.to_q");
    let check = |module: &str, down: &[usize], up: &[usize], expected: &[(&str, &str)]| {
        let (down_key, up_key) = (
            format!("{module}.lora_A.weight"),
            format!("{module}.lora_B.weight"),
        );
        let (problems, _) = problems(&[(&down_key, down), (&up_key, up)]);
        let found: Vec<(&str, &str)> = problems
            .iter()
            .map(|problem| match problem {
                AdapterProblem::Shape { key, expected, .. } => (
                    if *key == down_key { "down" } else { "up" },
                    expected.as_str(),
                ),
                other => panic!("expected a shape, got {other}"),
            })
            .collect();
        assert_eq!(found, expected);
    };
    let linear = "to change a weight of [32, 32]";
    check(
        &to_q,
        &[4, 31],
        &[32, 4],
        &[("down", &format!("[rank, 32] {linear}"))],
    );
    check(
        &to_q,
        &[4, 32],
        &[32, 5],
        &[("up", &format!("[32, 4] {linear}"))],
    );
    check(
        &to_q,
        &[4, 32, 1, 1],
        &[4, 32],
        &[
            ("down", &format!("[rank, 32] {linear}")),
            ("up", &format!("[32, rank] {linear}")),
        ],
    );
    check(
        &to_q,
        &[0, 32],
        &[32, 0],
        &[
            ("down", &format!("[rank, 32] {linear}")),
            ("up", &format!("[32, rank] {linear}")),
        ],
    );
    check(
        &to_q,
        &[],
        &[32, 4],
        &[("down", &format!("[rank, 32] {linear}"))],
    );
    let conv = "to change a weight of [32, 8, 3, 3]";
    check(
        "conv_in",
        &[4, 8, 1, 1],
        &[32, 4, 1, 1],
        &[("down", &format!("[rank, 8, 3, 3] {conv}"))],
    );
    check(
        "conv_in",
        &[4, 8, 3, 3],
        &[32, 4, 3, 3],
        &[("up", &format!("[32, 4, 1, 1] {conv}"))],
    );
    let temporal = "down_blocks.0.resnets.0.temporal_res_block.conv1";
    let conv = "to change a weight of [32, 32, 3, 1, 1]";
    check(
        temporal,
        &[4, 32, 3, 3, 1],
        &[32, 4, 1, 1, 1],
        &[("down", &format!("[rank, 32, 3, 1, 1] {conv}"))],
    );
}

#[test]
fn halves_without_partner_and_doubled_parts_are_refused() {
    let (found, _) = problems(&[
        ("conv_in.lora_A.weight", &[4, 8, 3, 3]),
        ("conv_out.lora_B.weight", &[4, 4, 1, 1]),
        ("lora_unet_time_embedding_linear_1.alpha", &[]),
    ]);
    let alone = |key: &str| AdapterProblem::OtherHalfMissing {
        key: key.to_owned(),
    };
    assert_eq!(
        found,
        [
            alone("conv_in.lora_A.weight"),
            alone("conv_out.lora_B.weight"),
            alone("lora_unet_time_embedding_linear_1.alpha"),
        ]
    );

    let (found, _) = problems(&[
        ("conv_in.lora_A.weight", &[4, 8, 3, 3]),
        ("conv_in.lora_B.weight", &[32, 4, 1, 1]),
        ("lora_unet_conv_in.lora_up.weight", &[32, 4, 1, 1]),
    ]);
    let (first, second) = (
        "conv_in.lora_B.weight".to_owned(),
        "lora_unet_conv_in.lora_up.weight".to_owned(),
    );
    assert_eq!(found, [AdapterProblem::SamePart { first, second }]);

    let (found, _) = problems(&[
        ("lora_unet_conv_in.alpha", &[2]),
        ("lora_unet_conv_in.lora_down.weight", &[4, 8, 3, 3]),
        ("lora_unet_conv_in.lora_up.weight", &[32, 4, 1, 1]),
    ]);
    let key = "lora_unet_conv_in.alpha".to_owned();
    assert_eq!(
        found,
        [AdapterProblem::Shape {
            key,
            found: vec![2],
            expected: "one number".into()
        }]
    );
}

#[test]
fn magnitudes_are_of_the_axis_that_their_writer_means() {
    let table = table();
    let check = |format: AdapterFormat, axis: MagnitudeAxis| {
        let bytes = dora_bytes(&table, &spec(format), axis).unwrap();
        let dora = read(bytes).unwrap();
        let plain = adapter(format);
        assert_eq!(content(&dora), content(&plain));
        let mut numbers = 0;
        for delta in &dora.modules {
            let magnitude = delta.magnitude.as_ref().unwrap();
            let shape = delta.weight_shape();
            let length = match axis {
                MagnitudeAxis::Output => shape[0],
                MagnitudeAxis::Input => shape[1],
            };
            assert_eq!(
                (magnitude.axis, magnitude.values.elements()),
                (axis, length)
            );
            numbers += length;
        }
        assert!(dora.report.parameters >= plain.report.parameters + numbers);
    };
    check(AdapterFormat::Peft, MagnitudeAxis::Output);
    check(AdapterFormat::Kohya, MagnitudeAxis::Output);
    check(AdapterFormat::Kohya, MagnitudeAxis::Input);
}

#[test]
fn magnitudes_that_do_not_fit_are_told() {
    let check = |end: &str, shape: &[usize], expected: &str| {
        let key = format!("conv_in{end}");
        let (found, _) = problems(&[
            ("conv_in.lora_A.weight", &[4, 8, 3, 3]),
            ("conv_in.lora_B.weight", &[32, 4, 1, 1]),
            (&key, shape),
        ]);
        assert_eq!(
            found,
            [AdapterProblem::Shape {
                key,
                found: shape.to_vec(),
                expected: format!("{expected} to change a weight of [32, 8, 3, 3]"),
            }]
        );
    };
    let peft = "[1, 32, 1, 1]";
    check(".lora_magnitude_vector", &[32], peft);
    check(".lora_magnitude_vector", &[1, 8, 1, 1], peft);
    let kohya = "[32, 1, 1, 1] or [1, 8, 1, 1]";
    check(".dora_scale", &[1, 32, 1, 1], kohya);
    check(".dora_scale", &[32, 1], kohya);

    let (found, _) = problems(&[("lora_unet_conv_in.dora_scale", &[32, 1, 1, 1])]);
    let key = "lora_unet_conv_in.dora_scale".to_owned();
    assert_eq!(found, [AdapterProblem::OtherHalfMissing { key }]);
}

#[test]
fn settings_and_magnitudes_must_agree() {
    let (table, spec) = (table(), spec(AdapterFormat::PeftFolder));
    let plain = adapter_bytes(&table, &spec).unwrap();
    let peft = AdapterSpec {
        alphas: Vec::new(),
        format: AdapterFormat::Peft,
        ..spec
    };
    let dora = dora_bytes(&table, &peft, MagnitudeAxis::Output).unwrap();
    let check = |bytes: &[u8], says: bool, fits: bool| {
        let config = json!({ "r": 4, "use_dora": says }).to_string();
        let read = Adapter::read(bytes.to_vec().into(), Some(&config), &table);
        match read {
            Ok(_) => assert!(fits),
            Err(error) => {
                let text = error.to_string();
                assert!(!fits && text.contains("use_dora"), "{text}");
            }
        }
    };
    check(&plain, false, true);
    check(&plain, true, false);
    check(&dora, true, true);
    check(&dora, false, false);
}

#[test]
fn schemes_that_are_not_implemented_are_refused_by_name() {
    let check = |key: &str, scheme: Scheme, word: &str| {
        let (found, _) = problems(&[
            ("conv_in.lora_A.weight", &[4, 8, 3, 3]),
            ("conv_in.lora_B.weight", &[32, 4, 1, 1]),
            (key, &[32]),
        ]);
        assert_eq!(
            found,
            [AdapterProblem::Unimplemented {
                key: key.to_owned(),
                scheme
            }]
        );
        assert!(found[0].to_string().contains(word), "{}", found[0]);
    };
    check("lora_unet_conv_in.hada_w1_a", Scheme::Loha, "LoHa");
    check("lora_unet_conv_in.lokr_w1", Scheme::Lokr, "LoKr");
    check(
        "lora_unet_conv_in.lora_mid.weight",
        Scheme::Tucker,
        "Tucker",
    );
    check("lora_unet_conv_in.diff", Scheme::FullDifference, ".diff");
    check("conv_in.lora_B.bias", Scheme::LoraBias, "bias");
}

#[test]
fn adapters_of_other_families_come_with_a_hint() {
    let check = |key: &str, shape: &[usize], family: Family, word: &str| {
        let error = read(f32_file(&[(key, shape, 1.0)], None)).unwrap_err();
        assert!(
            matches!(&error, AdapterError::DoesNotFit { family: found, .. } if *found == Some(family)),
            "{error}"
        );
        assert!(error.to_string().contains(word), "{error}");
    };
    let sd = Family::StableDiffusion;
    check(
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        &[4, 768],
        sd,
        "keyframe",
    );
    check(
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        &[4, 768],
        sd,
        "keyframe",
    );
    check(
        &format!("{BLOCK}.attn2.processor.to_k_lora.down.weight"),
        &[4, 768],
        sd,
        "keyframe",
    );
    let joined = format!(
        "lora_unet_{}_attn2_to_v.lora_down.weight",
        BLOCK.replace('.', "_")
    );
    check(&joined, &[4, 768], sd, "keyframe");
    check(&joined, &[4, 2048], Family::StableDiffusionXl, "XL");
    check(
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        &[4, 1280],
        Family::StableDiffusionXl,
        "XL",
    );
    check(
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
        &[4, 320],
        Family::AnimateDiff,
        "AnimateDiff",
    );
}

#[test]
fn a_peft_folder_without_its_config_is_refused() {
    let bytes = adapter_bytes(&table(), &spec(AdapterFormat::PeftFolder)).unwrap();
    match read(bytes) {
        Err(AdapterError::DoesNotFit { problems, .. }) => {
            assert_eq!(problems.0, [AdapterProblem::AlphaUnknown])
        }
        other => panic!("expected AlphaUnknown, got {other:?}"),
    }
}

/// Whoever follows the advice has an adapter that needs no second file.
#[test]
fn a_peft_folder_without_its_config_is_refused_with_a_way_out() {
    const KEYS: [&str; 2] = [
        "base_model.model.conv_in.lora_A.weight",
        "base_model.model.conv_in.lora_B.weight",
    ];
    let shapes: [&[usize]; 2] = [&[4, 8, 3, 3], &[32, 4, 1, 1]];
    let tensors = [(KEYS[0], shapes[0], 1.0), (KEYS[1], shapes[1], 1.0)];
    let said = read(f32_file(&tensors, None)).unwrap_err().to_string();
    assert!(
        said.contains("adapter_config.json") && said.ends_with("as lora_adapter_metadata"),
        "{said}"
    );

    let config = json!({ "r": 4, "lora_alpha": 12 }).to_string();
    let metadata = json!({ "lora_adapter_metadata": config });
    let adapter = read(f32_file(&tensors, Some(metadata))).unwrap();
    assert_eq!(adapter.modules[0].scale, 3.0);
}

#[test]
fn long_lists_are_kept_whole_and_shown_short() {
    let keys: Vec<String> = (0..100)
        .map(|i| format!("nowhere.{i}.lora_A.weight"))
        .collect();
    let shape: &[usize] = &[1];
    let tensors: Vec<(&str, &[usize])> = keys.iter().map(|key| (key.as_str(), shape)).collect();
    let (found, _) = problems(&tensors);
    assert_eq!(found.len(), 100);
    let text = AdapterProblems(found).to_string();
    assert!(
        text.ends_with("; and 68 more") && text.len() < 4000,
        "{text}"
    );
}

#[test]
fn what_the_gate_refuses_is_refused() {
    let nan = f32_file(&[("conv_in.lora_A.weight", &[4, 8, 3, 3], f32::NAN)], None);
    assert!(matches!(
        read(nan),
        Err(AdapterError::Gate(gate::GateError::NotFinite { .. }))
    ));
    assert!(matches!(
        read(b"PK\x03\x04".to_vec()),
        Err(AdapterError::Gate(gate::GateError::File(_)))
    ));
}
