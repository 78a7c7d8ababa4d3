//! What tch does not reach of libtorch: which kernels a GPU takes, and the memory that libtorch keeps there.
//!
//! `shim.cpp` reads no header of CUDA, so it is built the same for a CPU and for a GPU.

use std::ffi::{CStr, c_char, c_void};

use crate::error::{EngineError, Result};

/// How scaled dot product attention is computed: `at::SDPBackend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
enum Attention {
    Math = 0,
    Flash = 1,
    Efficient = 2,
    CuDnn = 3,
    /// Of devices that are none of libtorch's own.
    Overrideable = 4,
}

const KINDS: usize = 5;

/// On Hopper (compute capability 9) cuDNN's attention takes half the time of FlashAttention-2, which libtorch prefers; on
/// others it is no faster, on Ampere slower (transformers#48163).
fn attention_order(capability: &str) -> [Attention; KINDS] {
    use Attention::{CuDnn, Efficient, Flash, Math, Overrideable};
    match capability.split('.').next() {
        Some("9") => [CuDnn, Flash, Efficient, Math, Overrideable],
        _ => [Flash, Efficient, Math, CuDnn, Overrideable],
    }
}

/// Chooses kernels for a GPU of this compute capability, as in `9.0`, for the whole process: the same ones for the same shapes
/// in every process, f32 products in f32, and the attention that is fastest there.
pub(crate) fn choose_kernels(capability: &str) -> Result<()> {
    let order = attention_order(capability).map(|kind| kind as i64);
    // SAFETY: reads as many numbers as it is told; both return a text or null.
    #[allow(unsafe_code, reason = "foreign functions")]
    unsafe {
        done(flowai_compute_reproducibly())?;
        done(flowai_set_attention_order(order.as_ptr(), order.len()))
    }
}

/// Inference mode of this thread, until it is dropped: no gradients, no counting of versions and views. Tensors that were made
/// within it are changed in place within it only.
pub(crate) struct Inference {
    mode: *mut c_void,
}

impl Inference {
    pub(crate) fn enter() -> Self {
        // SAFETY: what it gives is taken back by the drop below, on the same thread: a pointer is not `Send`.
        #[allow(unsafe_code, reason = "a foreign function")]
        let mode = unsafe { flowai_enter_inference() };
        Self { mode }
    }
}

impl Drop for Inference {
    fn drop(&mut self) {
        // SAFETY: made by `enter` and left once.
        #[allow(unsafe_code, reason = "a foreign function")]
        unsafe {
            flowai_leave_inference(self.mode);
        }
    }
}

/// Gives the device back what libtorch keeps of its memory and no tensor uses.
///
/// Errors: no GPU.
pub(crate) fn empty_cache() -> Result<()> {
    // SAFETY: returns a text or null.
    #[allow(unsafe_code, reason = "a foreign function")]
    unsafe {
        done(flowai_empty_cache())
    }
}

/// The most bytes that tensors had on this GPU since the process began.
///
/// Errors: no such GPU.
pub(crate) fn peak_memory_bytes(index: usize) -> Result<u64> {
    let no_such = || EngineError::Device(format!("cuda:{index}: no such GPU"));
    let device = i8::try_from(index).map_err(|_| no_such())?;
    let mut bytes = 0;
    // SAFETY: writes one number; returns a text or null.
    #[allow(unsafe_code, reason = "a foreign function")]
    unsafe {
        done(flowai_peak_memory(device, &raw mut bytes))?;
    }
    Ok(bytes.unsigned_abs())
}

/// # Safety
///
/// `text` is null or what `strdup` made, and nobody else frees it.
#[allow(unsafe_code, reason = "takes over a text of the C library")]
unsafe fn done(text: *mut c_char) -> Result<()> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: as the caller promises.
    let error = unsafe {
        let error = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast::<c_void>());
        error
    };
    Err(tch::TchError::Torch(error).into())
}

#[allow(unsafe_code, reason = "functions of shim.cpp")]
unsafe extern "C" {
    fn flowai_set_attention_order(order: *const i64, count: usize) -> *mut c_char;
    fn flowai_compute_reproducibly() -> *mut c_char;
    fn flowai_enter_inference() -> *mut c_void;
    fn flowai_leave_inference(mode: *mut c_void);
    fn flowai_empty_cache() -> *mut c_char;
    fn flowai_peak_memory(index: i8, bytes: *mut i64) -> *mut c_char;
    #[cfg(test)]
    fn flowai_attention_order(order: *mut i64, count: usize) -> *mut c_char;
    #[cfg(test)]
    fn flowai_computes_reproducibly() -> bool;
    #[cfg(test)]
    fn flowai_is_inference() -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(unsafe_code, reason = "foreign functions")]
    fn chosen() -> ([i64; KINDS], bool) {
        let mut order = [-1; KINDS];
        // SAFETY: writes as many numbers as it is told.
        unsafe {
            done(flowai_attention_order(order.as_mut_ptr(), order.len())).unwrap();
            (order, flowai_computes_reproducibly())
        }
    }

    #[test]
    fn libtorch_computes_as_chosen_for_the_gpu() {
        choose_kernels("8.0").unwrap();
        assert_eq!(chosen(), ([1, 2, 0, 3, 4], true));
        choose_kernels("9.0").unwrap();
        assert_eq!(chosen(), ([3, 1, 2, 0, 4], true));
        choose_kernels("12.0").unwrap();
        assert_eq!(chosen(), ([1, 2, 0, 3, 4], true));
    }

    #[allow(unsafe_code, reason = "a foreign function")]
    fn is_inference() -> bool {
        // SAFETY: reads a flag of this thread.
        unsafe { flowai_is_inference() }
    }

    #[test]
    fn inference_mode_lasts_until_the_last_who_entered_has_left() {
        assert!(!is_inference());
        let outer = Inference::enter();
        let inner = Inference::enter();
        assert!(is_inference());
        drop(inner);
        assert!(is_inference());
        drop(outer);
        assert!(!is_inference());
    }

    #[test]
    fn an_exception_of_libtorch_becomes_an_error_with_its_text() {
        // SAFETY: reads one number.
        #[allow(unsafe_code, reason = "a foreign function")]
        let error = unsafe {
            let mut order = [0];
            done(flowai_attention_order(order.as_mut_ptr(), order.len())).unwrap_err()
        };
        assert!(
            error.to_string().contains("5 kinds of attention, not 1"),
            "{error}"
        );
    }

    #[test]
    fn without_a_gpu_its_memory_is_an_error_and_no_number() {
        if tch::Cuda::is_available() {
            return;
        }
        assert!(empty_cache().is_err());
        assert!(peak_memory_bytes(0).is_err());
        assert!(matches!(
            peak_memory_bytes(300),
            Err(EngineError::Device(_))
        ));
    }
}
