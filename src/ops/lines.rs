//! The division of work along one axis among invocations. `reduce`, `argmax`, `softmax`, `cross_entropy`, `moments` and `norm`
//! share it. The WGSL side is `shaders/lib/lines.wgsl`.
//!
//! A tensor `[outer, n, inner]` has `outer · inner` *lines* of `n` elements. Neighbouring invocations should read neighbouring
//! elements: along the line if `inner` is 1, and across lines otherwise.
//!
//! * Portable: a workgroup has as many blocks as fit. A block is COLUMNS neighbouring lines with LANES invocations for each line. A
//!   short line gets one lane, so there are no barriers and no idle lanes in a tree. A long line gets a whole workgroup.
//! * Fast: four elements are loaded at once if the sizes are multiples of four. If all subgroups have one size, a line that is
//!   contiguous in memory belongs to one subgroup, and a long line belongs to a workgroup of subgroups. On a software adapter, lanes
//!   never meet at barriers, because each barrier costs a pass over all invocations. There, loading four numbers costs little more
//!   than loading one.

use crate::kernel::{Bind, Caps, Pass, Source, Span, Word};

/// The largest length of lines that one invocation computes alone.
const SHORT: usize = 32;
/// The least number of elements for each lane of a longer line.
const PER_LANE: usize = 8;
/// If a lane has more elements than this, and there are fewer workgroups than GROUPS, the line is cut into chunks.
const LONG: usize = 64;
/// The number of workgroups that any GPU can run at once.
const GROUPS: usize = 1024;
/// The largest number of elements (of type V) of a line that each lane stores in registers. On a software adapter, registers are
/// memory, too. There it is faster to read further elements again.
const KEEP: usize = 8;

/// The number of invocations in a workgroup that computes strips, and the largest number of columns (of type V) of each invocation.
const STRIP: usize = 8;
const STRIP_COLUMNS: usize = 16;

/// The group of invocations that a line belongs to. `shaders/lib` has a file for each of them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Team {
    Lanes,
    Subgroup,
    Workgroup,
    Strip,
}

/// The division of `[outer, n, inner]`. It follows from the sizes and the limits of the device, not from the speed of the device.
/// The sizes count elements of the shader. Each of them is `wide` numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lines {
    outer: usize,
    n: usize,
    inner: usize,
    chunk: usize,
    wide: usize,
    /// Whether the `wide` numbers of an element belong to neighbouring lines.
    across: bool,
    team: Team,
    workgroup: usize,
    columns: usize,
    lanes: usize,
    keep: usize,
    /// Whether all columns of a line number are one unit. Then the pass can be split between units.
    split: bool,
}

/// The abilities of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Can {
    /// The kernel reads whole lines, one number at a time.
    Single,
    /// The kernel reads whole lines, and can load four numbers of a line at once.
    Whole,
    /// As `Whole`. In addition, the results of chunks of a line can be combined.
    Cut,
    /// As `Cut`. In addition, the kernel can compute four lines at once.
    CutAcross,
}

impl Can {
    fn cut(self) -> bool {
        matches!(self, Can::Cut | Can::CutAcross)
    }
    /// Returns true if the kernel reads an element of a line more than once.
    fn again(self) -> bool {
        matches!(self, Can::Whole | Can::Cut)
    }
}

impl Lines {
    /// Returns the ways to divide a pass whose largest tensor has the size `[outer, n, inner]`. The portable way comes first.
    pub fn all(sizes: [usize; 3], can: Can, caps: &Caps) -> Vec<Lines> {
        let all = [false, true].map(|fast| Lines::of(fast, sizes, can, caps));
        if all[0] == all[1] { all[..1].to_vec() } else { all.to_vec() }
    }
    /// Returns the portable way, or the way that is expected to be fastest.
    pub fn of(fast: bool, sizes: [usize; 3], can: Can, caps: &Caps) -> Lines {
        if fast { Lines::fast(sizes, can, caps) } else { Lines::portable(sizes, can, caps) }
    }

    fn portable([outer, n, inner]: [usize; 3], can: Can, caps: &Caps) -> Lines {
        let workgroup = caps.workgroup(256);
        let side_by_side = |most: usize| inner.next_power_of_two().min(most).min(workgroup);
        let lanes_of = |columns: usize| if n <= SHORT { 1 } else { n.div_ceil(PER_LANE).next_power_of_two().min(workgroup / columns) };
        let lanes = lanes_of(side_by_side(32));
        // Two loads of half the width are as good as one load, and one dispatch is better than two dispatches.
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
            // An invocation has many columns, so that it reads memory in order.
            let each = quarter.inner.div_ceil(STRIP).min(STRIP_COLUMNS);
            let one = Lines { team: Team::Strip, workgroup: STRIP, columns: STRIP * each, lanes: 1, keep: each, ..quarter };
            // A column has one running value, and its rounding errors add up. So lines are cut earlier.
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

    /// Cuts lines that are longer than `longest` into chunks if there are few workgroups. Cuts all lines if a tensor is too large
    /// for one binding.
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
                // One chunk must fit in a binding, wherever the chunk starts.
                chunk = chunk.min(limit.saturating_sub(63) / (inner * wide));
            }
        }
        // Chunks of one element would not reduce anything.
        if !(2..n).contains(&chunk) {
            chunk = n;
        }
        let keep = if chunk == n || self.team == Team::Strip { self.keep } else { 0 };
        Lines { chunk, keep, split: inner <= columns || !fits, ..self }
    }
    /// Returns the number of units in a workgroup.
    fn per_group(&self) -> usize {
        if self.team == Team::Strip { 1 } else { self.workgroup / (self.columns * self.lanes) }
    }

    /// Returns the name of a kernel with this division.
    pub fn name(&self) -> &'static str {
        match self.team {
            Team::Lanes if self.wide == 1 => "lines",
            Team::Lanes => "wide lines",
            Team::Subgroup => "subgroups",
            Team::Workgroup => "workgroups",
            Team::Strip => "strips",
        }
    }
    /// Returns the number of chunks in a line.
    pub fn chunks(&self) -> usize {
        self.n.div_ceil(self.chunk)
    }
    /// Returns the largest count of numbers of a line that one unit reads.
    pub fn chunk(&self) -> usize {
        self.chunk * if self.across { 1 } else { self.wide }
    }
    /// Returns the length of the last chunk of a line of `n` numbers, as a fraction of the length of the other chunks.
    pub fn tail(&self, n: usize) -> f32 {
        (n - (self.chunks() - 1) * self.chunk()) as f32 / self.chunk() as f32
    }
    /// Binds the tensor `[outer, n, inner]`.
    pub fn full(&self, bind: Bind) -> Bind {
        let (line, chunk) = (self.n * self.inner * self.wide, self.chunk * self.inner * self.wide);
        self.bind(bind, Span::Lines { line, chunks: self.chunks(), chunk }, self.wide > 1)
    }
    /// Binds a tensor with one element for each chunk of each line, `[outer, chunks, inner]`.
    pub fn ones(&self, bind: Bind) -> Bind {
        let line = self.inner * if self.across { self.wide } else { 1 };
        self.bind(bind, Span::Lines { line, chunks: 1, chunk: line }, self.across)
    }
    fn bind(&self, bind: Bind, span: Span, vec4: bool) -> Bind {
        Bind { span: if self.split { span } else { Span::Whole }, vec4, ..bind }
    }
    /// Returns a pass over these lines. Its shader includes `lib/lines` and has a function `entry` that computes one line.
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
