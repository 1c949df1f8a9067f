//! The data by which an op describes its kernels to the GPU side. This data contains no wgpu type.
//!
//! A [`Kernel`] is one way to compute an op: one or more [`Pass`]es over a WGSL file. The declarations that WGSL
//! needs (the uniform `p`, the bindings, the constants) are written from this data, so that the Rust and the WGSL
//! side cannot disagree; the file holds functions only. `shaders/README.md` has the conventions.

use crate::shape::DType;
use std::marker::PhantomData;

/// Every range of a flat buffer starts at a multiple of this many elements (256 bytes), so that it can be bound on any device.
pub(crate) const ALIGN: usize = 64;

/// A WGSL file: its name in `shaders/` without the ending, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The name in errors and in labels.
    pub name: &'static str,
    /// WGSL, with `//!include` lines.
    pub text: &'static str,
}

/// `source!("matmul")`: the file `shaders/matmul.wgsl`.
#[macro_export]
macro_rules! source {
    ($name:literal) => {
        $crate::kernel::Source { name: $name, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")) }
    };
}
pub use source;

/// Whether the WGSL of the type `T`, an op or an optimizer's rule, is compiled with checks.
///
/// With checks, WGSL reaches no memory outside of its bindings, whatever it does: an index is moved into its array, a division by
/// zero has a result, every loop ends, and the memory of a workgroup starts as zeros. Checks take time on some drivers, so the library
/// turns them off for its own ops and rules, and for them alone. An author who has proved a kernel can do the same:
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
/// The promise is of one type: another op that takes over its kernels or its WGSL makes no promise by it.
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
    /// For all shapes that the op accepts, and for all contents of the inputs, whatever it returns as kernels (as WGSL, of a rule)
    /// - uses only indices inside of its bindings, its arrays and its vectors;
    /// - divides no integer by zero, nor the least integer by −1;
    /// - ends each of its loops;
    /// - reads only those parts of the memory of a workgroup that it has written before.
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
    /// An `f32` in WGSL, exact to the bit.
    F(f32),
}

impl From<usize> for Word {
    /// Element counts fit: a tensor of more than `u32::MAX` elements is refused when the graph is planned.
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

/// The tensor behind a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The i-th input of the op (of an update: see [`crate::optim`]).
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
    /// Every dispatch sees the whole tensor, and any unit may write to it: flags, for example, that a unit can only raise. So the
    /// result does not depend on the number of dispatches.
    Flags,
    /// Unit `u` touches exactly the elements `u·n .. (u+1)·n`. Where a binding would be too large, the pass is
    /// dispatched several times, each over a range of units, and the shader sees only that range: it indexes
    /// these tensors from 0, and adds `p.first` where it needs the unit's number in the whole.
    PerUnit(usize),
    /// Unit `u` touches only elements of block `u / units`, which has `elements` of them: the images that the tiles of
    /// an image lie in, say. Split as `PerUnit` is, between blocks: the shader sees the tensor from its first block on.
    Blocks {
        /// The number of units of a block.
        units: usize,
        /// The number of elements of a block. The last block of a tensor may have fewer.
        elements: usize,
    },
    /// Unit `u` touches at most `chunk` elements from `u / chunks · line + u % chunks · chunk` on: pieces of lines that
    /// need not be multiples of anything. Split as `PerUnit` is, but a window may start anywhere: the shader sees the
    /// tensor from the last multiple of 64 elements at or before its first unit's start.
    Lines {
        /// The number of elements of a line.
        line: usize,
        /// The number of units of a line.
        chunks: usize,
        /// The number of elements of a unit. The last unit of a line may have fewer.
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

/// One `@binding`: `var<storage, read> name: array<dtype>`, or `read_write` where it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Bind {
    /// The variable's name in the shader.
    pub name: String,
    /// The tensor behind it.
    pub which: Which,
    /// The element type of the tensor.
    pub dtype: DType,
    /// The part of the tensor that a dispatch sees.
    pub span: Span,
    /// Whether the shader writes it.
    pub write: bool,
    /// Whether the shader sees four elements as one, `array<vec4<f32>>`. Their number is a multiple of four, and so is
    /// where a window of them starts.
    pub vec4: bool,
}

impl Bind {
    /// Input `i`, bound whole, read only.
    pub fn input(name: impl Into<String>, i: usize, dtype: DType) -> Bind {
        Bind { name: name.into(), which: Which::In(i), dtype, span: Span::Whole, write: false, vec4: false }
    }
    /// The output, bound whole.
    pub fn output(name: impl Into<String>, dtype: DType) -> Bind {
        Bind { name: name.into(), which: Which::Out, dtype, span: Span::Whole, write: true, vec4: false }
    }
    /// A scratch buffer of `f32`, bound whole, read only.
    pub fn scratch(name: impl Into<String>, index: usize) -> Bind {
        Bind { name: name.into(), which: Which::Scratch(index), dtype: DType::F32, span: Span::Whole, write: false, vec4: false }
    }
    /// The same, written as well as read.
    pub fn written(self) -> Bind {
        Bind { write: true, ..self }
    }
    /// The same, seen by the shader as vectors of four elements.
    pub fn vec4(self) -> Bind {
        Bind { vec4: true, ..self }
    }
    /// The same, written by whichever unit has a flag to raise.
    pub fn flags(self) -> Bind {
        Bind { span: Span::Flags, write: true, ..self }
    }
    /// The same, of which unit `u` touches the elements `u·n .. (u+1)·n`.
    pub fn per_unit(self, n: usize) -> Bind {
        Bind { span: Span::PerUnit(n), ..self }
    }
    /// The same, of which `units` units together touch a block of `elements` elements.
    pub fn blocks(self, units: usize, elements: usize) -> Bind {
        Bind { span: Span::Blocks { units, elements }, ..self }
    }
}

/// One dispatch (or several, see [`Span::PerUnit`]).
///
/// The shader sees `p.first` (the first unit of this dispatch), `p.units` (how many) and the `params` as fields of
/// the uniform `p`, the `consts` as WGSL constants, and the `binds` in order. `lib/index.wgsl` turns the folded
/// workgroup id back into one number.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// The file with the entry point.
    pub source: Source,
    /// `forward`, `grad_x`, …, with a suffix for a strategy.
    pub entry: &'static str,
    /// WGSL constants. Each set of constants makes another pipeline, so constants are for flags and tile sizes.
    pub consts: Vec<(&'static str, Word)>,
    /// Fields of the uniform `p`, for sizes and numbers. Other values need no other pipeline.
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
    /// The strategy, e.g. `tiled`; it names the candidate in reports.
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
    /// Invocations of every subgroup, where the device has subgroups and all of them are of one size. Where sizes differ this is `None`:
    /// the order of a sum by subgroups would follow the size that the driver picks, and the bits of the sum too.
    pub subgroups: Option<u32>,
}

impl Caps {
    /// How many invocations a workgroup has that needs no particular number of them: a power of two, `most` of them if the device
    /// allows so many.
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
    /// WebGPU's default limits, on hardware, without optional features.
    fn default() -> Caps {
        Caps {
            max_bindings: 8,
            max_binding_bytes: 128 << 20,
            max_workgroup_bytes: 16384,
            max_invocations: 256,
            software: false,
            subgroups: None,
        }
    }
}
