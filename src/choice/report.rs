//! The candidates, verdicts and choices, as data and as a table.

use crate::kernel::Kernel;
use std::{fmt, time::Duration};

/// The fraction of time that another candidate must save to replace the expected candidate. Smaller differences are noise.
const GAIN: f64 = 0.03;

/// The verdict on a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The candidate is correct and takes this time. The time is the median of several measurements.
    Time(Duration),
    /// The candidate is correct, but each of its first runs took more than three times as long as the best candidate. So the
    /// candidate was not timed further. The time is the shortest of the first runs. Another program may have disturbed the
    /// clock, so the next run of the program times the candidate again.
    Slow(Duration),
    /// The candidate gives wrong numbers or writes outside its output. The text states the reason.
    Wrong(String),
    /// The driver does not compile the candidate, or fails while the candidate runs. The text states the reason.
    DoesNotRun(String),
    /// The candidate was not measured, because the time was spent.
    NotMeasured,
}

impl Verdict {
    /// Returns whether the candidate must not be used on this device and driver: its results are wrong or it does not run.
    pub fn is_fault(&self) -> bool {
        matches!(self, Verdict::Wrong(_) | Verdict::DoesNotRun(_))
    }
    /// Returns whether the next run of the program measures the candidate. This is so if the candidate was not measured, or if
    /// only its slow first runs were measured.
    pub fn is_open(&self) -> bool {
        matches!(self, Verdict::NotMeasured | Verdict::Slow(_))
    }
}

/// A candidate: one kernel that can compute an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The kernel's name.
    pub kernel: String,
    /// The verdict on the candidate.
    pub verdict: Verdict,
}

/// The origin of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The candidates were measured after the device was opened.
    Measured,
    /// The candidates were measured in an earlier run of the program.
    Cache,
    /// There was no time to measure all candidates. Candidates that are known to be wrong, to be slow or not to run are left
    /// out. Among the others, the candidate that is expected to be fastest was chosen.
    Expected,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Origin::Measured => "measured",
            Origin::Cache => "cache",
            Origin::Expected => "expected",
        })
    }
}

/// The choice of a kernel for a class of ops.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The name of the class: the op, its settings, its sizes rounded to powers of two, and its candidates.
    pub class: String,
    /// The name of the chosen kernel.
    pub kernel: String,
    /// The origin of the choice.
    pub origin: Origin,
    /// All candidates. The portable candidate is the first. The candidate that is expected to be fastest is the last.
    pub candidates: Vec<Candidate>,
}

impl Chosen {
    /// Chooses a kernel by the verdicts on all candidates of a class. The fastest candidate is chosen. If the expected
    /// candidate is about as fast, it is chosen instead. `news` says that this run of the program found at least one of the
    /// verdicts.
    pub(crate) fn new(class: String, kernels: &[Kernel], verdicts: Vec<Verdict>, news: bool) -> Chosen {
        let time = |(i, verdict): (usize, &Verdict)| match verdict {
            Verdict::Time(time) => Some((i, time.as_secs_f64() * if i + 1 == verdicts.len() { 1.0 - GAIN } else { 1.0 })),
            _ => None,
        };
        let all = !verdicts.contains(&Verdict::NotMeasured);
        let best = match all {
            true => verdicts.iter().enumerate().filter_map(time).min_by(|a, b| a.1.total_cmp(&b.1)).map(|best| best.0),
            false => verdicts.iter().rposition(|v| matches!(v, Verdict::Time(_) | Verdict::NotMeasured)),
        };
        let origin = match (all, news) {
            (false, _) => Origin::Expected,
            (true, true) => Origin::Measured,
            (true, false) => Origin::Cache,
        };
        let kernel = kernels[best.unwrap_or(0)].name.to_string();
        let candidates = kernels.iter().zip(verdicts).map(|(k, verdict)| Candidate { kernel: k.name.to_string(), verdict }).collect();
        Chosen { class, kernel, origin, candidates }
    }
    /// Returns whether every candidate has a final verdict. If so, the next run of the program reads the same choice from the
    /// file. Otherwise the next run measures the candidates with an [open](Verdict::is_open) verdict.
    pub fn is_complete(&self) -> bool {
        !self.candidates.iter().any(|c| c.verdict.is_open())
    }
    /// Returns false if every candidate is wrong or does not run. The portable candidate is used nevertheless, and its results
    /// may be wrong.
    pub fn is_trusted(&self) -> bool {
        !self.candidates.iter().all(|c| c.verdict.is_fault())
    }
}

/// Prints one line for the class and one line for each candidate.
impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.class)?;
        if !self.is_trusted() {
            write!(f, "\n  NO KERNEL COMPUTES THIS RIGHTLY ON THIS DRIVER; the portable one is used: do not rely on its results")?;
        }
        for Candidate { kernel, verdict } in &self.candidates {
            let mark = if *kernel == self.kernel { "→" } else { " " };
            write!(f, "\n  {mark} {kernel:<12} ")?;
            let ms = |time: &Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
            match verdict {
                Verdict::Time(time) => write!(f, "{:>12}", ms(time))?,
                Verdict::Slow(time) => write!(f, "{:>12}   (slow in its first runs)", ms(time))?,
                Verdict::Wrong(why) => write!(f, "wrong: {why}")?,
                Verdict::DoesNotRun(why) => write!(f, "does not run: {why}")?,
                Verdict::NotMeasured => write!(f, "not measured")?,
            }
            if *kernel == self.kernel && self.origin == Origin::Cache {
                write!(f, "   (measured earlier)")?;
            }
        }
        Ok(())
    }
}

/// The choices that a device has made so far. `Display` prints a table. The table leaves out ops with only one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct ChoiceReport {
    /// The adapter and its driver.
    pub device: String,
    /// The choices, sorted by class.
    pub classes: Vec<Chosen>,
}

impl fmt::Display for ChoiceReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "Kernels chosen on {}", self.device)?;
        if self.classes.is_empty() {
            return write!(f, "none: nothing was measured");
        }
        self.classes.iter().try_for_each(|chosen| writeln!(f, "{chosen}"))?;
        write!(f, "The times were measured on problems of the same class, which may be smaller than yours.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNELS: [&str; 3] = ["portable", "other", "expected"];

    fn chosen<const N: usize>(verdicts: [Verdict; N], news: bool) -> Chosen {
        let kernels = KERNELS[3 - N..].iter().map(|&name| Kernel { name, passes: Vec::new(), scratch: Vec::new() });
        Chosen::new("class".into(), &kernels.collect::<Vec<_>>(), verdicts.into(), news)
    }
    fn ms(ms: f64) -> Verdict {
        Verdict::Time(Duration::from_secs_f64(ms / 1e3))
    }
    fn slow() -> Verdict {
        Verdict::Slow(Duration::from_millis(50))
    }
    fn wrong() -> Verdict {
        Verdict::Wrong("element 3 is 2, not 1".into())
    }
    fn fails() -> Verdict {
        Verdict::DoesNotRun("no definition in scope".into())
    }

    #[test]
    fn the_fastest_is_chosen_and_faults_never_are() {
        use Verdict::NotMeasured;
        let table: [([Verdict; 3], &str, bool, bool); 10] = [
            // Each case lists the verdicts, the chosen kernel, whether the choice is complete and whether it is trusted.
            ([ms(3.0), ms(1.0), ms(2.0)], "other", true, true),
            ([ms(3.0), ms(1.0), ms(1.02)], "expected", true, true),
            ([ms(3.0), ms(1.0), ms(1.05)], "other", true, true),
            ([ms(3.0), wrong(), fails()], "portable", true, true),
            ([ms(3.0), ms(9.0), slow()], "portable", false, true),
            ([NotMeasured, wrong(), slow()], "portable", false, true),
            ([NotMeasured, ms(1.0), fails()], "other", false, true),
            ([ms(1.0), NotMeasured, NotMeasured], "expected", false, true),
            ([wrong(), wrong(), NotMeasured], "expected", false, true),
            ([wrong(), fails(), wrong()], "portable", true, false),
        ];
        for (verdicts, kernel, complete, trusted) in table {
            let all = !verdicts.contains(&NotMeasured);
            for (news, origin) in [(true, Origin::Measured), (false, Origin::Cache)] {
                let chosen = chosen(verdicts.clone(), news);
                assert_eq!((chosen.kernel.as_str(), chosen.is_complete(), chosen.is_trusted()), (kernel, complete, trusted), "{chosen}");
                assert_eq!(chosen.origin, if all { origin } else { Origin::Expected }, "{chosen}");
            }
        }
    }

    #[test]
    fn a_table_tells_the_verdicts_apart() {
        let text = chosen([ms(3.0), wrong(), fails()], true).to_string();
        assert_eq!(
            text,
            "class\n  → portable         3.000 ms\n    other        wrong: element 3 is 2, not 1\n    \
            expected     does not run: no definition in scope"
        );
        let text = chosen([slow(), ms(1.0), Verdict::NotMeasured], true).to_string();
        assert_eq!(
            text,
            "class\n    portable        50.000 ms   (slow in its first runs)\n    other            1.000 ms\n  \
            → expected     not measured"
        );
    }
}
