//! Compiles the calls of MPI (`src/world/mpi.c`) for the feature `mpi`, or says what to install.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "mpi")]
    mpi();
}

#[cfg(feature = "mpi")]
fn mpi() {
    const INSTALL: &str = "Debian and Ubuntu: `apt install libopenmpi-dev openmpi-bin`; Fedora: `dnf install openmpi-devel`, then `module \
                           load mpi`; Arch: `pacman -S openmpi`; macOS: `brew install open-mpi`. The environment variable MPICC names the \
                           compiler of a library in another place. See docs/distributed.md";
    println!("cargo::rerun-if-changed=src/world/mpi.c");
    ["MPICC", "MPI_PKG_CONFIG", "CRAY_MPICH_DIR"].iter().for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
    let Ok(library) = build_probe_mpi::probe() else {
        println!("cargo::error=The feature `mpi` needs an MPI library with its compiler `mpicc`, and there is none. {INSTALL}.");
        return;
    };
    let mut build = cc::Build::new();
    build.file("src/world/mpi.c").includes(&library.include_paths).std("c11").warnings(true);
    if let Some(mpicc) = &library.mpicc {
        build.compiler(mpicc);
    }
    if let Err(error) = build.try_compile("downhill_mpi") {
        println!("cargo::error=The feature `mpi` found an MPI library, but a program for it cannot be compiled: {error}. {INSTALL}.");
        return;
    }
    library.lib_paths.iter().for_each(|folder| println!("cargo::rustc-link-search=native={}", folder.display()));
    library.libs.iter().for_each(|name| println!("cargo::rustc-link-lib={name}"));
}
