//! The kernels of [`MatMul`]. Each file in `shaders/` states its shapes and devices. This file puts the kernels in order.

use super::*;
use crate::{
    kernel::{ALIGN, Bind, Pass, Source, Span, Word, source},
    ops::parts,
    threads::sorted,
};
use std::cmp::Reverse;

/// With at most this number of rows or columns, tiles do not pay.
const FEW: usize = 16;

/// The number of workgroups that keeps a large device busy. Sums are cut into parts until there are this many workgroups. A tile
/// size is not chosen if it would give fewer.
const GROUPS: usize = 128;

/// The least number of terms in a part of a sum. It is smaller if a single invocation adds them up.
const SHARE: usize = 256;
const THIN_SHARE: usize = 64;

/// For software adapters: the number of workgroups that keeps the threads busy, and the number of rows of a matrix that the caches
/// hold.
const THREADS: usize = 16;
const CACHED: usize = 256;

/// The largest number of parts of a sum.
const MOST_PARTS: usize = 64;

/// The number of rows of tiles that form a band. The tiles of a band are computed column by column.
const WALK: usize = 8;

/// The tiles in workgroup memory: rows, columns, and the rows and columns of each invocation.
const TILES: [[usize; 3]; 5] = [[16, 16, 4], [32, 32, 4], [64, 64, 4], [128, 64, 8], [128, 128, 8]];

/// The largest number of candidates of one product. Measuring them takes time.
const MOST: usize = 5;

/// Returns the candidates in ascending order of their expected speed on the device.
pub(super) fn kernels(op: &MatMul, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
    let f = Frame { op, d: op.known_dims(x[0], x[1]), rest: &x[2..], y, caps };
    let (m, n) = (f.d.m, f.d.n);
    let few = m.min(n) <= FEW;
    let mut kernels = Vec::new();
    if !few {
        kernels.extend(f.all_tiles());
    } else if m > FEW && !f.dots() {
        kernels.extend(f.fitting().last().map(|size| f.tiles(size, GROUPS)));
    }
    if m <= FEW {
        kernels.push(f.thin());
    }
    if few && f.dots() {
        kernels.push(f.dot());
        kernels.extend(f.dot_subgroup());
    }
    if let Some(lanes) = f.lanes() {
        // Workgroup memory does not help on a software adapter.
        kernels = if few { kernels.pop().into_iter().collect() } else { Vec::new() };
        let dot = kernels.pop_if(|_| m.min(n) <= 4 && f.dots());
        kernels.push(f.rows(4, lanes));
        if n > 4 * lanes {
            kernels.push(f.rows(8, lanes));
        }
        kernels.extend(dot);
    }
    kernels.drain(..kernels.len().saturating_sub(MOST - 1));
    kernels.insert(0, f.naive());
    kernels
}

/// One product and its device.
struct Frame<'a> {
    op: &'a MatMul,
    d: Dims,
    /// The further inputs of the epilogue.
    rest: &'a [Shape],
    y: Shape,
    caps: &'a Caps,
}

/// The division of a kernel's work.
struct Division {
    /// The rows and columns of outputs that a unit computes.
    block: [usize; 2],
    /// The number of units in a workgroup.
    per_group: usize,
    /// The number of parts that the sums are cut into, if they may be cut.
    parts: usize,
}

impl Frame<'_> {
    /// Returns a kernel. It has one pass, and a second pass that adds the parts if sums are cut into parts.
    fn kernel(&self, name: &'static str, source: Source, entry: &'static str, consts: &[(&'static str, usize)], work: Division) -> Kernel {
        let d = &self.d;
        let (blocks_m, blocks_n) = (d.m.div_ceil(work.block[0]), d.n.div_ceil(work.block[1]));
        let tiles = blocks_m * blocks_n;
        let products = d.batch.elements();
        let parts = Parts::new(self, work.parts);
        let cut = parts.count > 1;

        // A band has at most this many rows of tiles, so that its window can be bound wherever the window starts.
        let most = (self.caps.max_binding_bytes / 4) as usize / (ALIGN * work.block[0] * d.k.max(d.n));
        let walk = if work.block[1] == 1 || d.m == 1 { 1 } else { WALK.min(most).min(blocks_m).max(1) };

        // The blocks of the tensors that a dispatch can see alone: parts of the sums, products of a batch, tiles of a single row,
        // or rows of tiles.
        let (units, [block_a, block_b, block_y]) = match () {
            _ if cut => (tiles, [parts.along_a, parts.along_b, parts.size]),
            _ if products > 1 => {
                let every = |strides: &[usize], elements: usize| {
                    let alone = d.batch.dims().iter().rev().scan(1, |step, &d| Some(std::mem::replace(step, *step * d)));
                    let strides = strides[..d.batch.rank()].iter().rev();
                    let each = strides.zip(d.batch.dims().iter().rev().zip(alone)).all(|(&s, (&d, step))| s == step || d == 1);
                    if each { elements } else { 0 }
                };
                (tiles, [every(&d.a, d.m * d.k), every(&d.b, d.k * d.n), d.m * d.n])
            }
            _ if d.m == 1 && self.op.transpose_b => (1, [0, work.block[1] * d.k, work.block[1]]),
            _ => (walk * blocks_n, [if self.op.transpose_a { 0 } else { walk * work.block[0] * d.k }, 0, walk * work.block[0] * d.n]),
        };
        let seen = |bind: Bind, elements: usize| if elements > 0 { bind.blocks(units, elements) } else { bind };

        let mut params: Vec<(String, Word)> = [
            ("m", d.m),
            ("n", d.n),
            ("k", d.k),
            ("tiles_m", blocks_m),
            ("tiles_n", blocks_n),
            ("walk", walk),
            ("tiles", tiles),
            ("share", if cut { parts.share } else { 0 }),
            ("terms", if cut { parts.share } else { d.k }),
            ("size", if cut { parts.size } else { d.m * d.n }),
            ("block_units", units),
            ("block_a", block_a),
            ("block_b", block_b),
            ("block_y", block_y),
        ]
        .map(|(name, size)| (name.to_string(), size.into()))
        .to_vec();
        let lead = 4 - d.batch.rank();
        for axis in 0..4usize {
            let of = |list: &[usize], other: usize| axis.checked_sub(lead).map_or(other, |i| list[i]);
            if axis > 0 {
                params.push((format!("d{axis}"), of(d.batch.dims(), 1).into()));
            }
            params.push((format!("a{axis}"), (of(&d.a, 0) * d.m * d.k).into()));
            params.push((format!("b{axis}"), (of(&d.b, 0) * d.k * d.n).into()));
        }

        let (epilogue, rest) = if cut { (&None, &[][..]) } else { (&self.op.epilogue, self.rest) };
        let span = Span::Blocks { units, elements: block_y };
        let mut code = epilogue::code_in(epilogue, 2, rest, self.y, "p.first / p.block_units * p.block_y", span);
        params.append(&mut code.params);
        let mut binds = vec![seen(Bind::input("a", 0, DType::F32), block_a), seen(Bind::input("b", 1, DType::F32), block_b)];
        binds.append(&mut code.binds);
        let to = if cut { Bind::scratch("y", 0).written() } else { Bind::output("y", DType::F32) };
        binds.push(seen(to, block_y));
        let flags = [("TA", self.op.transpose_a as usize), ("TB", self.op.transpose_b as usize)];
        let pass = Pass {
            source,
            entry,
            consts: flags.iter().chain(consts).map(|&(name, value)| (name, value.into())).collect(),
            params,
            binds,
            code: code.text,
            units: tiles * products.max(parts.count),
            per_group: work.per_group,
            step: code.step,
        };
        match cut {
            false => Kernel::one(name, pass),
            true => parts::kernel(name, pass, [parts.count, parts.size], &self.op.epilogue, self.rest, self.y, self.caps),
        }
    }

    /// Returns the kernel with one invocation for each output.
    fn naive(&self) -> Kernel {
        let lanes = self.caps.workgroup(256);
        let work = Division { block: [1, 1], per_group: lanes, parts: 1 };
        self.kernel("naive", source!("matmul"), "forward", &[("LANES", lanes), ("ROWS", 1)], work)
    }

    /// Returns the kernel with one invocation for one column of a few rows.
    fn thin(&self) -> Kernel {
        let (d, lanes) = (&self.d, self.caps.workgroup(64));
        let rows = d.m.div_ceil(d.m.div_ceil(8));
        let groups = (d.m.div_ceil(rows) * d.n).div_ceil(lanes);
        let parts = (GROUPS / groups).min(d.k / THIN_SHARE);
        let work = Division { block: [rows, 1], per_group: lanes, parts };
        self.kernel("thin", source!("matmul"), "forward", &[("LANES", lanes), ("ROWS", rows)], work)
    }

    /// Returns true if the terms of a row of `a` and of a column of `b` are neighbours in memory, and there are at least 32 terms.
    fn dots(&self) -> bool {
        let (op, d) = (self.op, &self.d);
        (!op.transpose_a || d.m == 1) && (op.transpose_b || d.n == 1) && d.k >= 32
    }
    /// Returns the rows and columns of the outputs whose terms are shared by the same lanes.
    fn dot_block(&self) -> [usize; 2] {
        [self.d.m, self.d.n].map(|size| size.next_power_of_two().min(4))
    }
    /// Returns the kernel whose lanes share the terms of an output. The lanes add their sums in workgroup memory.
    fn dot(&self) -> Kernel {
        let block @ [rows, columns] = self.dot_block();
        let lanes = self.caps.workgroup(64).min((self.caps.max_workgroup_bytes as usize / (4 * rows * columns)).max(1));
        let lanes = 1 << lanes.ilog2();
        let consts = [("LANES", lanes), ("ROWS", rows), ("COLUMNS", columns)];
        self.kernel("dot", source!("matmul_dot"), "forward_dot", &consts, Division { block, per_group: 1, parts: 1 })
    }
    /// Returns the kernel whose terms are shared by the lanes of a subgroup.
    fn dot_subgroup(&self) -> Option<Kernel> {
        let lanes = self.caps.subgroups?;
        let block @ [rows, columns] = self.dot_block();
        let consts = [("LANES", lanes as usize), ("ROWS", rows), ("COLUMNS", columns)];
        Some(self.kernel(
            "dot_subgroup",
            source!("matmul_dot"),
            "forward_dot_subgroup",
            &consts,
            Division { block, per_group: 1, parts: 1 },
        ))
    }

    /// Returns the tile sizes that the device allows and that are less than twice as large as the matrix.
    fn fitting(&self) -> impl Iterator<Item = &'static [usize; 3]> {
        let (m, n, caps) = (self.d.m, self.d.n, self.caps);
        let fits = move |&&[tile_m, tile_n, per]: &&[usize; 3]| {
            let [invocations, bytes] = [tile_m * tile_n / (per * per), 2 * 4 * 8 * (tile_m + tile_n)];
            let allowed = invocations <= caps.max_invocations as usize && bytes <= caps.max_workgroup_bytes as usize;
            allowed && (tile_m == 16 || (tile_m < 2 * m && tile_n < 2 * n))
        };
        TILES.iter().filter(fits)
    }
    fn count(&self, [tile_m, tile_n, _]: &[usize; 3]) -> usize {
        self.d.batch.elements() * self.d.m.div_ceil(*tile_m) * self.d.n.div_ceil(*tile_n)
    }
    /// Returns the kernels with tiles. The best size comes last. It is the largest size that gives enough workgroups. If
    /// registers are few, it has 4 × 4 outputs for each invocation. Sums in parts count only if otherwise a small tile would be the choice. The other sizes are in order of their distance from the best size,
    /// the farthest first.
    fn all_tiles(&self) -> Vec<Kernel> {
        let sizes: Vec<_> = self.fitting().collect();
        let lean = |size: &[usize; 3]| size[2] == 4 || !self.caps.few_registers;
        let enough = |size| lean(size) && self.count(size) >= GROUPS;
        let in_parts = |size| lean(size) && self.count(size) * self.tile_parts(size, GROUPS).max(1) >= GROUPS;
        let whole = sizes.iter().rposition(|size| size[0] >= 64 && enough(size));
        let best = whole.or(sizes.iter().rposition(|size| in_parts(size))).unwrap_or(0);
        let mut kernels: Vec<Kernel> =
            sorted(sizes.len(), |i| Reverse(i.abs_diff(best))).into_iter().map(|i| self.tiles(sizes[i], GROUPS)).collect();
        // The best size without parts is a candidate, too.
        kernels.extend(sizes.get(best).map(|size| self.tiles(size, 0)));
        let end = kernels.len();
        kernels.swap(end - 2, end - 1);
        kernels.dedup();
        kernels
    }
    /// Returns the number of parts of the sums that gives at least `groups` workgroups.
    fn tile_parts(&self, size: &[usize; 3], groups: usize) -> usize {
        groups.div_ceil(self.count(size)).min(self.d.k / SHARE)
    }
    /// Returns the kernel with tiles in workgroup memory. Sums are cut into parts until there are `groups` workgroups.
    fn tiles(&self, size: &[usize; 3], groups: usize) -> Kernel {
        let &[tile_m, tile_n, per] = size;
        let parts = self.tile_parts(size, groups);
        // One size may be a candidate twice, with and without parts. A choice is found again by its name.
        let name = match (size, parts > 1) {
            ([16, ..], false) => "tiles_16",
            ([16, ..], true) => "tiles_16_parts",
            ([32, ..], false) => "tiles_32",
            ([32, ..], true) => "tiles_32_parts",
            ([64, ..], false) => "tiles_64",
            ([64, ..], true) => "tiles_64_parts",
            ([_, 64, _], false) => "tiles_128x64",
            ([_, 64, _], true) => "tiles_128x64_parts",
            (_, false) => "tiles_128",
            (_, true) => "tiles_128_parts",
        };
        // In a small tile, an invocation fetches much of a slab.
        let is_narrow = self.caps.few_registers && tile_m == 16;
        let slab = if 2 * 4 * 16 * (tile_m + tile_n) <= self.caps.max_workgroup_bytes.min(16384) as usize && !is_narrow { 16 } else { 8 };
        let work = Division { block: [tile_m, tile_n], per_group: 1, parts };
        let consts = [("TILE_M", tile_m), ("TILE_N", tile_n), ("PER_M", per), ("PER_N", per), ("SLAB", slab)];
        let mut kernel = self.kernel(name, source!("matmul_tiles"), "forward_tiles", &consts, work);
        let pass = &mut kernel.passes[0];
        let d = &self.d;
        for (side, length) in [(0, if self.op.transpose_a { d.m } else { d.k }), (1, if self.op.transpose_b { d.k } else { d.n })] {
            let bind = &mut pass.binds[side];
            bind.vec4 = length % 4 == 0;
            pass.code.push_str(&four(&bind.name, bind.vec4));
        }
        kernel
    }

    /// Returns the number of lanes in a subgroup, if this is a software adapter with subgroups.
    fn lanes(&self) -> Option<usize> {
        match self.caps.subgroups {
            Some(lanes @ 4..=32) if self.caps.software => Some(lanes as usize),
            _ => None,
        }
    }
    /// Returns the kernel for software adapters. Its blocks are in the registers of one subgroup, without workgroup memory. A lane
    /// computes `columns` columns.
    fn rows(&self, columns: usize, lanes: usize) -> Kernel {
        let (op, d) = (self.op, &self.d);
        let rows = d.m.next_power_of_two().clamp(lanes, 32.max(lanes));
        let block = [rows, columns * lanes];
        // Parts give work to all threads, and keep the data of a part in the caches.
        let strided = op.transpose_a || !op.transpose_b;
        let parts =
            (THREADS / (d.m.div_ceil(block[0]) * d.n.div_ceil(block[1]))).min(d.k / SHARE).max(if strided { d.k / CACHED } else { 1 });
        let epilogue = usize::from(op.epilogue.is_some() && Parts::new(self, parts).count == 1);
        let consts = [("LANES", lanes), ("ROWS", block[0]), ("COLUMNS", block[1]), ("EPILOGUE", epilogue)];
        let name = if columns > 4 { "rows_wide" } else { "rows" };
        self.kernel(name, source!("matmul_rows"), "forward_rows", &consts, Division { block, per_group: 1, parts })
    }
}

/// Returns WGSL that loads four neighbouring elements of a matrix from position `start + i`. The last element is at `start + last`. An
/// index beyond it is moved back to it.
fn four(name: &str, vec4: bool) -> String {
    let head = format!("fn four_{name}(start: u32, i: u32, last: u32) -> vec4<f32> {{\n    return ");
    let body = match vec4 {
        true => format!("{name}[(start + min(i, last)) / 4u]"),
        false => format!("vec4<f32>({})", [0, 1, 2, 3].map(|t| format!("{name}[start + min(i + {t}u, last)]")).join(", ")),
    };
    format!("{head}{body};\n}}\n")
}

/// The parts that sums are cut into. Their number depends on sizes and limits only.
struct Parts {
    count: usize,
    /// The number of terms in a part.
    share: usize,
    /// The number of elements of a part's results in scratch memory.
    size: usize,
    /// The number of elements of a part in `a` and in `b`. It is 0 if they are not neighbours.
    along_a: usize,
    along_b: usize,
}

impl Parts {
    /// Returns the wanted number of parts, with two corrections. The scratch memory must not exceed the memory that is read. There
    /// are enough parts that each can be bound.
    fn new(f: &Frame, wanted: usize) -> Parts {
        let (op, d) = (f.op, &f.d);
        let elements = (f.caps.max_binding_bytes / 4) as usize;
        let size = (d.m * d.n).next_multiple_of(ALIGN);
        let none = Parts { count: 1, share: d.k, size, along_a: 0, along_b: 0 };
        if d.batch.elements() > 1 {
            return none;
        }
        let [row_a, row_b] = [if op.transpose_a { d.m } else { 0 }, if op.transpose_b { 0 } else { d.n }];
        // The number of terms for which the larger operand can be bound.
        let bound = (row_a.max(row_b) * d.k > elements).then(|| elements / row_a.max(row_b) / ALIGN * ALIGN);
        let least = bound.map_or(1, |terms| d.k.div_ceil(terms.max(1)));
        let most = (elements / size).min(((d.m + d.n) * d.k / size).min(MOST_PARTS).max(least));
        let count = wanted.max(least).min(most).max(1);
        let share = d.k.div_ceil(count).next_multiple_of(ALIGN);
        let share = bound.filter(|&terms| terms > 0).map_or(share, |terms| share.min(terms));
        let count = d.k.div_ceil(share);
        // If there is one part, no sum is cut. If there are too many parts, their results cannot be bound.
        if count <= 1 || count * size > elements {
            return none;
        }
        Parts { count, share, size, along_a: row_a * share, along_b: row_b * share }
    }
}
