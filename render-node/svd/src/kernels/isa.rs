/// An instruction set that the kernels are compiled for. A value of it says that this processor has the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    Avx512(Proof),
    Avx2(Proof),
}

/// Only [`Isa::here`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof(());

impl Isa {
    /// The widest of this processor, of which device classes name the same.
    pub(super) fn here() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let has_fma = std::is_x86_feature_detected!("fma");
            if has_fma && std::is_x86_feature_detected!("avx512f") {
                return Some(Self::Avx512(Proof(())));
            }
            if has_fma && std::is_x86_feature_detected!("avx2") {
                return Some(Self::Avx2(Proof(())));
            }
        }
        None
    }
}

/// Makes `name(isa, ..)` of `body(..)`, compiled once for each instruction set. `body` and all that it calls in its loops must
/// be `#[inline(always)]`.
macro_rules! dispatched {
    ($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:expr) => {
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code, reason = "calls what is compiled for an instruction set")]
        fn $name(isa: Isa, $($arg: $ty),*) $(-> $ret)? {
            #[target_feature(enable = "avx512f,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            // SAFETY: an `Isa` says that the processor has it.
            unsafe {
                match isa {
                    Isa::Avx512(_) => avx512($($arg),*),
                    Isa::Avx2(_) => avx2($($arg),*),
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        fn $name(_isa: Isa, $($arg: $ty),*) $(-> $ret)? {
            $body($($arg),*)
        }
    };
}
pub(super) use dispatched;
