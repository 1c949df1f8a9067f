//! Picks the element of each row that a label names. Also turns labels into one-hot rows.
//!
//! `y[r] = x[r, label[r]]`. `one_hot(label)[r,j] = [j = label[r]]` is elementwise and has no kernel of its own.
//!
//! Labels from the host are checked before anything runs. A label that the graph computes may name no class. Its result is NaN, so
//! the step is not finite and training notices it.

use super::{cross_entropy::check, gather_rows::GatherRows, *};
use crate::{
    graph::NodeKind,
    kernel::{Bind, Pass, source},
};
use std::panic::Location;

/// The op: x `[.., k]`, labels `[..]` → `[..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick;

impl OpDef for Pick {
    const NAME: &'static str = "pick";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x, labels] = x else { return Err(format!("takes rows and labels, not {} inputs", x.len())) };
        check(*x, *labels)?;
        Ok(labels.of(DType::F32))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let k = x[0].shape.last();
        for (r, y) in y.f.iter_mut().enumerate() {
            *y = x[0].f[r * k..][..k].get(x[1].u[r] as usize).copied().unwrap_or(T::nan());
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // A label that names no class picks no element of x. So the gradient of that row is 0.
        vec![Some(is_class(x[1], x[0].shape().last()) * dy.unsqueeze(-1)), None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let (k, wg) = (x[0].last(), caps.workgroup(256));
        let pass = Pass {
            source: source!("pick"),
            entry: "forward",
            consts: vec![("WG", wg.into())],
            params: vec![("k".into(), k.into())],
            binds: vec![
                Bind::input("x", 0, DType::F32).per_unit(k),
                Bind::input("labels", 1, DType::U32).per_unit(1),
                Bind::output("y", DType::F32).per_unit(1),
            ],
            code: String::new(),
            units: y.elements(),
            per_group: wg,
            step: false,
        };
        vec![Kernel::one("rows", pass)]
    }
    fn bytes(&self, x: &[Shape], y: Shape) -> u64 {
        // The op reads one element of each row.
        x[1].bytes() + 2 * y.bytes()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, x[0].last())
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize]| {
            let x = Shape::new(dims).expect("at most six axes");
            let rows = x.without(x.rank() - 1);
            Case::new(format!("{rows} rows of {}", x.last()), Pick, &[x, rows])
        };
        [&[1][..], &[1, 1], &[7, 5], &[2, 3, 4], &[255, 3], &[256, 3], &[257, 3], &[70_001, 2]].map(case).into()
    }
}

/// Returns rows `[.., classes]` that are 1 at the label and 0 elsewhere.
#[track_caller]
fn is_class<'g>(labels: Tensor<'g>, classes: usize) -> Tensor<'g> {
    let numbers = labels.graph.constant(Host::new([classes], (0..classes).map(|i| i as f32).collect()));
    labels.unsqueeze(-1).eq(numbers)
}

/// Returns true if the labels are those of an input or a constant, in the same order. The host has checked such labels.
fn is_checked(labels: Tensor) -> bool {
    let (graph, mut id) = (labels.graph.inner.borrow(), labels.id);
    loop {
        let node = &graph.nodes[id];
        match &node.kind {
            NodeKind::Op(op) if op.is_alias() => id = node.inputs[0],
            kind => return matches!(kind, NodeKind::Input(_) | NodeKind::Constant(_)),
        }
    }
}

impl<'g> Tensor<'g> {
    /// Returns `y[r] = x[r, labels[r]]`. x is `[.., k]`, the labels are `[..]`, and the result is `[..]`.
    ///
    /// Each label must be below k. A wrong label from the host is an error before anything runs. If the graph computes a wrong
    /// label, the result is NaN. In training, NaN ends in [`Error::Diverged`](crate::Error::Diverged).
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2, 3]).pick(g.labels([2]))])?;
    /// let x = Host::new([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// assert_eq!(f.run(&[x, Host::labels([2], vec![2, 0])])?[0].f(), &[3.0, 4.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn pick(self, labels: Tensor<'g>) -> Tensor<'g> {
        let y = self.graph.apply(Pick, &[self, labels]);
        if !y.is_dead() {
            self.graph.require_classes(labels, self.shape().last());
        }
        y
    }
    /// Returns rows `[.., classes]` for labels `[..]`. A row is 1 at its label and 0 elsewhere. A wrong label from the host is an
    /// error before anything runs. If the graph computes a wrong label, its row is NaN.
    #[track_caller]
    pub fn one_hot(self, classes: usize) -> Tensor<'g> {
        let (s, place) = (self.shape(), Location::caller());
        if self.is_dead() {
            return self;
        }
        let why = match (s.dtype(), classes) {
            (DType::F32, _) => "takes labels, not floats".to_string(),
            (_, 0) => "the number of classes must be 1 or more".to_string(),
            // Floats represent all whole numbers up to this limit.
            (_, n) if n > 1 << 24 => format!("{n} are more than 16,777,216 classes"),
            _ => String::new(),
        };
        if !why.is_empty() {
            return self.graph.mistake("one_hot", &[self], why, place);
        }
        self.graph.require_classes(self, classes);
        let rows = is_class(self, classes);
        if is_checked(self) {
            return rows;
        }
        // Each element is 1, or NaN if there is no such class.
        let ones = self.graph.full(Shape::from([classes]), 1.0);
        rows * self.graph.apply(GatherRows, &[ones, self]).unsqueeze(-1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn golden() {
        checks::golden("pick", |_, x| x[0].pick(x[1]));
        checks::golden("one_hot", |args, x| x[0].one_hot(args["classes"].as_u64().unwrap() as usize));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Pick>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Pick>();
    }
    #[test]
    fn labels_are_bounded_by_what_takes_them() {
        let g = Graph::training();
        let (a, b) = (g.labels([4]), g.labels([4]));
        let x = g.input([4, 7]);
        let _ = (x.pick(a), a.one_hot(5), b.reshape([2, 2]).one_hot(9), g.constant(Host::labels([2], vec![8, 0])).one_hot(9));
        assert!(g.error().is_none());
        let classes: Vec<Option<usize>> = g.inner.borrow().inputs.iter().map(|i| i.classes.map(|below| below.count)).collect();
        assert_eq!(classes, [Some(5), Some(9), None]);
        let wrong = Graph::training();
        let x8 = wrong.input([3, 8]);
        assert!(x8.pick(wrong.constant(Host::labels([3], vec![7, 8, 0]))).sum_all().is_dead());
        let text = wrong.error().map_or(String::new(), |e| e.to_string());
        assert_eq!(text, "label 8 in row 1 is not one of the 8 classes (0 to 7)");
        assert!(x.one_hot(3).is_dead());
        assert!(g.error().is_some_and(|e| e.to_string().starts_with("one_hot: [4, 7]: takes labels, not floats (src/ops/pick.rs:")));
    }
}
