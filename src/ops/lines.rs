//! How kernels that work along one axis spread it over invocations: shared by `reduce`, `argmax`, `softmax`,
//! `cross_entropy`, `moments` and `norm`. The WGSL side is `shaders/lib/lines.wgsl`.
//!
//! A tensor `[outer, n, inner]` is `outer · inner` *lines* of `n` elements. Neighbouring invocations should read
//! neighbouring elements: along the line where `inner` is 1, across lines where it is not.
//!
//! * Portable: a workgroup is a block of COLUMNS neighbouring lines × LANES invocations for each of them, as many blocks as fit.
//!   A short line gets one lane (no barrier, no idle lanes in a tree); a long one a whole workgroup.
//! * Fast: four elements are loaded at once where sizes are multiples of four. Where there are subgroups of one size, a line along memory
//!   belongs to one of them, or a long one to a workgroup of them. A software adapter never gets lanes that meet at barriers:
//!   there those cost a pass over all invocations, and a load of four costs little more than one of a single number.

use crate::kernel::{Bind, Caps, Pass, Source, Span, Word};

/// Lines up to this long are walked by one invocation.
const SHORT: usize = 32;
/// Elements that each lane of a longer line does at least.
const PER_LANE: usize = 8;
/// A lane with more elements than this is worth cutting the line into chunks for, if there are few workgroups…
const LONG: usize = 64;
/// …fewer than this, which any GPU can run at once.
const GROUPS: usize = 1024;
/// Elements (V) of a line that each lane keeps in registers, at most. On a software adapter more of them are slower than to read them
/// again: they are memory, too.
const KEEP: usize = 8;

/// Invocations of a workgroup that does strips, and columns (V) of each, at most.
const STRIP: usize = 8;
const STRIP_COLUMNS: usize = 16;

/// What a line belongs to: see the libraries of these names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Team {
    Lanes,
    Subgroup,
    Workgroup,
    Strip,
}

/// The division of `[outer, n, inner]`. It follows from the sizes and the device's limits, not from its speed. Sizes are counted
/// in elements of the shader, `wide` numbers each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lines {
    outer: usize,
    n: usize,
    inner: usize,
    chunk: usize,
    wide: usize,
    /// Whether those are of neighbouring lines.
    across: bool,
    team: Team,
    workgroup: usize,
    columns: usize,
    lanes: usize,
    keep: usize,
    /// Whether all columns of a line number are one unit: then the pass can be split over units.
    split: bool,
}

/// What a kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Can {
    /// It sees whole lines, one number at a time.
    Single,
    /// It sees whole lines, and can load four numbers of one at once.
    Whole,
    /// That, and the results of chunks of lines can be combined.
    Cut,
    /// That, and four lines can be done at once.
    CutAcross,
}

impl Can {
    fn cut(self) -> bool {
        matches!(self, Can::Cut | Can::CutAcross)
    }
    /// Whether an element of a line is read again.
    fn again(self) -> bool {
        matches!(self, Can::Whole | Can::Cut)
    }
}

impl Lines {
    /// Ways to divide a pass whose largest tensor has the size `[outer, n, inner]`, the portable one first.
    pub fn all(sizes: [usize; 3], can: Can, caps: &Caps) -> Vec<Lines> {
        let all = [false, true].map(|fast| Lines::of(fast, sizes, can, caps));
        if all[0] == all[1] { all[..1].to_vec() } else { all.to_vec() }
    }
    /// The portable way, or the one that is expected to be fastest.
    pub fn of(fast: bool, sizes: [usize; 3], can: Can, caps: &Caps) -> Lines {
        if fast { Lines::fast(sizes, can, caps) } else { Lines::portable(sizes, can, caps) }
    }

    fn portable([outer, n, inner]: [usize; 3], can: Can, caps: &Caps) -> Lines {
        let workgroup = caps.workgroup(256);
        let side_by_side = |most: usize| inner.next_power_of_two().min(most).min(workgroup);
        let lanes_of = |columns: usize| if n <= SHORT { 1 } else { n.div_ceil(PER_LANE).next_power_of_two().min(workgroup / columns) };
        let lanes = lanes_of(side_by_side(32));
        // Two loads of half the width are as good, and one dispatch is better than two.
        let lanes =
            if can.cut() && n > LONG * lanes && n <= LONG * lanes_of(side_by_side(16)) { lanes_of(side_by_side(16)) } else { lanes };
        let columns = inner.next_power_of_two().min(workgroup / lanes);
        let one = Lines {
            outer,
            n,
            inner,
            chunk: n,
            wide: 1,
            across: false,
            team: Team::Lanes,
            workgroup,
            columns,
            lanes,
            keep: 0,
            split: false,
        };
        one.cut(can, LONG * lanes, GROUPS, caps)
    }

    fn fast([outer, n, inner]: [usize; 3], can: Can, caps: &Caps) -> Lines {
        let portable = Lines::portable([outer, n, inner], can, caps);
        let subgroups = caps.subgroups.filter(|lanes| (4..=caps.max_invocations.min(128)).contains(lanes)).map(|lanes| lanes as usize);
        if inner > 1 {
            let across = can == Can::CutAcross && inner % 4 == 0;
            if !across {
                return portable;
            }
            let quarter = Lines { wide: 4, across: true, ..Lines::portable([outer, n, inner / 4], can, caps) };
            if !caps.software {
                return quarter.cut(can, LONG * quarter.lanes, GROUPS, caps);
            }
            // An invocation has many columns, so that memory is read in its order.
            let each = quarter.inner.div_ceil(STRIP).min(STRIP_COLUMNS);
            let one = Lines { team: Team::Strip, workgroup: STRIP, columns: STRIP * each, lanes: 1, keep: each, ..quarter };
            // A column has one running value, whose rounding errors add up.
            return one.cut(can, LONG, n.div_ceil(2048).max(64), caps);
        }
        let wide = if n % 4 == 0 && n >= 16 && can != Can::Single { 4 } else { 1 };
        let line = Lines { n: n / wide, wide, ..portable };
        let (Some(lanes), true) = (subgroups, n > SHORT) else {
            if wide == 1 {
                return portable;
            }
            let line = Lines { wide, ..Lines::portable([outer, n / wide, 1], Can::Whole, caps) };
            return line.cut(can, LONG * line.lanes, GROUPS, caps);
        };
        let fits = |lanes: usize| line.n <= KEEP * lanes;
        let kept = |lanes: usize| if can.again() && fits(lanes) { line.n.div_ceil(lanes) } else { 0 };
        if caps.software || fits(lanes) {
            let rows = (if caps.software { 1 } else { 128 / lanes }).min(caps.max_invocations as usize / lanes);
            let one = Lines { team: Team::Subgroup, workgroup: rows * lanes, columns: 1, lanes, keep: kept(lanes), ..line };
            let (longest, groups) = if caps.software { (64 * LONG, 64) } else { (LONG * lanes, GROUPS) };
            return one.cut(can, longest, groups, caps);
        }
        let workgroup = portable.workgroup / lanes * lanes;
        let one = Lines { team: Team::Workgroup, workgroup, columns: 1, lanes: workgroup, keep: kept(workgroup), ..line };
        one.cut(can, LONG * workgroup, GROUPS, caps)
    }

    /// Cuts lines longer than `longest` into chunks if there are few workgroups, and any where a tensor is too large to be bound.
    fn cut(self, can: Can, longest: usize, most: usize, caps: &Caps) -> Lines {
        let Lines { outer, n, inner, wide, lanes, columns, .. } = self;
        let limit = (caps.max_binding_bytes / 4) as usize;
        let fits = outer * n * inner * wide <= limit;
        let mut chunk = n;
        if can.cut() {
            let groups = (outer * inner.div_ceil(columns)).div_ceil(self.per_group());
            if n > longest && groups < most / 4 {
                chunk = n.div_ceil(most.div_ceil(groups)).max(2 * PER_LANE * lanes).next_multiple_of(lanes.max(64));
            }
            if !fits {
                // One chunk must fit, wherever it starts.
                chunk = chunk.min(limit.saturating_sub(63) / (inner * wide));
            }
        }
        // A chunk of one element gets nowhere.
        if !(2..n).contains(&chunk) {
            chunk = n;
        }
        let keep = if chunk == n || self.team == Team::Strip { self.keep } else { 0 };
        Lines { chunk, keep, split: inner <= columns || !fits, ..self }
    }
    /// Units of a workgroup.
    fn per_group(&self) -> usize {
        if self.team == Team::Strip { 1 } else { self.workgroup / (self.columns * self.lanes) }
    }

    /// The name of a kernel that divides its work so.
    pub fn name(&self) -> &'static str {
        match self.team {
            Team::Lanes if self.wide == 1 => "lines",
            Team::Lanes => "wide lines",
            Team::Subgroup => "subgroups",
            Team::Workgroup => "workgroups",
            Team::Strip => "strips",
        }
    }
    /// Chunks of a line.
    pub fn chunks(&self) -> usize {
        self.n.div_ceil(self.chunk)
    }
    /// The most numbers of a line that one unit sees.
    pub fn chunk(&self) -> usize {
        self.chunk * if self.across { 1 } else { self.wide }
    }
    /// The numbers of the last chunk of a line of `n`, as a share of those of the others.
    pub fn tail(&self, n: usize) -> f32 {
        (n - (self.chunks() - 1) * self.chunk()) as f32 / self.chunk() as f32
    }
    /// The tensor `[outer, n, inner]`.
    pub fn full(&self, bind: Bind) -> Bind {
        let (line, chunk) = (self.n * self.inner * self.wide, self.chunk * self.inner * self.wide);
        self.bind(bind, Span::Lines { line, chunks: self.chunks(), chunk }, self.wide > 1)
    }
    /// A tensor with one element for each chunk of each line, `[outer, chunks, inner]`.
    pub fn ones(&self, bind: Bind) -> Bind {
        let line = self.inner * if self.across { self.wide } else { 1 };
        self.bind(bind, Span::Lines { line, chunks: 1, chunk: line }, self.across)
    }
    fn bind(&self, bind: Bind, span: Span, vec4: bool) -> Bind {
        Bind { span: if self.split { span } else { Span::Whole }, vec4, ..bind }
    }
    /// A pass over these lines, for a shader that includes `lib/lines` and has a function `entry` of a line.
    pub fn pass(&self, source: Source, entry: &'static str, binds: Vec<Bind>) -> Pass {
        let tiles = self.inner.div_ceil(self.columns);
        let (groups, rounds) = if self.split { (1, tiles) } else { (tiles, 1) };
        let params = [
            ("n", self.n),
            ("inner", self.inner),
            ("chunk", self.chunk),
            ("chunks", self.chunks()),
            ("groups", groups),
            ("rounds", rounds),
        ];
        let team = match self.team {
            Team::Lanes => "lanes",
            Team::Subgroup => "subgroup",
            Team::Workgroup => "workgroup",
            Team::Strip => "strip",
        };
        let elements = match (self.wide, self.across) {
            (1, _) => "scalar",
            (_, false) => "along4",
            (_, true) => "across4",
        };
        let suffix = if self.team == Team::Strip { "_strip" } else { "" };
        let out = if self.across { self.wide } else { 1 };
        let consts = [
            ("WG", self.workgroup),
            ("COLUMNS", self.columns),
            ("LANES", self.lanes),
            ("ROWS", self.per_group()),
            ("KEEP", self.keep),
            ("KEPT", self.keep.max(1)),
            ("WIDE_OUT", out),
        ];
        Pass {
            source,
            entry: "lines",
            consts: consts.map(|(name, x)| (name, Word::from(x))).into(),
            params: params.map(|(name, x)| (name.to_string(), Word::from(x))).into(),
            binds,
            code: format!("//!include lib/{elements}\n//!include lib/{team}\nfn line(t: Line) {{\n    {entry}{suffix}(t);\n}}\n"),
            units: self.outer * self.chunks() * groups,
            per_group: self.per_group(),
            step: false,
        }
    }
}
