//! Runs candidates: first against the oracle, then against the clock.

use super::problem::Problem;
use crate::{
    choice::{Choice, Chosen, Verdict, class, shaders},
    error::{Error, Place, Result},
    gpu::{ExecOptions, Gpu, GpuExec, GpuStore, StepRow, shader::Shader},
    host::Host,
    oracle::{self, Checked, KEY, NAN},
    params::Layout,
    plan::Draft,
    threads::sorted,
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// The largest cost of a problem for the oracle, in operations. The oracle takes some milliseconds for it.
const CHECK: u64 = 2 << 20;
/// The largest cost of a problem for the clock, in operations. A good candidate takes some milliseconds for it.
const RUN: u64 = 4 << 30;
const RUN_SOFTWARE: u64 = 24 << 20;
/// An op is not measured if its smallest problem costs more than this multiple of the limits above.
const TOO_MUCH: u64 = 16;
/// The largest number of elements in all tensors of a problem for the clock.
const ELEMENTS: u64 = 8 << 20;
/// The largest number of timed runs. The median of the runs counts. `RUNS_TAKE` is the time for all runs together.
const RUNS: usize = 5;
const RUNS_TAKE: Duration = Duration::from_millis(60);
/// The shortest time that one submit should take. Short runs are repeated within one submit.
const SUBMIT: Duration = Duration::from_millis(2);
/// A candidate is not timed further if each of its first runs takes more than this multiple of the best time so far …
const HOPELESS: u32 = 3;
/// … and more than this time. A shorter run may look slow by accident.
const NOTICED: Duration = Duration::from_micros(500);
/// The largest number of first runs. One run is enough if it takes more than the square of `HOPELESS` times the best time.
const FIRST: usize = 3;

/// Chooses a kernel for each class of ops in the plan that has several kernels and no choice yet. Costly ops come first.
///
/// # Errors
/// An error if the device is lost. Every other fault of a candidate is a verdict in the report.
pub(crate) async fn measure(gpu: &Arc<Gpu>, draft: &Draft) -> Result<()> {
    if gpu.options().choice != Choice::Measured {
        return Ok(());
    }
    let (choices, caps) = (gpu.measured(), gpu.caps());
    let mut open: BTreeMap<String, Open> = BTreeMap::new();
    for (op, x, y, place) in draft.ops() {
        let kernels = op.kernels(&x, y, caps);
        if kernels.len() < 2 {
            continue;
        }
        let (class, text) = (class(&**op, &x, y, &kernels), shaders(&kernels));
        if let Some(known) = choices.recall(&class, &kernels, text)
            && let Some(problem) = Problem::new(op, x, caps).filter(|problem| problem.kernels.len() == kernels.len())
        {
            open.entry(class).or_insert_with(|| Open { problem, text, known, called: op.called(), place });
        }
    }
    if open.is_empty() {
        return Ok(());
    }
    let mut open: Vec<(String, Open)> = open.into_iter().collect();
    open.sort_by_key(|(_, open)| Reverse(open.problem.cost()));
    let mut bench = Measurements::new(gpu, gpu.options().budget).await?;
    let mut found = Vec::new();
    for (class, Open { problem, text, known, called, place }) in open {
        let mut verdicts = known.clone();
        let measured = bench.candidates(&problem, &mut verdicts).await;
        let news = verdicts != known;
        let chosen = Chosen::new(class, &problem.kernels, verdicts, news);
        if !chosen.is_trusted() {
            log::error!(
                "{called} ({}:{}): none of its kernels agrees with the op's definition on {gpu}. The simplest one is used, and its \
                results may be wrong. Compare them with those of Device::cpu(), try another driver or adapter, and please report this text.\n{chosen}",
                place.file(),
                place.line()
            );
        } else if news {
            found.push((text, chosen.clone()));
        }
        choices.choose(chosen);
        if measured.is_err() {
            choices.keep(&found);
            return measured;
        }
    }
    choices.keep(&found);
    Ok(())
}

/// A class without a choice: its first problem in the plan, the hash of its [`shaders`], the verdicts of earlier runs, and the
/// method and place by which the user wrote the op.
struct Open {
    problem: Problem,
    text: u64,
    known: Vec<Verdict>,
    called: &'static str,
    place: Place,
}

/// The state of the measurements of one plan.
struct Measurements<'a> {
    gpu: &'a Arc<Gpu>,
    /// A store without parameters.
    store: Arc<GpuStore>,
    /// The end of the time budget. At least one candidate is measured even after the end, so that each run of a program learns
    /// something.
    end: Instant,
    some: bool,
}

impl Measurements<'_> {
    async fn new(gpu: &Arc<Gpu>, budget: Duration) -> Result<Measurements<'_>> {
        let end = Instant::now() + budget;
        let store = Arc::new(GpuStore::new(gpu, Layout::default(), 0).await?);
        Ok(Measurements { gpu, store, end, some: budget.is_zero() })
    }
    fn is_over(&self) -> bool {
        self.some && Instant::now() >= self.end
    }

    /// Measures the candidates with an open verdict until the time is over.
    ///
    /// # Errors
    /// An error if the device is lost. Then the verdict on the candidate is that it does not run, so the next run of the
    /// program does not try it again.
    async fn candidates(&mut self, problem: &Problem, verdicts: &mut [Verdict]) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        let (gpu, caps) = (self.gpu, self.gpu.caps());
        let run = if caps.software { RUN_SOFTWARE } else { RUN };
        let small = problem.smaller(caps, |p| p.cost() <= CHECK, true);
        let large = problem.smaller(caps, |p| p.cost() <= run && p.elements() <= ELEMENTS, false);
        if small.cost() > TOO_MUCH * CHECK || large.cost() > TOO_MUCH * run {
            return Ok(());
        }
        let Ok((inputs, want)) = small.oracle() else { return Ok(()) };
        let check = Check { inputs, want, terms: small.op.terms(&small.x), problem: small };
        let inputs = large.inputs();
        // The candidate that is expected to be fastest comes first, so that slower candidates are recognised early. Candidates
        // that were slow in an earlier run come last.
        let open = (0..verdicts.len()).rev().filter(|&i| verdicts[i].is_open());
        let (open, slow): (Vec<usize>, Vec<usize>) = open.partition(|&i| verdicts[i] == Verdict::NotMeasured);
        let open = [open, slow].concat();
        // Some drivers compile here, on several threads. A candidate that does not compile gives its error in the check below.
        let unchecked = check.problem.op.is_unchecked();
        let shaders: Vec<_> = open
            .iter()
            .map(|&i| &check.problem.kernels[i])
            .flat_map(|kernel| kernel.passes.iter().map(|pass| Shader { label: kernel.name, pass, unchecked }))
            .collect();
        drop(gpu.pipelines(&shaders).await);

        let times = verdicts.iter().filter_map(|verdict| if let Verdict::Time(time) = verdict { Some(*time) } else { None });
        let (mut best, mut trusted): (Option<Duration>, Option<Vec<f64>>) = (times.min(), None);
        for i in open {
            if self.is_over() {
                break;
            }
            self.some = true;
            let verdict = match self.check(&check, i).await {
                Ok(None) => self.time(&large, i, &inputs, &mut trusted, best).await,
                Ok(Some(wrong)) => Ok(Verdict::Wrong(wrong)),
                Err(error) => Err(error),
            };
            verdicts[i] = match (verdict, &verdicts[i]) {
                // Two runs of the program found the candidate slow, so it is no accident.
                (Ok(Verdict::Slow(time)), Verdict::Slow(before)) => Verdict::Time(time.min(*before)),
                (Ok(verdict), _) => verdict,
                (Err(error), _) if gpu.lost().is_some() => {
                    verdicts[i] = Verdict::DoesNotRun(error.to_string());
                    return Err(error);
                }
                (Err(Error::Device { why, .. }), _) => Verdict::DoesNotRun(why),
                (Err(error), _) => Verdict::DoesNotRun(error.to_string()),
            };
            if let Verdict::Time(time) = verdicts[i] {
                best = Some(best.map_or(time, |best| best.min(time)));
            }
        }
        Ok(())
    }

    async fn load(&self, problem: &Problem, candidate: usize, inputs: &[Host<f32>], guards: bool) -> Result<GpuExec> {
        let plan = problem.plan(candidate, self.gpu.caps())?;
        let exec = GpuExec::new(self.gpu, &plan, &self.store, ExecOptions { guards, ..ExecOptions::default() }).await?;
        for (i, x) in inputs.iter().enumerate() {
            exec.write(i, x)?;
        }
        Ok(exec)
    }

    /// Returns the reason why the results of a candidate are wrong, or `None` if they are correct.
    async fn check(&self, check: &Check, candidate: usize) -> Result<Option<String>> {
        let mut exec = self.load(&check.problem, candidate, &check.inputs, true).await?;
        let mut runs = Vec::new();
        for _ in 0..2 {
            exec.fill_slots(NAN)?;
            exec.submit(&StepRow { seed: KEY.seed, step: KEY.step, ..StepRow::default() })?;
            runs.push(exec.read(0).await?.to_f64());
        }
        if let Some(broken) = exec.fences_intact(NAN).await?.first() {
            return Ok(Some(format!("it writes past the end of {broken}")));
        }
        let again = runs[0].iter().zip(&runs[1]).position(|(a, b)| a.to_bits() != b.to_bits());
        if let Some(i) = again {
            return Ok(Some(format!("a second run differs at element {i}: {} and {}", runs[0][i], runs[1][i])));
        }
        Ok(Checked::new(&runs[0], &check.want, check.terms).wrong)
    }

    /// Times a correct candidate on a larger problem. The results there must agree with the results of the other correct
    /// candidates.
    async fn time(
        &self,
        problem: &Problem,
        candidate: usize,
        inputs: &[Host<f32>],
        trusted: &mut Option<Vec<f64>>,
        best: Option<Duration>,
    ) -> Result<Verdict> {
        let exec = self.load(problem, candidate, inputs, false).await?;
        let mut once = exec.time(self.gpu, 1).await?;
        let hopeless = |time: Duration| best.filter(|&best| time > NOTICED && time > best * HOPELESS);
        let got = exec.read(0).await?.to_f64();
        match trusted {
            None => *trusted = Some(got),
            Some(want) => {
                if let Err(wrong) = oracle::close(&got, want, problem.op.terms(&problem.x)) {
                    return Ok(Verdict::Wrong(format!("on {}: {wrong}", problem.y)));
                }
            }
        }
        // The first run may include work that the driver has delayed, and another program may have disturbed a run.
        for _ in 1..FIRST {
            if hopeless(once).is_some_and(|best| once < best * HOPELESS * HOPELESS) {
                once = once.min(exec.time(self.gpu, 1).await?);
            }
        }
        if hopeless(once).is_some() {
            return Ok(Verdict::Slow(once));
        }
        let repeats = (SUBMIT.as_nanos() / once.as_nanos().max(1)).clamp(1, 64) as usize;
        let runs = (RUNS_TAKE.as_nanos() / (once.as_nanos() * repeats as u128).max(1)).clamp(1, RUNS as u128) as usize;
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            times.push(exec.time(self.gpu, repeats).await?);
        }
        let order = sorted(runs, |i| times[i]);
        Ok(Verdict::Time(times[order[runs / 2]]))
    }
}

/// The problem for the oracle, with its inputs and the expected results.
struct Check {
    problem: Problem,
    inputs: Vec<Host<f32>>,
    want: Vec<f64>,
    terms: usize,
}
