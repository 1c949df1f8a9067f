//! Ops that measure the best speed of a device. Models do not use them. [`Device::peaks`](crate::Device::peaks) does.

use super::*;
use crate::kernel::{Bind, Pass, source};

/// The op. Each variant measures one speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `[a, b]` → `y [invocations]`. Each invocation has twelve numbers c, which start with different values. A round replaces each
    /// c by a·c + b, four times. The result is the sum of the twelve c.
    MultiplyAdd {
        /// The number of elements of y.
        invocations: usize,
        /// The number of rounds.
        rounds: usize,
    },
    /// y = x.
    Copy,
}

/// The number of c in an invocation.
const CHAINS: usize = 12;
/// The number of changes of each c in a round.
const TIMES: usize = 4;

impl OpDef for Probe {
    const NAME: &'static str = "probe";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        match (*self, x) {
            (_, [x]) if x.dtype() != DType::F32 => Err("takes floats, not labels".into()),
            (Probe::MultiplyAdd { invocations, .. }, [x]) if x.elements() == 2 => Ok(Shape::from([invocations])),
            (Probe::Copy, [x]) => Ok(*x),
            _ => Err("takes one tensor; `MultiplyAdd` takes a tensor of two numbers".into()),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let Probe::MultiplyAdd { rounds, .. } = *self else { return y.f.copy_from_slice(x[0].f) };
        for (i, y) in y.f.iter_mut().enumerate() {
            let chain = |k: usize| (0..TIMES * rounds).fold(T::of((i % 64 + k) as f64), |c, _| c * x[0].f[0] + x[0].f[1]);
            *y = (0..CHAINS).map(chain).fold(T::zero(), |sum, c| sum + c);
        }
    }
    fn vjp<'g>(&self, _: &[Tensor<'g>], _: Tensor<'g>, _: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![None]
    }
    fn kernels(&self, _: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let wg = caps.workgroup(256);
        let (entry, x) = ("multiply_add", Bind::input("x", 0, DType::F32));
        let (entry, x, params, per_group) = match *self {
            Probe::MultiplyAdd { rounds, .. } => (entry, x, vec![("rounds".to_string(), rounds.into())], wg),
            Probe::Copy => ("copy", x.per_unit(1), Vec::new(), 4 * wg),
        };
        let pass = Pass {
            source: source!("probe"),
            entry,
            consts: vec![("WG", wg.into())],
            params,
            binds: vec![x, Bind::output("y", DType::F32).per_unit(1)],
            code: String::new(),
            units: y.elements(),
            per_group,
            step: false,
        };
        vec![Kernel::one(entry, pass)]
    }
    fn flops(&self, _: &[Shape], y: Shape) -> u64 {
        match *self {
            Probe::MultiplyAdd { rounds, .. } => (y.elements() * rounds * TIMES * CHAINS * 2) as u64,
            Probe::Copy => 0,
        }
    }
    fn terms(&self, _: &[Shape]) -> usize {
        match *self {
            Probe::MultiplyAdd { rounds, .. } => CHAINS + TIMES * rounds,
            Probe::Copy => 1,
        }
    }
    fn cases() -> Vec<Case> {
        let chains = |invocations: usize, rounds: usize| {
            let probe = Probe::MultiplyAdd { invocations, rounds };
            Case::new(format!("{invocations} times {rounds} rounds"), probe, &[[2].into()]).range(0, 0.4, 0.6).flat()
        };
        let copy = |n: usize| Case::new(format!("copy {n}"), Probe::Copy, &[[n].into()]).flat();
        let sizes = [(1, 1), (63, 5), (257, 3), (70_001, 1)].map(|(n, rounds)| chains(n, rounds));
        sizes.into_iter().chain([1, 1023, 1024, 1025, 70_001].map(copy)).collect()
    }
}
