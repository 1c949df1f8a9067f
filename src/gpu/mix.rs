//! Moves the parameters of one store towards those of another, on the device.

use crate::{
    error::Result,
    gpu::{bind::BufferRange, lower::lower, store::GpuStore},
    kernel::{ALIGN, Bind, Caps, Kernel, Pass, Word, source},
    plan::{Flat, Loc, Phase, Step, Update, Work},
    shape::{DType, Shape},
};
use std::sync::Arc;

/// Returns the pass that moves `len` elements, a multiple of four, by `share` of their way to others.
pub fn soft_update_pass(len: usize, share: f32, caps: &Caps) -> Pass {
    let four = |name, i| Bind::input(name, i, DType::F32).per_unit(4).vec4();
    Pass {
        source: source!("optim/average"),
        entry: "soft_update",
        consts: vec![("WG", Word::from(caps.workgroup(256)))],
        params: vec![("share".into(), Word::F(share))],
        binds: vec![four("average", 0).written(), four("weights", 1)],
        code: String::new(),
        units: len / 4,
        per_group: caps.workgroup(256),
        step: false,
    }
}

/// Neighbouring elements of a piece in both stores.
struct Run {
    /// The piece and the first element in the store that is changed.
    to: (usize, usize),
    /// The piece and the first element in the other store.
    from: (usize, usize),
    /// The number of elements, with the gaps behind parameters.
    len: usize,
}

impl GpuStore {
    /// Moves parameters by `share` of their way to those of another store of the same GPU, in the queue. Each pair has the number of a
    /// parameter there and here. Returns false if the other store is on another GPU.
    pub(crate) async fn soft_update(&self, from: &GpuStore, pairs: &[(usize, usize)], share: f32) -> Result<bool> {
        if !Arc::ptr_eq(self.gpu(), from.gpu()) {
            return Ok(false);
        }
        let gpu = self.gpu();
        let runs = self.runs(from, pairs);
        let caps = gpu.caps();
        // Place 2k is the run k here, and place 2k + 1 is the run k there.
        let step = |(k, run): (usize, &Run)| {
            let shape = Shape::from([run.len]);
            Step {
                phase: Phase::Assign,
                label: format!("soft update [{}]", run.len),
                layer: String::new(),
                work: Work::Update(Update::Assign, k),
                inputs: vec![(Loc::Slot(2 * k), shape), (Loc::Slot(2 * k + 1), shape)],
                output: (Loc::Slot(2 * k), shape),
                scratch: Vec::new(),
                kernel: Some(Kernel::one("soft_update", soft_update_pass(run.len, share, caps))),
                unchecked: true,
            }
        };
        let steps: Vec<Step> = runs.iter().enumerate().map(step).collect();
        let find = |loc: Loc, elements: usize| {
            let Loc::Slot(place) = loc else { return None };
            let run = runs.get(place / 2)?;
            let (store, (piece, first)) = if place % 2 == 0 { (self, run.to) } else { (from, run.from) };
            Some(BufferRange { buffer: store.piece(Flat::Weights, piece)?, offset: 4 * first as u64, elements, fence: 0 })
        };
        let (dispatches, _) = lower(gpu, &steps, find).await?;
        let label = Some("soft update");
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes: None });
        dispatches.iter().for_each(|dispatch| dispatch.encode_alone(&mut pass));
        drop(pass);
        gpu.queue.submit([encoder.finish()]);
        gpu.check()?;
        Ok(true)
    }
    /// Returns the elements to change. Parameters that are neighbours in both stores are in one run. A parameter that both stores share is
    /// left out.
    fn runs(&self, from: &GpuStore, pairs: &[(usize, usize)]) -> Vec<Run> {
        let place = |store: &GpuStore, i: usize| (store.layout().ranges[i].piece, store.layout().ranges[i].start);
        let mut all: Vec<Run> = Vec::new();
        for &(at, to) in pairs {
            if self.shares(to, from, at) {
                continue;
            }
            all.push(Run { to: place(self, to), from: place(from, at), len: self.layout().ranges[to].len.next_multiple_of(ALIGN) });
        }
        all.sort_by_key(|run| run.to);
        let next = |(piece, first): (usize, usize), len: usize| (piece, first + len);
        all.dedup_by(|run, before| {
            let follows = next(before.to, before.len) == run.to && next(before.from, before.len) == run.from;
            before.len += if follows { run.len } else { 0 };
            follows
        });
        all
    }
}
