//! The GPU side, and the only place that knows wgpu.
//!
//! `device.rs` finds an adapter and opens it, [`shader`] turns a [`Pass`](crate::kernel::Pass) into WGSL and a
//! pipeline, `store.rs` holds the weights, their gradients and the optimizer's states, and `exec.rs` holds everything
//! else of a plan and replays it.

mod bind;
mod device;
mod dispatch;
mod exec;
mod needs;
mod profile;
mod prune;
pub mod shader;
mod store;
#[cfg(test)]
mod tests;

pub use device::{AdapterSummary, Gpu, GpuOptions, adapters, open, open_all};
pub use exec::{Counters, Exec, ExecOptions, RingSpec, StepRow, UpdatePass};
pub(crate) use needs::needs;
pub use store::Store;
