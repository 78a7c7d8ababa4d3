/// An instruction set that the kernels are compiled for. A value of it says that this processor has the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Isa(Set);

/// Seen by [`dispatched`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of the architecture has.
    Baseline,
}

impl Isa {
    /// The widest of this processor.
    pub(super) fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("fma") {
            if std::is_x86_feature_detected!("avx512f") {
                return Self(Set::Avx512);
            }
            if std::is_x86_feature_detected!("avx2") {
                return Self(Set::Avx2);
            }
        }
        Self(Set::Baseline)
    }

    pub(super) const fn set(self) -> Set {
        self.0
    }

    /// Whether `a * b + c` is one instruction.
    pub(super) const fn has_fma(self) -> bool {
        match self.0 {
            Set::Baseline => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 | Set::Avx2 => true,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            Set::Baseline => "baseline",
        }
    }

    /// All that this processor has.
    #[cfg(test)]
    pub(super) fn all_here() -> Vec<Self> {
        let mut all = vec![Self(Set::Baseline)];
        #[cfg(target_arch = "x86_64")]
        if Self::here() != all[0] {
            if std::is_x86_feature_detected!("avx2") {
                all.push(Self(Set::Avx2));
            }
            all.push(Self::here());
        }
        all
    }
}

/// Makes `name(isa, ..)` of `body(..)`, compiled once for each instruction set.
///
/// `body` and what it calls in its loops must be `#[inline(always)]`: a function that is called is compiled for the baseline,
/// where a fused product is a call into the C library. So are closures that an iterator keeps to itself (seen with
/// `Iterator::all`), but not those of `std::array::from_fn` and `map`.
macro_rules! dispatched {
    ($vis:vis $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:expr) => {
        #[allow(unsafe_code, reason = "calls what is compiled for an instruction set")]
        $vis fn $name(isa: Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            match isa.set() {
                // SAFETY: an `Isa` says that the processor has it.
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => unsafe { avx2($($arg),*) },
                Set::Baseline => $body($($arg),*),
            }
        }
    };
}
pub(super) use dispatched;
