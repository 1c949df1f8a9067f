//! Joins tensors along an axis.

use super::*;
use crate::kernel::{Bind, Pass, source};
use std::panic::Location;

/// The op: any number of inputs, joined along axis `axis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Concat {
    /// The axis along which the inputs follow each other.
    pub axis: usize,
}

impl<'g> Tensor<'g> {
    /// Joins this tensor and `others` along an axis, one after the other. A negative `axis` counts from the last axis. It is a
    /// mistake if there is no such axis, or if the shapes differ along another axis.
    ///
    /// ```
    /// use downhill::Graph;
    /// let g = Graph::training();
    /// let y = g.input([4, 3]).concat(&[g.input([4, 1]), g.input([4, 2])], 1);
    /// assert_eq!(y.shape().dims(), [4, 6]);
    /// ```
    #[track_caller]
    pub fn concat(self, others: &[Tensor<'g>], axis: isize) -> Tensor<'g> {
        let (s, place) = (self.shape(), Location::caller());
        match s.axis(axis) {
            _ if self.is_dead() => self,
            Some(axis) => self.graph.apply(Concat { axis }, &[&[self], others].concat()),
            None => self.graph.mistake("concat", &[self], format!("there is no axis {axis}"), place),
        }
    }
}

impl OpDef for Concat {
    const NAME: &'static str = "concat";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let first = *x.first().ok_or("takes at least one input")?;
        let mut n = *first.dims().get(self.axis).ok_or_else(|| format!("there is no axis {}", self.axis))?;
        for (i, s) in x.iter().enumerate().skip(1) {
            let fits = s.rank() == first.rank() && s.with(self.axis, 1) == first.with(self.axis, 1);
            n = match n.checked_add(s.dims().get(self.axis).copied().unwrap_or(0)) {
                Some(n) if fits => n,
                Some(_) => return Err(format!("{s} (input {i}) differs from {first} in more than axis {}", self.axis)),
                None => return Err(format!("axis {} becomes more than an axis can hold", self.axis)),
            };
        }
        Ok(first.with(self.axis, n))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let [outer, n, inner] = y.shape.around(self.axis);
        let (y_row, mut start) = (n * inner, 0);
        for x in x {
            let row = x.shape.dims()[self.axis] * inner;
            for o in 0..outer {
                let to = o * y_row + start..o * y_row + start + row;
                if x.f.is_empty() {
                    y.u[to].copy_from_slice(&x.u[o * row..][..row]);
                } else {
                    y.f[to].copy_from_slice(&x.f[o * row..][..row]);
                }
            }
            start += row;
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let mut start = 0;
        let part = |t: &Tensor<'g>| {
            let n = t.shape().dims()[self.axis];
            start += n;
            Some(dy.slice(self.axis as isize, start - n, start))
        };
        x.iter().map(part).collect()
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let wg = caps.workgroup(256);
        let [_, n, inner] = y.around(self.axis);
        let mut start = 0;
        let pass = |(i, x): (usize, &Shape)| {
            let row = x.dims()[self.axis] * inner;
            start += row;
            let params = [("x_row", row), ("y_row", n * inner), ("start", start - row)];
            Pass {
                source: source!("concat"),
                entry: "forward",
                consts: vec![("WG", wg.into())],
                params: params.map(|(name, size)| (name.to_string(), size.into())).to_vec(),
                binds: vec![Bind::input("x", i, y.dtype()).per_unit(1), Bind::output("y", y.dtype())],
                code: String::new(),
                units: x.elements(),
                per_group: wg,
                step: false,
            }
        };
        // There is a pass for each input, so any number of inputs fits the limit of bindings.
        vec![Kernel { name: "flat", passes: x.iter().enumerate().map(pass).collect(), scratch: Vec::new() }]
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn cases() -> Vec<Case> {
        let case = |axis: usize, x: &[&[usize]]| {
            let x: Vec<Shape> = x.iter().map(|d| Shape::new(d).expect("at most six axes")).collect();
            let name = format!("{} along axis {axis}", x.iter().map(Shape::to_string).collect::<Vec<_>>().join(", "));
            Case::new(name, Concat { axis }, &x)
        };
        vec![
            case(0, &[&[1]]),
            case(0, &[&[1], &[256], &[3]]),
            case(0, &[&[13, 17], &[2, 17]]),
            case(1, &[&[13, 16], &[13, 1]]),
            case(1, &[&[3, 5, 7], &[3, 1, 7], &[3, 2, 7]]),
            case(2, &[&[3, 5, 7], &[3, 5, 1]]),
            case(3, &[&[2, 3, 2, 5, 2, 3], &[2, 3, 2, 1, 2, 3]]),
            // More inputs than a dispatch can bind.
            case(1, &[[5, 2].as_slice(); 11]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn golden() {
        checks::golden("concat", |args, x| x[0].concat(&x[1..], args["axis"].as_i64().unwrap() as isize));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Concat>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Concat>();
    }
    #[test]
    fn mistakes_name_the_input() {
        let message = |a: Shape, b: Shape, axis: isize| {
            let g = Graph::training();
            g.input_of(a).concat(&[g.input_of(a), g.input_of(b)], axis).error().unwrap().to_string()
        };
        let (a, b) = (Shape::from([2, 3]), Shape::from([3, 3]));
        let start = |text: String, want: &str| assert!(text.starts_with(want), "{text}");
        start(message(a, b, 1), "concat: [2, 3] × [2, 3] × [3, 3]: [3, 3] (input 2) differs from [2, 3] in more than axis 1 (");
        start(message(a, a.u32(), 0), "concat: [2, 3] × [2, 3] × u32 [2, 3]: u32 [2, 3] (input 2) differs from");
        start(message(a, b, -3), "concat: [2, 3]: there is no axis -3 (");
        assert_eq!(Graph::training().input([2, 3]).concat(&[], -1).shape(), a);
    }
}
