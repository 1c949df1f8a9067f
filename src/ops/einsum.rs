//! Sums of products by the names of axes. They are matrix products and elementwise products.

use crate::{
    graph::Tensor,
    shape::{DType, Shape},
};
use std::panic::Location;

/// The axes of each operand, and those of the result, by their letters.
struct Equation {
    operands: Vec<Vec<char>>,
    result: Vec<char>,
}

/// A tensor with the letters of its axes.
struct Named<'g> {
    x: Tensor<'g>,
    axes: Vec<char>,
}

impl Equation {
    /// Reads `ij,jk->ik`. Without an arrow, the result has the letters that occur once, in the order of the alphabet.
    fn new(text: &str) -> Result<Equation, String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = text.split_once("->").map_or((text.as_str(), None), |(left, right)| (left, Some(right)));
        let letters = |part: &str| {
            let axes: Vec<char> = part.chars().collect();
            match axes.iter().enumerate().find(|&(i, c)| !c.is_ascii_alphabetic() || axes[..i].contains(c)) {
                None => Ok(axes),
                Some((_, c)) if c.is_ascii_alphabetic() => Err(format!("the axis {c} occurs twice in `{part}`; a diagonal is no product")),
                Some((_, '.')) => Err("`...` is not supported; name every axis by a letter".to_string()),
                Some((_, c)) => Err(format!("`{c}` is not the name of an axis, which is a letter")),
            }
        };
        let operands = left.split(',').map(letters).collect::<Result<Vec<_>, _>>()?;
        let all = operands.concat();
        let result = match right {
            Some(right) => letters(right)?,
            None => {
                let mut once: Vec<char> = all.iter().copied().filter(|c| all.iter().filter(|d| *d == c).count() == 1).collect();
                once.sort_unstable();
                once
            }
        };
        match result.iter().find(|c| !all.contains(c)) {
            Some(c) => Err(format!("the axis {c} of the result is in no operand")),
            None => Ok(Equation { operands, result }),
        }
    }
    /// Checks the operands, and that each letter has one size.
    fn check(&self, x: &[Tensor]) -> Result<(), String> {
        if x.len() != self.operands.len() {
            return Err(format!("the equation has {} operands, but there are {}", self.operands.len(), x.len()));
        }
        if x.iter().any(|x| x.shape().dtype() == DType::U32) {
            return Err("takes floats, not labels (see to_f32)".into());
        }
        let mut sizes: Vec<(char, usize)> = Vec::new();
        for (axes, shape) in self.operands.iter().zip(x.iter().map(|x| x.shape())) {
            if axes.len() != shape.rank() {
                let axes: String = axes.iter().collect();
                return Err(format!("`{axes}` names {} axes, but {shape} has {}", axes.len(), shape.rank()));
            }
            for (&c, &n) in axes.iter().zip(shape.dims()) {
                match sizes.iter().find(|(d, _)| *d == c) {
                    Some(&(_, m)) if m != n => return Err(format!("the axis {c} has the sizes {m} and {n}")),
                    Some(_) => {}
                    None => sizes.push((c, n)),
                }
            }
        }
        Ok(())
    }
}

impl<'g> Named<'g> {
    /// Returns the size of an axis.
    fn size(&self, axis: char) -> usize {
        self.axes.iter().position(|&c| c == axis).map_or(1, |i| self.x.shape().dims()[i])
    }
    fn sizes(&self, axes: &[char]) -> Vec<usize> {
        axes.iter().map(|&c| self.size(c)).collect()
    }
    /// Sums over the axes that nothing else needs.
    #[track_caller]
    fn keep(self, needed: &[char]) -> Named<'g> {
        let gone: Vec<isize> = (0..self.axes.len()).filter(|&i| !needed.contains(&self.axes[i])).map(|i| i as isize).collect();
        if gone.is_empty() {
            return self;
        }
        let axes = self.axes.iter().copied().filter(|c| needed.contains(c)).collect();
        Named { x: self.x.sum(&gone, false), axes }
    }
    /// Puts the axes into another order.
    #[track_caller]
    fn order(&self, axes: &[char]) -> Tensor<'g> {
        let dims: Vec<usize> = axes.iter().filter_map(|c| self.axes.iter().position(|d| d == c)).collect();
        if dims.iter().enumerate().all(|(i, &d)| i == d) { self.x } else { self.x.permute(&dims) }
    }
    /// Multiplies two tensors and sums over the axes of both that are not needed.
    #[track_caller]
    fn times(self, other: Named<'g>, needed: &[char]) -> Result<Named<'g>, String> {
        let later = |own: &[char], more: &[char]| [own, more].concat();
        let (a, b) = (self, other);
        let needed_of_a = later(needed, &b.axes);
        let a = a.keep(&needed_of_a);
        let b = b.keep(&later(needed, &a.axes));
        let both = |c: &&char| b.axes.contains(c);
        let batch: Vec<char> = a.axes.iter().filter(both).copied().filter(|c| needed.contains(c)).collect();
        let inner: Vec<char> = a.axes.iter().filter(both).copied().filter(|c| !needed.contains(c)).collect();
        let left: Vec<char> = a.axes.iter().copied().filter(|c| !b.axes.contains(c)).collect();
        let right: Vec<char> = b.axes.iter().copied().filter(|c| !a.axes.contains(c)).collect();
        let axes = [&batch[..], &left, &right].concat();
        let dims = [a.sizes(&batch), a.sizes(&left), b.sizes(&right)].concat();
        let Some(shape) = Shape::new(&dims) else { return Err(format!("the product {dims:?} has more than 6 axes")) };
        let count = |sizes: Vec<usize>| sizes.into_iter().product::<usize>();
        let (g, m, k, n) = (count(a.sizes(&batch)), count(a.sizes(&left)), count(a.sizes(&inner)), count(b.sizes(&right)));
        let x = a.order(&[&batch[..], &left, &inner].concat());
        let y = match inner.is_empty() {
            // An outer product adds nothing up.
            true => x.reshape([g, m, 1]) * b.order(&[&batch[..], &right].concat()).reshape([g, 1, n]),
            // The product takes its right side transposed as well. So a permutation is often left out.
            false => {
                let plain = [&batch[..], &inner, &right].concat();
                match b.axes == plain {
                    true => x.reshape([g, m, k]).matmul(b.x.reshape([g, k, n])),
                    false => {
                        let b = b.order(&[&batch[..], &right, &inner].concat()).reshape([g, n, k]);
                        x.reshape([g, m, k]).matmul_t(b, false, true)
                    }
                }
            }
        };
        Ok(Named { x: y.reshape(shape), axes })
    }
}

impl<'g> Tensor<'g> {
    /// Returns a sum of products by Einstein's rule: `a.einsum("ij,jk->ik", &[b])` is `y[i,k] = Σ_j a[i,j]·b[j,k]`. Each letter
    /// names an axis. This tensor is the first operand, and `others` are the further operands. Axes that the result does not name
    /// are summed. Without `->`, the result has the letters that occur once, in the order of the alphabet. It is PyTorch's
    /// `torch.einsum`.
    ///
    /// Operands are multiplied from left to right, each as a matrix product or as an elementwise product. A letter that occurs
    /// twice in one operand (a diagonal) and `...` are not supported.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let (x, w) = (g.input([2, 2]), g.input([2]));
    /// let mut f = Device::cpu().compile(&[x.einsum("ij,j->i", &[w])])?;
    /// let y = f.run(&[Host::new([2, 2], vec![1.0, 2.0, 3.0, 4.0]), Host::new([2], vec![10.0, 1.0])])?;
    /// assert_eq!(y[0].f(), &[12.0, 34.0]);
    /// // A bilinear form for each of three outputs.
    /// let y = g.input([4, 2]).einsum("bi,kij,bj->bk", &[g.input([3, 2, 5]), g.input([4, 5])]);
    /// assert_eq!(y.shape().dims(), [4, 3]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if the equation does not fit the number and the shapes of the operands, or if a product has more than six
    /// axes.
    #[track_caller]
    pub fn einsum(self, equation: &str, others: &[Tensor<'g>]) -> Tensor<'g> {
        let x: Vec<Tensor> = std::iter::once(self).chain(others.iter().copied()).collect();
        if x.iter().any(|t| t.is_dead()) {
            return self.graph.dead();
        }
        let _line = self.graph.line();
        let write = || {
            let equation = Equation::new(equation)?;
            equation.check(&x)?;
            let Equation { operands, result } = equation;
            let mut all = x.iter().zip(&operands).map(|(&x, axes)| Named { x, axes: axes.clone() });
            let mut y = all.next().ok_or("there is no operand")?;
            for (k, next) in all.enumerate() {
                let needed = [&result[..], &operands[k + 2..].concat()].concat();
                y = y.times(next, &needed)?;
            }
            let y = y.keep(&result);
            Ok(y.order(&result))
        };
        write().unwrap_or_else(|why: String| self.graph.mistake("einsum", &x, format!("{equation}: {why}"), Location::caller()))
    }
}

#[cfg(test)]
mod tests {
    use crate::Graph;

    #[test]
    fn mistakes() {
        let start = |equation: &str, want: &str| {
            let g = Graph::training();
            assert!(g.input([2, 3]).einsum(equation, &[g.input([3, 4])]).is_dead());
            let message = g.error().map_or(String::new(), |e| e.to_string());
            let want = format!("einsum: [2, 3] × [3, 4]: {equation}: {want} (src/ops/einsum.rs:");
            assert!(message.starts_with(&want), "{message}");
        };
        start("ij->i", "the equation has 1 operands, but there are 2");
        start("ij,jkl->i", "`jkl` names 3 axes, but [3, 4] has 2");
        start("ij,ik->jk", "the axis i has the sizes 2 and 3");
        start("ii,jk->k", "the axis i occurs twice in `ii`; a diagonal is no product");
        start("ij,jk->il", "the axis l of the result is in no operand");
        start("...j,jk->k", "`...` is not supported; name every axis by a letter");
        start("i1,jk->k", "`1` is not the name of an axis, which is a letter");
        let g = Graph::training();
        let _ = g.input([2, 2, 2, 2]).einsum("abcd,efgh", &[g.input([2, 2, 2, 2])]);
        let message = g.error().map_or(String::new(), |e| e.to_string());
        assert!(message.contains("the product [2, 2, 2, 2, 2, 2, 2, 2] has more than 6 axes"), "{message}");
    }
}
