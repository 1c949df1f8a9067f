//! downhill trains neural networks on any GPU.
pub mod data;
pub mod error;
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
pub mod train;

pub use error::{Error, Result};
pub use graph::{Graph, Tensor};
pub use host::Host;
pub use shape::{DType, Shape};
