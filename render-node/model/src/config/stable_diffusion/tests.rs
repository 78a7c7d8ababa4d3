use serde_json::{Value, json};

use super::*;
use crate::KeyframePreset;

/// The files of the tiny preset after `change` of one of them.
fn read(file: &str, change: impl FnOnce(&mut Value)) -> Result<StableDiffusionConfig, ConfigError> {
    read_with(|files| {
        let (_, text) = files.iter_mut().find(|(path, _)| path == file).unwrap();
        let mut json = serde_json::from_str(text).unwrap();
        change(&mut json);
        *text = json.to_string();
    })
}

fn read_with(
    change: impl FnOnce(&mut Vec<(String, String)>),
) -> Result<StableDiffusionConfig, ConfigError> {
    let files = KeyframePreset::Tiny.config().to_files().into_iter();
    let mut files = files.map(|(path, text)| (path.to_owned(), text)).collect();
    change(&mut files);
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    StableDiffusionConfig::read(dir.path())
}

/// Every field with every value is refused by its file and its own name.
fn refuses(file: &str, cases: &[(&str, Value)]) {
    for (field, value) in cases {
        let text = read(file, |json| json[*field] = value.clone())
            .expect_err(field)
            .to_string();
        assert!(text.starts_with(&format!("{file}: {field}: ")), "{text}");
    }
}

#[test]
fn a_prompt_pipeline_is_told_from_others_by_its_index() {
    refuses(
        "model_index.json",
        &[
            ("_class_name", json!("StableDiffusionXLPipeline")),
            (
                "unet",
                json!(["diffusers", "UNetSpatioTemporalConditionModel"]),
            ),
            ("vae", json!(["diffusers", "AsymmetricAutoencoderKL"])),
            (
                "text_encoder",
                json!(["transformers", "CLIPTextModelWithProjection"]),
            ),
            ("text_encoder", Value::Null),
            ("tokenizer", json!(["transformers", "T5Tokenizer"])),
            (
                "scheduler",
                json!(["diffusers", "FlowMatchEulerDiscreteScheduler"]),
            ),
        ],
    );
    let with_checker = read("model_index.json", |json| {
        json["safety_checker"] = json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
        json["scheduler"] = json!(["diffusers", "PNDMScheduler"]);
    });
    assert_eq!(with_checker.unwrap(), KeyframePreset::Tiny.config());
}

#[test]
fn unsupported_unet_values_name_file_and_field() {
    let file = "unet/config.json";
    let cases = [
        ("_class_name", json!("UNet2DModel")),
        ("block_out_channels", json!([32, 48])),
        ("down_block_types", json!(["DownBlock2D"])),
        (
            "up_block_types",
            json!(["SimpleCrossAttnUpBlock2D", "UpBlock2D"]),
        ),
        ("mid_block_type", json!("UNetMidBlock2D")),
        ("attention_head_dim", json!(7)),
        ("attention_head_dim", json!([2, 4, 4])),
        ("cross_attention_dim", json!([32, 64])),
        ("cross_attention_dim", json!(768)),
        ("transformer_layers_per_block", json!([[1, 2], [1, 1]])),
        ("block_out_channels", json!(vec![32; 9])),
        ("layers_per_block", json!(17)),
        ("transformer_layers_per_block", json!([1, 1000])),
        ("in_channels", json!(9)),
        ("out_channels", json!(8)),
        ("norm_eps", json!(0)),
        ("act_fn", json!("gelu")),
        ("use_linear_projection", json!(1)),
        ("class_embed_type", json!("timestep")),
        ("addition_embed_type", json!("text_time")),
        ("time_cond_proj_dim", json!(256)),
        ("num_attention_heads", json!(8)),
        ("freq_shift", json!(1)),
        ("flip_sin_to_cos", json!(false)),
        ("conv_in_kernel", json!(5)),
    ];
    refuses(file, &cases);
    let text = read(file, |json| json["norm_num_groups"] = json!(24)).unwrap_err();
    assert!(
        text.to_string()
            .contains("multiples of norm_num_groups 24 (got 32)")
    );
    // A field that changes nothing is no reason to refuse.
    let ignored = read(file, |json| json["upcast_attention"] = json!(true));
    assert_eq!(ignored.unwrap(), KeyframePreset::Tiny.config());
}

#[test]
fn heads_matter_only_where_there_is_attention() {
    // diffusers' own dummy says 8 heads at 4 channels, in a level without transformers.
    assert_eq!(KeyframePreset::Dummy.config().unet.levels[0].heads, 8);
    refuses(
        "unet/config.json",
        &[("attention_head_dim", json!([2, 48]))],
    );
    let unused = read("unet/config.json", |json| {
        json["attention_head_dim"] = json!([48, 4])
    });
    assert_eq!(unused.unwrap().unet.levels[0].heads, 48);
}

#[test]
fn unsupported_values_of_other_parts_name_file_and_field() {
    refuses(
        "vae/config.json",
        &[
            ("_class_name", json!("AutoencoderKLTemporalDecoder")),
            ("down_block_types", json!(["DownEncoderBlock2D"])),
            (
                "up_block_types",
                json!(["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]),
            ),
            ("use_post_quant_conv", json!(false)),
            ("mid_block_add_attention", json!(false)),
            ("shift_factor", json!(0.1)),
            ("in_channels", json!(1)),
            ("scaling_factor", json!(-1)),
            ("layers_per_block", json!(1000)),
        ],
    );
    refuses(
        "text_encoder/config.json",
        &[
            ("model_type", json!("t5")),
            ("architectures", json!(["CLIPTextModelWithProjection"])),
            ("hidden_act", json!("relu")),
            ("num_hidden_layers", json!(1000)),
            ("num_attention_heads", json!(5)),
            ("use_attention_mask", json!(true)),
        ],
    );
    refuses(
        "scheduler/scheduler_config.json",
        &[
            ("prediction_type", json!("sample")),
            ("beta_schedule", json!("squaredcos_cap_v2")),
            ("beta_end", json!(1)),
            ("trained_betas", json!([0.1, 0.2])),
            ("timestep_spacing", json!("random")),
            ("rescale_betas_zero_snr", json!(true)),
            ("use_karras_sigmas", json!(true)),
            ("num_train_timesteps", json!(1)),
        ],
    );
}

#[test]
fn unusable_tokenizers_name_file_and_field() {
    refuses(
        "tokenizer/tokenizer_config.json",
        &[
            ("tokenizer_class", json!("T5Tokenizer")),
            ("model_max_length", Value::Null),
            ("model_max_length", json!(1)),
            ("model_max_length", json!(78)),
            ("pad_token", json!("[PAD]")),
            ("bos_token", json!({ "lstrip": true })),
        ],
    );
    let broken = |file: &str, content: &str, expected: &str| {
        let error = read_with(|files| {
            files.retain(|(path, _)| path != file);
            files.push((file.to_owned(), content.to_owned()));
        });
        let text = error.expect_err(expected).to_string();
        assert!(text.starts_with(file) && text.contains(expected), "{text}");
    };
    broken("tokenizer/vocab.json", "[]", "must be a JSON object");
    broken("tokenizer/vocab.json", r#"{"a": -1}"#, "whole number");
    broken(
        "tokenizer/merges.txt",
        "#version: 0.2\na b c\n",
        "line 2: must be two tokens",
    );
    broken(
        "tokenizer/merges.txt",
        "q q\n",
        "line 1: \"qq\" must be in tokenizer/vocab.json",
    );
    let text = read_with(|files| files.retain(|(path, _)| path != "tokenizer/vocab.json"))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("tokenizer/vocab.json: cannot be read"),
        "{text}"
    );
    let text = read("tokenizer/vocab.json", |json| json["zzz"] = json!(1000))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("\"zzz\" must be under the text encoder's vocab_size 1000 (got 1000)"),
        "{text}"
    );
}

/// The padding token of a `special_tokens_map.json` and a changed `tokenizer_config.json`.
fn pad(map: Option<Value>, change: impl FnOnce(&mut Value)) -> Result<SpecialToken, ConfigError> {
    let config = read_with(|files| {
        let file = TokenizerConfig::FILE;
        let (_, text) = files.iter_mut().find(|(path, _)| path == file).unwrap();
        let mut json = serde_json::from_str(text).unwrap();
        change(&mut json);
        *text = json.to_string();
        let map = map.map(|map| {
            (
                TokenizerConfig::SPECIAL_TOKENS_FILE.to_owned(),
                map.to_string(),
            )
        });
        files.extend(map);
    });
    Ok(config?.tokenizer.pad_token)
}

#[test]
fn special_tokens_are_found_where_transformers_finds_them() {
    let end = "<|endoftext|>";
    let check = |map: Option<Value>, config: Value, expected: SpecialToken| {
        let change = |json: &mut Value| {
            let fields = config.as_object().unwrap().clone();
            json.as_object_mut().unwrap().extend(fields);
        };
        assert_eq!(
            pad(map.clone(), change).unwrap(),
            expected,
            "{map:?} {config}"
        );
    };
    let plain = SpecialToken::plain;
    let map = || Some(json!({ "pad_token": "!" }));
    check(None, json!({}), plain(end));
    check(None, json!({ "pad_token": null }), plain(end));
    check(map(), json!({}), plain("!"));
    // A config that lists its tokens is the newer of the two.
    check(map(), json!({ "added_tokens_decoder": {} }), plain(end));
    let normalized = SpecialToken {
        normalized: true,
        ..plain("a")
    };
    let object = json!({ "content": "a", "lstrip": false, "normalized": true });
    check(None, json!({ "pad_token": object }), normalized.clone());
    check(
        Some(json!({ "pad_token": object })),
        json!({}),
        normalized.clone(),
    );
    let listed = json!({ "0": object });
    check(
        None,
        json!({ "pad_token": "a", "added_tokens_decoder": listed }),
        normalized,
    );
}

#[test]
fn words_that_were_added_to_a_vocabulary_are_refused() {
    for (field, value) in [
        (
            "added_tokens_decoder",
            json!({ "0": { "content": "<my-style>" } }),
        ),
        ("added_tokens_decoder", json!([])),
        ("additional_special_tokens", json!(["<my-style>"])),
        ("extra_special_tokens", json!({ "style": "<my-style>" })),
    ] {
        let text = pad(None, |json| json[field] = value)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with(&format!("tokenizer/tokenizer_config.json: {field}: ")),
            "{text}"
        );
    }
    let error = read_with(|files| {
        let text = r#"{"<my-style>": 519}"#.to_owned();
        files.push(("tokenizer/added_tokens.json".to_owned(), text));
    });
    let text = error.unwrap_err().to_string();
    assert!(
        text.starts_with("tokenizer/added_tokens.json: \"<my-style>\": "),
        "{text}"
    );
}

/// The vocabulary of the tiny preset as one `tokenizer.json` after `change`.
fn tokenizer_json(change: impl FnOnce(&mut Value)) -> Result<StableDiffusionConfig, ConfigError> {
    let vocabulary = KeyframePreset::Tiny.config().tokenizer.vocabulary;
    let mut json = json!({
        "added_tokens": [{ "id": 518, "content": "<|endoftext|>", "normalized": true, "special": true }],
        "model": {
            "type": "BPE",
            "end_of_word_suffix": "</w>",
            "vocab": vocabulary.tokens,
            "merges": vocabulary.merges,
        },
    });
    change(&mut json);
    read_with(|files| {
        files.retain(|(path, _)| !path.ends_with("vocab.json") && !path.ends_with("merges.txt"));
        files.push(("tokenizer/tokenizer.json".to_owned(), json.to_string()));
    })
}

#[test]
fn a_vocabulary_in_one_file_is_read() {
    let expected = KeyframePreset::Tiny.config().tokenizer;
    let found = tokenizer_json(|_| {}).unwrap().tokenizer;
    assert_eq!(found.vocabulary, expected.vocabulary);
    let normalized = SpecialToken {
        normalized: true,
        ..SpecialToken::plain("<|endoftext|>")
    };
    assert_eq!(
        (found.pad_token, found.bos_token),
        (normalized, expected.bos_token)
    );
    let merges_as_text = tokenizer_json(|json| {
        let merges = expected.vocabulary.merges.iter();
        let lines: Vec<String> = merges.map(|(a, b)| format!("{a} {b}")).collect();
        json["model"]["merges"] = json!(lines);
    });
    assert_eq!(
        merges_as_text.unwrap().tokenizer.vocabulary,
        expected.vocabulary
    );

    let refused = |change: fn(&mut Value), expected: &str| {
        let text = tokenizer_json(change).unwrap_err().to_string();
        assert!(
            text.starts_with("tokenizer/tokenizer.json: ") && text.contains(expected),
            "{text}"
        );
    };
    refused(
        |json| json["model"]["type"] = json!("Unigram"),
        "type: only \"BPE\"",
    );
    refused(
        |json| json["model"]["end_of_word_suffix"] = Value::Null,
        "end_of_word_suffix",
    );
    refused(
        |json| json["model"]["merges"] = Value::Null,
        "merges: must be a list",
    );
    refused(
        |json| json["model"]["merges"][1] = json!(["i"]),
        "merges[1]: must be two tokens",
    );
    refused(
        |json| json["model"]["merges"][1] = json!(["q", "q"]),
        "merges[1]: \"qq\" must be in vocab",
    );
    refused(
        |json| json["added_tokens"] = json!([{ "content": "<style>" }]),
        "added_tokens: only special tokens",
    );
    refused(|json| json["model"] = Value::Null, "must be a JSON object");
}
