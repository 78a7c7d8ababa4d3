//! The device of this node, for operators.

use std::fs;

use flowai_svd::{DeviceClass, processor_name};

/// What the farm is told about the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// As its maker calls it.
    pub name: String,
    /// Of the GPU, or of the machine.
    pub memory_bytes: u64,
}

/// The device cannot be described.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be read: {source}")]
pub struct DeviceError {
    path: &'static str,
    source: std::io::Error,
}

impl Device {
    /// Asks the system about a CPU; a GPU's class knows it.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn describe(class: &DeviceClass) -> Result<Self, DeviceError> {
        match class {
            DeviceClass::Cpu => Self::cpu(),
            DeviceClass::Gpu { gpu, .. } => Ok(Self {
                name: gpu.name.clone(),
                memory_bytes: gpu.memory_bytes,
            }),
        }
    }

    fn cpu() -> Result<Self, DeviceError> {
        let read = |path: &'static str| {
            fs::read_to_string(path).map_err(|source| DeviceError { path, source })
        };
        let memory_kib = value_of(&read("/proc/meminfo")?, "MemTotal")
            .and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok());
        Ok(Self {
            name: processor_name().to_owned(),
            memory_bytes: memory_kib.unwrap_or(0) << 10,
        })
    }
}

/// The value of the first `key : value` line.
fn value_of(text: &str, key: &str) -> Option<String> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let device = Device::describe(&DeviceClass::Cpu).unwrap();
        assert!(!device.name.is_empty());
        assert!(device.memory_bytes > 64 << 20, "{device:?}");
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "MemTotalX: 1\nMemTotal:   16 kB\nMemTotal: 2\n";
        assert_eq!(value_of(text, "MemTotal").as_deref(), Some("16 kB"));
        assert_eq!(value_of(text, "Mem"), None);
    }
}
