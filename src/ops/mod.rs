//! The ops. Each op has one file here and one WGSL file of the same name. The rest of the crate knows no particular op.

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
/// Write [`cases`](OpDef::cases) first: [`crate::testing`] runs every check of the op on these cases.
///
/// A graph computes two nodes once if their ops are equal and their inputs are the same. Two ops are equal if `==` is true and their
/// `Debug` texts are equal. A derived `PartialEq` and a derived `Debug` distinguish all settings, even 0.0 and −0.0.
///
/// ARCHITECTURE.md shows how to add an op.
pub trait OpDef: fmt::Debug + PartialEq + Send + Sync + Sized + 'static {
    /// The name of the op. Its file, its shader and errors use this name.
    const NAME: &'static str;
    /// States whether the WGSL of the kernels is compiled with checks: see [`Checks`].
    const CHECKS: Checks<Self> = Checks::ON;
    /// Returns the shape and the element type of the output. The error is a sentence that says why the inputs `x` do not fit.
    fn shape(&self, x: &[Shape]) -> Result<Shape, String>;
    /// Computes the op by its definition and writes every element of `y`. The code is plain and sequential, so that a reader can check it.
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key);
    /// Computes the op on the CPU device, where speed matters. The default calls [`reference`](OpDef::reference).
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        self.reference(x, y, key)
    }
    /// Returns the gradient of each input, given the inputs `x`, the output `y` and the gradient `dy` of the output. The entry of an
    /// input without a gradient is `None`.
    ///
    /// If the op broadcast `x[i]`, the gradient may have the shape of `y`: the caller sums it to the shape of `x[i]`. A smaller gradient
    /// that broadcasts to `x[i]` is repeated. A wrong number of gradients, or any other shape, is an error of the graph.
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>>;
    /// Returns the candidates: the kernels that could compute the op. The portable kernel comes first. The kernel that is expected to be
    /// the fastest on a device with `caps` comes last.
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel>;
    /// Returns the test cases. Their sizes should include 1, primes, the size of a tile, one less, one more, and enough for many workgroups.
    fn cases() -> Vec<Case>;
    /// Returns the kind of test values for each input. Every correct kernel must agree with the reference on these values, up to
    /// rounding. The cases start from these values, and candidates are measured on them at any size.
    ///
    /// By default a float input has values of both signs whose sums are not near 0. In a sum near 0, large terms cancel and only their
    /// rounding errors remain. By default a label is 0 or 1. Override this method if the labels have a given number of classes, if the op
    /// has a domain, or if values grow from step to step.
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::plain(x)
    }
    /// Returns the number of floating-point operations, for reports.
    fn flops(&self, _x: &[Shape], y: Shape) -> u64 {
        y.elements() as u64
    }
    /// Returns the number of bytes that the op must read and write, for reports. The default counts each input and the output once.
    fn bytes(&self, x: &[Shape], y: Shape) -> u64 {
        x.iter().chain([&y]).map(|s| s.bytes()).sum()
    }
    /// Returns the number of terms that one output element sums. The tolerance of a comparison grows with this number.
    fn terms(&self, _x: &[Shape]) -> usize {
        1
    }
    /// Returns the class of the op: the text of its settings, and the inputs whose sizes matter for the choice of a kernel. Ops with the
    /// same text and the same sizes share one measured choice. By default the text is the `Debug` text, and all inputs `x` matter.
    ///
    /// Generated code (an expression, or an epilogue and its inputs) is not part of the class. One kernel is chosen for every expression.
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        (format!("{self:?}"), x)
    }
    /// Returns the name that errors show: the name of the method that made the op.
    fn called(&self) -> &'static str {
        Self::NAME
    }
    /// Returns true if the output is the memory of the input under another shape. Such an op has no kernel.
    fn is_alias(&self) -> bool {
        false
    }
    /// Returns the elementwise expression if this op is a [`Map`](map::Map).
    fn as_map(&self) -> Option<&map::Map> {
        None
    }
    /// Returns the padding if this op is a [`Pad`](pad::Pad). Autodiff uses it to join the gradients of slices of one tensor.
    fn as_pad(&self) -> Option<&pad::Pad> {
        None
    }
    /// Returns this op fused with `map`. Input 0 of `map` is the output of this op. The other inputs of `map` follow the inputs of this
    /// op. Returns `None` if the kernels of this op take no epilogue.
    fn with_epilogue(&self, _map: &map::Map) -> Option<Arc<dyn Op>> {
        None
    }
    /// Returns the op that represents the [class](OpDef::class) when candidates are measured. Its inputs are the inputs that the class
    /// names. A plain expression replaces the op's own expression, because test values may not suit every expression (a logarithm or a
    /// quotient of computed values, for example). `None` means that the op represents its class itself.
    fn plain(&self, _x: &[Shape]) -> Option<Arc<dyn Op>> {
        None
    }
}

/// Only an `OpDef` can be an [`Op`]. So no other object can claim that it needs no checks.
mod sealed {
    pub trait Op {}
    impl<O: super::OpDef> Op for O {}
}

/// [`OpDef`] as a trait object. Every `OpDef` implements it automatically.
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
    /// Returns true if the WGSL is compiled without checks: the op belongs to this crate, or its author has turned the checks off.
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
mod composed;
mod einsum;
mod lines;
mod parts;
mod product;
pub(crate) mod synced;

pub(crate) mod all_gather;
pub(crate) mod argmax;
pub mod attention;
pub(crate) mod comoment;
pub(crate) mod concat;
pub mod conv2d;
pub(crate) mod cross_entropy;
pub(crate) mod ctc;
pub(crate) mod cumsum;
pub(crate) mod gather;
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
pub(crate) mod sort;
pub(crate) mod standardise;
pub(crate) mod to_index;
pub mod volumes;
pub(crate) mod warp;

macro_rules! ops {
    ($($module:ident :: $op:ident $([$($more:ident),*])?),* $(,)?) => {
        /// Returns the name and the cases of every op. Tests, shader validation and reports use this list.
        pub fn all() -> Vec<(&'static str, Vec<Case>)> {
            vec![$(
                (<$module::$op as OpDef>::NAME, <$module::$op as OpDef>::cases()),
                $($((<$module::$more as OpDef>::NAME, <$module::$more as OpDef>::cases()),)*)?
            )*]
        }
        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($op), $($(stringify!($more),)*)?)*];
        /// Returns true if `op` is the type of an op of this crate. Tests with checks, fences and sentinels prove that their kernels stay inside
        /// their tensors.
        fn is_own(op: TypeId) -> bool {
            [$(TypeId::of::<$module::$op>(), $($(TypeId::of::<$module::$more>(),)*)?)*].contains(&op)
        }
    };
}

// The list of all ops. Each line names a file, its op and, in brackets, further ops of the file. The rest of the crate knows an op only
// by its line here and the line of its module above.
ops! {
    all_gather::AllGather,
    argmax::Argmax [Correct],
    attention::Attention [AttentionGrad],
    comoment::Comoment,
    concat::Concat,
    conv2d::Conv2dOp [Conv2dGradX, Conv2dGradW],
    cross_entropy::CrossEntropy [CrossEntropyGrad],
    ctc::Ctc [CtcShare],
    cumsum::Cumsum,
    gather::Gather [ScatterAdd],
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
    sort::Sort,
    standardise::Standardise,
    to_index::ToIndex,
    warp::Warp,
}

/// Returns the shape of the one input that a shape rule takes, which must be floats.
fn one_float(x: &[Shape]) -> Result<&Shape, String> {
    match x {
        [x] if x.dtype() == DType::F32 => Ok(x),
        [_] => Err("takes floats, not labels (see to_f32)".into()),
        _ => Err(format!("takes one input, not {}", x.len())),
    }
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

    /// An op that is missing in the list would be compiled with checks. It would be slow, and nothing would report it.
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
