//! Trains neural networks on any GPU that [wgpu] reaches (Vulkan, Metal, DX12), and on the CPU.
//!
//! A model is a function that writes a graph. downhill differentiates the graph, fuses it, plans its memory and lowers it
//! **once** into a plan, which is a flat list of dispatches. Every mini-batch replays the plan. Each kernel is checked against
//! a plain definition in `f64`.
//!
//! ```text
//! function ─► Graph ─► gradient ─► fusion ─► memory ─► Plan ─► a GPU, or the CPU: one replay per mini-batch
//!               └► op by op in f64: what every kernel is tested against
//! ```
//!
//! No straight line separates the two classes of XOR. A small network does:
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
//! | know the memory and time of training | [`Trainer::memory`], [`Trainer::max_batch`], [`Trainer::profile`] |
//! | run a graph without training | [`Device::compile`], [`Compiled`] |
//! | save and load weights | [`Trainer::params`], [`Compiled::params`], [`weights`] |
//! | choose a device | [`Device`], [`gpu::GpuOptions`] |
//! | know which kernels a device uses, and why | [`gpu::Choice`], [`gpu::Gpu::choices`] |
//! | understand an error | [`Error`] |
//! | test whether a driver computes correctly | [`selftest`] |
//! | add an op, a kernel or an optimizer | [`ops::OpDef`], [`kernel`], [`optim::Rule`], [`testing`]; `ARCHITECTURE.md` in the source shows each on a real one |
//!
//! The other modules are internals that advanced users may need: [`shape`] and [`host`] (tensors on the host, and the
//! conventions of layout), [`plan`] (the lowered graph), [`params`] (the places of parameters in the flat buffers), [`rng`]
//! (counter-based random numbers), [`mod@file`] (safe writing of files), [`error`] and [`graph`].
//!
//! # Conventions
//!
//! Tensors are row-major, contiguous and `f32`. Labels and indices are `u32`. Axis 0 counts samples. A linear layer's parameter
//! `weight` has the shape `[out, in]`. Names and defaults are those of PyTorch or Keras. Building a graph neither panics nor
//! returns `Result`. The graph records the first mistake with your `file:line`, and the function that compiles the graph
//! returns it. The same seed on the same device, with the same kernels, gives the same parameters to the last bit:
//! [`gpu::Choice`] says when the kernels are the same.

#![warn(missing_docs)]
// A library does not print: messages go through the crate `log`. Tests may.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro))]

mod autodiff;
mod choice;
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
pub mod plot;
pub mod profile;
mod recompute;
pub mod rng;
mod scratch;
pub mod selftest;
pub mod shape;
mod simd;
pub mod testing;
mod threads;
pub mod train;
mod tune;
pub mod weights;
pub mod world;

pub use compiled::Compiled;
pub use device::Device;
pub use error::{Error, Result};
pub use graph::{Graph, Tensor};
pub use host::Host;
pub use plan::Memory;
pub use profile::{Peaks, Profile};
pub use shape::{DType, Shape};
pub use train::{Batch, Checkpoints, Epoch, Evaluation, Event, Fit, History, Outputs, Shard, StepReport, Trainer, callbacks};
pub use weights::{Load, Params};
pub use world::World;

/// The README's code is an example that runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
