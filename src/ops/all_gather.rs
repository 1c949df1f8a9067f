//! Gathers a tensor from all ranks that train one model together. Batch norm exchanges its statistics by it (see `synced`).

use super::*;

/// The op: `[…]` of each rank → `[ranks, …]`, with the values of rank r in row r. A run of the plan pauses at this op, because the
/// values come from other ranks. All ranks run the same ops of this kind, in the same order.
///
/// With one rank the op is a reshape. A definition knows the values of one rank alone, so it takes them for the values of each rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllGather {
    /// The number of ranks.
    pub ranks: usize,
}

impl OpDef for AllGather {
    const NAME: &'static str = "all_gather";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
        Shape::new(&[&[self.ranks], x.dims()].concat()).ok_or_else(|| "the result has more than 6 axes".into())
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        y.f.chunks_mut(x[0].f.len()).for_each(|row| row.copy_from_slice(x[0].f));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let why = "has no gradient of its own over ranks; the op that uses its result has one";
        vec![Some(match self.ranks {
            1 => dy.reshape(x[0].shape()),
            _ => dy.graph.mistake(Self::NAME, x, why.into(), x[0].place()),
        })]
    }
    fn kernels(&self, _x: &[Shape], _y: Shape, _caps: &Caps) -> Vec<Kernel> {
        Vec::new()
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn is_alias(&self) -> bool {
        self.ranks == 1
    }
    fn cases() -> Vec<Case> {
        let case = |x: &[usize]| Case::new(format!("{x:?}"), AllGather { ranks: 1 }, &[Shape::new(x).expect("at most six axes")]);
        vec![case(&[]), case(&[7]), case(&[3, 5])]
    }
}

/// Whether a run of a plan pauses at this op, for the values of other ranks.
pub(crate) fn is_exchange(op: &dyn Op) -> bool {
    let op: &dyn Any = op;
    op.downcast_ref::<AllGather>().is_some_and(|op| op.ranks > 1)
}

impl<'g> Tensor<'g> {
    /// Returns this tensor of each of `ranks` ranks: `[…]` → `[ranks, …]`.
    #[track_caller]
    pub(super) fn all_gather(self, ranks: usize) -> Tensor<'g> {
        self.apply(AllGather { ranks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<AllGather>();
    }
    #[test]
    fn over_ranks() {
        let g = Graph::training();
        let y = g.input([2, 3]).all_gather(4);
        assert_eq!(y.shape().dims(), [4, 2, 3]);
        assert!(!OpDef::is_alias(&AllGather { ranks: 4 }) && is_exchange(&AllGather { ranks: 4 }) && !is_exchange(&AllGather { ranks: 1 }));
        let (x, mut all) = ([1.0, -2.0], [0.0; 6]);
        let shapes = [Shape::from([2]), Shape::from([3, 2])];
        let view = View { shape: shapes[0], f: &x, u: &[] };
        OpDef::cpu(&AllGather { ranks: 3 }, &[view], &mut ViewMut { shape: shapes[1], f: &mut all, u: &mut [] }, Key::default());
        assert_eq!(all, [1.0, -2.0, 1.0, -2.0, 1.0, -2.0]);
    }
    #[test]
    fn mistakes() {
        checks::mistake(&|g| g.labels([2]).all_gather(2), "all_gather: u32 [2]: takes floats, not labels (see to_f32) (");
        checks::mistake(&|g| g.input([1; 6]).all_gather(2), "all_gather: [1, 1, 1, 1, 1, 1]: the result has more than 6 axes (");
        let why = "all_gather: [2]: has no gradient of its own over ranks; the op that uses its result has one (";
        checks::mistake(
            &|g| {
                let x = g.input([2]);
                x.all_gather(2).sum_all().grad(&[x])[0]
            },
            why,
        );
    }
}
