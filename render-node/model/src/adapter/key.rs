//! Which part of which module a key means, in every naming convention that trainers write.

use std::borrow::Cow;

use super::error::Scheme;
use super::magnitude::MagnitudeForm;
use super::table::KeyPath;

/// A naming convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterFormat {
    /// `[unet.]MODULE.lora_A.weight`, `.lora_B.weight`: PEFT, and diffusers since 0.22.
    Peft,
    /// `base_model.model.MODULE.lora_A.weight`, with alpha in a file beside it: PEFT's `save_pretrained`.
    PeftFolder,
    /// `..processor.to_q_lora.down.weight`, `MODULE.lora.down.weight`, `MODULE.down`: diffusers before PEFT.
    DiffusersOld,
    /// `lora_unet_` (or `lora_te_` for a text encoder) and the path with `_` for `.`, then `.lora_down.weight`, `.lora_up.weight`, `.alpha`.
    Kohya,
}

/// Which tensor of a module's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// From the module's input to the rank; PEFT's A.
    Down,
    /// From the rank to the module's output; PEFT's B.
    Up,
    Alpha,
    /// DoRA's.
    Magnitude(MagnitudeForm),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParsedKey<'a> {
    /// `format` is `None` for an alpha or a `dora_scale`, which are written alike by all.
    Lora {
        path: KeyPath<'a>,
        role: Role,
        format: Option<AdapterFormat>,
    },
    Unimplemented(Scheme),
    Unknown,
}

const PEFT_FOLDER_PREFIX: &str = "base_model.model.";
const UNET_PREFIX: &str = "unet.";
const KOHYA_PREFIX: &str = "lora_unet_";
const KOHYA_TEXT_PREFIX: &str = "lora_te_";

/// Marks of a change that is not a plain LoRA. Looked for first: a LoRA with such a companion is another function.
const SCHEMES: [(&str, Scheme); 7] = [
    ("motion_modules", Scheme::AnimateDiff),
    (".hada_", Scheme::Loha),
    (".lokr_", Scheme::Lokr),
    (".lora_mid.", Scheme::Tucker),
    (".lora_B.bias", Scheme::LoraBias),
    (".lora.up.bias", Scheme::LoraBias),
    (".lora_up.bias", Scheme::LoraBias),
];

/// Ends of keys that hold a whole difference instead of two halves.
const DIFFERENCES: [&str; 2] = [".diff", ".diff_b"];

/// What PEFT puts after a module's path.
const PEFT_MARKS: [(&str, Role); 3] = [
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (
        ".lora_magnitude_vector",
        Role::Magnitude(MagnitudeForm::Peft),
    ),
];

/// Ends of keys with the part they mean. An end stands before those that it ends with.
const ENDS: [(&str, Role, Option<AdapterFormat>); 17] = [
    (".lora_down.weight", Role::Down, Some(AdapterFormat::Kohya)),
    (".lora_up.weight", Role::Up, Some(AdapterFormat::Kohya)),
    // Text encoders.
    (
        ".lora_linear_layer.down.weight",
        Role::Down,
        Some(AdapterFormat::DiffusersOld),
    ),
    (
        ".lora_linear_layer.up.weight",
        Role::Up,
        Some(AdapterFormat::DiffusersOld),
    ),
    (".lora_linear_layer.alpha", Role::Alpha, None),
    (
        ".lora.down.weight",
        Role::Down,
        Some(AdapterFormat::DiffusersOld),
    ),
    (
        ".lora.up.weight",
        Role::Up,
        Some(AdapterFormat::DiffusersOld),
    ),
    (".lora.alpha", Role::Alpha, None),
    (
        "_lora.down.weight",
        Role::Down,
        Some(AdapterFormat::DiffusersOld),
    ),
    (
        "_lora.up.weight",
        Role::Up,
        Some(AdapterFormat::DiffusersOld),
    ),
    ("_lora.alpha", Role::Alpha, None),
    (
        ".down.weight",
        Role::Down,
        Some(AdapterFormat::DiffusersOld),
    ),
    (".up.weight", Role::Up, Some(AdapterFormat::DiffusersOld)),
    (".down", Role::Down, Some(AdapterFormat::DiffusersOld)),
    (".up", Role::Up, Some(AdapterFormat::DiffusersOld)),
    (".alpha", Role::Alpha, None),
    (".dora_scale", Role::Magnitude(MagnitudeForm::Lycoris), None),
];

/// Takes a key apart. Whether its path names a module is for the table to say.
pub(super) fn parse(key: &str) -> ParsedKey<'_> {
    if let Some((_, scheme)) = SCHEMES.iter().find(|(mark, _)| key.contains(mark)) {
        return ParsedKey::Unimplemented(*scheme);
    }
    if DIFFERENCES.iter().any(|end| key.ends_with(end)) {
        return ParsedKey::Unimplemented(Scheme::FullDifference);
    }
    let Some((head, role, format)) = split_end(key) else {
        return ParsedKey::Unknown;
    };

    let joined = head.strip_prefix(KOHYA_PREFIX).map(KeyPath::Joined);
    let joined_text = || {
        head.strip_prefix(KOHYA_TEXT_PREFIX)
            .map(KeyPath::JoinedText)
    };
    if let Some(path) = joined.or_else(joined_text) {
        return ParsedKey::Lora { path, role, format };
    }
    let (path, format) = match head.strip_prefix(PEFT_FOLDER_PREFIX) {
        Some(path) => (path, format.map(|_| AdapterFormat::PeftFolder)),
        None => (head, format),
    };
    let path = path.strip_prefix(UNET_PREFIX).unwrap_or(path);
    ParsedKey::Lora {
        path: KeyPath::Dotted(without_processor(path)),
        role,
        format,
    }
}

/// Splits a key into the module's path and what its end says.
fn split_end(key: &str) -> Option<(&str, Role, Option<AdapterFormat>)> {
    for (mark, role) in PEFT_MARKS {
        let Some((head, end)) = key.rsplit_once(mark) else {
            continue;
        };
        let is_bare = end.is_empty() && matches!(role, Role::Magnitude(_));
        // Between mark and "weight" PEFT may leave the name it knew the adapter by.
        let is_weight = end
            .strip_prefix('.')
            .and_then(|end| end.strip_suffix("weight"))
            .is_some_and(|name| {
                name.is_empty()
                    || name
                        .strip_suffix('.')
                        .is_some_and(|name| !name.contains('.'))
            });
        return (is_bare || is_weight).then_some((head, role, Some(AdapterFormat::Peft)));
    }
    ENDS.iter()
        .find_map(|(end, role, format)| Some((key.strip_suffix(end)?, *role, *format)))
}

/// Old attention keys name the processor that held the halves: `attn1.processor.to_out` is the module `attn1.to_out.0`.
fn without_processor(path: &str) -> Cow<'_, str> {
    match path.rsplit_once(".processor.") {
        Some((attention, "to_out")) => Cow::Owned(format!("{attention}.to_out.0")),
        Some((attention, projection)) => Cow::Owned(format!("{attention}.{projection}")),
        None => Cow::Borrowed(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "down_blocks.0.attentions.0.transformer_blocks.0";

    #[test]
    fn every_convention_names_the_same_module() {
        let check = |key: &str, path: &str, role: Role, format: Option<AdapterFormat>| {
            let key = key.replace("BLOCK", BLOCK);
            let path = KeyPath::Dotted(Cow::Owned(path.replace("BLOCK", BLOCK)));
            assert_eq!(parse(&key), ParsedKey::Lora { path, role, format }, "{key}");
        };
        let (peft, folder, old) = (
            Some(AdapterFormat::Peft),
            Some(AdapterFormat::PeftFolder),
            Some(AdapterFormat::DiffusersOld),
        );
        check(
            "BLOCK.attn1.to_q.lora_A.weight",
            "BLOCK.attn1.to_q",
            Role::Down,
            peft,
        );
        check(
            "unet.BLOCK.attn1.to_out.0.lora_B.weight",
            "BLOCK.attn1.to_out.0",
            Role::Up,
            peft,
        );
        check(
            "BLOCK.attn1.to_q.lora_A.default.weight",
            "BLOCK.attn1.to_q",
            Role::Down,
            peft,
        );
        check(
            "base_model.model.BLOCK.ff.net.2.lora_A.weight",
            "BLOCK.ff.net.2",
            Role::Down,
            folder,
        );
        check(
            "base_model.model.unet.conv_in.lora_B.my_style.weight",
            "conv_in",
            Role::Up,
            folder,
        );
        check(
            "BLOCK.attn1.processor.to_q_lora.down.weight",
            "BLOCK.attn1.to_q",
            Role::Down,
            old,
        );
        check(
            "unet.BLOCK.attn2.processor.to_out_lora.up.weight",
            "BLOCK.attn2.to_out.0",
            Role::Up,
            old,
        );
        check(
            "BLOCK.attn1.processor.to_q_lora.alpha",
            "BLOCK.attn1.to_q",
            Role::Alpha,
            None,
        );
        check(
            "unet.BLOCK.ff.net.0.proj.lora.down.weight",
            "BLOCK.ff.net.0.proj",
            Role::Down,
            old,
        );
        let text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj";
        for (end, role, format) in [
            (".lora_A.weight", Role::Down, peft),
            (".lora_linear_layer.up.weight", Role::Up, old),
            (".lora_linear_layer.alpha", Role::Alpha, None),
        ] {
            check(&format!("{text}{end}"), text, role, format);
        }
        check("BLOCK.attn1.to_q.down", "BLOCK.attn1.to_q", Role::Down, old);
        check(
            "BLOCK.attn1.to_q.up.weight",
            "BLOCK.attn1.to_q",
            Role::Up,
            old,
        );
        check(
            "BLOCK.attn1.to_q.alpha",
            "BLOCK.attn1.to_q",
            Role::Alpha,
            None,
        );
        check(
            "BLOCK.ff.net.2.lora_down.weight",
            "BLOCK.ff.net.2",
            Role::Down,
            Some(AdapterFormat::Kohya),
        );
    }

    #[test]
    fn magnitudes_are_told_from_each_other() {
        let check = |key: &str, path: KeyPath<'_>, form, format| {
            let role = Role::Magnitude(form);
            assert_eq!(parse(key), ParsedKey::Lora { path, role, format }, "{key}");
        };
        let conv_in = || KeyPath::Dotted(Cow::Borrowed("conv_in"));
        let peft = MagnitudeForm::Peft;
        for key in [
            "conv_in.lora_magnitude_vector",
            "unet.conv_in.lora_magnitude_vector.weight",
        ] {
            check(key, conv_in(), peft, Some(AdapterFormat::Peft));
        }
        check(
            "base_model.model.conv_in.lora_magnitude_vector.default.weight",
            conv_in(),
            peft,
            Some(AdapterFormat::PeftFolder),
        );
        let joined = KeyPath::Joined("conv_in");
        check(
            "lora_unet_conv_in.dora_scale",
            joined,
            MagnitudeForm::Lycoris,
            None,
        );
    }

    #[test]
    fn kohya_paths_stay_joined() {
        let path = KeyPath::Joined("mid_block_resnets_0_temporal_res_block_conv1");
        let key = "lora_unet_mid_block_resnets_0_temporal_res_block_conv1.lora_up.weight";
        assert_eq!(
            parse(key),
            ParsedKey::Lora {
                path,
                role: Role::Up,
                format: Some(AdapterFormat::Kohya)
            }
        );
        let key = "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight";
        let path = KeyPath::JoinedText("text_model_encoder_layers_0_mlp_fc1");
        assert_eq!(
            parse(key),
            ParsedKey::Lora {
                path,
                role: Role::Down,
                format: Some(AdapterFormat::Kohya)
            }
        );
        let key = "lora_unet_conv_in.alpha";
        let path = KeyPath::Joined("conv_in");
        assert_eq!(
            parse(key),
            ParsedKey::Lora {
                path,
                role: Role::Alpha,
                format: None
            }
        );
    }

    #[test]
    fn other_schemes_are_told_by_name() {
        let check = |key: &str, scheme: Scheme| {
            assert_eq!(parse(key), ParsedKey::Unimplemented(scheme), "{key}")
        };
        check("lora_unet_conv_in.hada_w1_a", Scheme::Loha);
        check("lora_unet_conv_in.lokr_w2", Scheme::Lokr);
        check("lora_unet_conv_in.lora_mid.weight", Scheme::Tucker);
        check("lora_unet_conv_in.diff", Scheme::FullDifference);
        check("lora_unet_conv_in.diff_b", Scheme::FullDifference);
        check("conv_in.lora_B.bias", Scheme::LoraBias);
        check(
            "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.down.weight",
            Scheme::AnimateDiff,
        );
    }

    #[test]
    fn other_keys_are_unknown() {
        for key in [
            "",
            "conv_in.weight",
            "conv_in.lora_A",
            "conv_in.lora_A.a.b.weight",
            "conv_in.lora_B.weight.old",
            "conv_in.lora_magnitude_vector.old",
        ] {
            assert_eq!(parse(key), ParsedKey::Unknown, "{key}");
        }
    }
}
