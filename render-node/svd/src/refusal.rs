//! Errors of libtorch that arrive as panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tch::TchError;

use crate::error::Result;

/// How the panic begins, which tch raises from the error itself.
const TCH_PANIC: &str = "called `Result::unwrap()` on an `Err` value: Torch(";

/// Runs `work`, and makes an error of libtorch's refusal also where tch panics with it.
///
/// tch 0.24 frees the scalar that an operation took before it reads whether the operation failed; freeing reads the error
/// instead, and panics. So every `f_.._scalar` panics where it should say that memory is too little. `work` must leave whatever
/// it borrows as it was until it succeeds, because it may end anywhere. Other panics go on.
pub(crate) fn refusals<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => match text(panic.as_ref()).strip_prefix(TCH_PANIC) {
            Some(error) => Err(TchError::Torch(unquoted(error)).into()),
            None => resume_unwind(panic),
        },
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default()
}

/// The text is quoted as Rust does; what follows its first line is a C++ backtrace.
fn unquoted(error: &str) -> String {
    let text = error.trim_start_matches('"');
    let end = text.find("\\n").or_else(|| text.rfind("\")"));
    text[..end.unwrap_or(text.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::EngineError;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn a_refused_operation_on_a_scalar_is_an_error() {
        // Of 4 EiB, without memory: a view of one number.
        let one = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        let large = one.f_expand([1 << 60], false).unwrap();
        let refused = refusals(|| Ok(large.f_sub_scalar(1.0)?));
        assert!(
            matches!(&refused, Err(EngineError::OutOfMemory(text)) if text.contains("allocate")),
            "{refused:?}"
        );
        let refused = refusals(|| Ok(one.f_transpose(3, 4)?.f_add_scalar(1.0)?));
        assert!(matches!(refused, Err(EngineError::Torch(_))), "{refused:?}");
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn a_bug_is_not_taken_for_one() {
        let empty: &[u8] = &[];
        refusals(|| Ok(empty[std::hint::black_box(0)])).ok();
    }
}
