//! The choice of a kernel where an op has several: classes of ops, what is known of their candidates, and the file that keeps it.
//!
//! This module is data. [`Choices`] has the choice for each class of ops, a plan reads it, and `tune` measures what it lacks.
//! [`cache`] keeps it from run to run, and [`report`] shows it.

pub(crate) mod cache;
mod report;

pub use report::{Candidate, ChoiceReport, Chosen, Origin, Verdict};

use crate::{kernel::Kernel, ops::Op, shape::Shape};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a plan may take to measure. Half of it is no loss where the driver compiles at the first run what the plan uses anyway.
pub(crate) const BUDGET: Duration = Duration::from_millis(250);

/// How the kernel of an op is chosen where there are several for it.
///
/// * `Measured`: candidates run on the device when a graph is compiled. Each runs twice on a small problem, and must agree with the
///   op's definition in `f64` by the tolerance of [`testing::distance`](crate::testing::distance). Then it is timed on a larger one:
///   the median of up to five measurements counts, and the fastest candidate is taken. All of that has a budget of time for each
///   graph ([`GpuOptions::budget`](crate::gpu::GpuOptions::budget)). Where the budget is spent, the kernel that is expected to be
///   fastest is taken, and the next run of the program measures the rest. Ops are measured by class: op, settings, candidates, and
///   sizes, where a size above 8 is rounded to a power of two.
/// * `Expected`: the kernel that the op's author expects to be fastest on such a device. Nothing is measured.
/// * `Portable`: the kernel that runs everywhere, without optional features such as subgroups. Nothing is measured.
///
/// The measurements are kept in a folder: the one that the environment variable `DOWNHILL_CACHE` names (nothing is kept
/// where that is empty), else `downhill` in the user's folder for caches (`$XDG_CACHE_HOME` or `~/.cache`, on macOS
/// `~/Library/Caches`, on Windows `%LOCALAPPDATA%`). The compiled pipelines of drivers that hand them out are kept there too. The
/// folder may be deleted at any time. `Expected` and `Portable` neither read nor write files.
///
/// **Determinism.** The same kernels give the same bits.
///
/// * While a device is open, the choice for a class does not change.
/// * With `Measured`, two runs of a program use the same kernels once every candidate was measured and the folder is kept: then
///   [`Chosen::is_complete`](crate::gpu::Chosen::is_complete) is true for every class of [`Gpu::choices`](crate::gpu::Gpu::choices).
///   Until then, or after the folder was deleted, a run may use another kernel than the run before, and the results of the two agree
///   to rounding, not to the bit.
/// * With `Expected` or `Portable`, two runs always use the same kernels: the choice depends on no clock and no file. Use one of
///   them where each run has to give the same bits: `GpuOptions { choice: Choice::Expected, ..GpuOptions::default() }`.
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

/// The choices of an open device, by class of ops.
#[derive(Debug)]
pub struct Choices {
    file: Option<cache::ChoiceFile>,
    table: Mutex<Classes>,
}

#[derive(Debug, Default)]
struct Classes {
    /// Fixed as long as the device is open.
    chosen: BTreeMap<String, Chosen>,
    /// From the file, which is read when it is first asked for.
    cached: Option<HashMap<String, cache::Entry>>,
}

impl Choices {
    pub(crate) fn new(file: Option<cache::ChoiceFile>) -> Choices {
        Choices { file, table: Mutex::default() }
    }
    fn table(&self) -> MutexGuard<'_, Classes> {
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
    /// What is known of the candidates of a class; `None` where the class has its choice, if need be from the file. `text` is that
    /// of [`shaders`].
    pub(crate) fn recall(&self, class: &str, kernels: &[Kernel], text: u64) -> Option<Vec<Verdict>> {
        let mut table = self.table();
        if table.chosen.contains_key(class) {
            return None;
        }
        let file = self.file.as_ref();
        let cached = table.cached.get_or_insert_with(|| file.map_or(HashMap::new(), cache::ChoiceFile::read));
        let names = |e: &cache::Entry| e.chosen.candidates.iter().map(|c| c.kernel.as_str()).eq(kernels.iter().map(|k| k.name));
        let Some(entry) = cached.get(class).filter(|entry| entry.text == text && names(entry)) else {
            return Some(vec![Verdict::NotMeasured; kernels.len()]);
        };
        let chosen = entry.chosen.clone();
        if !chosen.is_complete() {
            return Some(chosen.candidates.into_iter().map(|c| c.verdict).collect());
        }
        table.chosen.insert(class.to_string(), chosen);
        None
    }
    /// The choice for a class, unless it has one by now.
    pub(crate) fn choose(&self, chosen: Chosen) {
        self.table().chosen.entry(chosen.class.clone()).or_insert(chosen);
    }
    /// Writes to the file what was measured.
    pub(crate) fn keep(&self, news: &[(u64, Chosen)]) {
        if let Some(file) = self.file.as_ref().filter(|_| !news.is_empty()) {
            file.add(news);
        }
    }
}

/// The name of a class of ops, which share a choice, e.g. `matmul bᵀ [1024, 1024] × [512, 1024] → [1024, 512]: tiled, rows`: the
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
pub(crate) fn shaders(kernels: &[Kernel]) -> u64 {
    let passes = kernels.iter().flat_map(|kernel| &kernel.passes);
    cache::hash(passes.flat_map(|pass| [pass.source.text, pass.entry]).map(str::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::Caps,
        ops::{
            map::{Expr, Fun, Inst},
            matmul::MatMul,
        },
        shape::DType,
    };

    /// The class and the names of the candidates of a product.
    fn of(op: MatMul, x: &[Shape]) -> (String, String) {
        let op = &op as &dyn Op;
        let y = op.shape(x).unwrap();
        let kernels = op.kernels(x, y, &Caps { software: true, subgroups: Some(8), ..Caps::default() });
        (class(op, x, y, &kernels), kernels.iter().map(|k| k.name).collect::<Vec<_>>().join(", "))
    }
    fn product(transpose_b: bool, m: usize, k: usize, n: usize) -> (String, String) {
        let b = if transpose_b { [n, k] } else { [k, n] };
        of(MatMul { transpose_b, ..MatMul::default() }, &[Shape::from([m, k]), Shape::from(b)])
    }

    #[test]
    fn classes_round_sizes_and_leave_out_what_is_generated() {
        let (class, names) = product(true, 1000, 784, 10);
        assert_eq!(class, format!("matmul bᵀ [1024, 1024] × [8, 1024] → [1024, 8]: {names}"));
        assert_eq!(rounded(Shape::from([1, 3, 7, 9, 11, 12])), "[1, 3, 7, 8, 8, 16]");
        assert_eq!(rounded(Shape::from([724, 725]).of(DType::U32)), "u32 [512, 1024]");
        assert_eq!(product(true, 1100, 1024, 9).0, class);
        assert_ne!(product(true, 64, 64, 64).0, product(false, 64, 64, 64).0);
        // An epilogue and what it reads.
        let epilogue = Some(Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]));
        let op = MatMul { transpose_b: true, epilogue, ..MatMul::default() };
        assert_eq!(of(op, &[[1000, 784], [10, 784], [1, 10]].map(Shape::from)).0, class);
    }
}
