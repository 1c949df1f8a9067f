//! The ops. One file here and one WGSL file of the same name each; nothing else in the crate knows an op.

use crate::{
    graph::Tensor,
    host::{Host, Real, View, ViewMut},
    kernel::{Caps, Checks, Kernel},
    rng::Key,
    shape::{DType, Shape},
};
use std::{
    any::{Any, TypeId},
    fmt,
    sync::Arc,
};

pub use case::{Case, Fill, fill};

/// An op: its shape rule, its definition, its gradient, its kernels and its test cases.
///
/// From [`cases`](OpDef::cases) alone [`crate::testing`] checks all of it: write those first.
///
/// Nodes of equal ops over the same inputs are computed once. Two ops are equal where `==` says so and their `Debug` texts are the same: a
/// derived `PartialEq` and a derived `Debug` tell all settings apart, 0.0 and −0.0 too.
///
/// ARCHITECTURE.md shows how to add one.
pub trait OpDef: fmt::Debug + PartialEq + Send + Sync + Sized + 'static {
    /// The op's one name: of its file, its shader and its entry in errors.
    const NAME: &'static str;
    /// Whether the WGSL of the kernels is compiled with checks: see [`Checks`].
    const CHECKS: Checks<Self> = Checks::ON;
    /// The output's shape and element type, or a sentence saying why these inputs do not fit.
    fn shape(&self, x: &[Shape]) -> Result<Shape, String>;
    /// The definition: plain, sequential, checkable by eye. Writes every element of `y`.
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key);
    /// The same for the CPU device, where speed matters.
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        self.reference(x, y, key)
    }
    /// The gradient for each input, given the inputs, the output and the gradient `dy` of the output; `None` for an
    /// input that has none. A gradient may have the shape of `y` where `x[i]` was broadcast: it is summed for you. One that broadcasts
    /// to `x[i]` is repeated. Any other number of gradients or another shape is an error of the graph.
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>>;
    /// Candidates, the portable one first, the one expected fastest on such a device last.
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel>;
    /// Shapes to test: 1, primes, one below, at and above a tile, many workgroups.
    fn cases() -> Vec<Case>;
    /// What belongs into each input: values for which every right kernel agrees with the reference to rounding. Cases start
    /// from it, and the choice of a kernel by measuring is made on it, at whatever size. By default floats of both signs whose sums are
    /// not near 0, where rounding would be all that is left of larger terms; of labels, 0 and 1. Say more where the op
    /// takes labels of so many classes, has a domain, or lets values grow from step to step.
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::plain(x)
    }
    /// Floating-point operations, for reports.
    fn flops(&self, _x: &[Shape], y: Shape) -> u64 {
        y.elements() as u64
    }
    /// Bytes that must be read and written, for reports: by default the inputs and the output, once each.
    fn bytes(&self, x: &[Shape], y: Shape) -> u64 {
        x.iter().chain([&y]).map(|s| s.bytes()).sum()
    }
    /// How many terms are added up in one output element: the tolerance of a comparison grows with it.
    fn terms(&self, _x: &[Shape]) -> usize {
        1
    }
    /// What the choice of a kernel goes by, beside the sizes: the settings, and those of the inputs `x` whose sizes matter. What
    /// is generated (an expression, an epilogue and its inputs) is neither: one kernel is chosen for all of that. The settings are
    /// the `Debug` text unless the op says otherwise. Ops of one text share the kernel that was measured for one of them.
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        (format!("{self:?}"), x)
    }
    /// What users call it, for errors: the method that made it.
    fn called(&self) -> &'static str {
        Self::NAME
    }
    /// The output is the input's memory under another shape; there is no kernel.
    fn is_alias(&self) -> bool {
        false
    }
    /// The elementwise expression that this op is, if it is one.
    fn as_map(&self) -> Option<&map::Map> {
        None
    }
    /// The padding that this op is, if it is one: gradients of slices of one tensor are put together by it.
    fn as_pad(&self) -> Option<&pad::Pad> {
        None
    }
    /// The op followed by `map`, whose input 0 is this op's output and whose other inputs are appended to this
    /// op's; `None` where the op's kernels take no epilogue.
    fn with_epilogue(&self, _map: &map::Map) -> Option<Arc<dyn Op>> {
        None
    }
    /// The op that stands for its [class](OpDef::class) where a kernel is chosen, over the inputs that the class names: with a plain
    /// expression in the place of one that no inputs may be fair to (a logarithm or a quotient of what is computed). `None` for this
    /// op itself.
    fn plain(&self, _x: &[Shape]) -> Option<Arc<dyn Op>> {
        None
    }
}

/// Nothing but an `OpDef` can be an [`Op`], so that no object can say of itself that it needs no checks.
mod sealed {
    pub trait Op {}
    impl<O: super::OpDef> Op for O {}
}

/// [`OpDef`] as an object. Implemented for every `OpDef`; never by hand.
#[allow(missing_docs)]
pub trait Op: Any + fmt::Debug + Send + Sync + sealed::Op {
    fn name(&self) -> &'static str;
    fn same(&self, other: &dyn Op) -> bool;
    fn shape(&self, x: &[Shape]) -> Result<Shape, String>;
    fn reference_f64(&self, x: &[View<f64>], y: &mut ViewMut<f64>, key: Key);
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key);
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>>;
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel>;
    fn flops(&self, x: &[Shape], y: Shape) -> u64;
    fn bytes(&self, x: &[Shape], y: Shape) -> u64;
    fn terms(&self, x: &[Shape]) -> usize;
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]);
    fn called(&self) -> &'static str;
    fn is_alias(&self) -> bool;
    fn as_map(&self) -> Option<&map::Map>;
    fn as_pad(&self) -> Option<&pad::Pad>;
    fn with_epilogue(&self, map: &map::Map) -> Option<Arc<dyn Op>>;
    fn plain(&self, x: &[Shape]) -> Option<Arc<dyn Op>>;
    fn fills(&self, x: &[Shape]) -> Vec<Fill>;
    /// Whether its WGSL is compiled without checks: where it is an op of this crate, or its author has promised.
    fn is_unchecked(&self) -> bool;
}

impl<O: OpDef> Op for O {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn same(&self, other: &dyn Op) -> bool {
        let other: &dyn Any = other;
        other.downcast_ref::<O>().is_some_and(|other| self == other)
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        OpDef::shape(self, x)
    }
    fn reference_f64(&self, x: &[View<f64>], y: &mut ViewMut<f64>, key: Key) {
        self.reference(x, y, key)
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        OpDef::cpu(self, x, y, key)
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        OpDef::vjp(self, x, y, dy)
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        OpDef::kernels(self, x, y, caps)
    }
    fn flops(&self, x: &[Shape], y: Shape) -> u64 {
        OpDef::flops(self, x, y)
    }
    fn bytes(&self, x: &[Shape], y: Shape) -> u64 {
        OpDef::bytes(self, x, y)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        OpDef::terms(self, x)
    }
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        OpDef::class(self, x)
    }
    fn called(&self) -> &'static str {
        OpDef::called(self)
    }
    fn is_alias(&self) -> bool {
        OpDef::is_alias(self)
    }
    fn as_map(&self) -> Option<&map::Map> {
        OpDef::as_map(self)
    }
    fn as_pad(&self) -> Option<&pad::Pad> {
        OpDef::as_pad(self)
    }
    fn with_epilogue(&self, map: &map::Map) -> Option<Arc<dyn Op>> {
        OpDef::with_epilogue(self, map)
    }
    fn plain(&self, x: &[Shape]) -> Option<Arc<dyn Op>> {
        OpDef::plain(self, x)
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        OpDef::fills(self, x)
    }
    fn is_unchecked(&self) -> bool {
        !O::CHECKS.are_on() || is_own(TypeId::of::<O>())
    }
}

mod case;
#[cfg(test)]
pub(crate) mod checks;
mod lines;
mod parts;
mod product;

pub(crate) mod argmax;
pub mod attention;
pub(crate) mod comoment;
pub(crate) mod concat;
pub mod conv2d;
pub(crate) mod cross_entropy;
pub(crate) mod cumsum;
pub(crate) mod gather_rows;
pub(crate) mod logsumexp;
pub mod map;
pub(crate) mod matmul;
pub mod max_pool2d;
pub(crate) mod moments;
pub(crate) mod norm;
pub(crate) mod normalised;
pub mod pad;
pub(crate) mod permute;
pub(crate) mod pick;
pub(crate) mod probe;
pub(crate) mod recurrent;
pub(crate) mod reduce;
pub mod resample;
pub(crate) mod reshape;
pub(crate) mod slice;
pub mod softmax;
pub(crate) mod softmax_grad;
pub(crate) mod standardise;

macro_rules! ops {
    ($($module:ident :: $op:ident $([$($more:ident),*])?),* $(,)?) => {
        /// Every op and its cases: the list that tests, shader validation and reports go by.
        pub fn all() -> Vec<(&'static str, Vec<Case>)> {
            vec![$(
                (<$module::$op as OpDef>::NAME, <$module::$op as OpDef>::cases()),
                $($((<$module::$more as OpDef>::NAME, <$module::$more as OpDef>::cases()),)*)?
            )*]
        }
        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($op), $($(stringify!($more),)*)?)*];
        /// Whether this is the type of an op of this crate. Tests with checks, fences and sentinels prove that their kernels stay inside
        /// their tensors.
        fn is_own(op: TypeId) -> bool {
            [$(TypeId::of::<$module::$op>(), $($(TypeId::of::<$module::$more>(),)*)?)*].contains(&op)
        }
    };
}

// The one list: a file, its op and, in brackets, others that are in the same file. A line here and the line of its module above are
// all that the rest of the crate learns of an op.
ops! {
    argmax::Argmax [Correct],
    attention::Attention [AttentionGrad],
    comoment::Comoment,
    concat::Concat,
    conv2d::Conv2dOp [Conv2dGradX, Conv2dGradW],
    cross_entropy::CrossEntropy [CrossEntropyGrad],
    cumsum::Cumsum,
    gather_rows::GatherRows [ScatterRows],
    logsumexp::LogSumExp,
    map::Map,
    matmul::MatMul,
    max_pool2d::MaxPool2d [MaxPool2dPick, MaxPool2dGrad],
    moments::Variance [Statistics],
    norm::Norm [NormGrad],
    normalised::Normalised,
    pad::Pad,
    permute::Permute,
    pick::Pick,
    probe::Probe,
    recurrent::RecurrentOp [RecurrentGrad],
    reduce::Reduce,
    resample::Resample,
    reshape::Reshape,
    slice::Slice,
    softmax::Softmax,
    softmax_grad::SoftmaxGrad,
    standardise::Standardise,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    /// The types that implement [`OpDef`] in the files of a folder.
    fn implemented(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                implemented(&path, found);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines().filter_map(|line| line.strip_prefix("impl OpDef for "));
                found.extend(lines.map(|rest| rest.trim_end_matches(" {").to_string()));
            }
        }
    }

    /// An op that the list lacks would be compiled with checks, and be slow without a word.
    #[test]
    fn every_op_is_in_the_list() {
        let mut found = BTreeSet::new();
        implemented(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops"), &mut found);
        assert_eq!(found, NAMES.iter().map(|name| name.to_string()).collect());
        for (name, cases) in all() {
            assert!(cases.iter().all(|case| case.op.is_unchecked()), "{name}");
        }
    }
}
