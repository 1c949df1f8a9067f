//! The GPU side, and the only place that knows wgpu.
//!
//! `device.rs` finds an adapter and opens it, [`shader`] turns a [`Pass`](crate::kernel::Pass) into WGSL and a
//! pipeline, `store.rs` holds the weights, their gradients and the optimizer's states, and `exec.rs` holds everything
//! else of a plan and replays it, as far ahead as `pace.rs` says. `feed.rs` is a data set on the device; `ring.rs` and `collect.rs` are
//! what steps leave there, to be read later. `lower.rs` makes dispatches of steps, and says what they
//! would take, `profile.rs` measures a step, and `time.rs`
//! a plan.

mod bind;
mod collect;
mod device;
mod dispatch;
mod exec;
mod feed;
mod lower;
mod options;
mod pace;
mod profile;
mod prune;
mod ring;
pub mod shader;
mod store;
#[cfg(test)]
mod tests;
mod time;

pub use crate::choice::{Candidate, Choice, ChoiceReport, Choices, Chosen, Origin, Verdict};
pub(crate) use collect::Collected;
pub use device::{AdapterSummary, Gpu, adapters};
pub(crate) use device::{open, open_all};
pub use exec::Counters;
pub(crate) use exec::{ExecOptions, GpuExec, StepRow};
pub(crate) use feed::{FeedColumn, Resident};
pub use feed::{FlipShift, feed_pass};
pub(crate) use lower::needs;
pub use options::{GpuOptions, Limits};
pub(crate) use pace::MOST as MOST_STEPS;
pub(crate) use ring::{GpuRing, RingRead};
pub(crate) use store::GpuStore;
