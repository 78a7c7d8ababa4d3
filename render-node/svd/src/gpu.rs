//! Which GPU a CUDA index means. libtorch's C interface does not say, so `nvidia-smi`, which comes with the driver, is asked.

use std::process::Command;

use crate::error::{EngineError, Result};

const ORDER: &str = "CUDA_DEVICE_ORDER";
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// A GPU by what its kernels depend on, and its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As its maker calls it.
    pub name: String,
    /// Compute capability, `9.0`.
    pub capability: String,
    pub memory_bytes: u64,
}

impl Gpu {
    /// The GPU that CUDA calls by this index in this process.
    ///
    /// Errors: [`EngineError::Device`] when `nvidia-smi` does not run or names no such GPU.
    pub fn at(index: usize) -> Result<Self> {
        let failed = |reason: String| EngineError::Device(format!("cuda:{index}: {reason}"));
        let output = Command::new("nvidia-smi")
            .args([
                "--query-gpu=index,uuid,name,compute_cap,memory.total",
                "--format=csv,noheader,nounits",
            ])
            .output()
            .map_err(|error| failed(format!("nvidia-smi must run to name it: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let env = |name: &str| std::env::var(name).ok();
        let (visible, order) = (env(VISIBLE), env(ORDER));
        choose(&text, visible.as_deref(), order.as_deref(), index).map_err(failed)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    index: String,
    uuid: String,
    gpu: Gpu,
}

/// Errors: what must be changed, for the operator.
fn choose(
    listed: &str,
    visible: Option<&str>,
    order: Option<&str>,
    index: usize,
) -> std::result::Result<Gpu, String> {
    let rows: Option<Vec<Row>> = listed.lines().map(row).collect();
    let rows = rows.ok_or_else(|| format!("nvidia-smi answered {:?}", listed.trim()))?;
    let missing = || format!("nvidia-smi lists {} GPUs", rows.len());
    let name = match visible {
        None => index.to_string(),
        Some(names) => {
            let name = names.split(',').nth(index).ok_or_else(missing)?;
            name.trim().to_owned()
        }
    };
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    // CUDA counts the fastest first unless told otherwise, nvidia-smi by the bus.
    let are_equal = rows.iter().all(|row| row.gpu == rows[0].gpu);
    if is_number && !are_equal && order != Some("PCI_BUS_ID") {
        return Err(format!(
            "GPUs of this machine differ; set {ORDER}=PCI_BUS_ID, or their UUIDs in {VISIBLE}, so that numbers are clear"
        ));
    }
    let is_it = |row: &&Row| match is_number {
        true => row.index == name,
        false => !name.is_empty() && row.uuid.starts_with(&name),
    };
    let found = rows.iter().find(is_it).ok_or_else(missing)?;
    Ok(found.gpu.clone())
}

fn row(line: &str) -> Option<Row> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [index, uuid, name, capability, memory_mib] = fields[..] else {
        return None;
    };
    Some(Row {
        index: index.to_owned(),
        uuid: uuid.to_owned(),
        gpu: Gpu {
            name: name.to_owned(),
            capability: capability.to_owned(),
            memory_bytes: memory_mib.parse::<u64>().ok()? << 20,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EQUAL: &str = "0, GPU-aa, NVIDIA L4, 8.9, 23034\n1, GPU-bb, NVIDIA L4, 8.9, 23034\n";
    const UNEQUAL: &str = "0, GPU-aa, NVIDIA L4, 8.9, 23034\n1, GPU-bb, NVIDIA H100, 9.0, 81559\n";

    #[test]
    fn an_index_means_the_gpu_that_cuda_means() {
        let check = |listed, visible, order, index, expected: std::result::Result<&str, &str>| {
            let chosen = choose(listed, visible, order, index);
            match (chosen, expected) {
                (Ok(gpu), Ok(name)) => assert_eq!(gpu.name, name),
                (Err(reason), Err(words)) => assert!(reason.contains(words), "{reason}"),
                (chosen, expected) => panic!("{chosen:?}, not {expected:?}"),
            }
        };
        let by_bus = Some("PCI_BUS_ID");
        check(EQUAL, None, None, 1, Ok("NVIDIA L4"));
        check(EQUAL, None, None, 2, Err("lists 2 GPUs"));
        check(
            UNEQUAL,
            None,
            None,
            0,
            Err("set CUDA_DEVICE_ORDER=PCI_BUS_ID"),
        );
        check(UNEQUAL, None, by_bus, 1, Ok("NVIDIA H100"));
        check(UNEQUAL, Some("1"), by_bus, 0, Ok("NVIDIA H100"));
        check(UNEQUAL, Some("1, 0"), by_bus, 1, Ok("NVIDIA L4"));
        check(UNEQUAL, Some("GPU-b"), None, 0, Ok("NVIDIA H100"));
        check(UNEQUAL, Some("1"), by_bus, 1, Err("lists 2 GPUs"));
        check(UNEQUAL, Some(""), None, 0, Err("lists 2 GPUs"));
        check("", None, None, 0, Err("lists 0 GPUs"));
        check("No devices were found", None, None, 0, Err("answered"));
    }

    #[test]
    fn a_gpu_is_read_with_its_memory() {
        let gpu = choose(UNEQUAL, None, Some("PCI_BUS_ID"), 1).unwrap();
        let expected = Gpu {
            name: "NVIDIA H100".to_owned(),
            capability: "9.0".to_owned(),
            memory_bytes: 81_559 << 20,
        };
        assert_eq!(gpu, expected);
    }
}
