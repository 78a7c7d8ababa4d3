//! Lets our own binaries and tests find libtorch: what tch's build script says about linking reaches only tch itself.
//!
//! `FLOWAI_LIBTORCH_RPATH` replaces the run path for packages, for instance by `$ORIGIN/../lib`. Dependants whose build
//! makes a binary repeat the two linker arguments, from `DEP_FLOWAI_SVD_LIBTORCH_RPATH`.

use std::env;

fn main() {
    println!("cargo::rerun-if-env-changed=FLOWAI_LIBTORCH_RPATH");
    let lib_dir = env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    let rpath = env::var("FLOWAI_LIBTORCH_RPATH").unwrap_or(lib_dir);
    println!("cargo::metadata=libtorch_rpath={rpath}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{rpath}");
    // Nothing names a symbol of libtorch.so itself, but loading it is what registers CUDA where there is any.
    println!("cargo::rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo::rustc-link-arg=-ltorch");
}
