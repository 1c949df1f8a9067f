//! Cumulative sums along an axis.
//!
//! `y[o,i,c] = Σ_{k ≤ i} x[o,k,c]`, or `Σ_{k ≥ i} x[o,k,c]` in reverse. Each of the two is the gradient of the other.

use super::*;
use crate::{
    kernel::{Bind, Pass, Word, source},
    threads::{TASK, chunk, chunks},
};
use std::panic::Location;

/// The op: cumulative sums along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cumsum {
    /// The axis of the sums.
    pub axis: usize,
    /// Whether the sum starts at the last element instead of the first.
    pub reverse: bool,
}

impl Cumsum {
    /// Returns the positions along a line of `n` elements, in the order of the sum.
    fn order(&self, n: usize) -> impl Iterator<Item = usize> + use<> {
        let reverse = self.reverse;
        (0..n).map(move |i| if reverse { n - 1 - i } else { i })
    }
}

impl OpDef for Cumsum {
    const NAME: &'static str = "cumsum";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
        if self.axis >= x.rank() {
            return Err(format!("there is no axis {}", self.axis));
        }
        Ok(*x)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let [outer, n, inner] = x[0].shape.around(self.axis);
        for (o, c) in (0..outer).flat_map(|o| (0..inner).map(move |c| (o, c))) {
            let mut sum = T::zero();
            for i in self.order(n) {
                let at = (o * n + i) * inner + c;
                sum += x[0].f[at];
                y.f[at] = sum;
            }
        }
    }
    /// Computes the sums in `f64`, as PyTorch does on a CPU. So a long line loses no digits.
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        let block = n * inner;
        let each = (TASK / block).max(1) * block;
        chunks(y.f, each, |k, y| {
            let x = chunk(x[0].f, each, k);
            let mut sums = vec![0.0f64; inner];
            for (y, x) in y.chunks_mut(block).zip(x.chunks(block)) {
                sums.fill(0.0);
                for row in self.order(n).map(|i| i * inner..(i + 1) * inner) {
                    for ((sum, y), x) in sums.iter_mut().zip(&mut y[row.clone()]).zip(&x[row]) {
                        *sum += f64::from(*x);
                        *y = *sum as f32;
                    }
                }
            }
        });
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // x[k] is a term of every later sum.
        vec![Some(dy.graph.apply(Cumsum { reverse: !self.reverse, ..*self }, &[dy]))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let sizes = x[0].around(self.axis);
        let mut ways = vec![Way::walk(sizes, caps)];
        // On a software adapter, barriers cost more than a walk.
        if sizes[1] > SHORT && !caps.software {
            ways.push(Way::scan(sizes, caps));
        }
        ways.into_iter().map(|way| way.kernel(self.reverse)).collect()
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].dims()[self.axis]
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize], axis, reverse| {
            let x = Shape::new(dims).expect("at most six axes");
            Case::new(format!("{x} over {axis}{}", if reverse { ", reverse" } else { "" }), Cumsum { axis, reverse }, &[x])
        };
        let both = |(dims, axis): (&[usize], usize)| [false, true].map(|reverse| case(dims, axis, reverse));
        let mut cases: Vec<Case> = [
            // A single number, a line, lines of one element, and axes at the front, in the middle and at the back.
            (&[1][..], 0),
            (&[13], 0),
            (&[7, 1], 1),
            (&[3, 5, 2, 11], 0),
            (&[3, 5, 2, 11], 1),
            (&[3, 5, 2, 11], 3),
            // One below, at and above a workgroup of lines, and of elements.
            (&[63, 3], 1),
            (&[65, 33], 1),
            (&[2, 255], 1),
            (&[2, 1025], 1),
            // Columns that do not fill their block.
            (&[2, 40, 37], 1),
        ]
        .into_iter()
        .flat_map(both)
        .collect();
        // Many lines; few long lines, which are cut into chunks; a short last chunk.
        cases.extend([case(&[2501, 13], 1, false), case(&[20_011], 0, false), case(&[20_011], 0, true)]);
        cases.extend([case(&[2, 5003, 3], 1, true), case(&[9001, 5], 0, false)]);
        cases
    }
}

/// The largest length of lines for which a scan is no candidate.
const SHORT: usize = 32;
/// The number of elements that an invocation of a scan adds up before the invocations combine their sums. The shader calls it
/// `EACH`.
const EACH: usize = 4;
/// The largest number of neighbouring lines that a workgroup scans side by side.
const COLUMNS: usize = 32;
/// The number of units that keeps any GPU busy. If there are fewer lines, they are cut into chunks.
const WALKS: usize = 8192;
const SCANS: usize = 512;
/// The largest number of chunks of a line. Each chunk adds up the totals of all chunks before it.
const CHUNKS: usize = 256;

/// The division of `[outer, n, inner]` among invocations.
struct Way {
    sizes: [usize; 3],
    /// The number of invocations in a workgroup: `columns` neighbouring lines times the parts of each line.
    workgroup: usize,
    columns: usize,
    /// The number of elements in a chunk. If lines are not cut, it is the length of a line.
    chunk: usize,
    scan: bool,
}

impl Way {
    /// Returns the way in which each invocation walks along a chunk of one line.
    fn walk(sizes: [usize; 3], caps: &Caps) -> Way {
        let [outer, n, inner] = sizes;
        let chunks = (n / 64).min(WALKS / (outer * inner)).clamp(1, CHUNKS);
        Way { sizes, workgroup: caps.workgroup(64), columns: 1, chunk: n.div_ceil(chunks), scan: false }
    }
    /// Returns the way in which each workgroup moves along a chunk of neighbouring lines, one tile at a time. A tile has `EACH`
    /// elements for each invocation.
    fn scan(sizes: [usize; 3], caps: &Caps) -> Way {
        let [outer, n, inner] = sizes;
        let most = caps.workgroup(256);
        let columns = inner.next_power_of_two().min(COLUMNS).min(most);
        let lanes = n.div_ceil(EACH).next_power_of_two().min(most / columns);
        let (groups, tile) = (outer * inner.div_ceil(columns), lanes * EACH);
        let chunks = (n / (2 * tile)).min(SCANS / groups).clamp(1, CHUNKS);
        let chunk = n.div_ceil(chunks).next_multiple_of(tile).min(n);
        Way { sizes, workgroup: lanes * columns, columns, chunk, scan: true }
    }
    fn kernel(&self, reverse: bool) -> Kernel {
        let [outer, n, inner] = self.sizes;
        let chunks = n.div_ceil(self.chunk);
        // A unit is a workgroup of a scan, or an invocation of a walk.
        let (across, per_group) = if self.scan { (inner.div_ceil(self.columns), 1) } else { (inner, self.workgroup) };
        // The number of units of all lines with the same outer index. A dispatch may be split between outer indices.
        let units = chunks * across;
        let whole = |bind: Bind| bind.blocks(units, n * inner);
        let total = || Bind::scratch("total", 0).blocks(units, units / across * inner);
        let pass = |entry, binds| Pass {
            source: source!("cumsum"),
            entry,
            consts: vec![
                ("WG", self.workgroup.into()),
                ("COLUMNS", self.columns.into()),
                ("EACH", EACH.into()),
                ("REVERSE", u32::from(reverse).into()),
            ],
            params: [("n", n), ("inner", inner), ("across", across), ("chunk", self.chunk), ("chunks", chunks)]
                .map(|(name, x)| (name.to_string(), Word::from(x)))
                .into(),
            binds,
            code: String::new(),
            units: outer * units,
            per_group,
            step: false,
        };
        let (x, y) = (whole(Bind::input("x", 0, DType::F32)), whole(Bind::output("y", DType::F32)));
        let (name, [one, totals, rest]) = match self.scan {
            false => ("walk", ["forward", "totals", "forward_chunks"]),
            true => ("scan", ["forward_scan", "totals_scan", "forward_chunks_scan"]),
        };
        if chunks == 1 {
            return Kernel::one(name, pass(one, vec![x, y]));
        }
        let passes = vec![pass(totals, vec![x.clone(), total().written()]), pass(rest, vec![x, total(), y])];
        Kernel { name, passes, scratch: vec![outer * chunks * inner] }
    }
}

impl<'g> Tensor<'g> {
    /// Returns the cumulative sums along `axis`: `y[i] = x[0] + … + x[i]`. A negative `axis` counts from the last axis. The result
    /// has the shape of `self`. PyTorch calls it `torch.cumsum`. The gradient is the cumulative sum from the other end.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2, 3]).cumsum(-1)])?;
    /// let y = f.run(&[Host::new([2, 3], vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0])])?;
    /// assert_eq!(y[0].f(), &[1.0, 3.0, 6.0, 10.0, 30.0, 60.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if there is no such axis, or if the tensor has labels.
    #[track_caller]
    pub fn cumsum(self, axis: isize) -> Tensor<'g> {
        let x = self.shape();
        match x.axis(axis) {
            _ if self.is_dead() => self,
            Some(axis) => self.apply(Cumsum { axis, reverse: false }),
            None if x.is_scalar_along(axis) => self.reshape([1]).apply(Cumsum { axis: 0, reverse: false }).reshape([]),
            None => self.graph.mistake("cumsum", &[x], format!("there is no axis {axis}"), Location::caller()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn golden() {
        checks::golden("cumsum", |args, x| x[0].cumsum(args["axis"].as_i64().unwrap() as isize));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Cumsum>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Cumsum>();
    }
    #[test]
    fn mistakes() {
        let start = |write: &dyn for<'g> Fn(&'g crate::Graph) -> Tensor<'g>, text: &str| {
            let g = crate::Graph::training();
            assert!(write(&g).is_dead());
            let message = g.error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text), "{message}");
        };
        start(&|g| g.input([4, 3]).cumsum(2), "cumsum: [4, 3]: there is no axis 2 (src/ops/cumsum.rs:");
        start(&|g| g.labels([4]).cumsum(0), "cumsum: u32 [4]: takes floats, not labels (see to_f32) (src/ops/cumsum.rs:");
    }
    /// Long lines are cut. A scan is a candidate on hardware only.
    #[test]
    fn ways() {
        let kernels = |dims: &[usize], caps: Caps| {
            let x = Shape::new(dims).unwrap();
            let all = OpDef::kernels(&Cumsum { axis: dims.len() - 1, reverse: false }, &[x], x, &caps);
            all.iter().map(|k| (k.name, k.passes.len())).collect::<Vec<_>>()
        };
        let software = Caps { software: true, ..Caps::default() };
        assert_eq!(kernels(&[1 << 20], Caps::default()), [("walk", 2), ("scan", 2)]);
        assert_eq!(kernels(&[1 << 20], software), [("walk", 2)]);
        assert_eq!(kernels(&[8192, 1024], Caps::default()), [("walk", 1), ("scan", 1)]);
        assert_eq!(kernels(&[8192, 10], Caps::default()), [("walk", 1)]);
    }
}
