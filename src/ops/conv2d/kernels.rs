//! The kernels of the three ops. `direct` has one invocation for each element: it is portable, and serves groups of few channels.
//! Tiles are for hardware. Blocks in the registers of a subgroup are for software adapters. `shaders/lib/conv.wgsl` describes how
//! one shader computes the three ops.

use super::*;
use crate::{
    kernel::{ALIGN, Bind, Pass, Source, Word, source},
    ops::parts,
    threads::sorted,
};
use std::cmp::Reverse;

/// The op that a kernel computes. WGSL calls it `MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Forward,
    GradX,
    GradW,
}

/// If a group has at most this number of rows (channels of the result), tiles do not pay.
const FEW: usize = 2;

/// A sum over pixels is divided into shares until there are GROUPS workgroups. A share has at least SHARE terms.
const GROUPS: usize = 1024;
const SHARE: usize = 256;

/// The number of workgroups that keeps a large device busy. A tile size is not chosen if it would give fewer.
const BUSY: usize = 128;

/// The tiles in workgroup memory: rows, columns, and the rows and columns of each invocation.
const TILES: [[usize; 3]; 5] = [[16, 16, 4], [32, 64, 4], [64, 64, 4], [64, 128, 8], [128, 128, 8]];

/// For software adapters: the number of workgroups that keeps the threads busy, and the largest number of elements that a share may
/// read, because caches hold no more.
const SOFTWARE_GROUPS: usize = 32;
const CACHED: usize = 1 << 17;

/// The number of invocations that share one element of dw in the portable kernel.
const DIRECT_PARTS: usize = 128;

/// The largest number of scratch elements, unless more parts are needed.
const SCRATCH: usize = 1 << 20;

/// The division of the batch into blocks of images, so that a dispatch can see some blocks alone. See
/// [`Span::Blocks`](crate::kernel::Span::Blocks).
struct Blocks {
    images: usize,
    count: usize,
}

impl Blocks {
    /// Returns one block of all images if their tensors can be bound whole. Otherwise a block has as many images as fit, and its
    /// tensors are multiples of 256 bytes.
    fn new(s: &ConvSizes, caps: &Caps) -> Blocks {
        let images = [s.x(), s.y()].map(|t| t.elements() / s.n);
        let most = images.map(|e| (caps.max_binding_bytes / 4) as usize / e).into_iter().min().unwrap_or(0);
        let grain = images.map(|e| ALIGN >> e.trailing_zeros().min(ALIGN.ilog2())).into_iter().max().unwrap_or(1);
        let images = if s.n <= most || most < grain { s.n } else { most / grain * grain };
        Blocks { images, count: s.n.div_ceil(images) }
    }
}

/// The numbers of one op. A number for a group, a row or an image is the distance to the next one, in elements, in the tensors `a`
/// and `b` and in the result.
struct ConvFrame<'a> {
    mode: Mode,
    g: &'a Geometry,
    s: &'a ConvSizes,
    blocks: Blocks,
    /// The rows of the result of one group, the columns of the result for a block of images (in one phase), and the number of
    /// phases or parts.
    m: usize,
    columns: usize,
    parts: usize,
    /// The number of terms that a part of grad_w adds up.
    share: usize,
}

impl ConvFrame<'_> {
    /// Returns the number of elements in an image of x, and in an image of y.
    fn images(&self) -> [usize; 2] {
        [self.s.x(), self.s.y()].map(|t| t.elements() / self.s.n)
    }
    fn params(&self) -> Vec<(String, Word)> {
        let (g, s) = (self.g, self.s);
        let ([h, w], [kh, kw], [oh, ow]) = (s.image, s.kernel, s.map);
        let ([image_x, image_y], taps, images) = (self.images(), s.taps(), self.blocks.images);
        let [tap_h, tap_w] = tap_steps(g);
        let weights = s.o * taps;
        // The rows and groups of a, the groups of b, the rows and groups of the result, and then the blocks of each.
        let (row_a, group_a, group_b, row_y, group_y) = match self.mode {
            Mode::Forward => (taps, weights, s.c * h * w, oh * ow, s.o * oh * ow),
            Mode::GradX => (kh * kw, weights, s.o * oh * ow, h * w, s.c * h * w),
            Mode::GradW => (oh * ow, s.o * oh * ow, s.c * h * w, taps, weights),
        };
        let part = part_elements(s);
        let (block_a, block_b, block_y, part_y) = match self.mode {
            Mode::Forward => (0, images * image_x, images * image_y, 0),
            Mode::GradX => (0, images * image_y, images * image_x, 0),
            Mode::GradW => (images * image_y, images * image_x, self.parts * part, part),
        };
        let ([b_height, b_width], [y_height, y_width], image_b, depth) = match self.mode {
            Mode::Forward | Mode::GradW => ([h, w], [oh, ow], image_x, s.c),
            Mode::GradX => ([oh, ow], [h, w], image_y, s.o),
        };
        let [sh, sw] = g.stride;
        let [top, _, left, _] = g.padding;
        [
            ("batch", s.n),
            ("images", images),
            ("groups", s.groups),
            ("m", self.m),
            ("o", s.o),
            ("taps", taps),
            ("depth", depth),
            ("h", h),
            ("w", w),
            ("kh", kh),
            ("kw", kw),
            ("oh", oh),
            ("ow", ow),
            ("sh", sh),
            ("sw", sw),
            ("dh", g.dilation[0]),
            ("dw", g.dilation[1]),
            ("top", top),
            ("left", left),
            ("tap_h", tap_h),
            ("tap_w", tap_w),
            ("phases_w", phases(g, s)[1]),
            ("parts", self.parts),
            ("share", self.share),
            ("b_height", b_height),
            ("b_width", b_width),
            ("y_height", y_height),
            ("y_width", y_width),
            ("image_x", image_x),
            ("image_y", image_y),
            ("image_b", image_b),
            ("row_a", row_a),
            ("group_a", group_a),
            ("group_b", group_b),
            ("row_y", row_y),
            ("group_y", group_y),
            ("block_a", block_a),
            ("block_b", block_b),
            ("block_y", block_y),
            ("part_y", part_y),
        ]
        .map(|(name, size)| (name.to_string(), size.into()))
        .to_vec()
    }
    /// Returns a pass with `units` units for each block. Tensors with a batch axis are split between blocks of images.
    fn pass(&self, source: Source, entry: &'static str, units: usize, per_group: usize, to: Bind) -> Pass {
        let [block_x, block_y] = self.images().map(|image| image * self.blocks.images);
        let x = |name: &str, i| Bind::input(name, i, DType::F32).blocks(units, block_x);
        let y = |name: &str, i| Bind::input(name, i, DType::F32).blocks(units, block_y);
        let (a, b, to_block) = match self.mode {
            Mode::Forward => (Bind::input("a", 1, DType::F32), x("b", 0), block_y),
            Mode::GradX => (Bind::input("a", 1, DType::F32), y("b", 0), block_x),
            Mode::GradW => (y("a", 1), x("b", 0), self.parts * part_elements(self.s)),
        };
        let mut params = self.params();
        params.push(("block_units".into(), units.into()));
        Pass {
            source,
            entry,
            consts: vec![("MODE", (self.mode as usize).into())],
            params,
            binds: vec![a, b, to.blocks(units, to_block)],
            code: String::new(),
            units: units * self.blocks.count,
            per_group,
            step: false,
        }
    }
    /// Returns a pass with one workgroup for each tile. A tile has the rows and columns `tile`.
    fn tiles(&self, source: Source, entry: &'static str, tile: [usize; 2], to: Bind) -> Pass {
        let [tiles_m, tiles_n] = [self.m.div_ceil(tile[0]), self.columns.div_ceil(tile[1])];
        let mut pass = self.pass(source, entry, tiles_m * tiles_n * self.s.groups * self.parts, 1, to);
        pass.params.extend([("tiles_m".into(), tiles_m.into()), ("tiles_n".into(), tiles_n.into())]);
        pass
    }
    fn tiled(&self, &[m, n, per]: &[usize; 3], to: Bind, caps: &Caps) -> Pass {
        let mut pass = self.tiles(source!("conv2d_tiles"), "tiles", [m, n], to);
        // In a small tile, an invocation fetches much of a slab.
        let is_narrow = caps.few_registers && m == 16;
        let slab = if tile_bytes(m, n, 16) <= caps.max_workgroup_bytes.min(16384) as usize && !is_narrow { 16 } else { 8 };
        let consts = [("TILE_M", m), ("TILE_N", n), ("PER_M", per), ("PER_N", per), ("SLAB", slab)];
        pass.consts.extend(consts.map(|(name, value)| (name, value.into())));
        pass
    }
    /// Returns a pass in which a lane computes `columns` columns.
    fn rows(&self, rows: usize, columns: usize, lanes: usize, epilogue: bool, to: Bind) -> Pass {
        let mut pass = self.tiles(source!("conv2d_rows"), "rows", [rows, columns * lanes], to);
        let consts = [("LANES", lanes), ("ROWS", rows), ("COLUMNS", columns * lanes), ("EPILOGUE", usize::from(epilogue))];
        pass.consts.extend(consts.map(|(name, value)| (name, value.into())));
        pass
    }
}

/// Returns the number of elements for the results of one part in scratch memory. It is a multiple of 256 bytes, so that a window
/// may start at every part.
fn part_elements(s: &ConvSizes) -> usize {
    s.w().elements().next_multiple_of(ALIGN)
}

/// Returns the distance between neighbouring taps that meet the same pixel of x, along each axis.
fn tap_steps(g: &Geometry) -> [usize; 2] {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    [0, 1].map(|i| g.stride[i] / gcd(g.stride[i], g.dilation[i]))
}

/// Returns the number of phases along each axis. The pixels of a phase have the same position modulo the stride, so the same taps
/// meet them.
fn phases(g: &Geometry, s: &ConvSizes) -> [usize; 2] {
    [0, 1].map(|i| g.stride[i].min(s.image[i]))
}

/// Returns the bytes of workgroup memory for two slabs of `slab` terms and the positions of these terms.
fn tile_bytes(m: usize, n: usize, slab: usize) -> usize {
    2 * slab * (4 * (m + n) + 16)
}

/// Returns the tile sizes that the device allows and that are less than twice as large as the result. The best size comes last. It
/// is the largest size that gives enough workgroups. If registers are few, it has 4 × 4 results for each invocation. The other sizes are in order of their distance from the best size, the
/// farthest first. `count` returns the number of workgroups for the rows and columns of a tile.
fn tiles(m: usize, n: usize, caps: &Caps, count: &dyn Fn(usize, usize) -> usize) -> Vec<(&'static str, &'static [usize; 3])> {
    let fits = |&&[tile_m, tile_n, per]: &&[usize; 3]| {
        let allowed = tile_m * tile_n / (per * per) <= caps.max_invocations as usize
            && tile_bytes(tile_m, tile_n, 8) <= caps.max_workgroup_bytes as usize;
        allowed && (tile_m == 16 || (tile_m < 2 * m && tile_n < 2 * n))
    };
    let sizes: Vec<&[usize; 3]> = TILES.iter().filter(fits).collect();
    let lean = |per: usize| per == 4 || !caps.few_registers;
    let best = sizes.iter().rposition(|&&[tile_m, tile_n, per]| lean(per) && count(tile_m, tile_n) >= BUSY).unwrap_or(0);
    let order = sorted(sizes.len(), |i| Reverse(i.abs_diff(best)));
    let name = |size: &[usize; 3]| match size {
        [16, ..] => "tiles_16",
        [32, ..] => "tiles_32x64",
        [64, 64, _] => "tiles_64",
        [64, ..] => "tiles_64x128",
        _ => "tiles_128",
    };
    // These three sizes and the portable kernel are four candidates.
    order.into_iter().rev().take(3).rev().map(|i| (name(sizes[i]), sizes[i])).collect()
}

/// Returns the number of lanes in a subgroup, if this is a software adapter with subgroups.
fn lanes(caps: &Caps) -> Option<usize> {
    match caps.subgroups {
        Some(lanes @ 4..=32) if caps.software => Some(lanes as usize),
        _ => None,
    }
}

fn block_rows(m: usize, lanes: usize) -> usize {
    m.next_power_of_two().clamp(lanes, 32.max(lanes))
}

/// Returns the kernels whose result is images: forward and grad_x.
pub fn images(mode: Mode, g: &Geometry, s: &ConvSizes, epilogue: &Option<Expr>, rest: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
    let blocks = Blocks::new(s, caps);
    let (m, columns, parts) = match mode {
        Mode::GradX => {
            let [h, w] = phases(g, s);
            (s.c, blocks.images * s.image[0].div_ceil(g.stride[0]) * s.image[1].div_ceil(g.stride[1]), h * w)
        }
        _ => (s.o, blocks.images * s.map[0] * s.map[1], 1),
    };
    let frame = ConvFrame { mode, g, s, blocks, m, columns, parts, share: 0 };
    // The epilogue sees images as the kernel does: from the first block of the window.
    let finish = |mut pass: Pass| {
        let mut code = epilogue::code_in(epilogue, 2, rest, y, "p.first / p.block_units * p.block_y", pass.binds[2].span);
        let result = pass.binds.pop();
        pass.binds.append(&mut code.binds);
        pass.binds.extend(result);
        pass.params.append(&mut code.params);
        Pass { code: code.text, step: code.step, ..pass }
    };
    let to = || Bind::output("y", DType::F32);
    let direct = {
        let wg = caps.workgroup(256);
        let elements = y.elements() / s.n * frame.blocks.images;
        let mut pass = frame.pass(source!("conv2d"), "images_direct", elements, wg, to());
        pass.units = y.elements();
        pass.consts.push(("LANES", wg.into()));
        Kernel::one("direct", finish(pass))
    };
    let mut kernels = vec![direct];
    if let Some(lanes) = lanes(caps) {
        for (name, own) in [("rows", 4), ("rows_wide", 8)] {
            let pass = frame.rows(block_rows(m, lanes), own, lanes, epilogue.is_some(), to());
            kernels.push(Kernel::one(name, finish(pass)));
        }
    } else if m > FEW {
        let count = |tile_m: usize, tile_n: usize| s.groups * parts * frame.blocks.count * m.div_ceil(tile_m) * columns.div_ceil(tile_n);
        kernels.extend(tiles(m, columns, caps, &count).iter().map(|(name, size)| Kernel::one(name, finish(frame.tiled(size, to(), caps)))));
    }
    kernels
}

/// Returns the kernels of grad_w. The sum over pixels is divided into shares, and a second pass adds the shares.
pub fn grad_w(g: &Geometry, s: &ConvSizes, caps: &Caps) -> Vec<Kernel> {
    let (all, part) = (s.w().elements(), part_elements(s));
    let frame = |parts: usize, share: usize| {
        let (blocks, mode) = (Blocks::new(s, caps), Mode::GradW);
        ConvFrame { mode, g, s, blocks, m: s.o, columns: s.taps(), parts, share }
    };
    let blocks = Blocks::new(s, caps);
    let terms = blocks.images * s.map[0] * s.map[1];
    // The scratch memory must fit in a binding.
    let most = ((caps.max_binding_bytes / 4) as usize / part / blocks.count).max(1);
    let shares = |tiles: usize, groups: usize| {
        let parts = (groups / (tiles * blocks.count)).clamp(1, terms.div_ceil(SHARE)).min(most);
        let share = terms.div_ceil(parts);
        (terms.div_ceil(share), share)
    };
    let whole = |name, make: &dyn Fn(Bind) -> Pass, parts: usize| {
        let identity = |pass: Pass| Pass { code: epilogue::code(&None, 2, &[], s.w(), "0u").text, ..pass };
        match parts * blocks.count {
            1 => Kernel::one(name, identity(make(Bind::output("y", DType::F32)))),
            sums => parts::kernel(name, identity(make(Bind::scratch("y", 0).written())), [sums, part], &None, &[], s.w(), caps),
        }
    };
    let count = |m: usize, n: usize| s.o.div_ceil(m) * s.taps().div_ceil(n) * s.groups;
    let direct = {
        let parts = DIRECT_PARTS.min(terms.div_ceil(8)).min(most).min((SCRATCH / part).max(1));
        let wg = caps.workgroup(256);
        let make = |to: Bind| {
            let mut pass = frame(parts, 0).pass(source!("conv2d"), "grad_w_direct", all * parts, wg, to);
            pass.consts.push(("LANES", wg.into()));
            pass
        };
        whole("direct", &make, parts)
    };
    let mut kernels = vec![direct];
    if s.o <= FEW {
        return kernels;
    }
    if let Some(lanes) = lanes(caps) {
        let wide = s.taps() > 4 * lanes;
        for (name, own) in [("rows", 4), ("rows_wide", 8)].into_iter().take(1 + usize::from(wide)) {
            let rows = block_rows(s.o, lanes);
            let tiles = count(rows, own * lanes);
            let cached = (terms * (s.c + s.o) * s.groups / CACHED).min(SCRATCH / part);
            let (parts, share) = shares(tiles, SOFTWARE_GROUPS.max(tiles * blocks.count * cached));
            kernels.push(whole(name, &|to| frame(parts, share).rows(rows, own, lanes, false, to), parts));
        }
    } else {
        let groups = |m: usize, n: usize| count(m, n) * blocks.count * shares(count(m, n), GROUPS).0;
        for (name, size) in tiles(s.o, s.taps(), caps, &groups) {
            let (parts, share) = shares(count(size[0], size[1]), GROUPS);
            kernels.push(whole(name, &|to| frame(parts, share).tiled(size, to, caps), parts));
        }
    }
    kernels
}
