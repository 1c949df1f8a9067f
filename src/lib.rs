//! Trains neural networks on any GPU that [wgpu] reaches (Vulkan, Metal, DX12), and on the CPU.
//!
//! A model is a function that writes a graph. The graph is differentiated, fused, given memory and lowered **once** into
//! a plan, a flat list of dispatches; every mini-batch replays the plan. Each kernel is checked against a plain
//! definition in `f64`.
//!
//! ```text
//! function ─► Graph ─► gradient ─► fusion ─► memory ─► Plan ─► a GPU, or the CPU: one replay per mini-batch
//!               └► op by op in f64: what every kernel is tested against
//! ```
//!
//! Two inputs, one of which decides how the other counts: no straight line separates them, a small network does.
//!
//! ```
//! use downhill::{Device, Graph, Host, Trainer, optim::Adam};
//!
//! let g = Graph::training();
//! let (x, y) = (g.input([4, 2]), g.input([4, 1]));
//! let logits = x.linear("hidden", 8).tanh().linear("out", 1);
//! let loss = logits.bce_with_logits(y);
//! let mut trainer = Trainer::new(&Device::cpu(), loss, Adam::new(0.1))?;
//!
//! let xor = Host::new([4, 2], vec![0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
//! let truth = Host::new([4, 1], vec![0.0, 1.0, 1.0, 0.0]);
//! for _ in 0..200 {
//!     trainer.step(&[xor.clone(), truth.clone()])?;
//! }
//! assert!(trainer.loss()? < 0.05);
//!
//! // The same graph, compiled for its output, sees the trained weights.
//! let answers = trainer.compile(&[logits.sigmoid()])?.run(&[xor, truth])?;
//! let rounded: Vec<f32> = answers[0].f().iter().map(|a| a.round()).collect();
//! assert_eq!(rounded, [0.0, 1.0, 1.0, 0.0]);
//! # Ok::<(), downhill::Error>(())
//! ```
//!
//! # Where to look
//!
//! | To … | see |
//! |---|---|
//! | write a model | [`Graph`]; [`Tensor`], whose methods are the ops; [`layers`], [`losses`], [`init`] |
//! | train on a data set | [`Trainer::for_data`], [`Fit`], [`data`], [`optim`], [`train::metrics`] |
//! | train step by step | [`Trainer::new`], [`Trainer::step`], [`Trainer::params`] |
//! | know what training takes | [`Trainer::memory`], [`Trainer::max_batch`], [`Trainer::profile`] |
//! | run a graph without training | [`Device::compile`], [`Compiled`] |
//! | choose a device | [`Device`], [`gpu::GpuOptions`] |
//! | know which kernels it uses, and why | [`gpu::Choice`], [`gpu::Gpu::choices`] |
//! | know what went wrong | [`Error`] |
//! | know whether a driver computes rightly | [`selftest`] |
//! | add an op, a kernel or an optimizer | [`ops::OpDef`], [`kernel`], [`optim::Rule`], [`testing`]; `ARCHITECTURE.md` in the source shows each on a real one |
//!
//! The other modules are the parts of the machine: [`shape`] and [`host`] (tensors on the host, and the conventions of layout),
//! [`plan`] (what a graph is lowered to), [`params`] (where weights lie), [`rng`] (counter-based random numbers), [`mod@file`] (how files are
//! written), [`error`], [`graph`].
//!
//! # Conventions
//!
//! Row-major, contiguous, `f32`; labels and indices are `u32`. Axis 0 counts samples. Weights are `[out, in]`, names and defaults
//! those of PyTorch or Keras. Building a graph neither panics nor returns `Result`: it keeps the first mistake with your `file:line`, and
//! whatever compiles the graph returns it. Same seed, same device: the same weights, to the last bit.

#![warn(missing_docs)]

mod autodiff;
mod compiled;
mod cpu;
pub mod data;
mod device;
mod engine;
pub mod error;
pub mod file;
pub mod gpu;
pub mod graph;
pub mod host;
pub mod init;
pub mod kernel;
pub mod layers;
pub mod losses;
pub mod ops;
pub mod optim;
mod oracle;
pub mod params;
mod peaks;
pub mod plan;
pub mod profile;
mod recompute;
pub mod rng;
mod scratch;
pub mod selftest;
pub mod shape;
mod simd;
pub mod testing;
pub mod train;
mod tune;

pub use compiled::Compiled;
pub use device::Device;
pub use error::{Error, Result};
pub use graph::{Graph, Tensor};
pub use host::Host;
pub use plan::Memory;
pub use profile::{Peaks, Profile};
pub use shape::{DType, Shape};
pub use train::{Epoch, Evaluation, Event, Fit, History, Params, StepReport, Trainer};

/// The README's code is an example that runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
