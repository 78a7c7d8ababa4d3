use std::collections::BTreeMap;

use super::CommandError;
use crate::client::{AboutNode, Client, Node, Nodes, Tier};
use crate::output::{Output, table};

/// List the farm's render nodes (operators)
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(
    Args {}: Args,
    client: &Client,
    output: Output,
) -> Result<(), CommandError> {
    let Nodes { data: nodes, away } = client.all_nodes().await?;
    for node in &nodes {
        output.object(node);
    }
    for node in &away {
        output.object(node);
    }
    if nodes.is_empty() && away.is_empty() {
        output.note("no node is registered");
        return Ok(());
    }
    let members: Vec<_> = nodes
        .iter()
        .map(|node| &node.about)
        .chain(&away)
        .map(member)
        .collect();
    output.line(table(["NODE", "STATE", "CERTIFICATE", "LABELS"], &members));
    if nodes.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = nodes.iter().map(row).collect();
    output.line(table(
        ["NODE", "DOES", "DEVICE", "MODELS", "SILENT", "VERSION"],
        &rows,
    ));
    let tiers: Vec<_> = nodes.iter().flat_map(tiers).collect();
    output.line(table(
        [
            "ADAPTERS OF",
            "IN",
            "HELD",
            "OF",
            "HITS",
            "MISSES",
            "EVICTED",
        ],
        &tiers,
    ));
    for node in &nodes {
        for refused in &node.refused_models {
            output.note(format_args!(
                "{} does not offer {}: {}",
                node.about.id, refused.folder, refused.reason
            ));
        }
        if !node.distrusted_models.is_empty() {
            output.note(format_args!(
                "{} is given no {} for now, after failures that may be its own; it is tried again by itself",
                node.about.id,
                node.distrusted_models.join(", ")
            ));
        }
        if let Some(times) = node.slowness {
            output.note(format_args!(
                "{} is slow: a step takes it {times:.1} times as long as usual on its device",
                node.about.id
            ));
        }
    }
    Ok(())
}

fn member(node: &AboutNode) -> [String; 4] {
    let until = node.certificate_expires_at;
    [
        node.id.clone(),
        match node.drain.as_str() {
            "off" => node.state.clone(),
            drain => format!("{} ({drain})", node.state),
        },
        until.map_or("-".to_owned(), |until| {
            until.format("%F %R UTC").to_string()
        }),
        labels_text(&node.labels),
    ]
}

pub(super) fn labels_text(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(",")
}

/// Its memories for adapters, the nearest first.
fn tiers(node: &Node) -> Vec<[String; 7]> {
    let tiers = [
        ("device", node.adapters.device),
        ("host", Some(node.adapters.host)),
        ("disk", Some(node.adapters.disk)),
    ];
    let row = |(name, tier): (&str, Option<Tier>)| {
        let tier = tier?;
        Some([
            node.about.id.clone(),
            name.to_owned(),
            mebibytes(tier.bytes),
            mebibytes(tier.bytes_max),
            tier.hits.to_string(),
            tier.misses.to_string(),
            tier.evictions.to_string(),
        ])
    };
    tiers.into_iter().filter_map(row).collect()
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn row(node: &Node) -> [String; 6] {
    let does = match &node.running {
        Some(running) => format!("{} (attempt {})", running.video, running.attempt),
        None => "idle".to_owned(),
    };
    [
        node.about.id.clone(),
        does,
        node.device.clone(),
        node.models.join(", "),
        format!("{:.1} s", node.silent_ms as f64 / 1000.0),
        node.version.clone(),
    ]
}
