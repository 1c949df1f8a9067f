//! Checkpoints: weights, optimizer states and options and the count of steps, so that training goes on as if never interrupted.

use super::{
    Trainer,
    params::{WeightFile, read, split, write},
};
use crate::{
    error::{Error, Result},
    host::Host,
    params::Status,
};
use std::{collections::BTreeMap, path::Path};

impl Trainer {
    /// Saves weights, state, the optimizer's states and options, steps and seed to a safetensors file. [`load`](Trainer::load) then
    /// goes on with exactly the weights that training without the break would have had. Frozen parameters have no states, and
    /// micro-batches that no step has taken yet are not in it.
    ///
    /// The file is [replaced](crate::file::replace) whole or not at all: whoever reads it, and whoever finds it after a crash, has
    /// this checkpoint or the one before. One state is always the same bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = self.params().all()?;
        let ranges = self.store.layout().ranges;
        for (k, state) in self.update.optimizer.states().iter().enumerate() {
            let flat = pollster::block_on(self.store.read_state(k))?;
            let trained = self.params.iter().zip(&ranges).filter(|(_, r)| matches!(r.status, Status::Trained { .. }));
            let (params, ranges): (Vec<_>, Vec<_>) = trained.map(|(p, r)| (p.clone(), *r)).unzip();
            let parts = split(&params, &ranges, &flat);
            tensors.extend(parts.into_iter().map(|(name, value)| (key(state.name, &name), value)));
        }
        // A step that was not finite, which nobody has asked for yet, and those after it changed nothing.
        let guard = pollster::block_on(self.store.read_guard())?;
        let step = if guard.halt == 0 { self.step } else { u64::from(guard.halt) - 1 };
        let numbers = [("step", step), ("epoch", self.epoch), ("seed", self.seed)];
        let mut info: BTreeMap<String, String> = numbers.map(|(k, v)| (k.to_string(), v.to_string())).into();
        info.insert("optimizer".into(), self.update.optimizer.name().into());
        info.extend(self.options().into_iter().map(|(name, value)| (option(&name), value)));
        write(path.as_ref(), &tensors, &info)
    }
    /// Goes on from a file of [`save`](Trainer::save). Nothing is changed unless all of it fits.
    ///
    /// The optimizer is the one that this trainer was made with, options and all. Its learning rate and schedule may be others than
    /// when the file was saved. Where another option differs (a momentum, a weight decay, the norm to clip to), a warning says so
    /// through the crate `log`. So does one where other parameters were frozen, if the optimizer keeps no state.
    ///
    /// # Errors
    /// A file that is missing or not a checkpoint; another model or optimizer: something that is not in the file, or that is in it and
    /// has no place here. That is the momentum for an optimizer without one, for instance, or the states of a parameter that is frozen
    /// now. [`Params::load`](super::Params::load) takes the weights alone.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = read(path)?;
        let file = WeightFile::new(path, &bytes)?;
        let optimizer = self.update.optimizer.name();
        if file.info.get("optimizer").map(String::as_str) != Some(optimizer) {
            let saved = file.info.get("optimizer").map_or("no checkpoint".to_string(), |o| format!("a checkpoint of {o}"));
            return Err(Error::format(path, format!("{saved}, but this trainer uses {optimizer}; {ALONE}")));
        }
        let number = |name: &str| -> Result<u64> {
            let text = file.info.get(name).ok_or_else(|| Error::format(path, format!("no `{name}` in the checkpoint")))?;
            text.parse().map_err(|_| Error::format(path, format!("`{name}` is `{text}`, not a number")))
        };
        // The guard counts steps in 32 bits, and training goes on from here.
        let count = |name: &str| match number(name)? {
            n if n > u64::from(u32::MAX / 2) => Err(Error::format(path, format!("`{name}` is {n}, and no training gets so far"))),
            n => Ok(n),
        };
        let (step, epoch, seed) = (count("step")?, count("epoch")?, number("seed")?);
        // What was set when it was saved and is set to something else now; checkpoints of old versions do not say.
        let differs = |(name, now): (String, String)| {
            let saved = file.info.get(&option(&name)).filter(|saved| **saved != now && !["lr", "schedule"].contains(&name.as_str()))?;
            Some(format!("{name} was {saved} and is {now} now"))
        };
        let differ: Vec<String> = self.options().into_iter().filter_map(differs).collect();
        let differ = differ.join(", ");
        let but = if differ.is_empty() { String::new() } else { format!(" ({differ})") };

        let mut rest = file.names();
        rest.sort_unstable();
        let mut take = |name: String, i: usize| -> Result<Host<f32>> {
            let value = file.take(&name, self.params[i].shape)?;
            rest.retain(|other| *other != name);
            Ok(value)
        };
        let weights: Vec<(String, Host<f32>)> =
            self.params.iter().enumerate().map(|(i, p)| Ok((p.name.clone(), take(p.name.clone(), i)?))).collect::<Result<_>>()?;
        let layout = self.store.layout();
        let mut states = Vec::new();
        for state in self.update.optimizer.states() {
            let mut flat: Vec<Vec<f32>> = layout.pieces[..layout.trained].iter().map(|&n| vec![state.start; n]).collect();
            for (i, (p, r)) in self.params.iter().zip(&layout.ranges).enumerate() {
                if let Status::Trained { .. } = r.status {
                    let name = key(state.name, &p.name);
                    if !file.names().contains(&name.as_str()) {
                        return Err(Error::Parameter { name, why: format!("not in {}{but}; {ALONE}", path.display()) });
                    }
                    flat[r.piece][r.of()].copy_from_slice(take(name, i)?.f());
                }
            }
            states.push(flat);
        }
        if let Some(name) = rest.first() {
            return Err(Error::format(path, format!("`{name}` is in it, which has no place in this trainer{but}; {ALONE}")));
        }
        self.params().set_all(&weights)?;
        for (k, flat) in states.into_iter().enumerate() {
            self.store.write_state(k, flat)?;
        }
        self.store.write_guard(Default::default())?;
        (self.step, self.epoch, self.seed) = (step, epoch, seed);
        if !differ.is_empty() {
            log::warn!("{}: {optimizer} goes on with other options than it was saved with: {differ}", path.display());
        }
        self.forget()
    }
    /// The options of the optimizer by name, and which parameters are frozen.
    fn options(&self) -> Vec<(String, String)> {
        let all = self.params.iter().zip(&self.update.groups.statuses);
        let frozen: Vec<&str> = all.filter(|(_, status)| **status == Status::Frozen).map(|(p, _)| p.name.as_str()).collect();
        let frozen = if frozen.is_empty() { "none".to_string() } else { frozen.join(" ") };
        self.update.optimizer.options().into_iter().chain([("frozen".to_string(), frozen)]).collect()
    }
}

/// The way out where the rest of a checkpoint does not fit.
const ALONE: &str = "Params::load takes the weights alone";

/// The name of a parameter's state in a file.
fn key(state: &str, param: &str) -> String {
    format!("optimizer.{state}.{param}")
}

/// The name of an option in a file.
fn option(name: &str) -> String {
    format!("optimizer.{name}")
}
