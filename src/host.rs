//! Tensors in host memory, and their number types: `f32` on the CPU device, `f64` in the oracle.

use crate::{
    error::{Error, Result},
    shape::{DType, Shape},
    simd::wide,
};
use bytemuck::{Pod, Zeroable, allocation::try_zeroed_vec};
use std::{fmt, ops::AddAssign};

/// The number type of a computation on the CPU. An op has one reference implementation, generic over this type.
pub trait Real: num_traits::Float + bytemuck::Pod + AddAssign + Send + Sync + fmt::Debug + fmt::Display + 'static {
    /// Returns the nearest value to `x`.
    fn of(x: f64) -> Self;
    /// Converts to `f64`. The result is exact.
    fn f64(self) -> f64;
    /// Runs a loop. For `f32` the loop is compiled for the vectors of this machine as well.
    fn run<R>(f: impl FnOnce() -> R) -> R;
    /// Returns eˣ. For `f32` this function has no calls and no branches, so the compiler can vectorise loops over it.
    fn vexp(self) -> Self {
        self.exp()
    }
    /// Returns tanh x. For `f32` this function has no calls and no branches, so the compiler can vectorise loops over it.
    fn vtanh(self) -> Self {
        self.tanh()
    }
    /// Returns eˣ for an exponent that has more digits than `Self`. An exponent rounded to `f32` is not enough: near −50, one unit
    /// in its last place changes the result by about 50 units in its last place.
    fn exp_of(x: f64) -> Self;
    /// Returns Φ(x), the distribution function of the normal distribution, and e^(−x²/2). Both results are precise even where they
    /// are small.
    fn normal(self) -> (Self, Self);
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn f64(self) -> f64 {
        self as f64
    }
    #[inline(always)]
    fn run<R>(f: impl FnOnce() -> R) -> R {
        wide(f)
    }
    // The polynomials come from Cephes (Moshier 1989), expf and tanhf. The error is below two units in the last place.
    #[inline(always)]
    fn vexp(self) -> f32 {
        // The limits are where eˣ becomes infinity and 0. NaN passes through.
        let x = if self > 89.0 { 89.0 } else { self };
        let x = if x < -104.0 { -104.0 } else { x };
        // x = n·ln 2 + r. The large number ROUND leaves no bits for a fraction. So the sum rounds to a whole number, and n is in
        // its last bits.
        const ROUND: f32 = 12_582_912.0;
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
        let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r + 0.5;
        let p = p * (r * r) + r + 1.0;
        // 2ⁿ as a product of two powers, so that results below the smallest normal number are possible.
        let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        p * power(n >> 1) * power(n.wrapping_sub(n >> 1))
    }
    #[inline(always)]
    fn vtanh(self) -> f32 {
        let (a, z) = (self.abs(), self * self);
        let p = (((-5.704_988_7e-3 * z + 2.063_909e-2) * z - 5.373_971_6e-2) * z + 1.333_144_2e-1) * z - 3.333_328e-1;
        let near = p * z * self + self;
        let far = 1.0 - 2.0 / ((a + a).vexp() + 1.0);
        (if a < 0.625 { near } else { far }).copysign(self)
    }
    #[inline(always)]
    fn exp_of(x: f64) -> f32 {
        // Beyond these limits eˣ is infinity or 0. NaN passes through.
        let x = if x > 1e3 { 1e3 } else { x };
        let x = if x < -1e3 { -1e3 } else { x };
        let near = x as f32;
        near.vexp() * (1.0 + (x - near as f64) as f32)
    }
    // Φ(−a)·2e^(a²/2) is a smooth function of t = 1/(1 + a/√8). Here it is t times a polynomial: a least-squares fit with a
    // relative error below 6e-8.
    #[inline(always)]
    fn normal(self) -> (f32, f32) {
        const Q: [f32; 9] = [
            -0.058_889_173,
            0.283_694_62,
            -0.485_369_47,
            0.275_962_9,
            -0.025_167_814,
            0.202_065_91,
            0.243_261_95,
            0.282_353_37,
            0.282_087_68,
        ];
        let t = 1.0 / (1.0 + 0.5 * std::f32::consts::FRAC_1_SQRT_2 * self.abs());
        let q = Q.iter().skip(1).fold(Q[0], |sum, &c| sum * t + c);
        let e = f32::exp_of(-0.5 * self as f64 * self as f64);
        let tail = 0.5 * t * q * e;
        (if self > 0.0 { 1.0 - tail } else { tail }, e)
    }
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }
    fn f64(self) -> f64 {
        self
    }
    fn run<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    fn exp_of(x: f64) -> f64 {
        x.exp()
    }
    fn normal(self) -> (f64, f64) {
        // 1 + erf would lose digits in the left tail. erfc does not.
        (0.5 * libm::erfc(self * -std::f64::consts::FRAC_1_SQRT_2), (-0.5 * self * self).exp())
    }
}

/// Allocates `n` numbers, all 0. `what` describes them in the error. Memory pages are mapped when they are first touched.
///
/// # Errors
/// [`Error::Device`] if the host has not enough memory. (A `Vec` would end the process.)
pub(crate) fn zeros<T: Zeroable>(what: &str, n: usize) -> Result<Vec<T>> {
    let zeros = try_zeroed_vec(n).map_err(|()| {
        let bytes = (n as u64).saturating_mul(size_of::<T>() as u64);
        let why = format!("{what}: there is no memory for {bytes} bytes; a smaller model or batch needs less");
        Error::Device { device: "host memory".into(), why }
    })?;
    #[cfg(target_os = "linux")]
    large_pages(&zeros);
    Ok(zeros)
}

/// Asks Linux to map memory in pages of 2 MiB. A loop over much memory then waits less for the translation of addresses: an
/// update of 50 million parameters by Adam took 12 % less time.
#[cfg(target_os = "linux")]
fn large_pages<T>(memory: &[T]) {
    const PAGE: usize = 2 << 20;
    let bytes = memory.as_ptr_range();
    let (start, end) = (bytes.start.addr().next_multiple_of(PAGE), bytes.end.addr() / PAGE * PAGE);
    if start < end {
        // SAFETY: the pages lie in `memory`, and the advice changes no content. If Linux refuses it, the pages stay small.
        unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Copies numbers. `what` describes them in the error.
///
/// # Errors
/// [`Error::Device`] if the host has not enough memory.
pub(crate) fn copy<T: Pod>(what: &str, values: &[T]) -> Result<Vec<T>> {
    let mut copy = zeros(what, values.len())?;
    copy.copy_from_slice(values);
    Ok(copy)
}

/// The elements of a tensor in host memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Data<T> {
    /// Floats.
    Float(Vec<T>),
    /// Labels or indices.
    Index(Vec<u32>),
}

/// A tensor in host memory.
///
/// ```
/// use downhill::Host;
/// let x: Host = Host::new([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
/// let labels: Host = Host::labels([2], vec![1, 0]);
/// assert_eq!((x.shape.elements(), labels.u()), (6, &[1, 0][..]));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Host<T = f32> {
    /// The axes and the element type.
    pub shape: Shape,
    /// The elements, row-major.
    pub data: Data<T>,
}

impl<T: Real> Host<T> {
    /// Makes a tensor of floats from values in row-major order. If the number of values does not fit the shape, the first use of
    /// the tensor returns an error.
    pub fn new(shape: impl Into<Shape>, data: Vec<T>) -> Self {
        Host { shape: shape.into().of(DType::F32), data: Data::Float(data) }
    }
    /// Makes a tensor of labels or indices from values in row-major order.
    pub fn labels(shape: impl Into<Shape>, data: Vec<u32>) -> Self {
        Host { shape: shape.into().u32(), data: Data::Index(data) }
    }
    /// Returns a tensor of zeros with this shape and element type. If there is not enough memory, the tensor has no elements, and
    /// its first use returns an error. [`try_zeros`](Host::try_zeros) returns that error at once.
    pub fn zeros(shape: Shape) -> Self {
        let none = match shape.dtype() {
            DType::F32 => Data::Float(Vec::new()),
            DType::U32 => Data::Index(Vec::new()),
        };
        Host::try_zeros(shape).unwrap_or(Host { shape, data: none })
    }
    /// Returns a tensor of zeros with this shape and element type.
    ///
    /// ```
    /// use downhill::{Error, Host, Shape};
    /// assert_eq!(Host::<f32>::try_zeros(Shape::from([3]))?.f(), &[0.0; 3]);
    /// let error = Host::<f32>::try_zeros(Shape::from([usize::MAX]));
    /// assert!(matches!(error, Err(Error::Device { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] if there is not enough memory.
    pub fn try_zeros(shape: Shape) -> Result<Self> {
        let (what, n) = (format!("a tensor {shape}"), shape.elements());
        let data = match shape.dtype() {
            DType::F32 => Data::Float(zeros(&what, n)?),
            DType::U32 => Data::Index(zeros(&what, n)?),
        };
        Ok(Host { shape, data })
    }
    /// Returns the floats. The slice is empty for a tensor of labels.
    pub fn f(&self) -> &[T] {
        match &self.data {
            Data::Float(v) => v,
            Data::Index(_) => &[],
        }
    }
    /// Returns the labels. The slice is empty for a tensor of floats.
    pub fn u(&self) -> &[u32] {
        match &self.data {
            Data::Float(_) => &[],
            Data::Index(v) => v,
        }
    }
    /// Returns the number of stored elements. It may differ from the number of elements in the shape.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Float(v) => v.len(),
            Data::Index(v) => v.len(),
        }
    }
    /// Returns true if no element is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns every element as `f64`. Labels are converted, too.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(v) => v.iter().map(|x| x.f64()).collect(),
            Data::Index(v) => v.iter().map(|&x| x as f64).collect(),
        }
    }
    /// Returns this tensor in another precision.
    pub fn cast<U: Real>(&self) -> Host<U> {
        let data = match &self.data {
            Data::Float(v) => Data::Float(v.iter().map(|x| U::of(x.f64())).collect()),
            Data::Index(v) => Data::Index(v.clone()),
        };
        Host { shape: self.shape, data }
    }
    /// Returns true if this tensor has the shape and element type of `shape`, and stores that number of elements.
    pub fn fits(&self, shape: Shape) -> bool {
        let dtype = match self.data {
            Data::Float(_) => DType::F32,
            Data::Index(_) => DType::U32,
        };
        self.shape == shape && dtype == shape.dtype() && self.len() == shape.elements()
    }
    /// Returns `12 values` or `12 labels`, for errors.
    pub(crate) fn content(&self) -> String {
        format!("{} {}", self.len(), if let Data::Float(_) = self.data { "values" } else { "labels" })
    }
    /// Returns this tensor as an input of a reference computation.
    pub fn view(&self) -> View<'_, T> {
        View { shape: self.shape, f: self.f(), u: self.u() }
    }
    /// Returns this tensor as the output of a reference computation.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        let shape = self.shape;
        match &mut self.data {
            Data::Float(v) => ViewMut { shape, f: v, u: &mut [] },
            Data::Index(v) => ViewMut { shape, f: &mut [], u: v },
        }
    }
}

/// An input of a reference computation. `f` holds floats, and `u` holds labels. One of the two is empty.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    /// The axes and the element type.
    pub shape: Shape,
    /// The floats, row-major.
    pub f: &'a [T],
    /// The labels, row-major.
    pub u: &'a [u32],
}

/// The output of a reference computation. The computation must write every element.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    /// The axes and the element type.
    pub shape: Shape,
    /// The floats, row-major.
    pub f: &'a mut [T],
    /// The labels, row-major.
    pub u: &'a mut [u32],
}
