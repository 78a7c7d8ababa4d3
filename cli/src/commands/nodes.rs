use super::CommandError;
use crate::client::{Client, Node};
use crate::output::{Output, table};

/// List the farm's render nodes (operators)
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(
    Args {}: Args,
    client: &Client,
    output: Output,
) -> Result<(), CommandError> {
    let nodes = client.nodes().await?;
    for node in &nodes {
        output.object(node);
    }
    if nodes.is_empty() {
        output.note("no node is registered");
        return Ok(());
    }
    let rows: Vec<_> = nodes.iter().map(row).collect();
    output.line(table(
        ["NODE", "DOES", "DEVICE", "MODELS", "SILENT", "VERSION"],
        &rows,
    ));
    for node in &nodes {
        for refused in &node.refused_models {
            output.note(format_args!(
                "{} does not offer {}: {}",
                node.id, refused.folder, refused.reason
            ));
        }
    }
    Ok(())
}

fn row(node: &Node) -> [String; 6] {
    let does = match &node.running {
        Some(running) => format!("{} (attempt {})", running.video, running.attempt),
        None => "idle".to_owned(),
    };
    [
        node.id.clone(),
        does,
        node.device.clone(),
        node.models.join(", "),
        format!("{:.1} s", node.silent_ms as f64 / 1000.0),
        node.version.clone(),
    ]
}
