//! Readouts that an update does not need itself: the spread of the gradients of micro-batches, and the norms of each parameter.

use super::{
    Optimizer,
    guard::{Control, NORMS, TOTAL},
    steps::{PARTIAL, Steps, chunk, pass},
};
use crate::{
    kernel::{ALIGN, Bind, Caps, Kernel, Pass, Word, source},
    params::Layout,
    plan::{Flat, Loc, Phase, Step, Update},
    shape::{DType, Shape},
};

/// The numbers that steps measure although the update does not need them. See [`Trainer::measure`](crate::Trainer::measure).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readouts {
    /// Whether steps measure the gradient noise scale. See [`Fit::noise_scale`](crate::Fit::noise_scale).
    pub noise_scale: bool,
    /// A number n, so that each n-th step measures the norms of each parameter. See [`Fit::norms`](crate::Fit::norms).
    pub norms: Option<u64>,
}

/// The number of words for each parameter in a step that measures norms: the norms of the weights, of the gradients and of the
/// change of the weights.
pub(crate) const MEASURED: usize = 3;

impl Readouts {
    /// Returns the number of words behind the outputs of a batch in a ring: the norms, and the spread if it is measured.
    pub(crate) fn tail(self) -> usize {
        NORMS.len() + usize::from(self.noise_scale)
    }
    /// Returns whether the step with this number measures norms. The first step is 0.
    pub(crate) fn measures(self, step: u64) -> bool {
        self.norms.is_some_and(|every| (step + 1).is_multiple_of(every))
    }
}

impl Optimizer {
    /// Adds the steps of `readouts` to the steps that [`steps`](Optimizer::steps) returned for the same arguments. They change
    /// neither weights nor gradients nor states.
    pub fn read_out(&self, steps: &mut Vec<Step>, readouts: Readouts, layout: &Layout, groups: usize, caps: Option<&Caps>) {
        let control = Control::new(layout, groups, caps.map_or(u64::MAX, |caps| caps.max_binding_bytes));
        let of = Steps { optimizer: self, layout, control, groups, loss: Loc::Control, micro: None, caps };
        let behind = |steps: &[Step], phase| steps.iter().rposition(|step| step.phase == phase).map(|last| last + 1);
        let all = 0..layout.trained;
        if let (true, Some(at)) = (readouts.noise_scale, behind(steps, Phase::Reduce)) {
            // The CPU device adds up all pieces at once.
            let pieces = if caps.is_some() { all.clone() } else { 0..1 };
            steps.splice(at..at, pieces.map(|piece| of.spread(piece)));
        }
        let first = steps.iter().position(|step| step.phase == Phase::Update);
        if let (Some(_), Some(first), Some(last)) = (readouts.norms, first, behind(steps, Phase::Update)) {
            steps.splice(last..last, all.clone().map(|piece| of.measure(piece)));
            steps.splice(first..first, all.map(|piece| of.keep(piece)));
        }
    }
}

impl Steps<'_> {
    /// Adds |g|² of a micro-batch to the mean. The last piece has the sum of all pieces.
    fn spread(&self, piece: usize) -> Step {
        let inputs = vec![self.piece(Flat::Micro, piece), self.control()];
        let kernel = self.caps.map(|caps| {
            let (chunk, len) = (chunk(caps, 4), self.layout.pieces[piece]);
            let units = len.div_ceil(chunk);
            let consts = vec![("WG", Word::from(caps.workgroup(256))), ("CHUNK", Word::from(chunk))];
            let (grads, partials) = (Bind::input("grads", 0, DType::F32).per_unit(chunk).vec4(), Bind::scratch("partials", 0));
            let code = source!("optim/join").text;
            let squares = Pass {
                consts: consts.clone(),
                params: vec![("len".into(), Word::from(len))],
                code: code.into(),
                units,
                ..pass(caps, source!("optim/squares"), "squares", vec![grads, partials.clone().per_unit(TOTAL).written()])
            };
            let params = [("count", units), ("piece", piece), ("pieces", self.layout.trained)];
            let spread = Pass {
                params: params.map(|(name, n)| (name.to_string(), Word::from(n))).into(),
                code: code.into(),
                ..pass(caps, source!("optim/spread"), "spread", vec![partials, Bind::input("guard", 1, DType::U32).written()])
            };
            Kernel { name: "spread", passes: vec![squares, spread], scratch: vec![TOTAL * units] }
        });
        self.step(Phase::Reduce, Update::Spread, "spread", piece, inputs, kernel)
    }
    /// Copies the weights before the update.
    fn keep(&self, piece: usize) -> Step {
        let inputs = vec![self.piece(Flat::Weights, piece), self.piece(Flat::Before, piece), self.control()];
        let kernel = self.caps.map(|caps| {
            let each = |name, i| Bind::input(name, i, DType::F32).per_unit(4).vec4();
            let pass = Pass {
                units: self.layout.pieces[piece] / 4,
                per_group: caps.workgroup(256),
                ..pass(caps, source!("optim/measure"), "keep", vec![each("params", 0), each("before", 1).written()])
            };
            Kernel::one("keep", pass)
        });
        self.step(Phase::Measure, Update::Keep, "keep", piece, inputs, kernel)
    }
    /// Computes the norms of each parameter after the update.
    fn measure(&self, piece: usize) -> Step {
        let flats = [Flat::Weights, Flat::Before, Flat::Grads];
        // The rows of all pieces lie behind the last piece.
        let rows = (Loc::Piece(Flat::Before, self.layout.trained), Shape::from([MEASURED * self.layout.ranges.len()]));
        let inputs: Vec<_> = flats.into_iter().map(|flat| self.piece(flat, piece)).chain([self.control(), rows]).collect();
        let kernel = self.caps.map(|caps| {
            let (cell, len) = (chunk(caps, ALIGN), self.layout.pieces[piece]);
            let (table, segments) = self.control.segments[piece];
            let cells = len.div_ceil(cell);
            let each = |name, i| Bind::input(name, i, DType::F32).per_unit(cell).vec4();
            let (guard, partials) = (Bind::input("guard", 3, DType::U32), Bind::scratch("partials", 0));
            // Two sums, because the smallest devices bind four buffers.
            let sum = |tensor| vec![tensor, each("before", 1), guard.clone(), partials.clone().flags()];
            let norms = Bind::input("norms", 4, DType::F32).flags();
            let params = [("segments", table), ("segment_count", segments), ("fours", len / 4)];
            let params: Vec<_> = params.into_iter().map(|(name, n)| (name.to_string(), Word::from(n))).collect();
            let code = [source!("optim/join"), source!("optim/cells"), source!("optim/piece")].map(|source| source.text).join("\n");
            let of = |entry, binds, units| {
                let pass = pass(caps, source!("optim/measure"), entry, binds);
                let consts = [pass.consts, vec![("CELL", Word::from(cell)), ("SHIFT", Word::from(0usize))]].concat();
                Pass { consts, params: params.clone(), code: code.clone(), units, ..pass }
            };
            let passes = vec![
                of("before_update", sum(each("grads", 2)), cells),
                of("change", sum(each("params", 0)), cells),
                of("finish", vec![partials.clone(), guard.clone(), norms], segments),
            ];
            Kernel { name: "measure", passes, scratch: vec![PARTIAL * (cells + segments)] }
        });
        self.step(Phase::Measure, Update::Measure, "measure", piece, inputs, kernel)
    }
}
