//! Builds the shim, and lets our own binaries and tests find libtorch: what tch's build script says about linking reaches only
//! tch itself.
//!
//! `FLOWAI_LIBTORCH_RPATH` replaces the run path for packages, for instance by `$ORIGIN/../lib`. Dependants whose build
//! makes a binary repeat the two linker arguments, from `DEP_FLOWAI_SVD_LIBTORCH_RPATH`.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=FLOWAI_LIBTORCH_RPATH");
    let lib_dir = env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    build_shim(&Path::new(&lib_dir).with_file_name("include"));
    let rpath = env::var("FLOWAI_LIBTORCH_RPATH").unwrap_or(lib_dir);
    println!("cargo::metadata=libtorch_rpath={rpath}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{rpath}");
    // Nothing names a symbol of libtorch.so itself, but loading it is what registers CUDA where there is any.
    println!("cargo::rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo::rustc-link-arg=-ltorch");
}

/// libtorch's own C++ standard; its headers are not free of warnings.
fn build_shim(include: &Path) {
    const SOURCE: &str = "src/shim/shim.cpp";
    println!("cargo::rerun-if-changed={SOURCE}");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(include)
        .file(SOURCE)
        .compile("flowai_svd_shim");
    // Of the library that the shim's symbols are in; libtorch.so alone has none.
    println!("cargo::rustc-link-lib=dylib=c10");
    println!("cargo::rustc-link-lib=dylib=torch_cpu");
}
