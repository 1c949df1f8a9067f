//! The data by which an op describes its kernels to the GPU side. This data contains no wgpu type.
//!
//! A [`Kernel`] is one way to compute an op: one or more [`Pass`]es over a WGSL file. downhill writes the WGSL declarations (the
//! uniform `p`, the bindings, the constants) from this data. So the Rust side and the WGSL side cannot disagree. The WGSL file
//! holds functions only. `shaders/README.md` has the conventions.

use crate::shape::DType;
use std::marker::PhantomData;

/// Every range of a flat buffer starts at a multiple of this number of elements (256 bytes). So every device can bind each range.
pub(crate) const ALIGN: usize = 64;

/// A WGSL file: its name in `shaders/` without the extension, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The name in errors and in labels.
    pub name: &'static str,
    /// The WGSL text. It may have `//!include` lines.
    pub text: &'static str,
}

/// Returns a WGSL file as a [`Source`]. `source!("matmul")` is the file `shaders/matmul.wgsl`.
#[macro_export]
macro_rules! source {
    ($name:literal) => {
        $crate::kernel::Source { name: $name, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")) }
    };
}
pub use source;

/// Whether the WGSL of the type `T` is compiled with checks. `T` is an op or the rule of an optimizer.
///
/// With checks, no WGSL can reach memory outside of its bindings. An index is moved into its array, a division by zero has a
/// result, every loop ends, and the memory of a workgroup starts as zeros. Checks take time on some drivers. So downhill turns them
/// off for its own ops and rules, and only for these. An author who has proved that a kernel is correct can do the same:
///
/// ```
/// # use downhill::{Shape, Tensor, kernel::{Caps, Kernel}, host::{Real, View, ViewMut}, ops::Case, rng::Key};
/// use downhill::{kernel::Checks, ops::OpDef};
/// # #[derive(Debug, PartialEq)]
/// struct Proved;
/// impl OpDef for Proved {
///     // SAFETY: every index is below `p.units`, every loop has an end, and nothing is divided.
///     const CHECKS: Checks<Proved> = unsafe { Checks::off() };
///     // …
/// #   const NAME: &'static str = "proved";
/// #   fn shape(&self, x: &[Shape]) -> Result<Shape, String> { Ok(x[0]) }
/// #   fn reference<T: Real>(&self, _: &[View<T>], _: &mut ViewMut<T>, _: Key) {}
/// #   fn vjp<'g>(&self, _: &[Tensor<'g>], _: Tensor<'g>, _: Tensor<'g>) -> Vec<Option<Tensor<'g>>> { vec![None] }
/// #   fn kernels(&self, _: &[Shape], _: Shape, _: &Caps) -> Vec<Kernel> { Vec::new() }
/// #   fn cases() -> Vec<Case> { Vec::new() }
/// }
/// ```
///
/// The promise covers one type. If another op uses the same kernels or the same WGSL, that op needs its own promise.
pub struct Checks<T> {
    on: bool,
    of: PhantomData<fn(T)>,
}

impl<T> Checks<T> {
    /// The WGSL is compiled with checks. This is the default.
    pub const ON: Checks<T> = Checks { on: true, of: PhantomData };

    /// The WGSL is compiled without checks, unless [`GpuOptions::checked`](crate::gpu::GpuOptions::checked) asks for them.
    ///
    /// # Safety
    /// For all shapes that the op accepts and all contents of its inputs, every kernel that the op returns (or the WGSL that a rule
    /// returns)
    /// - uses only indices inside of its bindings, its arrays and its vectors;
    /// - divides no integer by zero, nor the least integer by −1;
    /// - ends each of its loops;
    /// - reads only those parts of workgroup memory that it has written before.
    pub const unsafe fn off() -> Checks<T> {
        Checks { on: false, of: PhantomData }
    }
    pub(crate) const fn are_on(&self) -> bool {
        self.on
    }
}

/// A constant of a kernel: a field of the uniform `p`, or a WGSL `const`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Word {
    /// A `u32` in WGSL.
    U(u32),
    /// An `f32` in WGSL, with exactly these bits.
    F(f32),
}

impl From<usize> for Word {
    /// Converts a number of elements. It fits, because a graph refuses a tensor of more than `u32::MAX` elements.
    fn from(x: usize) -> Word {
        Word::U(x as u32)
    }
}
impl From<u32> for Word {
    fn from(x: u32) -> Word {
        Word::U(x)
    }
}
impl From<f32> for Word {
    fn from(x: f32) -> Word {
        Word::F(x)
    }
}

/// The tensor of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The i-th input of the op. [`crate::optim`] lists the inputs of an update.
    In(usize),
    /// The op's output.
    Out,
    /// A scratch buffer of the kernel, written by one pass and read by a later one.
    Scratch(usize),
}

/// The part of a tensor that one dispatch sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Every dispatch sees the whole tensor. A tensor above the device's binding limit is an error.
    Whole,
    /// Every dispatch sees the whole tensor, and any unit may write to it. The tensor holds flags that a unit can only raise, for
    /// example. So the result does not depend on the number of dispatches.
    Flags,
    /// Unit `u` touches exactly the elements `u·n .. (u+1)·n`. If the binding would be too large, the pass is dispatched several
    /// times. Each dispatch computes a range of units and sees only their elements. Its shader indexes the tensor from 0. The
    /// shader adds `p.first` if it needs the number of a unit in the whole pass.
    PerUnit(usize),
    /// Unit `u` touches only elements of block `u / units`. A block has `elements` elements. For example, a block is an image, and
    /// its units are the tiles of the image. A large tensor is split as for `PerUnit`, but only between blocks. The shader sees the
    /// tensor from the first block of its dispatch.
    Blocks {
        /// The number of units in a block.
        units: usize,
        /// The number of elements in a block. The last block of a tensor may have fewer.
        elements: usize,
    },
    /// Unit `u` touches at most `chunk` elements, from element `u / chunks · line + u % chunks · chunk`. A line is cut into chunks.
    /// The lengths need not be multiples of anything. A large tensor is split as for `PerUnit`, but a window may start at any unit.
    /// The shader sees the tensor from a multiple of 64 elements: the last one that is not behind the start of the first unit.
    Lines {
        /// The number of elements in a line.
        line: usize,
        /// The number of units in a line.
        chunks: usize,
        /// The number of elements in a unit. The last unit of a line may have fewer.
        chunk: usize,
    },
}

impl Span {
    /// Returns the first element that unit `u` touches.
    pub fn start(self, u: usize) -> usize {
        match self {
            Span::Whole | Span::Flags => 0,
            Span::PerUnit(n) => u * n,
            Span::Blocks { units, elements } => u / units * elements,
            Span::Lines { line, chunks, chunk } => u / chunks * line + u % chunks * chunk,
        }
    }
}

/// One `@binding`. Its declaration is `var<storage, read> name: array<dtype>`, or `read_write` if the shader writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bind {
    /// The variable's name in the shader.
    pub name: String,
    /// The tensor that is bound.
    pub which: Which,
    /// The element type of the tensor.
    pub dtype: DType,
    /// The part of the tensor that a dispatch sees.
    pub span: Span,
    /// Whether the shader writes the tensor.
    pub write: bool,
    /// Whether the shader sees the tensor as vectors of four elements, `array<vec4<f32>>`. The number of elements must be a
    /// multiple of four. Each window must start at a multiple of four elements.
    pub vec4: bool,
}

impl Bind {
    /// Binds input `i` as a whole, read only.
    pub fn input(name: impl Into<String>, i: usize, dtype: DType) -> Bind {
        Bind { name: name.into(), which: Which::In(i), dtype, span: Span::Whole, write: false, vec4: false }
    }
    /// Binds the output as a whole. The shader writes it.
    pub fn output(name: impl Into<String>, dtype: DType) -> Bind {
        Bind { name: name.into(), which: Which::Out, dtype, span: Span::Whole, write: true, vec4: false }
    }
    /// Binds a scratch buffer of `f32` as a whole, read only.
    pub fn scratch(name: impl Into<String>, index: usize) -> Bind {
        Bind { name: name.into(), which: Which::Scratch(index), dtype: DType::F32, span: Span::Whole, write: false, vec4: false }
    }
    /// Returns this binding for a tensor that the shader reads and writes.
    pub fn written(self) -> Bind {
        Bind { write: true, ..self }
    }
    /// Returns this binding as vectors of four elements. See [`vec4`](Bind::vec4).
    pub fn vec4(self) -> Bind {
        Bind { vec4: true, ..self }
    }
    /// Returns this binding for flags. Any unit may raise a flag. See [`Span::Flags`].
    pub fn flags(self) -> Bind {
        Bind { span: Span::Flags, write: true, ..self }
    }
    /// Returns this binding for a tensor of which unit `u` touches the elements `u·n .. (u+1)·n`. See [`Span::PerUnit`].
    pub fn per_unit(self, n: usize) -> Bind {
        Bind { span: Span::PerUnit(n), ..self }
    }
    /// Returns this binding for a tensor of which `units` units together touch a block of `elements` elements. See
    /// [`Span::Blocks`].
    pub fn blocks(self, units: usize, elements: usize) -> Bind {
        Bind { span: Span::Blocks { units, elements }, ..self }
    }
}

/// One pass over the units of a kernel. It is one dispatch, or several dispatches (see [`Span::PerUnit`]).
///
/// The shader sees `p.first` (the number of the first unit of this dispatch), `p.units` (the number of units of this dispatch) and
/// the `params` as fields of the uniform `p`. It sees the `consts` as WGSL constants and the `binds` in order. A device limits the
/// workgroups in one dimension, so a large dispatch is folded over three. `lib/index.wgsl` computes one number from the three
/// numbers of a workgroup.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// The file with the entry point.
    pub source: Source,
    /// The name of the entry point: `forward`, `grad_x`, …, with a suffix for a strategy.
    pub entry: &'static str,
    /// WGSL constants. Each set of constants needs its own pipeline, so constants are for flags and tile sizes.
    pub consts: Vec<(&'static str, Word)>,
    /// Fields of the uniform `p`, for sizes and numbers. Other values use the same pipeline.
    pub params: Vec<(String, Word)>,
    /// Tensors, in the order of their bindings.
    pub binds: Vec<Bind>,
    /// Generated functions, which precede the functions of the file. Most kernels have none.
    pub code: String,
    /// The number of units of the pass. A unit is an element, a row or a tile, for example.
    pub units: usize,
    /// The number of units that one workgroup computes, at least 1.
    pub per_group: usize,
    /// Whether the shader reads `step` (the seed and the number of the step).
    pub step: bool,
}

/// One way to compute an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// The name of the strategy, for example `tiled`. Reports use it as the name of the candidate.
    pub name: &'static str,
    /// The passes, in the order of their dispatches.
    pub passes: Vec<Pass>,
    /// The number of elements of each scratch buffer.
    pub scratch: Vec<usize>,
}

impl Kernel {
    /// Returns a kernel of one pass without scratch buffers.
    pub fn one(name: &'static str, pass: Pass) -> Kernel {
        Kernel { name, passes: vec![pass], scratch: Vec::new() }
    }
}

/// The capabilities of a device that matter for the choice of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Caps {
    /// The largest number of storage buffers that one dispatch may bind.
    pub max_bindings: usize,
    /// The largest size of a storage binding, in bytes.
    pub max_binding_bytes: u64,
    /// The largest size of workgroup memory, in bytes.
    pub max_workgroup_bytes: u32,
    /// The largest number of invocations of a workgroup.
    pub max_invocations: u32,
    /// True if the adapter runs on a CPU. Shared memory and barriers cost more there than they save.
    pub software: bool,
    /// The number of invocations in every subgroup. `None` if the device has no subgroups, or if their sizes differ. With different
    /// sizes, the driver would choose the order of a sum by subgroups, and so the bits of the sum.
    pub subgroups: Option<u32>,
    /// True if an invocation has few registers, as on Intel's GPUs: about 60 numbers, where others have 128 or more. Large blocks would spill.
    pub few_registers: bool,
}

impl Caps {
    /// Returns the number of invocations for a workgroup that needs no particular number. It is the largest power of two that
    /// exceeds neither `most` nor the limit of the device.
    ///
    /// ```
    /// use downhill::kernel::Caps;
    /// assert_eq!(Caps { max_invocations: 100, ..Caps::default() }.workgroup(256), 64);
    /// assert_eq!(Caps { max_invocations: 1024, ..Caps::default() }.workgroup(256), 256);
    /// ```
    pub fn workgroup(&self, most: u32) -> usize {
        1 << self.max_invocations.min(most).max(1).ilog2()
    }
}

impl Default for Caps {
    /// Returns WebGPU's default limits. The device is hardware and has no optional features.
    fn default() -> Caps {
        Caps {
            max_bindings: 8,
            max_binding_bytes: 128 << 20,
            max_workgroup_bytes: 16384,
            max_invocations: 256,
            software: false,
            subgroups: None,
            few_registers: false,
        }
    }
}
