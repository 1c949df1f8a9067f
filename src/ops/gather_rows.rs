//! Looks up rows of a table by index (an embedding, or weights by class). Its gradient adds rows up by index.
//!
//! `y[i,j] = table[index[i], j]`. `dtable[r,j] = Σ_{i: index[i] = r} dy[i,j]`, added in the order of i.
//!
//! Indices from the host are checked before anything runs. An index that the graph computes may name no row. Its row of the result
//! is NaN, so the step is not finite and training notices it. Its gradient goes to no row.

use super::*;
use crate::{
    graph::Below,
    kernel::{Bind, Pass, source},
    threads::{HEAVY_TASK, chunks, lines},
};

/// The op: table `[v, d..]`, index `[..]` → `[.., d..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherRows;

/// The gradient: dy `[.., d..]`, index `[..]` → `[rows, d..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScatterRows {
    /// The number of rows of the table.
    pub rows: usize,
}

/// Returns the row of a table that an index names, or `None` if there is no such row.
fn row<T>(table: &[T], index: u32, cols: usize) -> Option<&[T]> {
    let start = (index as usize).checked_mul(cols)?;
    table.get(start..start + cols)
}

/// Fills `y` with the row that an index names, or with NaN.
fn gather<T: Real>(y: &mut [T], table: &[T], index: u32) {
    match row(table, index, y.len()) {
        Some(row) => y.copy_from_slice(row),
        None => y.fill(T::nan()),
    }
}

/// Returns a pass. Each unit is one invocation.
fn pass(entry: &'static str, params: &[(&str, usize)], binds: Vec<Bind>, units: usize, caps: &Caps) -> Pass {
    let wg = caps.workgroup(256);
    Pass {
        source: source!("gather_rows"),
        entry,
        consts: vec![("WG", wg.into())],
        params: params.iter().map(|&(name, x)| (name.to_string(), x.into())).collect(),
        binds,
        code: String::new(),
        units,
        per_group: wg,
        step: false,
    }
}

/// The least number of columns that a lane computes in the gradient's second pass. It is less if there would not be enough
/// neighbouring lanes to read memory together.
const PER_LANE: usize = 8;

impl OpDef for GatherRows {
    const NAME: &'static str = "gather_rows";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [table, index] = x else { return Err(format!("takes a table and indices, not {} inputs", x.len())) };
        if table.rank() == 0 || table.dtype() != DType::F32 {
            return Err("the table must be rows of floats".into());
        }
        if index.dtype() != DType::U32 {
            return Err("the indices must be integers (Graph::labels)".into());
        }
        let dims = [index.dims(), &table.dims()[1..]].concat();
        Shape::new(&dims).ok_or_else(|| format!("the result {dims:?} has more than {} axes", crate::shape::MAX_RANK))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let cols = x[0].f.len() / x[0].shape.dims()[0];
        y.f.chunks_mut(cols).zip(x[1].u).for_each(|(y, &i)| gather(y, x[0].f, i));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let cols = x[0].f.len() / x[0].shape.dims()[0];
        lines(y.f, cols, (HEAVY_TASK / cols).max(1), |k, y| gather(y, x[0].f, x[1].u[k]));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let rows = x[0].shape().dims()[0];
        vec![Some(dy.graph.apply(ScatterRows { rows }, &[dy, x[1]])), None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let rows = x[0].dims()[0];
        let binds =
            vec![Bind::input("table", 0, DType::F32), Bind::input("index", 1, DType::U32), Bind::output("y", DType::F32).per_unit(1)];
        let params = [("rows", rows), ("cols", x[0].elements() / rows)];
        vec![Kernel::one("elements", pass("forward", &params, binds, y.elements(), caps))]
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn terms(&self, x: &[Shape]) -> usize {
        // For the gradient: all indices may name one row.
        x[1].elements()
    }
    fn bytes(&self, x: &[Shape], y: Shape) -> u64 {
        // The op reads only the rows of the table that are looked up.
        x[1].bytes() + 2 * y.bytes()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, x[0].dims()[0])
    }
    fn cases() -> Vec<Case> {
        let case = |table: &[usize], index: &[usize]| {
            let [t, i] = [table, index].map(|d| Shape::new(d).expect("at most six axes"));
            Case::new(format!("{t} at {i}"), GatherRows, &[t, i])
        };
        vec![
            case(&[1], &[]),
            case(&[10], &[64]),
            case(&[5, 3], &[8]),
            case(&[7, 2, 3], &[2, 3]),
            case(&[31, 37], &[257]),
            case(&[3, 5], &[3_001]),
        ]
    }
}

impl OpDef for ScatterRows {
    const NAME: &'static str = "scatter_rows";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [dy, index] = x else { return Err(format!("takes rows and indices, not {} inputs", x.len())) };
        if index.dtype() != DType::U32 || dy.dtype() != DType::F32 {
            return Err("takes rows of floats and integer indices".into());
        }
        if !dy.dims().starts_with(index.dims()) {
            return Err(format!("the rows {dy} should begin with the axes of the indices {index}"));
        }
        let dims = [&[self.rows], &dy.dims()[index.rank()..]].concat();
        Shape::new(&dims).ok_or_else(|| format!("the result {dims:?} has more than {} axes", crate::shape::MAX_RANK))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let cols = y.f.len() / self.rows;
        y.f.fill(T::zero());
        for (dy, &i) in x[0].f.chunks(cols).zip(x[1].u) {
            let to = y.f.chunks_mut(cols).nth(i as usize).into_iter().flatten();
            to.zip(dy).for_each(|(y, &dy)| *y += dy);
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let cols = y.f.len() / self.rows;
        // Each thread owns a range of rows and adds the gradients of these rows.
        let range = self.rows.div_ceil(rayon::current_num_threads());
        chunks(y.f, range * cols, |k, y| {
            y.fill(0.0);
            for (dy, &i) in x[0].f.chunks(cols).zip(x[1].u) {
                if let Some(to) = (i as usize).checked_sub(k * range).and_then(|r| y.get_mut(r * cols..(r + 1) * cols)) {
                    to.iter_mut().zip(dy).for_each(|(y, &dy)| *y += dy);
                }
            }
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.gather_rows(x[1])), None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let (m, cols, wg) = (x[1].elements(), y.elements() / self.rows, caps.workgroup(256));
        let params = [("rows", self.rows), ("cols", cols), ("m", m)];
        let index = Bind::input("index", 1, DType::U32);
        let order = Bind { dtype: DType::U32, ..Bind::scratch("order", 0) };
        let sort = pass("sort", &params, vec![index.clone(), order.clone().written()], m, caps);
        // A row belongs to several lanes. Each of them searches for the row's start.
        let lanes = cols.div_ceil(PER_LANE).max(cols.min(32)).next_power_of_two().min(wg);
        let binds = vec![Bind::input("dy", 0, DType::F32), index, order, Bind::output("dtable", DType::F32).per_unit(cols)];
        let mut sums = Pass { per_group: wg / lanes, ..pass("grad_table", &params, binds, self.rows, caps) };
        sums.consts.push(("LANES", lanes.into()));
        vec![Kernel { name: "sorted", passes: vec![sort, sums], scratch: vec![m] }]
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        x[0].elements() as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[1].elements()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, self.rows)
    }
    fn cases() -> Vec<Case> {
        let case = |rows: usize, dy: &[usize], index: &[usize]| {
            let [dy, index] = [dy, index].map(|d| Shape::new(d).expect("at most six axes"));
            Case::new(format!("{dy} at {index} into {rows}"), ScatterRows { rows }, &[dy, index])
        };
        vec![
            case(1, &[1], &[1]),
            case(1, &[5], &[5]),
            case(5, &[8, 3], &[8]),
            case(13, &[2, 3, 7, 2], &[2, 3]),
            case(257, &[100, 3], &[100]),
            case(3, &[131, 65], &[131]).range(0, -0.5, 0.5),
            case(7, &[1, 300], &[1]),
            case(5, &[601, 2], &[601]).range(0, -0.5, 0.5),
            case(2, &[7, 4_099], &[7]),
            case(300_007, &[11, 1], &[11]).flat(),
        ]
    }
}

impl<'g> Tensor<'g> {
    /// Returns `y[i] = table[index[i]]`. This tensor is the table `[v, d..]`. The indices are `[..]`, and the result is
    /// `[.., d..]`. The gradient of a row is added up in the order of the indices.
    ///
    /// Each index must be below v. A wrong index from the host is an error before anything runs. The graph may compute a wrong
    /// index, for example by [`argmax`](Tensor::argmax) or by a [`slice`](Tensor::slice) of labels. Then its row of the result is
    /// NaN, and it adds to no row's gradient. In training, NaN ends in [`Error::Diverged`](crate::Error::Diverged).
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([3, 2]).gather_rows(g.labels([2]))])?;
    /// let table = Host::new([3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// assert_eq!(f.run(&[table, Host::labels([2], vec![2, 0])])?[0].f(), &[5.0, 6.0, 1.0, 2.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn gather_rows(self, index: Tensor<'g>) -> Tensor<'g> {
        let y = self.graph.apply(GatherRows, &[self, index]);
        if !y.is_dead() {
            // With several axes, the error shows the position along each axis. A single number would not help.
            let table = (index.shape().rank() > 1).then_some("gather_rows");
            self.graph.require(index, Below { count: self.shape().dims()[0], table, least: None, ignored: None });
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn golden() {
        checks::golden("gather_rows", |_, x| x[0].gather_rows(x[1]));
    }
    #[test]
    fn cpu() {
        checks::cpu::<GatherRows>();
        checks::cpu::<ScatterRows>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<GatherRows>();
        checks::wgsl::<ScatterRows>();
    }
    #[test]
    fn mistakes() {
        let g = Graph::training();
        assert!(g.input([4, 10]).gather_rows(g.input([3])).is_dead());
        let text = g.error().map_or(String::new(), |e| e.to_string());
        let want = "gather_rows: [4, 10] × [3]: the indices must be integers (Graph::labels) (src/ops/gather_rows.rs:";
        assert!(text.starts_with(want), "{text}");
    }
}
