//! Averages of the weights over the steps of a training.

use super::{Hyper, Optimizer, State, require};
use crate::{
    error::{Error, Result},
    host::Real,
    threads::{TASK, chunk, chunks},
};

/// How the average follows the weights. The average is one more state of the optimizer. After the rule has made a step, the same
/// dispatch, or a dispatch behind it for whole parameters, moves the average a by a share of its way to the weights w:
///
/// ```text
/// a ← a + share·(w − a)
/// ```
/// The share depends on the number of the step alone, so nothing has to be counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Average {
    Ema { decay: f64 },
    Swa { from: u64, every: u64 },
    Lookahead { k: u64, alpha: f64 },
}

/// What a step does with the average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Turn {
    /// The share of its way to the weights by which the average moves.
    pub share: f64,
    /// Whether the weights take the values of the average then.
    pub back: bool,
}

impl Turn {
    /// Returns the turn as the last row of the hyperparameters of a step.
    fn row(self) -> Hyper {
        [self.share, f64::from(u8::from(self.back)), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn of_row([share, back, ..]: Hyper) -> Turn {
        Turn { share, back: back != 0.0 }
    }
}

impl Average {
    fn name(self) -> &'static str {
        match self {
            Average::Ema { .. } => "ema",
            Average::Swa { .. } => "swa",
            Average::Lookahead { .. } => "lookahead",
        }
    }
    /// Returns the turn of step `t`, counted from 1.
    fn turn(self, t: u64) -> Turn {
        let (share, back) = match self {
            Average::Ema { .. } if t <= 1 => (1.0, false),
            Average::Ema { decay } => (1.0 - decay, false),
            Average::Swa { from, .. } if t <= from => (1.0, false),
            Average::Swa { from, every } if (t - from).is_multiple_of(every) => (1.0 / ((t - from) / every + 1) as f64, false),
            Average::Lookahead { k, .. } if t <= k => (1.0, false),
            Average::Lookahead { k, alpha } if t.is_multiple_of(k) => (alpha, true),
            Average::Swa { .. } | Average::Lookahead { .. } => (0.0, false),
        };
        Turn { share, back }
    }
    fn check(self, rule: &str) -> Result<()> {
        let positive = |option, n: u64| require(n > 0, rule, option, n as f64, "at least 1");
        match self {
            Average::Ema { decay } => require((0.0..1.0).contains(&decay), rule, "the decay of ema", decay, "at least 0 and below 1"),
            Average::Swa { from, every } => {
                positive("`from` of swa", from)?;
                positive("`every` of swa", every)
            }
            Average::Lookahead { k, alpha } => {
                positive("`k` of lookahead", k)?;
                let ok = alpha as f32 > 0.0 && alpha <= 1.0;
                require(ok, rule, "`alpha` of lookahead", alpha, "above 0 (as f32) and at most 1")
            }
        }
    }
}

/// The name of the state that holds the average.
const NAME: &str = "average";

impl Optimizer {
    /// Keeps an exponential moving average of the weights beside the weights:
    ///
    /// ```text
    /// a ← decay·a + (1 − decay)·w        after each step; the first step copies: a ← w
    /// ```
    /// [`Trainer::averaged`](crate::Trainer::averaged) evaluates, predicts and saves with the averages, and
    /// [`Fit::averaged`](crate::Fit::averaged) validates with them. Each trained parameter has an average. The average of a frozen
    /// parameter is the parameter itself, and that of state (running averages of batch norm) is the state itself. The averages take the
    /// memory of one more state of the optimizer. The update computes them in the same dispatch. For rules that update a whole parameter
    /// at once, such as [`Muon`](super::Muon), there is one more dispatch. A step that is not finite leaves the averages as they were. Checkpoints contain them.
    ///
    /// `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn(decay)` and `use_buffers=False`, its default.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, init::Init, optim::Sgd};
    /// let g = Graph::training();
    /// let w = g.param("w", [1], Init::Zeros);
    /// let mut trainer = Trainer::new(&Device::cpu(), (w * g.input([1])).sum_all(), Sgd::new(1.0).ema(0.75))?;
    /// for gradient in [-1.0, -4.0] {
    ///     trainer.step(&[Host::new([1], vec![gradient])])?;
    /// }
    /// assert_eq!(trainer.params().get("w")?.f(), &[5.0]);
    /// assert_eq!(trainer.averaged()?.params().get("w")?.f(), &[0.75 * 1.0 + 0.25 * 5.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The trainer returns an error if the decay is not in 0..1, or if the optimizer has an average of another kind as well.
    pub fn ema(self, decay: f64) -> Optimizer {
        self.average(Average::Ema { decay })
    }
    /// Keeps the equal average of the weights after the steps `from`, `from + every`, `from + 2·every`, …, beside the weights. Steps
    /// count from 1. Before step `from` the average equals the weights.
    ///
    /// [`ema`](Optimizer::ema) says what can be done with the average. A model with batch norm
    /// needs [`Averaged::update_bn`](crate::train::Averaged::update_bn) at the end.
    /// Stochastic weight averaging: Izmailov et al. 2018, arXiv:1803.05407. `torch.optim.swa_utils.AveragedModel` with its defaults.
    ///
    /// # Errors
    /// The trainer returns an error if `from` or `every` is 0, or if the optimizer has an average of another kind as well.
    pub fn swa(self, from: u64, every: u64) -> Optimizer {
        self.average(Average::Swa { from, every })
    }
    /// Moves slow weights a towards the weights w in each k-th step, and sets the weights to them:
    ///
    /// ```text
    /// a ← a + alpha·(w − a)
    /// w ← a
    /// ```
    /// The slow weights start at step `k`, as a copy of the weights. They take the place of an [average](Optimizer::ema):
    /// [`Trainer::averaged`](crate::Trainer::averaged) evaluates with them.
    ///
    /// Lookahead: Zhang, Lucas, Hinton and Ba 2019, arXiv:1907.08610, where k is 5 or 10 and alpha 0.5 or 0.8. It starts as
    /// `timm.optim.Lookahead` does; in the paper the slow weights start at the initial weights.
    ///
    /// # Errors
    /// The trainer returns an error if `k` is 0, if `alpha` is not in 0..=1, or if the optimizer has an average of another kind as well.
    pub fn lookahead(self, k: u64, alpha: f64) -> Optimizer {
        self.average(Average::Lookahead { k, alpha })
    }
    /// Sets the average. A second call of the same kind replaces the first one.
    fn average(mut self, average: Average) -> Optimizer {
        self.averages.retain(|other| other.name() != average.name());
        self.averages.push(average);
        self
    }
    /// Returns an error if an option of the average is out of range, or if there are two averages.
    pub(super) fn check_average(&self) -> Result<()> {
        if let [one, other, ..] = self.averages[..] {
            let why = format!("{} and {} are set, but an optimizer keeps one average; choose one", one.name(), other.name());
            return Err(Error::argument(self.name(), why));
        }
        self.averages.iter().try_for_each(|average| average.check(self.name()))
    }
    /// Whether the optimizer keeps an average of the weights. It is the last of the [`states`](Optimizer::states) then.
    pub(crate) fn is_averaged(&self) -> bool {
        !self.averages.is_empty()
    }
    pub(super) fn average_state(&self) -> Option<State> {
        self.is_averaged().then(|| State::zero(NAME))
    }
    /// Returns the option of the average for checkpoints.
    pub(super) fn average_option(&self) -> Option<String> {
        self.averages.first().map(|average| format!("{average:?}"))
    }
    /// Whether the average may become the weights.
    pub(crate) fn looks_ahead(&self) -> bool {
        matches!(self.averages[..], [Average::Lookahead { .. }])
    }
    /// Returns the number of rows of hyperparameters of a step for a model with `groups` groups. An average has a row behind those of the
    /// groups whose elements are updated one by one.
    pub fn rows(&self, groups: usize) -> usize {
        groups + usize::from(self.is_averaged())
    }
    /// Returns the row of the average in the hyperparameters of step `t` (from 1), if there is an average.
    pub(super) fn average_row(&self, t: u64) -> Option<Hyper> {
        self.averages.first().map(|average| average.turn(t).row())
    }
    /// Moves the average of whole parameters, whose new weights are stored. `hyper` ends in the row of the average.
    pub(crate) fn follow(&self, hyper: &[Hyper], average: &mut [f32], w: &mut [f32]) {
        let Some(turn) = self.divide(hyper).1 else { return };
        chunks(average, TASK, |k, average| follow(average, chunk(w, TASK, k), turn));
        if turn.back {
            chunks(w, TASK, |k, w| w.copy_from_slice(chunk(average, TASK, k)));
        }
    }
    /// Divides the hyperparameters of a step into the rows of the groups, and what the step does with the average.
    pub(super) fn divide<'a>(&self, hyper: &'a [Hyper]) -> (&'a [Hyper], Option<Turn>) {
        match hyper.split_last() {
            Some((last, groups)) if self.is_averaged() => (groups, Some(Turn::of_row(*last))),
            _ => (hyper, None),
        }
    }
    /// Returns an optimizer with each kind of average, to be tested.
    pub(super) fn averaged_cases() -> Vec<Optimizer> {
        use super::{Adam, RmsProp, Sgd};
        vec![
            Optimizer::from(Sgd::new(0.1)).ema(0.75),
            Optimizer::from(Adam::new(0.01).amsgrad(true)).swa(2, 1),
            Optimizer::from(RmsProp::new(0.01).momentum(0.5).centered(true)).lookahead(1, 0.5),
        ]
    }
}

/// Returns `a + share·(w − a)`. Neither the difference nor the result overflows, and the result is exact at both ends and if a equals w.
pub(crate) fn blend<T: Real>(a: T, w: T, share: T) -> T {
    if share < T::of(0.5) {
        a + (share * w - share * a)
    } else {
        let rest = T::one() - share;
        w - (rest * w - rest * a)
    }
}

/// Moves the average of a block.
pub(super) fn follow<T: Real>(average: &mut [T], w: &[T], turn: Turn) {
    let share = T::of(turn.share);
    if share == T::zero() {
        return;
    }
    T::run(
        #[inline(always)]
        || {
            for (a, w) in average.iter_mut().zip(w.iter()) {
                *a = blend(*a, *w, share);
            }
        },
    );
}
