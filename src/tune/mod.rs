//! Which of an op's kernels a plan uses: what was measured on the device, behind a gate of numbers.
//!
//! [`measure`] goes through the ops of a plan before it is lowered. For each class of them that it meets for the first time it
//! runs the candidates: first on a small problem with awkward sizes against the op's definition in `f64`, then for time.
//! [`Choices`] holds what came of it, [`cache`] keeps that from run to run, [`report`] shows it.

pub(crate) mod cache;
mod measure;
mod problem;
mod report;

pub(crate) use measure::{BUDGET, measure};
pub use report::{Candidate, Chosen, Origin, Report, Verdict};

use crate::{kernel::Kernel, ops::Op, shape::Shape};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How the kernel of an op is chosen where there are several for it.
///
/// * `Measured`: each candidate runs once on the device. It must agree with the op's definition in `f64` by the tolerance of
///   [`testing::distance`](crate::testing::distance); of those that do, the fastest is taken. That happens when a graph is
///   compiled, within a time ([`GpuOptions::budget`](crate::gpu::GpuOptions::budget)); what there is no time for is left to
///   the next run of the program, and takes the kernel that is expected to be fastest until then. Ops are measured by class: op,
///   settings, candidates, and sizes above 8 rounded to powers of two.
/// * `Expected`: the kernel that the op's author expects to be fastest on such a device. Nothing is measured.
/// * `Portable`: the kernel that runs everywhere, without optional features such as subgroups.
///
/// What `Measured` found is kept in a folder: the one that the environment variable `DOWNHILL_CACHE` names (nothing is kept
/// where that is empty), else `downhill` in the user's folder for caches (`$XDG_CACHE_HOME` or `~/.cache`, on macOS
/// `~/Library/Caches`, on Windows `%LOCALAPPDATA%`). The compiled pipelines of drivers that hand them out are kept there too. The
/// folder may be deleted at any time. The others neither read nor write files.
///
/// **Determinism.** A device does not change its choice while it is open, and with the folder kept not from run to run, once a
/// class is measured. Where the folder is deleted, times are taken again, and two kernels of like speed may change places: results
/// then agree to rounding, not to the bit. `Expected` and `Portable` do not depend on time at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The fastest of those that compute rightly, as measured on this device.
    #[default]
    Measured,
    /// The one expected fastest on such a device.
    Expected,
    /// The first candidate, which runs everywhere.
    Portable,
}

/// What was chosen on a device, by class of ops.
#[derive(Debug)]
pub struct Choices {
    file: Option<cache::File>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Fixed as long as the device is open.
    chosen: BTreeMap<String, Chosen>,
    /// From the file, which is read when it is first asked for.
    cached: Option<HashMap<String, cache::Entry>>,
}

impl Choices {
    pub(crate) fn new(file: Option<cache::File>) -> Choices {
        Choices { file, table: Mutex::default() }
    }
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Everything chosen so far, by class.
    pub(crate) fn all(&self) -> Vec<Chosen> {
        self.table().chosen.values().cloned().collect()
    }
    /// The number of the kernel chosen for an op, if its class is known.
    pub(crate) fn kernel(&self, op: &dyn Op, x: &[Shape], y: Shape, kernels: &[Kernel]) -> Option<usize> {
        let table = self.table();
        let chosen = table.chosen.get(&class(op, x, y, kernels))?;
        kernels.iter().position(|kernel| kernel.name == chosen.kernel)
    }
    /// What is known of the kernels of a class: nothing to be measured where it has its choice, if need be from the file. `text`
    /// is that of [`shaders`].
    fn recall(&self, class: &str, kernels: &[Kernel], text: u64) -> Known {
        let mut table = self.table();
        if table.chosen.contains_key(class) {
            return Known::All;
        }
        let file = self.file.as_ref();
        let cached = table.cached.get_or_insert_with(|| file.map_or(HashMap::new(), cache::File::read));
        let names = |e: &cache::Entry| e.chosen.candidates.iter().map(|c| c.kernel.as_str()).eq(kernels.iter().map(|k| k.name));
        match cached.get(class).filter(|entry| entry.text == text && names(entry)) {
            None => Known::Some(vec![Verdict::NotMeasured; kernels.len()]),
            Some(cache::Entry { chosen, .. }) if chosen.is_complete() => {
                let chosen = Chosen { origin: Origin::Cache, ..chosen.clone() };
                table.chosen.insert(class.to_string(), chosen);
                Known::All
            }
            Some(cache::Entry { chosen, .. }) => Known::Some(chosen.candidates.iter().map(|c| c.verdict.clone()).collect()),
        }
    }
    /// The choice for a class, unless it has one by now.
    fn choose(&self, chosen: Chosen) {
        self.table().chosen.entry(chosen.class.clone()).or_insert(chosen);
    }
    /// Keeps what was measured.
    fn keep(&self, news: &[(u64, Chosen)]) {
        if let Some(file) = self.file.as_ref().filter(|_| !news.is_empty()) {
            file.add(news);
        }
    }
}

enum Known {
    All,
    /// By candidate.
    Some(Vec<Verdict>),
}

/// What ops have in common that share a choice, e.g. `matmul bᵀ [1024, 1024] × [512, 1024] → [1024, 512]: tiled, rows`: the
/// op, its settings, its sizes, its candidates. Sizes above 8 are rounded to a power of two.
pub(crate) fn class(op: &dyn Op, x: &[Shape], y: Shape, kernels: &[Kernel]) -> String {
    let (settings, x) = op.class(x);
    let x: Vec<String> = x.iter().map(|s| rounded(*s)).collect();
    let names: Vec<&str> = kernels.iter().map(|k| k.name).collect();
    let words = [op.name(), settings.trim(), &x.join(" × "), "→", &rounded(y)];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    format!("{}: {}", words.join(" "), names.join(", "))
}

fn rounded(shape: Shape) -> String {
    let near = |&d: &usize| match d.next_power_of_two() {
        _ if d <= 8 => d,
        // Below the geometric mean of the two powers around it.
        above if 2 * (d as u128).pow(2) < (above as u128).pow(2) => above / 2,
        above => above,
    };
    let dims: Vec<usize> = shape.dims().iter().map(near).collect();
    Shape::new(&dims).map_or(String::new(), |rounded| rounded.of(shape.dtype()).to_string())
}

/// A number for the files and entry points of candidates: another text is another kernel, which was not measured.
fn shaders(kernels: &[Kernel]) -> u64 {
    let passes = kernels.iter().flat_map(|kernel| &kernel.passes);
    cache::hash(passes.flat_map(|pass| [pass.source.text, pass.entry]).map(str::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::Caps, ops::matmul::MatMul};
    use problem::Problem;
    use std::sync::Arc;

    fn caps() -> Caps {
        Caps { software: true, subgroups: Some(8), ..Caps::default() }
    }
    fn product(transpose_b: bool, m: usize, k: usize, n: usize) -> Problem {
        let op: Arc<dyn Op> = Arc::new(MatMul { transpose_b, ..MatMul::default() });
        let b = if transpose_b { [n, k] } else { [k, n] };
        Problem::new(&op, vec![Shape::from([m, k]), Shape::from(b)], &caps()).unwrap()
    }
    fn of(p: &Problem) -> String {
        class(&*p.op, &p.x, p.y, &p.kernels)
    }

    #[test]
    fn classes_round_sizes_and_leave_out_what_is_generated() {
        let names = |p: &Problem| p.kernels.iter().map(|k| k.name).collect::<Vec<_>>().join(", ");
        let p = product(true, 1000, 784, 10);
        assert_eq!(of(&p), format!("matmul bᵀ [1024, 1024] × [8, 1024] → [1024, 8]: {}", names(&p)));
        assert_eq!(rounded(Shape::from([1, 3, 7, 9, 11, 12])), "[1, 3, 7, 8, 8, 16]");
        assert_eq!(rounded(Shape::from([724, 725]).of(crate::shape::DType::U32)), "u32 [512, 1024]");
        assert_eq!(of(&product(true, 1000, 784, 10)), of(&product(true, 1100, 1024, 9)));
        assert_ne!(of(&product(true, 64, 64, 64)), of(&product(false, 64, 64, 64)));
        // An epilogue and what it reads.
        use crate::ops::map::{Expr, Fun, Inst};
        let epilogue = Some(Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]));
        let op: Arc<dyn Op> = Arc::new(MatMul { transpose_b: true, epilogue, ..MatMul::default() });
        let x = [[1000, 784], [10, 784], [1, 10]].map(Shape::from).to_vec();
        assert_eq!(of(&Problem::new(&op, x, &caps()).unwrap()), of(&p));
    }

    #[test]
    fn smaller_problems_have_the_same_kernels_and_awkward_sizes() {
        let whole = product(true, 1024, 784, 512);
        let small = whole.smaller(&caps(), |p| p.cost() <= 2 << 20, true);
        assert!(small.cost() <= 4 << 20, "{:?}", small.x);
        let consts = |p: &Problem| p.kernels.iter().flat_map(|k| k.passes.iter().map(|p| p.consts.clone())).collect::<Vec<_>>();
        assert_eq!(consts(&small), consts(&whole));
        assert!(small.x.iter().flat_map(|s| s.dims()).all(|d| d % 4 != 0 || d % 8 != 0), "{:?}", small.x);
        // What fits is left alone, whatever is asked of it.
        let tiny = product(false, 3, 5, 7);
        assert_eq!(tiny.smaller(&caps(), |p| p.cost() <= 2 << 20, true).x, tiny.x);
    }
}
