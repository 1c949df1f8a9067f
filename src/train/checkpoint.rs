//! Checkpoints. A checkpoint holds parameters, the optimizer's states and options, and the number of steps. Training resumed
//! from it continues as if it had never been interrupted.

use super::{
    Trainer,
    place::{CALLBACK, FIT},
    saved::Saved,
};
use crate::{
    error::{Error, Result},
    graph::ParamDef,
    host::Host,
    params::{Layout, Status},
    shape::Shape,
    weights::{WeightFile, read_bytes, split, write_to},
};
use std::{collections::BTreeMap, path::Path};

impl Trainer {
    /// Saves parameters, state, the optimizer's states (averages of the weights among them) and options, the number of steps and the seed to a safetensors file. It also saves
    /// the learning rate, if [`set_lr`](Trainer::set_lr) has set one.
    ///
    /// Training that continues after [`load`](Trainer::load) has exactly the parameters of training without a break. Frozen
    /// parameters have no optimizer states. The file does not contain micro-batches that wait for their step.
    ///
    /// The file is [replaced](crate::file::replace) whole or not at all. A reader finds this checkpoint or the previous one,
    /// even after a crash. Equal trainers write equal bytes.
    ///
    /// With [`Shard::State`](crate::Shard::State), all ranks must call it, and rank 0 alone writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        match self.update.owners {
            None => self.snapshot(None)?.write(path),
            Some(_) => {
                let saved = self.told(self.snapshot(Some(0)))?;
                if self.rank() == 0 { self.told(saved.write(path)) } else { Ok(()) }
            }
        }
    }
    /// Returns the content of a checkpoint. With shards, all ranks must call it. With `root`, this rank alone gets the states then.
    pub(super) fn snapshot(&self, root: Option<usize>) -> Result<Saved> {
        let (layout, states) = (self.whole_layout()?, self.update.optimizer.states());
        let flat = pollster::block_on(self.whole(&layout, root))?;
        let names: Vec<&str> = states.iter().map(|state| state.name).collect();
        let tensors = named(&self.params, &layout, &names, &flat);
        // A step may have been not finite without its report having been read. This step and all steps after it changed nothing.
        let guard = pollster::block_on(self.store.read_guard())?;
        let step = if guard.halt == 0 { self.step } else { u64::from(guard.halt) - 1 };
        Ok(Saved { info: self.info(step), tensors })
    }
    /// Returns the strings of a checkpoint after `step` steps.
    pub(super) fn info(&self, step: u64) -> BTreeMap<String, String> {
        let numbers = [("step", step), ("epoch", self.epoch), ("seed", self.seed)];
        let mut info: BTreeMap<String, String> = numbers.map(|(k, v)| (k.to_string(), v.to_string())).into();
        info.insert("optimizer".into(), self.update.optimizer.name().into());
        if self.update.since > 0 {
            info.insert("since".into(), self.update.since.to_string());
        }
        info.extend(self.options().into_iter().map(|(name, value)| (option(&name), value)));
        info.extend(self.update.optimizer.lr_set().map(|lr| ("lr".to_string(), format!("{lr:?}"))));
        info
    }
    /// Goes back to a snapshot that has a place in the epochs.
    pub(super) fn restore(&mut self, saved: &Saved) -> Result<()> {
        let (path, mut bytes) = (Path::new("snapshot"), Vec::new());
        write_to(&mut bytes, &saved.tensors, &saved.info).map_err(|e| Error::file(path, e))?;
        self.adopt(path, &bytes)?;
        self.load_place(path, &saved.part(FIT))
    }
    /// Loads a checkpoint that [`save`](Trainer::save) wrote, and continues from it. If any part of the file does not fit, the
    /// trainer is unchanged.
    ///
    /// The trainer uses its own optimizer with its own options. If [`set_lr`](Trainer::set_lr) had set the learning rate of the saved
    /// trainer, this trainer gets that rate. Otherwise the learning rate may differ, and the schedule always may. If another
    /// option differs (a momentum, a weight decay, the norm to clip to), a warning is logged through the crate `log`. A warning is also
    /// logged if other parameters were frozen and the optimizer has no states.
    ///
    /// # Errors
    /// - The file is missing or is no checkpoint.
    /// - The file is of another model or optimizer. It lacks a tensor that the trainer needs, or has a tensor that the trainer
    ///   has no place for. Examples are a momentum for an optimizer without momentum, and the states of a parameter that is
    ///   frozen now. [`Params::load`](super::Params::load) loads the parameters alone.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.adopt(path, &read_bytes(path)?)
    }
    /// Loads a checkpoint from the bytes of a file.
    pub(super) fn adopt(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = WeightFile::new(path, bytes)?;
        let optimizer = self.update.optimizer.name();
        if file.info.get("optimizer").map(String::as_str) != Some(optimizer) {
            let saved = file.info.get("optimizer").map_or("no checkpoint".to_string(), |o| format!("a checkpoint of {o}"));
            return Err(Error::format(path, format!("{saved}, but this trainer uses {optimizer}; {ALONE}")));
        }
        let number = |name: &str| -> Result<u64> {
            let text = file.info.get(name).ok_or_else(|| Error::format(path, format!("no `{name}` in the checkpoint")))?;
            text.parse().map_err(|_| Error::format(path, format!("`{name}` is `{text}`, not a number")))
        };
        // The guard counts steps in 32 bits. Half of the range must remain for the steps that follow.
        let count = |name: &str| match number(name)? {
            n if n > u64::from(u32::MAX / 2) => Err(Error::format(path, format!("`{name}` is {n}, which is too large"))),
            n => Ok(n),
        };
        let (step, epoch, seed) = (count("step")?, count("epoch")?, number("seed")?);
        let since = if file.info.contains_key("since") { count("since")? } else { 0 };
        // The options that differ from those in the file. Checkpoints of old versions have no options.
        let differs = |(name, now): (String, String)| {
            let saved =
                file.info.get(&option(&name)).filter(|saved| **saved != now && !["lr", "rest.lr", "schedule"].contains(&name.as_str()))?;
            Some(format!("{name} was {saved} and is {now} now"))
        };
        let differ: Vec<String> = self.options().into_iter().filter_map(differs).collect();
        let differ = differ.join(", ");
        let but = if differ.is_empty() { String::new() } else { format!(" ({differ})") };

        let lr = match file.info.get("lr").map(|text| text.parse::<f64>()) {
            None => None,
            Some(Ok(lr)) if lr.is_finite() && lr > 0.0 => Some(lr),
            Some(_) => return Err(Error::format(path, "`lr` is not a learning rate")),
        };
        let mut rest = file.names();
        let mut wanted: Vec<String> = self.params.iter().map(|p| p.name.clone()).collect();
        // With shards, the file has the states of all ranks.
        let (layout, mine) = (self.whole_layout()?, self.store.layout());
        for (state, places) in self.update.optimizer.states().iter().zip(&layout.states) {
            let of = self.params.iter().zip(&places.ranges).filter(|(_, place)| place.is_some());
            wanted.extend(of.map(|(p, _)| key(state.name, &p.name)));
        }
        wanted.retain(|name| !rest.contains(&name.as_str()));
        if let Some(name) = wanted.first() {
            let all = if wanted.len() > 1 { format!("; {} are missing: {}", wanted.len(), wanted.join(", ")) } else { String::new() };
            return Err(Error::Parameter { name: name.clone(), why: format!("not in {}{all}{but}; {ALONE}", path.display()) });
        }
        // A training writes its place and the state of its callbacks to the same file.
        let own = |name: &str| self.params.iter().any(|p| p.name == name);
        rest.retain(|name| own(name) || ![FIT, CALLBACK].iter().any(|prefix| name.starts_with(prefix)));
        rest.sort_unstable();
        let mut take = |name: String, shape: Shape| -> Result<Host<f32>> {
            let value = file.take(&name, shape)?;
            rest.retain(|other| *other != name);
            Ok(value)
        };
        let weights: Vec<(String, Host<f32>)> =
            self.params.iter().map(|p| Ok((p.name.clone(), take(p.name.clone(), p.shape)?))).collect::<Result<_>>()?;
        let mut states = Vec::new();
        for (state, (places, own)) in self.update.optimizer.states().into_iter().zip(layout.states.iter().zip(&mine.states)) {
            let mut flat: Vec<Vec<f32>> = own.pieces.iter().map(|&n| vec![state.start; n]).collect();
            for (p, (place, own)) in self.params.iter().zip(places.ranges.iter().zip(&own.ranges)) {
                let Some((_, shape)) = *place else { continue };
                let value = take(key(state.name, &p.name), shape)?;
                if let Some((r, _)) = *own {
                    flat[r.piece][r.of()].copy_from_slice(value.f());
                }
            }
            states.push(flat);
        }
        if let Some(name) = rest.first() {
            let all = if rest.len() > 1 { format!("; {} have no place: {}", rest.len(), rest.join(", ")) } else { String::new() };
            return Err(Error::format(path, format!("it contains `{name}`, which has no place in this trainer{all}{but}; {ALONE}")));
        }
        self.params().set_all(&weights)?;
        lr.map_or(Ok(()), |lr| self.set_lr(lr))?;
        for (k, flat) in states.into_iter().enumerate() {
            self.store.write_state(k, flat)?;
        }
        self.store.write_guard(Default::default())?;
        (self.step, self.epoch, self.seed, self.update.since) = (step, epoch, seed, since);
        if !differ.is_empty() {
            log::warn!("{}: {optimizer} continues with options that differ from the saved options: {differ}", path.display());
        }
        self.forget()
    }
    /// Returns the options of the optimizer by name, and the names of the frozen parameters.
    pub(super) fn options(&self) -> Vec<(String, String)> {
        let all = self.params.iter().zip(&self.update.groups.statuses);
        let frozen: Vec<&str> = all.filter(|(_, status)| **status == Status::Frozen).map(|(p, _)| p.name.as_str()).collect();
        let frozen = if frozen.is_empty() { "none".to_string() } else { frozen.join(" ") };
        self.update.optimizer.options().into_iter().chain([("frozen".to_string(), frozen)]).collect()
    }
}

/// The advice for a checkpoint if only its parameters fit.
const ALONE: &str = "Params::load takes the weights alone";

/// Returns the tensors of a checkpoint with their names. `flat` has the parameters, and then each state of the optimizer.
pub(super) fn named(params: &[ParamDef], layout: &Layout, states: &[&str], flat: &[Vec<Vec<f32>>]) -> Vec<(String, Host<f32>)> {
    let mut tensors = split(params, &layout.ranges, &flat[0]);
    for ((state, places), flat) in states.iter().zip(&layout.states).zip(&flat[1..]) {
        let places = params.iter().zip(&places.ranges).filter_map(|(param, place)| Some((param, (*place)?)));
        let own = places.map(|(param, (range, shape))| (ParamDef { shape, ..param.clone() }, range));
        let (params, ranges): (Vec<_>, Vec<_>) = own.unzip();
        tensors.extend(split(&params, &ranges, flat).into_iter().map(|(name, value)| (key(state, &name), value)));
    }
    tensors
}

/// Returns the name of a parameter's state in a file.
fn key(state: &str, param: &str) -> String {
    format!("optimizer.{state}.{param}")
}

/// Returns the name of an option in a file.
fn option(name: &str) -> String {
    format!("optimizer.{name}")
}
