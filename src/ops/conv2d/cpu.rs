//! Convolutions on the CPU device: `im2col` in blocks that stay in cache, and matrix products.
//!
//! For some rows of an image, the pixels under each tap of the kernel become the rows of a matrix `columns [c·kh·kw, pixels]`. Then
//! y = w · columns. The columns of dx are wᵀ · dy, and they are added up into dx. dw = dy · columnsᵀ. If a group has few channels
//! (a depthwise convolution), matrix products do not pay. Such a group is computed row by row.

use super::{ConvSizes, Geometry};
use crate::{
    ops::product::{self, By, Matrix, product},
    scratch,
    threads::{chunk, chunks},
};
use std::ops::Range;

/// The number of floats in one block of columns: a share of a core's second-level cache. A block has at least PIXELS pixels, so
/// that each reading of w serves enough pixels.
const BLOCK: usize = 1 << 15;
const PIXELS: usize = 64;

/// The largest number of partial sums over images that are computed in parallel, and the largest number of floats that they may
/// take together.
const PARTS: usize = 16;
const PARTS_FLOATS: usize = 1 << 22;

/// The product of one group of one image, with the settings that all groups and images share.
struct GroupProducts<'a> {
    g: &'a Geometry,
    s: &'a ConvSizes,
    /// The number of rows of y whose columns are one block.
    rows: usize,
    /// Whether the columns are the image itself.
    plain: bool,
    by: By,
}

impl<'a> GroupProducts<'a> {
    fn new(g: &'a Geometry, s: &'a ConvSizes, tasks: usize) -> GroupProducts<'a> {
        let plain = s.kernel == [1, 1] && g.stride == [1, 1] && g.padding == [0; 4];
        let rows = if plain { s.map[0] } else { ((BLOCK / s.taps()).max(PIXELS) / s.map[1]).clamp(1, s.map[0]) };
        let by = if tasks < rayon::current_num_threads() { By::All } else { By::This };
        GroupProducts { g, s, rows, plain, by }
    }
    /// Returns the number of floats in a block of columns.
    fn floats(&self) -> usize {
        if self.plain { 0 } else { self.s.taps() * self.pitch(self.rows * self.s.map[1]) }
    }
    /// Returns the distance between rows of columns with `pixels` pixels, in floats. It is an odd number of vectors, so that the
    /// rows do not all use the same sets of a cache.
    fn pitch(&self, pixels: usize) -> usize {
        pixels.next_multiple_of(8) | 8
    }
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (all, rows) = (self.s.map[0], self.rows);
        (0..all).step_by(rows).map(move |i| i..(i + rows).min(all))
    }
    /// Calls `f` for each tap and each of the rows `rows` of y. `f` gets the position in the columns, and the columns of y inside
    /// of the image with their position in the image, or `None`.
    fn lines(&self, rows: &Range<usize>, mut f: impl FnMut(usize, Option<(Range<usize>, usize)>)) {
        let (g, s) = (self.g, self.s);
        let ([h, wide], [kh, kw], ow) = (s.image, s.kernel, s.map[1]);
        let pitch = self.pitch(self.pixels(rows));
        for (t, (c, a, b)) in taps(s.c, kh, kw).enumerate() {
            let (mut to, inside) = (t * pitch, inside(g, s, b));
            for i in rows.clone() {
                let row = (i * g.stride[0] + a * g.dilation[0]).checked_sub(g.padding[0]).filter(|&row| row < h);
                let from = row.filter(|_| !inside.is_empty()).map(|row| {
                    let first = inside.start * g.stride[1] + b * g.dilation[1] - g.padding[2];
                    (inside.clone(), (c * h + row) * wide + first)
                });
                f(to, from);
                to += ow;
            }
        }
    }
    /// Fills the columns of these rows.
    fn gather(&self, x: &[f32], rows: &Range<usize>, columns: &mut [f32]) {
        let (stride, ow) = (self.g.stride[1], self.s.map[1]);
        self.lines(rows, |to, from| {
            let to = &mut columns[to..to + ow];
            let Some((inside, x_at)) = from else { return to.fill(0.0) };
            to[..inside.start].fill(0.0);
            to[inside.end..].fill(0.0);
            let to = &mut to[inside];
            match stride {
                1 => to.copy_from_slice(&x[x_at..][..to.len()]),
                _ => to.iter_mut().zip(x[x_at..].iter().step_by(stride)).for_each(|(to, &x)| *to = x),
            }
        });
    }
    /// Adds the columns of these rows to their pixels.
    fn scatter(&self, columns: &[f32], rows: &Range<usize>, dx: &mut [f32]) {
        let stride = self.g.stride[1];
        self.lines(rows, |at, to| {
            let Some((inside, x_at)) = to else { return };
            let from = &columns[at..][inside];
            match stride {
                1 => dx[x_at..][..from.len()].iter_mut().zip(from).for_each(|(x, &c)| *x += c),
                _ => dx[x_at..].iter_mut().step_by(stride).zip(from).for_each(|(x, &c)| *x += c),
            }
        });
    }
    /// Returns the rows `rows` of the image y as a matrix with o rows.
    fn map_of<'b>(&self, y: &'b [f32], rows: &Range<usize>) -> Matrix<'b> {
        Matrix::rows(&y[rows.start * self.s.map[1]..], self.s.map[0] * self.s.map[1])
    }
    fn pixels(&self, rows: &Range<usize>) -> usize {
        rows.len() * self.s.map[1]
    }
    /// Calls `f` for the rows of every tap, channel by channel. `f` gets the position in w, the pixels of y, and the position of
    /// the first pixel of x.
    fn direct(&self, mut f: impl FnMut(usize, Range<usize>, usize)) {
        let (g, s) = (self.g, self.s);
        for o in 0..s.o {
            for (t, (c, a, b)) in taps(s.c, s.kernel[0], s.kernel[1]).enumerate() {
                let inside = inside(g, s, b);
                if inside.is_empty() {
                    continue;
                }
                let first = inside.start * g.stride[1] + b * g.dilation[1] - g.padding[2];
                for (i, row) in g.meets(0, a, s) {
                    let y = (o * s.map[0] + i) * s.map[1];
                    f(o * s.taps() + t, y + inside.start..y + inside.end, (c * s.image[0] + row) * s.image[1] + first);
                }
            }
        }
    }
}

/// Returns the channel, row and column of every element of a kernel with c channels, in order.
fn taps(c: usize, kh: usize, kw: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..c * kh * kw).map(move |t| (t / (kh * kw), t / kw % kh, t % kw))
}

/// Returns the columns of y for which column b of the kernel lies inside of the image.
fn inside(g: &Geometry, s: &ConvSizes, b: usize) -> Range<usize> {
    let (at, left, stride) = (b * g.dilation[1], g.padding[2], g.stride[1]);
    let start = left.saturating_sub(at).div_ceil(stride);
    let end = (s.image[1] + left).saturating_sub(at).div_ceil(stride).min(s.map[1]);
    start.min(end)..end
}

/// Returns true if a group has so few channels that matrix products do not pay.
fn is_direct(s: &ConvSizes) -> bool {
    s.o * s.c <= 4
}

pub fn forward(g: &Geometry, s: &ConvSizes, x: &[f32], w: &[f32], y: &mut [f32]) {
    let (tasks, [image, map]) = (s.n * s.groups, [s.image, s.map].map(|d| d[0] * d[1]));
    let (plan, taps) = (GroupProducts::new(g, s, tasks), s.taps());
    let one = |columns: &mut [f32], task: usize, x: &[f32], y: &mut [f32]| {
        let w = &w[task % s.groups * s.o * taps..][..s.o * taps];
        if is_direct(s) {
            y.fill(0.0);
            return plan.direct(|t, to, from| {
                let (w, y) = (w[t], &mut y[to]);
                match g.stride[1] {
                    1 => y.iter_mut().zip(&x[from..]).for_each(|(y, &x)| *y += w * x),
                    step => y.iter_mut().zip(x[from..].iter().step_by(step)).for_each(|(y, &x)| *y += w * x),
                }
            });
        }
        for rows in plan.blocks() {
            let pixels = plan.pixels(&rows);
            let b = if plan.plain {
                Matrix::rows(x, image)
            } else {
                plan.gather(x, &rows, columns);
                Matrix::rows(columns, plan.pitch(pixels))
            };
            let w = Matrix::rows(w, taps);
            product([s.o, taps, pixels], 1.0, [w, b], &mut y[rows.start * s.map[1]..], map, false, plan.by);
        }
    };
    chunks(y, s.o * map, |task, y| {
        scratch::with(plan.floats(), |columns| one(columns, task, chunk(x, s.c * image, task), y));
    });
}

pub fn grad_x(g: &Geometry, s: &ConvSizes, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let (tasks, [image, map]) = (s.n * s.groups, [s.image, s.map].map(|d| d[0] * d[1]));
    let (plan, taps) = (GroupProducts::new(g, s, tasks), s.taps());
    let one = |columns: &mut [f32], task: usize, dy: &[f32], dx: &mut [f32]| {
        let w = &w[task % s.groups * s.o * taps..][..s.o * taps];
        let transposed = Matrix::rows(w, taps).transposed();
        if plan.plain && !is_direct(s) {
            return product([taps, s.o, image], 1.0, [transposed, Matrix::rows(dy, image)], dx, image, false, plan.by);
        }
        dx.fill(0.0);
        if is_direct(s) {
            return plan.direct(|t, from, to| {
                let (w, dy) = (w[t], &dy[from]);
                match g.stride[1] {
                    1 => dx[to..].iter_mut().zip(dy).for_each(|(x, &y)| *x += w * y),
                    step => dx[to..].iter_mut().step_by(step).zip(dy).for_each(|(x, &y)| *x += w * y),
                }
            });
        }
        for rows in plan.blocks() {
            let pixels = plan.pixels(&rows);
            product([taps, s.o, pixels], 1.0, [transposed, plan.map_of(dy, &rows)], columns, plan.pitch(pixels), false, plan.by);
            plan.scatter(columns, &rows, dx);
        }
    };
    chunks(dx, s.c * image, |task, dx| {
        scratch::with(plan.floats(), |columns| one(columns, task, chunk(dy, s.o * map, task), dx));
    });
}

/// Computes dw. The images are divided into parts. The number of parts follows from the sizes only. The sums of the parts are added
/// in order.
pub fn grad_w(g: &Geometry, s: &ConvSizes, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let ([image, map], size) = ([s.image, s.map].map(|d| d[0] * d[1]), s.o * s.taps());
    let parts = (PARTS_FLOATS / (size * s.groups)).clamp(2, PARTS).min(s.n);
    let images = s.n.div_ceil(parts);
    let (plan, taps) = (GroupProducts::new(g, s, parts * s.groups), s.taps());
    // A part holds its groups one after the other, so that its sum is one block of memory.
    let part = |columns: &mut [f32], k: usize, dw: &mut [f32]| {
        let (part, group) = (k / s.groups, k % s.groups);
        dw.fill(0.0);
        for n in part * images..((part + 1) * images).min(s.n) {
            let at = n * s.groups + group;
            let (x, dy) = (&x[at * s.c * image..][..s.c * image], &dy[at * s.o * map..][..s.o * map]);
            if is_direct(s) {
                plan.direct(|t, y, x_at| dw[t] += dot(&dy[y], &x[x_at..], g.stride[1]));
                continue;
            }
            for rows in plan.blocks() {
                let pixels = plan.pixels(&rows);
                let b = if plan.plain {
                    Matrix::rows(x, image).transposed()
                } else {
                    plan.gather(x, &rows, columns);
                    Matrix::rows(columns, plan.pitch(pixels)).transposed()
                };
                product([s.o, pixels, taps], 1.0, [plan.map_of(dy, &rows), b], dw, taps, true, plan.by);
            }
        }
    };
    let run = |sums: &mut [f32]| {
        chunks(sums, size, |k, dw| scratch::with(plan.floats(), |columns| part(columns, k, dw)));
    };
    if parts == 1 {
        return run(dw);
    }
    scratch::with(parts * dw.len(), |sums| {
        run(sums);
        let all = dw.len();
        chunks(dw, BLOCK, |k, dw| {
            dw.fill(0.0);
            for part in sums.chunks(all) {
                dw.iter_mut().zip(&part[k * BLOCK..]).for_each(|(dw, &sum)| *dw += sum);
            }
        });
    });
}

/// Σ y[i] · x[i · step].
fn dot(y: &[f32], x: &[f32], step: usize) -> f32 {
    match step {
        1 => product::dot(y, &x[..y.len()]),
        _ => y.iter().zip(x.iter().step_by(step)).map(|(y, x)| y * x).sum(),
    }
}
