//! A problem: an op with sizes that stand for its class. Small sizes are for the oracle, larger sizes for the clock.

use crate::{
    error::Result,
    graph::{Graph, Tensor},
    host::Host,
    kernel::{Caps, Kernel},
    ops::{Fill, Op, fill},
    oracle,
    plan::{Plan, PlanOptions},
    shape::Shape,
};
use std::{collections::HashSet, panic::Location, sync::Arc};

/// The largest number of random elements in a tensor. The number is prime, so that the rows of a matrix differ.
const REPEATED: usize = 65_521;

/// The op that stands for a class (see [`OpDef::plain`](crate::ops::OpDef::plain)), with the shapes of its inputs and its
/// output.
#[derive(Clone)]
pub struct Problem {
    pub op: Arc<dyn Op>,
    pub x: Vec<Shape>,
    pub y: Shape,
    pub kernels: Vec<Kernel>,
}

impl Problem {
    /// Returns `None` if the op does not accept these shapes.
    pub fn new(op: &Arc<dyn Op>, mut x: Vec<Shape>, caps: &Caps) -> Option<Problem> {
        let plain = op.plain(&x);
        if plain.is_some() {
            x.truncate(op.class(&x).1.len());
        }
        let op = plain.as_ref().unwrap_or(op);
        let y = op.shape(&x).ok()?;
        let kernels = op.kernels(&x, y, caps);
        Some(Problem { op: op.clone(), x, y, kernels })
    }
    pub fn elements(&self) -> u64 {
        self.x.iter().chain([&self.y]).map(|s| s.elements() as u64).sum()
    }
    /// Returns the cost of the problem in floating-point operations, roughly. A load or a store counts as four operations.
    pub fn cost(&self) -> u64 {
        self.op.flops(&self.x, self.y) + 4 * self.elements()
    }
    /// Returns whether the candidates of both problems have the same kernels and the same constants.
    fn same_kernels(&self, other: &Problem) -> bool {
        let text = |p: &Problem| -> Vec<_> {
            let of = |k: &Kernel| (k.name, k.passes.iter().map(|p| (p.entry, p.consts.clone())).collect::<Vec<_>>());
            p.kernels.iter().map(of).collect()
        };
        text(self) == text(other)
    }

    /// Returns the problem with smaller sizes and the same kernels. The largest size is halved again and again, wherever it
    /// occurs, until `enough` is true or the op allows no smaller size. With `odd`, the reduced sizes are then changed to
    /// sizes that no tile divides.
    pub fn smaller(&self, caps: &Caps, enough: impl Fn(&Problem) -> bool, odd: bool) -> Problem {
        // Each pair holds the size in the whole problem and the current size. Equal sizes stay equal, even if they are equal
        // by chance.
        let mut dims: Vec<usize> = self.x.iter().flat_map(|s| s.dims()).copied().collect();
        dims.sort_unstable();
        dims.dedup();
        let mut sizes: Vec<(usize, usize)> = dims.into_iter().map(|d| (d, d)).collect();
        let (mut best, mut fixed) = (self.clone(), HashSet::new());
        while !enough(&best) {
            let open = sizes.iter().enumerate().filter(|(i, (_, now))| *now > 2 && !fixed.contains(i));
            let Some((i, now)) = open.max_by_key(|(_, (_, now))| now).map(|(i, &(_, now))| (i, now)) else { break };
            sizes[i].1 = now / 2;
            match self.resized(&sizes, caps) {
                Some(smaller) => best = smaller,
                None => {
                    sizes[i].1 = now;
                    fixed.insert(i);
                }
            }
        }
        if odd {
            for i in 0..sizes.len() {
                let (whole, now) = sizes[i];
                // The first try makes the size odd. The second try adds four: the size is then still a multiple that a kernel
                // may need, but not a multiple of a tile.
                for more in [1 - now % 2, 4] {
                    sizes[i].1 = now + more;
                    if let Some(other) = (now < whole && now > 1).then(|| self.resized(&sizes, caps)).flatten() {
                        best = other;
                        break;
                    }
                    sizes[i].1 = now;
                }
            }
        }
        best
    }
    fn resized(&self, sizes: &[(usize, usize)], caps: &Caps) -> Option<Problem> {
        let size = |d: &usize| sizes.iter().find(|(whole, _)| whole == d).map_or(*d, |(_, now)| *now);
        let resize = |s: &Shape| Some(Shape::new(&s.dims().iter().map(size).collect::<Vec<_>>())?.of(s.dtype()));
        let x: Vec<Shape> = self.x.iter().map(resize).collect::<Option<_>>()?;
        Problem::new(&self.op, x, caps).filter(|smaller| smaller.same_kernels(self))
    }

    /// Returns random inputs in the ranges that the op asks for.
    pub fn inputs(&self) -> Vec<Host<f32>> {
        self.drawn(&self.op.fills(&self.x))
    }
    fn drawn(&self, fills: &[Fill]) -> Vec<Host<f32>> {
        let tensor = |(i, (s, values)): (usize, (&Shape, &Fill))| {
            // A large tensor repeats a smaller random part, because drawing all elements would take longer than the timed
            // runs.
            let n = s.elements();
            let drawn = fill(Shape::from([n.min(REPEATED)]), values, 17 + i as u64);
            match values {
                Fill::Range(..) => Host::new(*s, drawn.f().iter().copied().cycle().take(n).collect()),
                Fill::Labels(_) => Host::labels(*s, drawn.u().iter().copied().cycle().take(n).collect()),
            }
        };
        self.x.iter().zip(fills).enumerate().map(tensor).collect()
    }
    /// Returns inputs, and the output by the op's definition in `f64`. If the output is not finite, the inputs are drawn again
    /// as positive numbers.
    pub fn oracle(&self) -> Result<(Vec<Host<f32>>, Vec<f64>)> {
        let g = Graph::inference();
        let y = self.tensor(&g);
        let mut inputs = self.inputs();
        let mut want = oracle::oracle(&g, &[y], &inputs)?.remove(0).to_f64();
        if want.iter().any(|v| !v.is_finite()) {
            let positive = |fill| if let Fill::Range(..) = fill { Fill::Range(0.25, 1.75) } else { fill };
            inputs = self.drawn(&self.op.fills(&self.x).into_iter().map(positive).collect::<Vec<_>>());
            want = oracle::oracle(&g, &[y], &inputs)?.remove(0).to_f64();
        }
        Ok((inputs, want))
    }
    /// Returns the plan that uses one candidate.
    pub fn plan(&self, candidate: usize, caps: &Caps) -> Result<Plan> {
        let g = Graph::inference();
        let options = PlanOptions { candidate: Some(candidate), fuse: false, ..PlanOptions::new(Some(*caps)) };
        Plan::new(&[self.tensor(&g)], &[], &options)
    }
    /// Adds the op to an empty graph and returns its output.
    fn tensor<'g>(&self, g: &'g Graph) -> Tensor<'g> {
        let x: Vec<Tensor> = self.x.iter().map(|s| g.input_of(*s)).collect();
        g.apply_at(self.op.clone(), &x, Location::caller())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::matmul::MatMul;

    fn caps() -> Caps {
        Caps { software: true, subgroups: Some(8), ..Caps::default() }
    }
    fn product(transpose_b: bool, m: usize, k: usize, n: usize) -> Problem {
        let op: Arc<dyn Op> = Arc::new(MatMul { transpose_b, ..MatMul::default() });
        let b = if transpose_b { [n, k] } else { [k, n] };
        Problem::new(&op, vec![Shape::from([m, k]), Shape::from(b)], &caps()).unwrap()
    }

    #[test]
    fn smaller_problems_have_the_same_kernels_and_awkward_sizes() {
        let whole = product(true, 1024, 784, 512);
        let small = whole.smaller(&caps(), |p| p.cost() <= 2 << 20, true);
        assert!(small.cost() <= 4 << 20, "{:?}", small.x);
        let consts = |p: &Problem| p.kernels.iter().flat_map(|k| k.passes.iter().map(|p| p.consts.clone())).collect::<Vec<_>>();
        assert_eq!(consts(&small), consts(&whole));
        assert!(small.x.iter().flat_map(|s| s.dims()).all(|d| d % 4 != 0 || d % 8 != 0), "{:?}", small.x);
        // A problem that is small enough does not change, even with `odd`.
        let tiny = product(false, 3, 5, 7);
        assert_eq!(tiny.smaller(&caps(), |p| p.cost() <= 2 << 20, true).x, tiny.x);
    }
}
