//! Runs candidates: against the oracle, then against the clock.

use super::problem::Problem;
use crate::{
    choice::{Choice, Chosen, Verdict, class, shaders},
    error::{Error, Place, Result},
    gpu::{ExecOptions, Gpu, GpuExec, GpuStore, StepRow, shader::Shader},
    host::Host,
    oracle::{self, Checked, KEY, NAN},
    params::Layout,
    plan::Draft,
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the oracle may cost, in operations: some milliseconds.
const CHECK: u64 = 2 << 20;
/// What one run for the clock may cost: some milliseconds too, for a candidate that is good.
const RUN: u64 = 4 << 30;
const RUN_SOFTWARE: u64 = 24 << 20;
/// An op whose sizes cannot be made so small that it costs less than so many times as much is not measured.
const TOO_MUCH: u64 = 16;
/// Elements of the tensors of one run.
const ELEMENTS: u64 = 8 << 20;
/// Runs of which the median counts, and how long they may take together.
const RUNS: usize = 5;
const RUNS_TAKE: Duration = Duration::from_millis(60);
/// What a submit of short runs should take at least.
const SUBMIT: Duration = Duration::from_millis(2);
/// A candidate is not timed further where each of its first runs takes more than this many times as long as the best so far …
const HOPELESS: u32 = 3;
/// … and so long that it is no accident.
const NOTICED: Duration = Duration::from_micros(500);
/// So many first runs there are at most; a single one of the square of `HOPELESS` times the best is enough.
const FIRST: usize = 3;

/// Chooses the kernels of a plan's ops that have several and whose class has no choice, the costly ones first.
///
/// # Errors
/// A device that is lost. Other faults of a candidate are in the report.
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

/// A class without its choice: its first problem in the plan, [`shaders`], what an earlier run found of its candidates, and where
/// the user wrote it, by which method.
struct Open {
    problem: Problem,
    text: u64,
    known: Vec<Verdict>,
    called: &'static str,
    place: Place,
}

/// Where candidates run.
struct Measurements<'a> {
    gpu: &'a Arc<Gpu>,
    /// Without parameters.
    store: Arc<GpuStore>,
    /// When time runs out; never before one candidate was measured, so that each run of a program knows more than the last.
    end: Instant,
    some: bool,
}

impl Measurements<'_> {
    async fn new(gpu: &Arc<Gpu>, budget: Duration) -> Result<Measurements<'_>> {
        let end = Instant::now() + budget;
        let store = Arc::new(GpuStore::new(gpu, Layout::default(), 0, 0).await?);
        Ok(Measurements { gpu, store, end, some: budget.is_zero() })
    }
    fn is_over(&self) -> bool {
        self.some && Instant::now() >= self.end
    }

    /// Measures the candidates whose verdict is open, as far as there is time.
    ///
    /// # Errors
    /// A device that is lost; then the candidate that ran does not run, so that the next run of the program leaves it alone.
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
        // From the one expected to be fastest on, so that slow ones are known as such at once; those that were slow once come last.
        let mut open: Vec<usize> = (0..verdicts.len()).rev().filter(|&i| verdicts[i].is_open()).collect();
        open.sort_by_key(|&i| verdicts[i] != Verdict::NotMeasured);
        // Drivers that compile early do so here, on several threads; a candidate that does not compile says so below.
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
                // Two runs of the program say the same: that is no accident.
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

    /// What is wrong with a candidate's numbers, if anything is.
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

    /// The time of a candidate that is right, on a larger problem; there it must agree with the others that are.
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
        // The first run may include what a driver puts off until then, and another program may have been in the way.
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
        times.sort_unstable();
        Ok(Verdict::Time(times[runs / 2]))
    }
}

/// What a candidate must compute.
struct Check {
    problem: Problem,
    inputs: Vec<Host<f32>>,
    want: Vec<f64>,
    terms: usize,
}
