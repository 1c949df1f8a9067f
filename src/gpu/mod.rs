//! The GPU side, and the only place that knows wgpu.
//!
//! `device.rs` finds an adapter and opens it, [`shader`] turns a [`Pass`](crate::kernel::Pass) into WGSL and a
//! pipeline, `store.rs` holds the weights, their gradients and the optimizer's states, and `exec.rs` holds everything
//! else of a plan and replays it; `time.rs` says how long that takes.

mod bind;
mod device;
mod dispatch;
mod exec;
mod prune;
pub mod shader;
mod store;
#[cfg(test)]
mod tests;
mod time;

pub use crate::tune::{Candidate, Choice, Choices, Chosen, Origin, Report, Verdict};
pub use device::{AdapterSummary, Gpu, GpuOptions, adapters, open, open_all};
pub use exec::{Counters, Exec, ExecOptions, RingSpec, StepRow, UpdatePass};
pub use store::Store;
