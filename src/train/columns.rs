//! Whether a data set has the columns that a model takes.

use super::{SOME, Trainer, batch::Taken};
use crate::{
    data::{Dataset, Features, Role},
    error::{Error, Result},
    graph::Graph,
    shape::DType,
};

impl Trainer {
    /// Checks that `data` has the columns that the model takes. Returns their numbers in the data, in the order of the graph's
    /// inputs.
    pub(super) fn check_data(&self, what: &str, data: &Dataset) -> Result<Vec<usize>> {
        self.check_columns(what, data, |_| true)
    }
    /// [`check_data`](Trainer::check_data) for the columns whose role is `needed`.
    pub(super) fn check_columns(&self, what: &str, data: &Dataset, needed: impl Fn(Role) -> bool) -> Result<Vec<usize>> {
        let model = self.data_model(what)?;
        let taken = || model.taken.iter().enumerate().filter(|(_, taken)| needed(taken.role));
        let of = |taken: &Taken| data.fields().iter().position(|field| field.name() == taken.name && field.sample() == taken.sample);
        // Other columns of the data are ignored.
        let Some(picks) = taken().map(|(_, taken)| of(taken)).collect::<Option<Vec<usize>>>() else {
            let want: Vec<Taken> = taken().map(|(_, taken)| taken.clone()).collect();
            return Err(Error::Input { what: what.to_string(), got: told(&Taken::of(data)), want: told(&want) });
        };
        // Labels and tokens must be less than the number of classes or rows that the graph indexes with them.
        if taken().all(|(_, taken)| taken.sample.dtype() != DType::U32) {
            return Ok(picks);
        }
        let g = Graph::training();
        model.write(&g, SOME)?;
        let inputs = &g.inner.borrow().inputs;
        for ((input, taken), &pick) in taken().zip(&picks) {
            let Some(below) = inputs[input].classes else { continue };
            match data.fields()[pick].data() {
                Features::Tokens { data, .. } => below.check(data, inputs[input].shape.dims(), taken.sample.elements())?,
                // The tokens of a source are below its vocabulary. The vocabulary must fit the model as a whole.
                Features::Source(rows) => {
                    let vocabulary = rows.vocabulary().unwrap_or(0);
                    let most = (vocabulary as u32).saturating_sub(1);
                    if vocabulary > below.count && !(vocabulary == below.count + 1 && below.ignored == Some(most)) {
                        let why = format!("its source has {vocabulary} classes or tokens, but the model has {}", below.count);
                        return Err(Error::argument(format!("column `{}`", taken.name), why));
                    }
                }
                _ => {}
            }
        }
        Ok(picks)
    }
    /// Returns the numbers of the columns of `data` that the model takes.
    pub(super) fn picks(&self, data: &Dataset) -> Result<Vec<usize>> {
        self.data_model("data")?.taken.iter().map(|taken| data.position(&taken.name)).collect()
    }
}

/// Describes columns. Where there is one feature and at most one target, it tells their shapes alone.
fn told(columns: &[Taken]) -> String {
    let plain = |taken: &Taken, name: &str, role: Role| taken.name == name && taken.role == role;
    let samples = |x: &Taken| format!("samples of shape {}", x.sample);
    match columns {
        [x] if plain(x, "x", Role::Feature) => format!("{} without a target", samples(x)),
        [x, y] if plain(x, "x", Role::Feature) && plain(y, "y", Role::Target) => {
            let index = y.sample.dtype() == DType::U32;
            match index {
                true if y.sample.rank() > 0 => format!("{} with labels of shape {}", samples(x), y.sample),
                true => format!("{} with labels", samples(x)),
                false => format!("{} with values of shape {}", samples(x), y.sample),
            }
        }
        _ => {
            let all: Vec<String> = columns.iter().map(|taken| format!("`{}` {}", taken.name, taken.sample)).collect();
            format!("the columns {}", all.join(", "))
        }
    }
}
