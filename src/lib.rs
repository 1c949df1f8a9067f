//! downhill trains neural networks on any GPU.
pub mod autodiff;
pub mod cpu;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod host;
pub mod init;
pub mod kernel;
pub mod ops;
pub mod optim;
pub mod params;
pub mod plan;
pub mod rng;
pub mod shape;
pub mod testing;

pub use error::{Error, Result};
pub use graph::{Graph, Tensor};
pub use host::Host;
pub use shape::{DType, Shape};
