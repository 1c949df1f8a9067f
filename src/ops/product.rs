//! Matrix products on the CPU device.
//!
//! A tile of y stays in registers along k. The operands are packed into panels first, in the order in which a tile reads them. The
//! blocks of panels fit the caches (Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication").
//!
//! An element is one chain of fused multiply-adds for each block of k. The lengths of the blocks depend on k alone. So the bits of
//! an element do not depend on the number of threads or on the other sizes. They do not depend on the width of the vectors if the
//! machine has fused multiply-adds. There is one exception: a few dot products of operands that lie in memory in order are computed
//! directly, without packing.

use crate::{
    scratch,
    simd::Vectors,
    threads::{count, lines, parallel},
};
use std::ops::Range;

/// A matrix in memory: element (i, j) is `data[i · strides[0] + j · strides[1]]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    pub strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Returns a matrix whose rows have a distance of `pitch` elements.
    pub fn rows(data: &'a [f32], pitch: usize) -> Matrix<'a> {
        Matrix { data, strides: [pitch, 1] }
    }
    pub fn transposed(self) -> Matrix<'a> {
        let [row, column] = self.strides;
        Matrix { strides: [column, row], ..self }
    }
}

/// The longest block of k. A panel of this length stays in a core's first-level cache.
const DEPTH: usize = 288;
/// The number of floats of b that are packed at a time. They stay in the cache that all cores share.
const PACKED: usize = 1 << 20;
/// The largest number of tiles below each other in a block of y. Their panels stay in a core's second-level cache.
const TILES: usize = 16;
/// The number of blocks of y for each thread. With several blocks, all threads end at about the same time.
const BLOCKS: usize = 4;
/// Below this number of multiplications, waking another thread does not pay.
const SMALL: usize = 1 << 19;

/// The threads that compute a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// This thread only. The other threads compute other products.
    This,
    /// All threads, if the product is large enough.
    All,
}

/// Computes y = scale·a·b, or y += scale·a·b if `add` is true. The operands are `a [m, k]` and `b [k, n]`. The m rows of y have a
/// distance of `pitch` elements.
pub fn product(sizes: [usize; 3], scale: f32, [a, b]: [Matrix; 2], y: &mut [f32], pitch: usize, add: bool, by: By) {
    Gemm::new(sizes, scale, [a, b], y, pitch, add).run(threads(sizes, by), &|_, _| {});
}

/// Computes y = a·b. `finish` is called for every part of y when its sums are complete, while the part is in cache. `finish` gets
/// the number of the part's first element in y, and the elements.
pub fn product_then([m, k, n]: [usize; 3], [a, b]: [Matrix; 2], y: &mut [f32], by: By, finish: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    Gemm::new([m, k, n], 1.0, [a, b], y, n, false).run(threads([m, k, n], by), finish);
}

fn threads([m, k, n]: [usize; 3], by: By) -> usize {
    if by == By::This || m * k * n < SMALL { 1 } else { count() }
}

/// A product. It writes y through a pointer, because blocks of y are not slices.
struct Gemm<'a> {
    sizes: [usize; 3],
    scale: f32,
    a: Matrix<'a>,
    b: Matrix<'a>,
    y: *mut f32,
    pitch: usize,
    add: bool,
    vectors: Vectors,
}

// SAFETY: the pointer belongs to a slice that is borrowed while the job lives. `run` gives every thread its own blocks of y.
unsafe impl Sync for Gemm<'_> {}

/// The work of a thread at a time: a block of y, over a part of k.
struct Block<'a> {
    rows: Range<usize>,
    columns: Range<usize>,
    depth: Range<usize>,
    /// The panels of b for these columns.
    panels: &'a [f32],
}

/// A tile of y, and how its sums are stored.
struct Tile {
    y: *mut f32,
    pitch: usize,
    scale: f32,
    add: bool,
}

impl<'a> Gemm<'a> {
    fn new(sizes: [usize; 3], scale: f32, [a, b]: [Matrix<'a>; 2], y: &'a mut [f32], pitch: usize, add: bool) -> Gemm<'a> {
        let [m, k, n] = sizes;
        let last = |rows: usize, columns: usize, [row, column]: [usize; 2]| (rows - 1) * row + (columns - 1) * column;
        assert!(last(m, k, a.strides) < a.data.len() && last(k, n, b.strides) < b.data.len() && last(m, n, [pitch, 1]) < y.len());
        assert!(n <= pitch, "the rows of y do not overlap");
        Gemm { sizes, scale, a, b, y: y.as_mut_ptr(), pitch, add, vectors: Vectors::get() }
    }
    /// Returns the number of rows and columns of a tile.
    fn tile(&self) -> [usize; 2] {
        match self.vectors {
            #[cfg(target_arch = "x86_64")]
            Vectors::V512 => v512::TILE,
            #[cfg(target_arch = "x86_64")]
            Vectors::V256 => v256::TILE,
            Vectors::Plain => plain::TILE,
        }
    }
    /// Returns the length of the blocks of k.
    fn step(&self) -> usize {
        self.sizes[1].div_ceil(self.sizes[1].div_ceil(DEPTH))
    }
    /// Returns true if packing does not pay. The rows of a and the columns of b lie in memory in order, and they are read only a
    /// few times.
    fn is_dots(&self) -> bool {
        let [m, _, n] = self.sizes;
        [self.a.strides[1], self.b.strides[0]] == [1, 1] && (m < 4 || m * n <= 256)
    }
    fn dots(&self, threads: usize, finish: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let [m, k, n] = self.sizes;
        let across = n.div_ceil(if threads == 1 { 1 } else { BLOCKS * threads });
        each(threads, n.div_ceil(across), &|i| {
            let part = Block { rows: 0..m, columns: i * across..((i + 1) * across).min(n), depth: 0..k, panels: &[] };
            for (j, i) in part.columns.clone().flat_map(|j| (0..m).map(move |i| (j, i))) {
                let sum = self.scale * dot(&self.a.data[i * self.a.strides[0]..][..k], &self.b.data[j * self.b.strides[1]..][..k]);
                // SAFETY: `new` has checked that the element is inside of y. These columns belong to this thread.
                let y = unsafe { &mut *self.y.add(i * self.pitch + j) };
                *y = if self.add { *y + sum } else { sum };
            }
            self.finish(&part, finish);
        });
    }
    fn run(&self, threads: usize, finish: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        if self.is_dots() {
            return self.dots(threads, finish);
        }
        let ([m, k, n], [rows, columns], step) = (self.sizes, self.tile(), self.step());
        // The number of columns, and the part of k, that are packed at a time.
        let wide = (PACKED / step / columns * columns).min(n.next_multiple_of(columns));
        let deep = ((PACKED / wide / step).max(1) * step).min(k);
        // The number of rows of a block. If there are too few blocks for all threads, a block has only a part of the columns.
        let wanted = if threads == 1 { 1 } else { BLOCKS * threads };
        let tall = m.div_ceil(rows).div_ceil(wanted).clamp(1, TILES) * rows;
        let down = m.div_ceil(tall);
        scratch::with(wide * deep, |panels: &mut [f32]| {
            for left in (0..n).step_by(wide) {
                let width = wide.min(n - left);
                let tiles = width.div_ceil(columns);
                let across = tiles.div_ceil(wanted.div_ceil(down).min(tiles)) * columns;
                let beside = width.div_ceil(across);
                for top in (0..k).step_by(deep) {
                    let depth = top..(top + deep).min(k);
                    let panels = &mut panels[..tiles * columns * depth.len()];
                    let least = if threads == 1 { tiles } else { 1 };
                    lines(panels, columns * depth.len(), least, |i, panel| self.pack(left + i * columns, &depth, panel));
                    let panels = &*panels;
                    each(threads, down * beside, &|i| {
                        let (row, column) = (i / beside * tall, i % beside * across);
                        let part = Block {
                            rows: row..(row + tall).min(m),
                            columns: left + column..left + (column + across).min(width),
                            depth: depth.clone(),
                            panels: &panels[column * depth.len()..],
                        };
                        self.block(&part);
                        if depth.end == k {
                            self.finish(&part, finish);
                        }
                    });
                }
            }
        });
    }
    /// Packs the panel of b that starts at column `left`.
    fn pack(&self, left: usize, depth: &Range<usize>, panel: &mut [f32]) {
        let [deep, along] = self.b.strides;
        let (x, count) = (&self.b.data[depth.start * deep + left * along..], self.sizes[2] - left);
        match self.vectors {
            // SAFETY: the machine has these vectors.
            #[cfg(target_arch = "x86_64")]
            Vectors::V512 => unsafe { v512::pack_columns(x, along, deep, count, panel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Vectors::V256 => unsafe { v256::pack_columns(x, along, deep, count, panel) },
            Vectors::Plain => plain::pack_columns(x, along, deep, count, panel),
        }
    }
    fn block(&self, part: &Block) {
        let rows = part.rows.len().next_multiple_of(self.tile()[0]);
        scratch::with(rows * self.step(), |packed: &mut [f32]| match self.vectors {
            // SAFETY: the machine has these vectors.
            #[cfg(target_arch = "x86_64")]
            Vectors::V512 => unsafe { v512::block(self, part, packed) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Vectors::V256 => unsafe { v256::block(self, part, packed) },
            Vectors::Plain => plain::block(self, part, packed),
        });
    }
    fn finish(&self, part: &Block, finish: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let (rows, columns) = (part.rows.len(), part.columns.len());
        let (count, len) = if columns == self.pitch { (1, rows * columns) } else { (rows, columns) };
        for i in 0..count {
            let first = (part.rows.start + i) * self.pitch + part.columns.start;
            // SAFETY: `new` has checked that the block is inside of y. This block belongs to this thread.
            finish(first, unsafe { std::slice::from_raw_parts_mut(self.y.add(first), len) });
        }
    }
}

/// Calls `f` with each number below `n`, with `threads` threads.
fn each(threads: usize, n: usize, f: &(dyn Fn(usize) + Sync)) {
    if threads == 1 { (0..n).for_each(f) } else { parallel(n, f) }
}

/// The number of running sums of a dot product. They do not depend on each other, so the CPU adds them in parallel.
const SUMS: usize = 32;

/// Returns Σ a[i]·b[i].
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    match Vectors::get() {
        // SAFETY: the machine has these vectors.
        #[cfg(target_arch = "x86_64")]
        Vectors::V512 => unsafe { v512::dot(a, b) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Vectors::V256 => unsafe { v256::dot(a, b) },
        Vectors::Plain => plain::dot(a, b),
    }
}

/// Sets `panel[p · W + i] = x[i · along + p · deep]` for i below `count`, and 0 for the other i.
#[inline(always)]
fn pack<const W: usize>(x: &[f32], along: usize, deep: usize, count: usize, panel: &mut [f32]) {
    let (count, panel) = (count.min(W), panel.as_chunks_mut::<W>().0);
    if along == 1 && count == W {
        panel.iter_mut().enumerate().for_each(|(p, to)| to.copy_from_slice(&x[p * deep..][..W]));
    } else if deep == 1 {
        assert!((count - 1) * along + panel.len() <= x.len());
        // Copies four by four elements at a time, so that whole vectors are read and written.
        let (full, fours) = (count / 4 * 4, panel.len() / 4 * 4);
        for p in (0..fours).step_by(4) {
            for i in (0..full).step_by(4) {
                // SAFETY: i + 3 < count and p + 3 < panel.len(). So the elements are inside of the panel and, by the assertion,
                // inside of x.
                unsafe { transpose(x.as_ptr().add(i * along + p), along, panel.as_mut_ptr().cast::<f32>().add(p * W + i), W) };
            }
        }
        for (p, to) in panel.iter_mut().enumerate() {
            let done = if p < fours { full } else { 0 };
            to[done..count].iter_mut().enumerate().for_each(|(i, to)| *to = x[(done + i) * along + p]);
            to[count..].fill(0.0);
        }
    } else {
        for (p, to) in panel.iter_mut().enumerate() {
            to[..count].iter_mut().zip(x[p * deep..].iter().step_by(along)).for_each(|(to, &x)| *to = x);
            to[count..].fill(0.0);
        }
    }
}

/// Sets `to[q · rows + i] = x[i · along + q]` for i and q below 4.
#[inline(always)]
unsafe fn transpose(x: *const f32, along: usize, to: *mut f32, rows: usize) {
    // SAFETY: the caller's pointers reach that far. Every x86-64 machine has these vectors.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::*;
        let [mut a, mut b, mut c, mut d] = [0, 1, 2, 3].map(|i| _mm_loadu_ps(x.add(i * along)));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        [a, b, c, d].into_iter().enumerate().for_each(|(q, v)| _mm_storeu_ps(to.add(q * rows), v));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (i, q) in (0..4).flat_map(|i| (0..4).map(move |q| (i, q))) {
        // SAFETY: as above.
        unsafe { *to.add(q * rows + i) = *x.add(i * along + q) };
    }
}

/// The kernels for one kind of vector. The three numbers are the rows of a tile, half of the rows, and the floats of a vector. A
/// tile has two columns of vectors, or one column at an edge.
macro_rules! kernels {
    ($(#[$enable:meta])* $name:ident, [$rows:literal, $half:literal, $lanes:literal], $splat:path, $load:path, $store:path, $fused:path, $multiply:path, $add:path) => {
        mod $name {
            use super::*;
            pub const TILE: [usize; 2] = [ROWS, COLUMNS];
            const ROWS: usize = $rows;
            const COLUMNS: usize = 2 * $lanes;

            $(#[$enable])*
            pub fn pack_columns(x: &[f32], along: usize, deep: usize, count: usize, panel: &mut [f32]) {
                pack::<COLUMNS>(x, along, deep, count, panel);
            }
            $(#[$enable])*
            pub fn dot(a: &[f32], b: &[f32]) -> f32 {
                const V: usize = SUMS / $lanes;
                let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
                let (mut a_last, mut b_last) = ([0.0; SUMS], [0.0; SUMS]);
                a_last[..a_rest.len()].copy_from_slice(a_rest);
                b_last[..b_rest.len()].copy_from_slice(b_rest);
                let mut vectors = [$splat(0.0); V];
                for (a, b) in a.iter().zip(b).chain([(&a_last, &b_last)]) {
                    for v in 0..V {
                        // SAFETY: inside of the two arrays.
                        let (a, b) = unsafe { ($load(a.as_ptr().add(v * $lanes)), $load(b.as_ptr().add(v * $lanes))) };
                        vectors[v] = $fused(a, b, vectors[v]);
                    }
                }
                let mut sums = [0.0; SUMS];
                for v in 0..V {
                    // SAFETY: inside of the array.
                    unsafe { $store(sums.as_mut_ptr().add(v * $lanes), vectors[v]) };
                }
                let mut n = SUMS;
                while n > 1 {
                    n /= 2;
                    (0..n).for_each(|i| sums[i] += sums[i + n]);
                }
                sums[0]
            }
            $(#[$enable])*
            pub fn block(job: &Gemm, part: &Block, packed: &mut [f32]) {
                let ([along, deep], step) = (job.a.strides, job.step());
                for start in part.depth.clone().step_by(step) {
                    let depth = step.min(part.depth.end - start);
                    let packed = &mut packed[..part.rows.len().next_multiple_of(ROWS) * depth];
                    for (panel, row) in packed.chunks_mut(ROWS * depth).zip(part.rows.clone().step_by(ROWS)) {
                        pack::<ROWS>(&job.a.data[row * along + start * deep..], along, deep, part.rows.end - row, panel);
                    }
                    let panels = part.panels.chunks(COLUMNS * part.depth.len());
                    for (b, column) in panels.zip(part.columns.clone().step_by(COLUMNS)) {
                        let b = &b[(start - part.depth.start) * COLUMNS..][..depth * COLUMNS];
                        for (a, row) in packed.chunks(ROWS * depth).zip(part.rows.clone().step_by(ROWS)) {
                            let size = [(part.rows.end - row).min(ROWS), (part.columns.end - column).min(COLUMNS)];
                            // SAFETY: `y` is in this thread's block of y, which `Gemm::new` has checked.
                            let y = unsafe { job.y.add(row * job.pitch + column) };
                            let to = Tile { y, pitch: job.pitch, scale: job.scale, add: job.add || start > 0 };
                            match (size[0] <= $half, size[1] <= $lanes) {
                                (false, false) => tile::<$rows, 2>(a, b, size, to),
                                (false, true) => tile::<$rows, 1>(a, b, size, to),
                                (true, false) => tile::<$half, 2>(a, b, size, to),
                                (true, true) => tile::<$half, 1>(a, b, size, to),
                            }
                        }
                    }
                }
            }
            $(#[$enable])*
            fn tile<const R: usize, const V: usize>(a: &[f32], b: &[f32], [rows, columns]: [usize; 2], to: Tile) {
                if [rows, columns] == [R, V * $lanes] {
                    // SAFETY: the caller gives that many rows and columns of y.
                    return unsafe { sums::<R, V>(a, b, to) };
                }
                // At an edge, compute a whole tile and copy a part of it.
                let mut whole = [0.0; ROWS * COLUMNS];
                // SAFETY: a whole tile has that many rows and columns.
                unsafe { sums::<R, V>(a, b, Tile { y: whole.as_mut_ptr(), pitch: COLUMNS, scale: 1.0, add: false }) };
                for (i, sums) in whole.chunks(COLUMNS).take(rows).enumerate() {
                    // SAFETY: the caller gives that many rows and columns of y.
                    let y = unsafe { std::slice::from_raw_parts_mut(to.y.add(i * to.pitch), columns) };
                    match to.add {
                        true => y.iter_mut().zip(sums).for_each(|(y, s)| *y += to.scale * s),
                        false => y.iter_mut().zip(sums).for_each(|(y, s)| *y = to.scale * s),
                    }
                }
            }
            /// Computes the first R rows of V vectors of a tile.
            $(#[$enable])*
            unsafe fn sums<const R: usize, const V: usize>(a: &[f32], b: &[f32], to: Tile) {
                let mut sums = [[$splat(0.0); V]; R];
                for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
                    let mut x = [$splat(0.0); V];
                    for v in 0..V {
                        // SAFETY: inside of the row of the panel.
                        x[v] = unsafe { $load(b.as_ptr().add(v * $lanes)) };
                    }
                    for i in 0..R {
                        let a = $splat(a[i]);
                        for v in 0..V {
                            sums[i][v] = $fused(a, x[v], sums[i][v]);
                        }
                    }
                }
                let scale = $splat(to.scale);
                for i in 0..R {
                    for v in 0..V {
                        let sum = $multiply(scale, sums[i][v]);
                        // SAFETY: the caller gives that many rows and columns of y.
                        unsafe {
                            let y = to.y.add(i * to.pitch + v * $lanes);
                            $store(y, if to.add { $add($load(y), sum) } else { sum });
                        }
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as x86;
#[cfg(target_arch = "x86_64")]
kernels!(
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    v512,
    [12, 6, 16],
    x86::_mm512_set1_ps,
    x86::_mm512_loadu_ps,
    x86::_mm512_storeu_ps,
    x86::_mm512_fmadd_ps,
    x86::_mm512_mul_ps,
    x86::_mm512_add_ps
);
#[cfg(target_arch = "x86_64")]
kernels!(
    #[target_feature(enable = "avx2,fma")]
    v256,
    [6, 3, 8],
    x86::_mm256_set1_ps,
    x86::_mm256_loadu_ps,
    x86::_mm256_storeu_ps,
    x86::_mm256_fmadd_ps,
    x86::_mm256_mul_ps,
    x86::_mm256_add_ps
);
// NEON has 32 registers, SSE2 has 16.
#[cfg(target_arch = "aarch64")]
kernels!(plain, [12, 6, 4], four::splat, four::load, four::store, four::fused, four::multiply, four::add);
#[cfg(not(target_arch = "aarch64"))]
kernels!(plain, [6, 3, 4], four::splat, four::load, four::store, four::fused, four::multiply, four::add);

/// Four floats. This is a vector on every machine that has vectors.
mod four {
    /// Whether a fused multiply-add is one instruction on every machine of this kind.
    const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

    #[inline(always)]
    pub fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    pub unsafe fn load(p: *const f32) -> [f32; 4] {
        // SAFETY: the caller gives a pointer to four floats.
        unsafe { p.cast::<[f32; 4]>().read() }
    }
    #[inline(always)]
    pub unsafe fn store(p: *mut f32, x: [f32; 4]) {
        // SAFETY: the caller gives a pointer to four floats.
        unsafe { p.cast::<[f32; 4]>().write(x) }
    }
    #[inline(always)]
    pub fn fused(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if FUSED { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    #[inline(always)]
    pub fn multiply(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    pub fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ops::{Fill, fill},
        shape::Shape,
    };

    /// Returns every kind of vector that this machine has.
    fn all() -> Vec<Vectors> {
        match Vectors::get() {
            #[cfg(target_arch = "x86_64")]
            Vectors::V512 => vec![Vectors::Plain, Vectors::V256, Vectors::V512],
            #[cfg(target_arch = "x86_64")]
            Vectors::V256 => vec![Vectors::Plain, Vectors::V256],
            Vectors::Plain => vec![Vectors::Plain],
        }
    }

    /// The sizes are at, below and above tiles and blocks. Each operand is transposed or not. The result is scaled, added, and part
    /// of a larger y.
    #[test]
    fn products() {
        let sizes =
            [[1, 1, 1], [1, 7, 1], [12, 9, 32], [13, 288, 33], [11, 289, 31], [6, 4, 16], [7, 5, 17], [100, 600, 70], [3, 1200, 1000]];
        for ([m, k, n], case) in sizes.into_iter().flat_map(|s| (0..16).map(move |case| (s, case))) {
            let bit = |i: usize| case >> i & 1 == 1;
            let fill = |n: usize, seed| fill(Shape::from([n]), &Fill::Range(-1.0, 1.0), seed);
            let (a, b, was) = (fill(m * k, 1), fill(k * n, 2), fill(m * (n + 3), 3));
            let side = |data, [rows, columns]: [usize; 2], transposed| match transposed {
                false => Matrix::rows(data, columns),
                true => Matrix::rows(data, rows).transposed(),
            };
            let (a, b) = (side(a.f(), [m, k], bit(0)), side(b.f(), [k, n], bit(1)));
            let scale = if bit(3) { 0.3 } else { 1.0 };
            let run = |vectors, threads| {
                let mut y = was.f().to_vec();
                Gemm { vectors, ..Gemm::new([m, k, n], scale, [a, b], &mut y, n + 3, bit(2)) }.run(threads, &|first, y| {
                    assert!(first % (n + 3) + y.len() <= n);
                    y.iter_mut().for_each(|y| *y += 1.0);
                });
                y
            };
            let at = |m: &Matrix, i: usize, j: usize| f64::from(m.data[i * m.strides[0] + j * m.strides[1]]);
            let results: Vec<_> = all().into_iter().map(|v| run(v, 1)).collect();
            for (e, &was) in was.f().iter().enumerate() {
                let (i, j) = (e / (n + 3), e % (n + 3));
                let sum: f64 = (0..if j < n { k } else { 0 }).map(|p| at(&a, i, p) * at(&b, p, j)).sum();
                let kept = if bit(2) { f64::from(was) } else { 0.0 };
                let want = if j < n { kept + f64::from(scale) * sum + 1.0 } else { f64::from(was) };
                for y in &results {
                    assert!(
                        (f64::from(y[e]) - want).abs() < 1e-6 * (10 + k) as f64,
                        "{m} {k} {n} {case}: {} is not {want} at {i}, {j}",
                        y[e]
                    );
                }
            }
            // The bits do not depend on threads, nor on the kind of vector if it has fused multiply-adds.
            results[1..].windows(2).for_each(|two| assert_eq!(two[0], two[1]));
            assert_eq!(run(Vectors::get(), 5), results[results.len() - 1]);
        }
    }

    #[test]
    fn an_element_does_not_depend_on_other_rows_and_columns() {
        let fill = |n: usize, seed| fill(Shape::from([n]), &Fill::Range(-1.0, 1.0), seed);
        let (a, b, [m, k, n]) = (fill(40 * 700, 1), fill(700 * 50, 2), [40, 700, 50]);
        let (mut all, mut one) = (vec![0.0; m * n], vec![0.0]);
        product([m, k, n], 1.0, [Matrix::rows(a.f(), k), Matrix::rows(b.f(), n)], &mut all, n, false, By::All);
        for (i, j) in [(0, 0), (39, 49), (13, 33), (12, 32)] {
            product([1, k, 1], 1.0, [Matrix::rows(&a.f()[i * k..], k), Matrix::rows(&b.f()[j..], n)], &mut one, 1, false, By::This);
            assert_eq!(one[0], all[i * n + j]);
        }
    }
}
