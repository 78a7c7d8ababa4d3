//! Lets the program and the tests find libtorch: linker arguments of flowai-svd's build script reach only flowai-svd.

use std::env;

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_FLOWAI_SVD_LIBTORCH_RPATH");
    let rpath = env::var("DEP_FLOWAI_SVD_LIBTORCH_RPATH").unwrap_or_default();
    println!("cargo::rustc-link-arg=-Wl,-rpath,{rpath}");
    // Nothing names a symbol of libtorch.so itself, but loading it is what registers CUDA where there is any.
    println!("cargo::rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo::rustc-link-arg=-ltorch");
}
