//! The GPU device. Only this module uses wgpu.
//!
//! * `device.rs` finds and opens an adapter.
//! * [`shader`] turns a [`Pass`](crate::kernel::Pass) into WGSL and a pipeline.
//! * `store.rs` holds the parameters, their gradients and the optimizer's states. `mix.rs` moves parameters towards those of another store.
//! * `exec.rs` holds the other buffers of a plan and runs the plan. `pace.rs` limits how far the host runs ahead of the device.
//! * `run.rs` submits a run of a plan in parts. `buckets.rs` reads gradients between the parts, through the buffers of `readback.rs`.
//! * `feed.rs` holds a data set on the device.
//! * `ring.rs` and `collect.rs` store the outputs of steps on the device until the host reads them.
//! * `lower.rs` turns the steps of a plan into dispatches and computes the memory that they need.
//! * `profile.rs` measures a step, and `time.rs` measures a plan.

mod bind;
mod buckets;
mod collect;
mod device;
mod dispatch;
mod exec;
mod feed;
mod lower;
mod mix;
mod options;
mod pace;
mod profile;
mod prune;
mod readback;
mod ring;
mod run;
pub mod shader;
mod store;
#[cfg(test)]
mod tests;
mod time;

pub use crate::choice::{Candidate, Choice, ChoiceReport, Choices, Chosen, Origin, Verdict};
pub(crate) use buckets::{Bucket, bytes as readback_bytes};
pub(crate) use collect::Collected;
pub use device::{AdapterSummary, Gpu, adapters};
pub(crate) use device::{open, open_all, open_nth};
pub use exec::Counters;
pub(crate) use exec::{ExecOptions, GpuExec, StepRow};
pub(crate) use feed::{FeedColumn, Resident};
pub use feed::{FlipShift, feed_pass};
pub(crate) use lower::needs;
pub use mix::soft_update_pass;
pub use options::{Dx12Compiler, GpuOptions, Limits};
pub(crate) use pace::MOST as MOST_STEPS;
pub(crate) use ring::{GpuRing, RingRead};
pub(crate) use store::{GpuCopy, GpuStore};
