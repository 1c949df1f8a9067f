//! The options of a pair of a query and a key: which pairs have a weight, and what is added to a score or drops a weight. Masks are
//! inputs, and this module knows their places.

use super::{shared::with_lead, *};
use crate::{kernel::Bind, ops::map, rng, shape::MAX_RANK};

/// A bias of at most this number hides a key from a query. It stands for −∞, which WGSL cannot write.
const HIDDEN: f32 = -1e30;

/// The options of the pairs of an op.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pairs {
    /// The number of the input that holds the lengths, and the number of neighbouring batches that share a length.
    lengths: Option<(usize, usize)>,
    bias: Option<BiasPlace>,
    /// The number of the input that holds the slopes, and the number of slopes.
    slopes: Option<(usize, usize)>,
    /// The numbers of keys before and after a query that the query sees, beside the key of its own number.
    window: Option<[usize; 2]>,
    dropout: Option<Dropout>,
}

/// Dropout of the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dropout {
    p: f32,
    /// The number of the random stream.
    stream: u32,
}

impl Dropout {
    /// Returns the factor of a weight that is not dropped. With p = 1 there is no such weight.
    fn scale(self) -> f32 {
        if self.p < 1.0 { 1.0 / (1.0 - self.p) } else { 0.0 }
    }
    /// Returns the factors of the weights of query `i` and the keys 4·quad, 4·quad + 1, …. They share a call of the generator. The
    /// random numbers are those of [`Graph::uniform`](crate::Graph::uniform) with the shape `[.., n, 4 · quads]`.
    fn factors(self, key: Key, s: &AttentionSizes, [batch, i, quad]: [usize; 3]) -> [f32; 4] {
        let block = (batch * s.n + i).wrapping_mul(s.m.div_ceil(4)).wrapping_add(quad);
        rng::uniform01x4(key.seed, key.step, self.stream, block as u32).map(|u| if u >= self.p { self.scale() } else { 0.0 })
    }
}

impl AttentionSizes {
    /// Returns the factor by which dropout multiplies the weight of query `i` and key `j`.
    pub(super) fn factor(&self, key: Key, batch: usize, i: usize, j: usize) -> f64 {
        self.pairs.dropout.map_or(1.0, |dropout| f64::from(dropout.factors(key, self, [batch, i, j / 4])[j % 4]))
    }
    /// Multiplies weights by the factors of dropout. `weights` has a row for each of `rows` and a column for each of `columns`. The rows
    /// are queries, or else keys. The first number of the keys must be a multiple of 4.
    pub(super) fn drop_weights(
        &self,
        key: Key,
        batch: usize,
        of_queries: bool,
        [row, column]: [usize; 2],
        columns: usize,
        weights: &mut [f32],
    ) {
        let Some(dropout) = self.pairs.dropout else { return };
        let rows = weights.len() / columns;
        let (first, queries, keys) = if of_queries { (row, rows, columns) } else { (column, columns, rows) };
        let quad = if of_queries { column } else { row } / 4;
        for i in 0..queries {
            for j in (0..keys).step_by(4) {
                let factors = dropout.factors(key, self, [batch, first + i, quad + j / 4]);
                for (z, factor) in factors.into_iter().enumerate().take(keys - j) {
                    weights[if of_queries { i * columns + j + z } else { (j + z) * columns + i }] *= factor;
                }
            }
        }
    }
}

/// The element of batch b, query i and key j is `b / outer % count · matrix + i · row + j · col`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct BiasPlace {
    input: usize,
    outer: usize,
    count: usize,
    matrix: usize,
    row: usize,
    col: usize,
}

impl BiasPlace {
    fn new(input: usize, shape: Shape, lead: Shape, [n, m]: [usize; 2]) -> Result<BiasPlace, String> {
        let rank = lead.rank() + 2;
        let mut full = [1; MAX_RANK];
        full[..lead.rank()].copy_from_slice(lead.dims());
        full[lead.rank()..rank].copy_from_slice(&[n, m]);
        let full = &full[..rank];
        let wrong = || format!("a mask or bias must broadcast to {full:?}, but has the shape {shape}");
        let mut dims = [1; MAX_RANK];
        dims[rank.checked_sub(shape.rank()).ok_or_else(wrong)?..rank].copy_from_slice(shape.dims());
        if dims.iter().zip(full).any(|(&d, &f)| d != 1 && d != f) {
            return Err(wrong());
        }
        let lead = full.len() - 2;
        let first = (0..lead).find(|&i| dims[i] != 1).unwrap_or(lead);
        let end = (0..lead).rfind(|&i| dims[i] != 1).map_or(lead, |i| i + 1);
        if dims[first..end] != full[first..end] {
            return Err(format!("the leading axes of a mask that are not 1 must be neighbours, but its shape is {shape} for {full:?}"));
        }
        let (rows, cols) = (dims[lead], dims[lead + 1]);
        Ok(BiasPlace {
            input,
            outer: full[end..lead].iter().product(),
            count: dims[first..end].iter().product(),
            matrix: rows * cols,
            row: if rows == 1 { 0 } else { cols },
            col: usize::from(cols > 1),
        })
    }
}

impl Pairs {
    /// Finds the masks behind the first `skip` inputs: lengths are labels, a bias is floats. Slopes are the last input.
    pub(super) fn new(x: &[Shape], skip: usize, lead: Shape, sizes: [usize; 2], options: &Attention) -> Result<Pairs, String> {
        let p = options.dropout_p;
        if !(0.0..=1.0).contains(&p) {
            return Err(format!("dropout_p = {p} is not in 0..=1"));
        }
        let mut pairs = Pairs::default();
        let slopes = x.len() - usize::from(options.alibi);
        for (i, s) in x.iter().enumerate().take(slopes).skip(skip) {
            match s.dtype() {
                DType::U32 if pairs != Pairs::default() => return Err("takes lengths once, and before a bias".into()),
                DType::U32 if lead.dims().starts_with(s.dims()) => pairs.lengths = Some((i, lead.elements() / s.elements())),
                DType::U32 => {
                    return Err(format!("lengths must have the first of the leading axes {lead}, but have the shape {:?}", s.dims()));
                }
                DType::F32 if pairs.bias.is_some() => return Err("takes one bias".into()),
                DType::F32 => pairs.bias = Some(BiasPlace::new(i, *s, lead, sizes)?),
            }
        }
        if options.alibi {
            let heads = lead.dims().last().copied().ok_or("ALiBi needs an axis of heads: queries [.., heads, n, d]")?;
            if slopes < skip || x[slopes] != [heads].into() {
                return Err(format!("with ALiBi the last input must be the slopes [{heads}]"));
            }
            pairs.slopes = Some((slopes, heads));
        }
        // No distance is larger than the longer side, so the numbers of a kernel do not overflow.
        let most = sizes[0].max(sizes[1]);
        pairs.window =
            options.local_window_size.map(|[before, after]| [before.min(most), if options.causal { 0 } else { after.min(most) }]);
        pairs.dropout = (p > 0.0).then_some(Dropout { p, stream: options.stream });
        Ok(pairs)
    }
    /// Returns true if a query may see no key.
    fn may_be_empty(&self) -> bool {
        self.lengths.is_some() || self.bias.is_some() || self.window.is_some()
    }
    /// Returns true if an op draws random numbers.
    pub(super) fn is_random(&self) -> bool {
        self.dropout.is_some()
    }
    /// Returns the window of rows that are queries (or keys): the numbers of columns before and after the number of a row.
    fn around(&self, of_queries: bool) -> Option<[usize; 2]> {
        self.window.map(|[before, after]| if of_queries { [before, after] } else { [after, before] })
    }
    /// Returns the columns that the rows `rows` need, if the rows are queries (or keys) and there are `columns` columns.
    pub(super) fn columns(&self, of_queries: bool, rows: std::ops::Range<usize>, columns: usize) -> std::ops::Range<usize> {
        let Some([before, after]) = self.around(of_queries) else { return 0..columns };
        rows.start.saturating_sub(before).min(columns)..(rows.end + after).min(columns)
    }
    /// Returns the contents of the masks.
    pub(super) fn of<'a, T>(self, m: usize, x: &'a [View<'a, T>]) -> Given<'a, T> {
        let lengths = self.lengths.map_or(&[][..], |(i, _)| x[i].u);
        let slopes = self.slopes.map_or(&[][..], |(i, _)| x[i].f);
        Given { pairs: self, m, lengths, bias: self.bias.map_or(&[][..], |b| x[b.input].f), slopes }
    }
    pub(super) fn binds(&self) -> Vec<Bind> {
        let lengths = self.lengths.map(|(i, _)| Bind::input("lengths", i, DType::U32));
        let bias = self.bias.map(|b| Bind::input("bias", b.input, DType::F32));
        let slopes = self.slopes.map(|(i, _)| Bind::input("slopes", i, DType::F32));
        [lengths, bias, slopes].into_iter().flatten().collect()
    }
    pub(super) fn params(&self, n: usize, m: usize, of_queries: bool) -> Vec<(&'static str, Word)> {
        let mut all: Vec<(&'static str, usize)> = Vec::new();
        if *self != Pairs::default() {
            all.extend([("queries", n), ("keys", m)]);
        }
        if let Some((_, shared)) = self.lengths {
            all.push(("batches", shared));
        }
        if let Some(b) = self.bias {
            all.extend([
                ("bias_outer", b.outer),
                ("bias_count", b.count),
                ("bias_matrix", b.matrix),
                ("bias_row", b.row),
                ("bias_col", b.col),
            ]);
        }
        if let Some((_, heads)) = self.slopes {
            all.push(("heads", heads));
        }
        if let Some([before, after]) = self.around(of_queries) {
            all.extend([("before", before), ("after", after)]);
        }
        let mut all: Vec<(&'static str, Word)> = all.into_iter().map(|(name, size)| (name, size.into())).collect();
        if let Some(dropout) = self.dropout {
            let quads = m.div_ceil(4);
            all.extend([("quads", quads.into()), ("stream", dropout.stream.into())]);
            all.extend([("dropout", dropout.p.into()), ("scale_of_kept", dropout.scale().into())]);
        }
        all
    }
    /// Returns the functions that the shaders take from here. The rows of a kernel are queries, or else keys.
    pub(super) fn code(&self, of_queries: bool) -> String {
        let keys = match self.lengths {
            None => "0xffffffffu",
            Some(_) => "min(p.keys, lengths[batch / p.batches])",
        };
        let sloped = match self.slopes {
            None => "",
            Some(_) => " - slopes[batch % p.heads] * abs(f32(query) - f32(key))",
        };
        let biased = match self.bias {
            None => format!("    return score{sloped};\n"),
            Some(_) => format!(
                "    let matrix = batch / p.bias_outer % p.bias_count * p.bias_matrix;\n    \
                 let b = bias[matrix + min(query, p.queries - 1u) * p.bias_row + min(key, p.keys - 1u) * p.bias_col];\n    \
                 return select(score{sloped} + b, HIDDEN, b <= -1e30);\n"
            ),
        };
        // A row that cannot be empty has a sum above 0, unless a number overflowed.
        let (whole, level) = match self.may_be_empty() {
            false => ("total", "top"),
            true => ("select(total, 1.0, total == 0.0)", "select(top, 0.0, total == 0.0)"),
        };
        let [start, end, near, near4] = match self.window {
            None => ["0u", "0xffffffffu", "true", "vec4<bool>(true)"],
            Some(_) => [
                "row - min(row, p.before)",
                "row + p.after",
                "col + p.before >= row && col <= row + p.after",
                "(col + p.before >= vec4<u32>(row)) & (col <= vec4<u32>(row + p.after))",
            ],
        };
        let [draw, kept, kept4] = match (self.dropout, of_queries) {
            (None, _) => ["", "w", "w"],
            (Some(_), true) => ["draw_rows(lane, batch, row, col);", "w * weights[at]", "w * factors(batch, vec4<u32>(row), col)"],
            (Some(_), false) => ["draw_columns(lane, batch, row, col);", "w * weights[at]", "w * factors(batch, col, vec4<u32>(row))"],
        };
        let include = if self.is_random() { "//!include lib/philox\n" } else { "" };
        format!(
            "{include}\
             fn keys(batch: u32) -> u32 {{ return {keys}; }}\n\
             fn biased(batch: u32, query: u32, key: u32, score: f32) -> f32 {{\n{biased}}}\n\
             fn whole_of(total: f32) -> f32 {{ return {whole}; }}\n\
             fn level_of(top: f32, total: f32) -> f32 {{ return {level}; }}\n\
             fn window_start(row: u32) -> u32 {{ return {start}; }}\n\
             fn window_end(row: u32) -> u32 {{ return {end}; }}\n\
             fn near(row: u32, col: u32) -> bool {{ return {near}; }}\n\
             fn near4(row: u32, col: vec4<u32>) -> vec4<bool> {{ return {near4}; }}\n\
             fn draw(lane: u32, batch: u32, row: u32, col: u32) {{ {draw} }}\n\
             fn kept(at: u32, w: f32) -> f32 {{ return {kept}; }}\n\
             fn kept4(batch: u32, row: u32, col: vec4<u32>, w: vec4<f32>) -> vec4<f32> {{ return {kept4}; }}\n"
        )
    }
    /// Returns the exponents `scores − l` with −10⁴ for hidden pairs, in plain ops. `x` are the inputs of the op.
    pub(super) fn apply<'g>(&self, x: &[Tensor<'g>], exponent: Tensor<'g>) -> Tensor<'g> {
        let mut exponent = exponent;
        if let Some(b) = self.bias {
            let bias = x[b.input];
            exponent = bias.le(HIDDEN).where_(-1e4, exponent + bias);
        }
        if let Some((i, heads)) = self.slopes {
            let [n, m] = [2, 1].map(|k| exponent.shape().dims()[exponent.shape().rank() - k]);
            exponent = exponent - x[i].reshape([heads, 1, 1]) * distances(exponent.graph, n, m);
        }
        if self.window.is_some() {
            let [n, m] = [2, 1].map(|k| exponent.shape().dims()[exponent.shape().rank() - k]);
            let seen = |at: usize| f32::from(u8::from(self.columns(true, at / m..at / m + 1, m).contains(&(at % m))));
            exponent = exponent.graph.constant(Host::new([n, m], (0..n * m).map(seen).collect())).where_(exponent, -1e4);
        }
        if let Some((i, _)) = self.lengths {
            let (m, rank) = (exponent.shape().last(), exponent.shape().rank());
            let mut dims = x[i].shape().dims().to_vec();
            dims.resize(rank, 1);
            let places = exponent.graph.constant(Host::new([m], (0..m).map(|j| j as f32).collect()));
            let lengths = x[i].reshape(Shape::new(&dims).expect("the scores have as many axes"));
            exponent = lengths.gt(places).where_(exponent, -1e4);
        }
        exponent
    }
}

impl Pairs {
    /// Returns the factors by which dropout multiplies the weights, `[.., n, m]`, in plain ops.
    pub(super) fn factors<'g>(&self, graph: &'g crate::graph::Graph, lead: Shape, n: usize, m: usize) -> Option<Tensor<'g>> {
        let dropout = self.dropout?;
        let shape = with_lead(lead, [n, m.div_ceil(4) * 4]);
        let random = graph.apply(map::Map { expr: map::Expr::random(dropout.stream), fixed: Some(shape) }, &[]);
        Some(random.slice(-1, 0, m).ge(dropout.p).where_(dropout.scale(), 0.0))
    }
}

/// Returns the distances |i − j| of queries and keys, `[n, m]`.
pub(super) fn distances(graph: &crate::graph::Graph, n: usize, m: usize) -> Tensor<'_> {
    graph.constant(Host::new([n, m], (0..n * m).map(|at| (at / m).abs_diff(at % m) as f32).collect()))
}

/// The contents of the masks.
#[derive(Clone, Copy)]
pub(super) struct Given<'a, T> {
    pairs: Pairs,
    m: usize,
    lengths: &'a [u32],
    bias: &'a [T],
    slopes: &'a [T],
}

impl<T: Real> Given<'_, T> {
    /// Returns true if anything is added to scores.
    pub(super) fn is_some(&self) -> bool {
        self.pairs.may_be_empty() || self.pairs.slopes.is_some()
    }
    /// Returns the number of keys of a batch.
    pub(super) fn keys(&self, batch: usize) -> usize {
        self.pairs.lengths.map_or(self.m, |(_, shared)| self.m.min(self.lengths[batch / shared] as usize))
    }
    /// Returns the number that is added to the score of a pair. It is −∞ if the query does not see the key.
    pub(super) fn bias(&self, batch: usize, query: usize, key: usize) -> T {
        let seen = self.pairs.window.is_none_or(|[before, after]| key + before >= query && key <= query + after);
        if key >= self.keys(batch) || !seen {
            return T::neg_infinity();
        }
        let sloped = |(_, heads): (usize, usize)| T::of(0.0) - self.slopes[batch % heads] * T::of(query.abs_diff(key) as f64);
        let slope = self.pairs.slopes.map_or(T::zero(), sloped);
        let Some(b) = self.pairs.bias else { return slope };
        let bias = self.bias[batch / b.outer % b.count * b.matrix + query * b.row + key * b.col];
        if bias <= T::of(f64::from(HIDDEN)) { T::neg_infinity() } else { bias + slope }
    }
}
