//! Where and in which precision the engine computes.

use std::env;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::{Cuda, Device, Kind};

use crate::error::{EngineError, Result};
use crate::gpu::Gpu;
use crate::processor::processor_name;
use crate::{kernels, shim};

/// The precision of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dtype {
    #[serde(rename = "fp32", alias = "float32")]
    Fp32,
    #[serde(rename = "fp16", alias = "float16")]
    Fp16,
    #[serde(rename = "bf16", alias = "bfloat16")]
    Bf16,
}

impl Dtype {
    /// The name in specs and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }

    /// The same, as libtorch calls it.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Fp16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A device by the name that specs use: `cpu`, `cuda` (the first one) or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    Cpu,
    Cuda(usize),
}

/// What bit-equality needs to stay the same: equal classes give equal bits, whatever index the device has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceClass {
    Cpu,
    Gpu {
        gpu: Gpu,
        /// Versions of the libraries that libtorch takes its kernels from, as numbers.
        cudart: i64,
        cudnn: i64,
    },
}

impl DeviceClass {
    /// The class in words, with so many threads of CPU kernels.
    pub fn text(&self, threads: usize) -> String {
        match self {
            // MKL promises equal bits on processors of one type, and only in one of its modes, which `shim.cpp` sets where nobody has.
            Self::Cpu => format!(
                "cpu {} threads {threads} kernels {} mkl {} on {}",
                kernels::instruction_set(),
                kernels::VERSION,
                env::var("MKL_CBWR").unwrap_or_default(),
                processor_name()
            ),
            Self::Gpu { gpu, cudart, cudnn } => format!(
                "cuda {} capability {} cudart {cudart} cudnn {cudnn}",
                gpu.name, gpu.capability
            ),
        }
    }

    /// The same, with the threads of this process.
    pub(crate) fn text_here(&self) -> String {
        self.text(usize::try_from(tch::get_num_threads()).unwrap_or(1))
    }
}

impl DeviceName {
    /// The class of the device on this machine, before a model is loaded.
    ///
    /// Errors: [`EngineError::Device`] when libtorch sees no such GPU, or nobody can say which one it is.
    pub fn class(self) -> Result<DeviceClass> {
        let Self::Cuda(index) = self else {
            return Ok(DeviceClass::Cpu);
        };
        // A libtorch without CUDA has no versions to tell.
        self.open()?;
        Ok(DeviceClass::Gpu {
            gpu: Gpu::at(index)?,
            cudart: tch::utils::version_cudart(),
            cudnn: tch::utils::version_cudnn(),
        })
    }

    /// The device, when this machine has it. For a GPU this also chooses the kernels of the whole process.
    ///
    /// Errors: [`EngineError::Device`] when libtorch sees no such GPU, or nobody can say which one it is.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) => {
                let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
                if Cuda::is_available() && index < count {
                    shim::choose_kernels(&Gpu::at(index)?.capability)?;
                    Ok(Device::Cuda(index))
                } else {
                    Err(EngineError::Device(format!(
                        "cuda:{index} is not there; libtorch sees {count} CUDA devices on this machine"
                    )))
                }
            }
        }
    }

    /// The most bytes that tensors had on a GPU since the process began; `None` on a CPU, whose memory the system counts.
    ///
    /// Errors: no such GPU.
    pub fn peak_memory_bytes(self) -> Result<Option<u64>> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(index) => shim::peak_memory_bytes(index).map(Some),
        }
    }

    /// Gives a GPU's memory that no tensor uses back to it, for what comes next; a CPU's allocator needs no telling.
    ///
    /// Errors: no GPU.
    pub fn release_memory(self) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Cuda(_) => shim::empty_cache(),
        }
    }
}

impl FromStr for DeviceName {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self> {
        let refuse = || EngineError::Device(format!("must be cpu, cuda or cuda:N (got {name:?})"));
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = name.strip_prefix("cuda:").ok_or_else(refuse)?;
                index.parse().map(Self::Cuda).map_err(|_| refuse())
            }
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Time since `started`, when `device` has done what it was told by then.
pub(crate) fn elapsed(device: Device, started: Instant) -> Duration {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
    started.elapsed()
}

/// Lets the C allocator keep what tensors free, for the whole process.
///
/// Left alone, glibc returns every large block to the system at once, and the kernel clears it again for the next layer: a
/// sixth of the time of a clip on a CPU. Larger blocks than [`KEPT_BLOCK_BYTES`] still go back.
pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "mallopt has no safe wrapper")]
    // SAFETY: sets two numbers of the allocator, which takes its own lock. Refused values change nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Feature maps of a clip at 512 x 512 are below this.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BLOCK_BYTES: i32 = 96 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_names_the_gpu_and_not_its_index() {
        let gpu = Gpu {
            name: "NVIDIA L4".to_owned(),
            capability: "8.9".to_owned(),
            memory_bytes: 1,
        };
        let class = DeviceClass::Gpu {
            gpu,
            cudart: 12_080,
            cudnn: 91_002,
        };
        let text = class.text(4);
        assert_eq!(
            text,
            "cuda NVIDIA L4 capability 8.9 cudart 12080 cudnn 91002"
        );
        assert_eq!(text, class.text(8), "kernels of a GPU use no threads");
        assert_ne!(DeviceClass::Cpu.text(4), DeviceClass::Cpu.text(8));
    }

    #[test]
    fn devices_are_read_by_name() {
        let check = |name: &str, expected: Option<&str>| {
            let device = name.parse::<DeviceName>().ok();
            assert_eq!(device.map(|d| d.to_string()).as_deref(), expected, "{name}");
        };
        check("cpu", Some("cpu"));
        check("cuda", Some("cuda:0"));
        check("cuda:3", Some("cuda:3"));
        check("cuda:", None);
        check("cuda:-1", None);
        check("gpu", None);
    }
}
