//! downhill trains neural networks on any GPU.
pub mod autodiff;
mod compiled;
pub mod cpu;
pub mod device;
mod engine;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod host;
pub mod init;
pub mod kernel;
pub mod layers;
pub mod losses;
pub mod ops;
pub mod optim;
pub mod params;
pub mod plan;
pub mod rng;
pub mod shape;
pub mod testing;

pub use compiled::Compiled;
pub use device::Device;
pub use error::{Error, Result};
pub use graph::{Graph, Tensor};
pub use host::Host;
pub use shape::{DType, Shape};
