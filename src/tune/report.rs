//! What was chosen, as data and as a table.

use std::{fmt, time::Duration};

/// What is known of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is right, and took that long: the median of some runs.
    Time(Duration),
    /// It is not to be used, and why: it does not compile, its numbers are wrong, it is too slow to be timed in earnest.
    Rejected(String),
    /// There was no time for it.
    NotMeasured,
}

/// One way to compute an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The kernel's name.
    pub kernel: String,
    /// What is known of it.
    pub verdict: Verdict,
}

/// Where a choice is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Candidates ran on the device since it was opened.
    Measured,
    /// They did in an earlier run of the program.
    Cache,
    /// There was no time to measure all of them; it is the one that is expected to be fastest of those not rejected so far.
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

/// The choice for a class of ops.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Op, settings, sizes rounded to powers of two, candidates.
    pub class: String,
    /// The kernel.
    pub kernel: String,
    /// Where the choice is from.
    pub origin: Origin,
    /// All there were, the portable one first, the one expected fastest last.
    pub candidates: Vec<Candidate>,
}

impl Chosen {
    /// Whether every candidate was measured.
    pub fn is_complete(&self) -> bool {
        self.candidates.iter().all(|c| c.verdict != Verdict::NotMeasured)
    }
    /// False where every candidate was rejected: the portable one is used all the same, and its results are not to be relied on.
    pub fn is_trusted(&self) -> bool {
        self.candidates.iter().any(|c| !matches!(c.verdict, Verdict::Rejected(_)))
    }
}

/// A line for the choice, and one for each candidate.
impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.class)?;
        if !self.is_trusted() {
            write!(f, "\n  NO KERNEL COMPUTES THIS RIGHTLY ON THIS DRIVER; the portable one is used: do not rely on its results")?;
        }
        for Candidate { kernel, verdict } in &self.candidates {
            let mark = if *kernel == self.kernel { "→" } else { " " };
            write!(f, "\n  {mark} {kernel:<12} ")?;
            match verdict {
                Verdict::Time(time) => write!(f, "{:>12}", format!("{:.3} ms", time.as_secs_f64() * 1e3))?,
                Verdict::Rejected(why) => write!(f, "rejected: {why}")?,
                Verdict::NotMeasured => write!(f, "not measured")?,
            }
            if *kernel == self.kernel && self.origin == Origin::Cache {
                write!(f, "   (measured earlier)")?;
            }
        }
        Ok(())
    }
}

/// What was chosen on a device so far. `Display` is a table; ops with one kernel are not in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The adapter and its driver.
    pub device: String,
    /// By class, in the order of their names.
    pub classes: Vec<Chosen>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "Kernels chosen on {}", self.device)?;
        if self.classes.is_empty() {
            return write!(f, "none: nothing was measured");
        }
        self.classes.iter().try_for_each(|chosen| writeln!(f, "{chosen}"))?;
        write!(f, "Times are those of problems of the class that may be smaller than yours.")
    }
}
