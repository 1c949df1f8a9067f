//! Says what to install where the feature `mpi` cannot be built. The crate that binds MPI fails a minute later, and names no package.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const INSTALL: &str = "Debian and Ubuntu: `apt install libopenmpi-dev openmpi-bin libclang-dev`; Fedora: `dnf install openmpi-devel \
                       clang-devel`; Arch: `pacman -S openmpi clang`; macOS: `brew install open-mpi llvm`. See docs/distributed.md";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_MPI").is_none() || cfg!(not(unix)) {
        return;
    }
    if !has_mpi() {
        println!(
            "cargo::error=The feature `mpi` needs an MPI library, and there is none: neither `{}` nor pkg-config knows it. It also needs \
             libclang. {INSTALL}. A library in another place is named by the environment variable MPICC (its compiler).",
            mpicc()
        );
    } else if cfg!(target_os = "linux") && !has_libclang() {
        // Only a warning: libclang may be in a place that is not searched here.
        println!("cargo::warning=The feature `mpi` needs libclang. {INSTALL}. LIBCLANG_PATH names a folder that is not searched.");
    }
}

fn mpicc() -> String {
    env::var("MPICC").unwrap_or_else(|_| "mpicc".into())
}

/// Searches where `mpi-sys` searches.
fn has_mpi() -> bool {
    let known = |name: &&str| {
        Command::new("pkg-config").args(["--exists", name]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    ["MPI_PKG_CONFIG", "CRAY_MPICH_DIR"].iter().any(|name| env::var_os(name).is_some())
        || Command::new(mpicc()).arg("-show").output().is_ok()
        || ["mpich", "ompi"].iter().any(known)
}

fn has_libclang() -> bool {
    if env::var_os("LIBCLANG_PATH").is_some() || Command::new("llvm-config").arg("--version").output().is_ok() {
        return true;
    }
    let below =
        |folder: &Path| -> Vec<PathBuf> { fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect() };
    let here = |folder: &Path| {
        below(folder).iter().any(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            (name.starts_with("libclang.so") || name.starts_with("libclang-")) && name.contains(".so")
        })
    };
    ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local"]
        .map(Path::new)
        .into_iter()
        .any(|folder| here(folder) || below(folder).iter().any(|one| here(one) || here(&one.join("lib"))))
}
