//! The choice of a kernel for an op with several kernels.
//!
//! This module holds data. [`Choices`] stores the chosen kernel for each class of ops. A plan reads the choices. The module
//! `tune` measures the candidates of classes without a choice. [`cache`] stores the choices in a file for later runs, and
//! [`report`] shows them.

pub(crate) mod cache;
mod report;

pub use report::{Candidate, ChoiceReport, Chosen, Origin, Verdict};

use crate::{kernel::Kernel, ops::Op, shape::Shape};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The default time in which one plan may measure. About half of this time is not lost: if a driver compiles a kernel at its
/// first run, it compiles the kernels that the plan uses anyway.
pub(crate) const BUDGET: Duration = Duration::from_millis(250);

/// The rule that chooses the kernel of an op with several kernels.
///
/// * `Measured`: the device runs the candidates when a graph is compiled. Each candidate runs twice on a small problem. Its
///   results must agree with the op's definition in `f64` within the tolerance of
///   [`testing::distance`](crate::testing::distance). Then the device times the candidate on a larger problem, with up to five
///   measurements. The candidate with the smallest median time is chosen. The option
///   [`GpuOptions::budget`](crate::gpu::GpuOptions::budget) limits the time for all measurements of a graph. If the budget is
///   spent, the kernel that is expected to be fastest is chosen. The next run of the program measures the rest. Ops of one
///   class share a choice. A class consists of the op, its settings, its candidates and its sizes. Sizes above 8 are rounded to
///   a power of two.
/// * `Expected`: the kernel that the op's author expects to be fastest on this kind of device. Nothing is measured.
/// * `Portable`: the kernel that runs everywhere, without optional features such as subgroups. Nothing is measured.
///
/// The measurements are stored in a folder. The environment variable `DOWNHILL_CACHE` names the folder. If the variable is
/// empty, nothing is stored. If the variable is not set, the folder is `downhill` in the user's cache folder:
/// `$XDG_CACHE_HOME` or `~/.cache`, on macOS `~/Library/Caches`, on Windows `%LOCALAPPDATA%`. The folder also stores the
/// compiled pipelines of drivers that can export them. The folder may be deleted at any time. `Expected` and `Portable`
/// neither read nor write files.
///
/// **Determinism.** The same kernels give the same bits.
///
/// * The choice for a class does not change while a device is open.
/// * With `Measured`, two runs of a program use the same kernels if every candidate was measured before and the folder still
///   exists. Every candidate was measured if [`Chosen::is_complete`](crate::gpu::Chosen::is_complete) is true for every class
///   of [`Gpu::choices`](crate::gpu::Gpu::choices). Before that, or after the folder was deleted, a run may use other kernels
///   than the run before. Then the results of the two runs differ by rounding.
/// * With `Expected` or `Portable`, two runs always use the same kernels, because the choice depends on no clock and no file.
///   Use one of these two rules if each run must give the same bits:
///   `GpuOptions { choice: Choice::Expected, ..GpuOptions::default() }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The candidate that was fastest on this device, among the candidates with correct results.
    #[default]
    Measured,
    /// The candidate that is expected to be fastest on this kind of device.
    Expected,
    /// The first candidate. It runs on every device.
    Portable,
}

/// The chosen kernels of an open device, by class of ops.
#[derive(Debug)]
pub struct Choices {
    file: Option<cache::ChoiceFile>,
    table: Mutex<Classes>,
}

#[derive(Debug, Default)]
struct Classes {
    /// The choices made so far. A choice does not change while the device is open.
    chosen: BTreeMap<String, Chosen>,
    /// The choices in the file. The file is read when a choice is first needed.
    cached: Option<HashMap<String, cache::Entry>>,
}

impl Choices {
    pub(crate) fn new(file: Option<cache::ChoiceFile>) -> Choices {
        Choices { file, table: Mutex::default() }
    }
    fn table(&self) -> MutexGuard<'_, Classes> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Returns all choices made so far, sorted by class.
    pub(crate) fn all(&self) -> Vec<Chosen> {
        self.table().chosen.values().cloned().collect()
    }
    /// Returns the number of the kernel chosen for an op, or `None` if the class of the op has no choice.
    pub(crate) fn kernel(&self, op: &dyn Op, x: &[Shape], y: Shape, kernels: &[Kernel]) -> Option<usize> {
        let table = self.table();
        let chosen = table.chosen.get(&class(op, x, y, kernels))?;
        kernels.iter().position(|kernel| kernel.name == chosen.kernel)
    }
    /// Returns the known verdicts on the candidates of a class. Returns `None` if the class has a choice, after looking in the
    /// file too. `text` is the number that [`shaders`] returns for the kernels.
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
    /// Stores the choice for a class, unless the class already has a choice.
    pub(crate) fn choose(&self, chosen: Chosen) {
        self.table().chosen.entry(chosen.class.clone()).or_insert(chosen);
    }
    /// Writes new measurements to the file.
    pub(crate) fn keep(&self, news: &[(u64, Chosen)]) {
        if let Some(file) = self.file.as_ref().filter(|_| !news.is_empty()) {
            file.add(news);
        }
    }
}

/// Returns the name of the class of an op. Ops of one class share a choice. The name lists the op, its settings, its sizes and
/// its candidates, e.g. `matmul bᵀ [1024, 1024] × [512, 1024] → [1024, 512]: tiled, rows`. Sizes above 8 are rounded to a
/// power of two.
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
        // A size below the geometric mean of the two neighbouring powers of two is rounded down.
        above if 2 * (d as u128).pow(2) < (above as u128).pow(2) => above / 2,
        above => above,
    };
    let dims: Vec<usize> = shape.dims().iter().map(near).collect();
    Shape::new(&dims).map_or(String::new(), |rounded| rounded.of(shape.dtype()).to_string())
}

/// Returns a hash of the shader texts and entry points of the candidates. If a text changes, the hash changes, and the old
/// measurements are not used.
pub(crate) fn shaders(kernels: &[Kernel]) -> u64 {
    let passes = kernels.iter().flat_map(|kernel| &kernel.passes);
    let texts: Vec<&[u8]> = passes.flat_map(|pass| [pass.source.text, pass.entry]).map(str::as_bytes).collect();
    cache::hash(&texts)
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

    /// Returns the class and the names of the candidates of a matrix product.
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
        // An epilogue and the inputs that it reads.
        let epilogue = Some(Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]));
        let op = MatMul { transpose_b: true, epilogue, ..MatMul::default() };
        assert_eq!(of(op, &[[1000, 784], [10, 784], [1, 10]].map(Shape::from)).0, class);
    }
}
