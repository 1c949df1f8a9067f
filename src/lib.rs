//! downhill trains neural networks on any GPU.
#![warn(missing_docs)]

mod autodiff;
mod compiled;
mod cpu;
pub mod data;
mod device;
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
pub mod train;

pub use compiled::Compiled;
pub use device::Device;
pub use error::{Error, Result};
pub use graph::{Graph, Tensor};
pub use host::Host;
pub use shape::{DType, Shape};
pub use train::{Epoch, Evaluation, Event, Fit, History, Params, StepReport, Trainer};
