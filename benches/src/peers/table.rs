//! The tables of a report, as Markdown.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Row;
use crate::statistics::Summary;

/// What a table shows of each case.
struct Column {
    title: &'static str,
    figure: &'static [&'static str],
    decimals: usize,
}

const fn column(title: &'static str, figure: &'static [&'static str], decimals: usize) -> Column {
    Column {
        title,
        figure,
        decimals,
    }
}

const LIVES: &[Column] = &[
    column("lives/s", &["lives_per_s"], 0),
    column("durable enqueues/s", &["enqueues_per_s"], 0),
    column("ack p50, ms", &["ack_ms", "p50"], 1),
    column("ack p99, ms", &["ack_ms", "p99"], 1),
    column("jobs per sync", &["jobs_per_sync"], 2),
    column("missing", &["missing"], 0),
    column("doubled", &["doubled"], 0),
];
const IDLE: &[Column] = &[
    column("start p50, ms", &["start_ms", "p50"], 1),
    column("start p99, ms", &["start_ms", "p99"], 1),
    column("ack p50, ms", &["ack_ms", "p50"], 1),
];
const DEPTH: &[Column] = &[column("starts/s", &["starts_per_s"], 0)];
/// Of Redis the syncs are counted in a run of its own.
const SYNCS: &[Column] = &[column("jobs per sync", &["jobs_per_sync"], 2)];

pub(super) fn print(report: &Path) -> Result<()> {
    let text = std::fs::read_to_string(report).with_context(|| report.display().to_string())?;
    let report: Value = serde_json::from_str(&text)?;
    let rows: Vec<Row> = serde_json::from_value(report["rows"].clone())?;
    println!("{}", of_cases(&rows, "lives", &["class", "workers"], LIVES));
    println!("{}", of_cases(&rows, "batches", &["workers"], LIVES));
    println!("{}", of_cases(&rows, "idle", &["class"], IDLE));
    println!("{}", of_cases(&rows, "depth", &["depth"], DEPTH));
    println!("{}", of_cases(&rows, "syncs", &[], SYNCS));
    let syncs = Summary::of(rows.iter().flat_map(|row| row.syncs_per_s));
    let load = Summary::of(rows.iter().map(|row| row.load));
    for (what, summary) in [
        ("fdatasync/s before and after each case", syncs),
        ("load", load),
    ] {
        if let Some(summary) = summary {
            println!("{what}: {}", shown(summary, 1));
        }
    }
    println!("{} {}", report["machine"], report["servers"]);
    Ok(())
}

/// A line for each contender and setting, in the order of the report; medians over the rounds, with the range.
fn of_cases(rows: &[Row], case: &str, settings: &[&str], columns: &[Column]) -> String {
    let titles = columns.iter().map(|column| column.title);
    let head: Vec<&str> = ["contender"]
        .into_iter()
        .chain(settings.iter().copied())
        .chain(titles)
        .collect();
    let mut lines = vec![head.join(" | "), vec!["---"; head.len()].join("|")];
    let setting = |row: &Row, name: &str| match name {
        "class" => row.class.clone(),
        "workers" => row.workers.to_string(),
        _ => row.depth.to_string(),
    };
    let key = |row: &Row| {
        let set = settings.iter().map(|name| setting(row, name));
        [row.contender.clone()]
            .into_iter()
            .chain(set)
            .collect::<Vec<_>>()
    };
    let of_case: Vec<&Row> = rows.iter().filter(|row| row.case == case).collect();
    let mut seen: Vec<Vec<String>> = Vec::new();
    for row in &of_case {
        if !seen.contains(&key(row)) {
            seen.push(key(row));
        }
    }
    for one in seen {
        let rounds: Vec<&Value> = of_case
            .iter()
            .filter(|row| key(row) == one)
            .map(|row| &row.found)
            .collect();
        let void = rounds
            .iter()
            .filter(|found| found.get("error").is_some())
            .count();
        let mut cells = one;
        if void > 0 {
            cells[0] += &format!(", void in {void} of {}", rounds.len());
        }
        cells.extend(columns.iter().map(|column| {
            let figures = rounds.iter().filter_map(|found| {
                column
                    .figure
                    .iter()
                    .try_fold(*found, |value, name| value.get(name))?
                    .as_f64()
            });
            Summary::of(figures).map_or("–".to_owned(), |summary| shown(summary, column.decimals))
        }));
        lines.push(cells.join(" | "));
    }
    let lines: Vec<String> = lines
        .into_iter()
        .map(|line| format!("| {line} |"))
        .collect();
    lines.join("\n") + "\n"
}

fn shown(summary: Summary, decimals: usize) -> String {
    let Summary { median, min, max } = summary;
    match min == max {
        true => format!("{median:.decimals$}"),
        false => format!("{median:.decimals$} ({min:.decimals$} to {max:.decimals$})"),
    }
}
