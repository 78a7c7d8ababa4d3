//! What the farm must have before a render is submitted: files become uploads, and adapters are stored once.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use flowai_actors::ids::Sha256;
use flowai_actors::limits::{ADAPTER_BYTES_MAX, IMAGE_BYTES_MAX};
use sha2::Digest;
use uuid::Uuid;

use super::CommandError;
use crate::client::{Adapter, AdapterWeight, Client, KEYFRAME_MODELS, Purpose};
use crate::output::Output;

/// `FILE_OR_ID=WEIGHT`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AdapterArg {
    source: String,
    weight: f32,
}

pub(super) fn parse_adapter(text: &str) -> Result<AdapterArg, String> {
    let (source, weight) = match text.rsplit_once('=') {
        None => (text, 1.0),
        Some((source, weight)) => {
            let weight = weight.parse().map_err(|_| {
                format!("the weight must be a number, as in style.safetensors=0.8 (got {weight:?})")
            })?;
            (source, weight)
        }
    };
    if source.is_empty() {
        return Err("names no file and no id".to_owned());
    }
    Ok(AdapterArg {
        source: source.to_owned(),
        weight,
    })
}

/// Whether [`picture_id`] can use it, as far as is known here.
pub(super) fn check_picture(picture: &Path) -> Result<(), CommandError> {
    match File::open(picture) {
        Ok(_) if picture.is_dir() => Err(CommandError::Usage(format!(
            "{} is a folder, and no picture",
            picture.display()
        ))),
        Ok(file) => check_size(picture, &file, IMAGE_BYTES_MAX),
        Err(_) if stored_id(picture).is_some() => Ok(()),
        Err(error) => Err(CommandError::Usage(format!(
            "{} cannot be read: {error}",
            picture.display()
        ))),
    }
}

fn stored_id(picture: &Path) -> Option<Uuid> {
    picture.to_str()?.parse().ok()
}

/// The id of a stored picture; a file is uploaded.
pub(super) async fn picture_id(
    client: &Client,
    picture: &Path,
    output: Output,
) -> Result<String, CommandError> {
    if let Some(id) = stored_id(picture).filter(|_| !picture.exists()) {
        return Ok(id.to_string());
    }
    let bytes = read(picture, IMAGE_BYTES_MAX)?;
    let spinner = output.working("uploading the picture");
    let image = client
        .upload(Purpose::Image, &file_name(picture), bytes.into())
        .await?;
    drop(spinner);
    Ok(image.id)
}

/// `model`: the one that they are for, if it was named, and its family.
pub(super) async fn stored_adapters(
    client: &Client,
    adapters: Vec<AdapterArg>,
    model: (Option<&str>, &str),
    output: Output,
) -> Result<Vec<AdapterWeight>, CommandError> {
    let mut stored = Vec::new();
    for AdapterArg { source, weight } in adapters {
        let id = adapter_id(client, &source, model, output).await?;
        stored.push(AdapterWeight { id, weight });
    }
    Ok(stored)
}

/// The id of a stored adapter; a file is stored unless the caller has stored the same bytes before.
async fn adapter_id(
    client: &Client,
    source: &str,
    (model, family): (Option<&str>, &str),
    output: Output,
) -> Result<String, CommandError> {
    let path = Path::new(source);
    if !path.exists() {
        return match source.parse::<Uuid>() {
            Ok(id) => Ok(id.to_string()),
            Err(_) => Err(CommandError::Usage(format!(
                "adapter {source} is neither a file nor the id of a stored adapter"
            ))),
        };
    }
    let bytes = read(path, ADAPTER_BYTES_MAX)?;
    let sha256 = Sha256::from_bytes(sha2::Sha256::digest(&bytes).into());
    let mut stored = client.adapters().await?.into_iter();
    if let Some(adapter) = stored.find(|adapter| adapter.sha256 == sha256) {
        return Ok(adapter.id);
    }
    let model = match model {
        Some(model) => model.to_owned(),
        None => only_model(client, family).await?,
    };
    let adapter = store_adapter(client, &model, &file_name(path), bytes, output).await?;
    Ok(adapter.id)
}

/// The model of a family that a render without one gets.
async fn only_model(client: &Client, family: &str) -> Result<String, CommandError> {
    let models = client.models().await?.into_iter();
    let mut models = models.filter(|model| model.family == family);
    match (models.next(), models.next()) {
        (Some(model), None) => Ok(model.id),
        (None, _) => Err(CommandError::Failed(
            "no node has offered a model yet".to_owned(),
        )),
        (Some(_), Some(_)) => {
            let flag = match family {
                KEYFRAME_MODELS => "--keyframe-model",
                _ => "--model",
            };
            let detail = format!("the farm offers several models: say which one with {flag}");
            Err(CommandError::Usage(detail))
        }
    }
}

/// Uploads an adapter and lets the farm check and store it.
pub(super) async fn store_adapter(
    client: &Client,
    model: &str,
    name: &str,
    bytes: Vec<u8>,
    output: Output,
) -> Result<Adapter, CommandError> {
    let spinner = output.working("uploading an adapter");
    let upload = client.upload(Purpose::Adapter, name, bytes.into()).await?;
    spinner.now("having the adapter checked");
    Ok(client.make_adapter(&upload, model, name).await?)
}

/// A file of at most so many bytes: none larger is taken, and none is held in memory to learn that.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, CommandError> {
    let unreadable =
        |error| CommandError::Usage(format!("{} cannot be read: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    check_size(path, &file, most)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn check_size(path: &Path, file: &File, most: u64) -> Result<(), CommandError> {
    let length = file.metadata().map_or(0, |about| about.len());
    match length <= most {
        true => Ok(()),
        false => Err(CommandError::Usage(format!(
            "{} has {length} bytes; the farm takes up to {most}",
            path.display()
        ))),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_a_source_and_a_weight() {
        let check = |text: &str, source: &str, weight: f32| {
            let expected = AdapterArg {
                source: source.to_owned(),
                weight,
            };
            assert_eq!(parse_adapter(text), Ok(expected), "{text}");
        };
        check("style.safetensors", "style.safetensors", 1.0);
        check("style.safetensors=0.8", "style.safetensors", 0.8);
        check("a=b.safetensors=-1", "a=b.safetensors", -1.0);
        for bad in ["style.safetensors=", "style.safetensors=much", "=1", ""] {
            assert!(parse_adapter(bad).is_err(), "{bad:?}");
        }
    }
}
