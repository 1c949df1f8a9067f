//! Divides a pass into windows and gives each dispatch its size. This module only calculates.

use crate::{
    error::{Error, Result},
    kernel::{ALIGN, Bind, Pass, Span, Word},
};

/// The limits of one dispatch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// The largest size of a storage binding in bytes.
    pub binding: u64,
    /// The largest number of workgroups in one dimension.
    pub groups: u32,
}

/// A window: consecutive units of a pass that one dispatch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub first: usize,
    pub units: usize,
}

/// Returns the number of units that must divide the start of a window. Then every tensor of the window starts with a whole
/// block and at a multiple of 256 bytes. No device requires a stricter alignment of bindings.
fn grain(pass: &Pass) -> usize {
    // The factor by which `n` must be multiplied to make it a multiple of `ALIGN`.
    let lacks = |n: usize| ALIGN >> n.trailing_zeros().min(ALIGN.ilog2());
    let units = |bind: &Bind| match bind.span {
        Span::PerUnit(n) => lacks(n),
        Span::Blocks { units, elements } => units * lacks(elements),
        Span::Whole | Span::Flags | Span::Lines { .. } => 1,
    };
    // All blocks of a pass have equally many units. So the largest of these numbers is a multiple of the others.
    pass.binds.iter().map(units).max().unwrap_or(1)
}

/// Returns the name of a divisor of the pass that is 0, if there is one.
fn zero(pass: &Pass) -> Option<String> {
    let of = |bind: &Bind| match bind.span {
        Span::PerUnit(0) => Some(format!("the elements of a unit of `{}`", bind.name)),
        Span::Blocks { units: 0, .. } | Span::Lines { chunks: 0, .. } => Some(format!("the units of a block or line of `{}`", bind.name)),
        Span::Blocks { elements: 0, .. } | Span::Lines { chunk: 0, .. } => {
            Some(format!("the elements of a block or unit of `{}`", bind.name))
        }
        _ => None,
    };
    if pass.per_group == 0 { Some("`per_group`".into()) } else { pass.binds.iter().find_map(of) }
}

impl Reach {
    /// Returns the largest number of workgroups in one dispatch.
    fn all_groups(self) -> u64 {
        (self.groups as u64).saturating_pow(3)
    }

    /// Divides `pass` into windows. `elements` lists the sizes of its tensors. There is one window if no limit prevents it.
    ///
    /// A pass can be divided only if it binds none of its outputs whole. Its shader must use `p.first`.
    ///
    /// # Errors
    /// [`Error::Limit`] if no division meets the limits. [`Error::Argument`] if the pass would divide by 0.
    pub fn windows(self, label: &str, pass: &Pass, elements: &[usize]) -> Result<Vec<Window>> {
        if let Some(what) = zero(pass) {
            let why = format!("kernel {} divides its work by {what}, which is 0: it must be at least 1", pass.source.name);
            return Err(Error::argument(label, why));
        }
        let limit_error = |what: String, need: u64, limit: u64| {
            let advice = "use a smaller batch or a smaller layer".to_string();
            Err(Error::Limit { what: format!("{label} {what}"), need, limit, advice })
        };
        if pass.units > u32::MAX as usize {
            return limit_error("(units of work)".into(), pass.units as u64, u32::MAX as u64);
        }
        let groups = (pass.units as u64).div_ceil(pass.per_group as u64);
        let mut most = usize::try_from(self.all_groups().saturating_mul(pass.per_group as u64)).unwrap_or(usize::MAX);
        // The bound is half the range of `u32`, so that the spare workgroups of a folded dispatch do not overflow.
        most = most.min(1 << 31);
        let mut tight = None;
        for (bind, &n) in pass.binds.iter().zip(elements) {
            let need = n as u64 * 4;
            if need <= self.binding {
                continue;
            }
            tight.get_or_insert((bind, need));
            match bind.span {
                Span::Whole | Span::Flags => return limit_error(format!("(`{}`, bound whole)", bind.name), need, self.binding),
                Span::PerUnit(n) => most = most.min((self.binding / (n as u64 * 4)) as usize),
                Span::Blocks { units, elements } => {
                    most = most.min((self.binding / (elements as u64 * 4)) as usize * units);
                }
                Span::Lines { chunk, .. } => most = most.min((self.binding / 4).saturating_sub(ALIGN as u64 - 1) as usize / chunk),
            }
        }
        if pass.units <= most {
            let one = Window { first: 0, units: pass.units };
            return Ok(if pass.units == 0 { Vec::new() } else { vec![one] });
        }
        let grain = grain(pass);
        most = most / grain * grain;
        let writes = || pass.binds.iter().filter(|b| b.write);
        if most == 0 || writes().any(|b| b.span == Span::Whole) || writes().next().is_none() {
            return match tight {
                Some((bind, need)) => limit_error(format!("(`{}`)", bind.name), need, self.binding),
                None => limit_error("(workgroups)".into(), groups, self.all_groups()),
            };
        }
        let window = |first| Window { first, units: most.min(pass.units - first) };
        Ok((0..pass.units).step_by(most).map(window).collect())
    }

    /// Distributes the workgroups of a window over x, y and z, with few spare workgroups.
    pub fn fold(self, pass: &Pass, window: Window) -> [u32; 3] {
        let (most, groups) = (self.groups as u64, window.units.div_ceil(pass.per_group) as u64);
        let z = groups.div_ceil(most * most);
        let layer = groups.div_ceil(z);
        let y = layer.div_ceil(most);
        [layer.div_ceil(y) as u32, y as u32, z as u32]
    }
}

/// Returns the first element and the number of elements that a window binds of a tensor with `elements` elements.
pub(super) fn part(span: Span, split: bool, window: Window, elements: usize) -> (usize, usize) {
    match span {
        Span::PerUnit(n) if split => (window.first * n, (window.units * n).min(elements.saturating_sub(window.first * n))),
        Span::Blocks { units, elements: n } if split => {
            let (first, end) = (span.start(window.first), (window.first + window.units).div_ceil(units) * n);
            (first, end.min(elements).saturating_sub(first))
        }
        Span::Lines { chunk, .. } if split => {
            let first = span.start(window.first) / ALIGN * ALIGN;
            let end = (span.start(window.first + window.units - 1) + chunk).min(elements);
            (first, end.saturating_sub(first))
        }
        _ => (0, elements),
    }
}

/// Returns the words of `struct Params` for a window. The words are padded to 16 bytes, because some backends round a uniform
/// up.
pub(super) fn params(pass: &Pass, window: Window) -> Vec<u32> {
    let mut words = vec![window.first as u32, window.units as u32];
    words.extend(pass.params.iter().map(|(_, word)| match *word {
        Word::U(x) => x,
        Word::F(x) => x.to_bits(),
    }));
    words.resize(words.len().next_multiple_of(4), 0);
    words
}
