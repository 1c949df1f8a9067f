//! The place of a training in its epochs. With the state of the trainer it says how training goes on.

use super::{
    Tally, Trainer,
    history::{Epoch, History},
    named::Named,
    readouts::Noise,
    saved::Saved,
};
use crate::{
    error::{Error, Result},
    host::Host,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// The place of [`fit`](Trainer::fit) in its epochs. The epoch in progress is a function of the seed and of the trainer's count of
/// epochs. The number of its steps that are made is the trainer's count of steps minus `first`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The number of the last complete epoch before this call of `fit`.
    pub start: usize,
    /// The number of complete epochs, with those before this call.
    pub epoch: usize,
    /// The trainer's count of steps when the epoch in progress began.
    pub first: u64,
    /// The learning rate of the first step of the epoch in progress.
    pub lr: f64,
    /// The time at which the epoch in progress began. After a break it is moved by the length of the break.
    pub began: Instant,
}

impl Place {
    pub fn after(epoch: usize) -> Place {
        Place { start: epoch, epoch, first: 0, lr: 0.0, began: Instant::now() }
    }
}

/// The prefix of the names of everything that belongs to `fit`.
pub(super) const FIT: &str = "fit.";
/// The prefix of the names of everything that belongs to a callback. The callback's number follows.
pub(super) const CALLBACK: &str = "callback.";

impl Trainer {
    /// Returns the place in the epochs as strings and tensors: the reports of complete epochs, and the sums of the epoch in progress.
    pub(super) fn save_place(&self) -> Saved {
        let (place, mut saved, mut losses) = (&self.place, Saved::default(), Vec::new());
        let text = |numbers: &[Option<f64>]| {
            let all: Vec<String> = numbers.iter().map(|x| x.map_or("-".into(), |x| format!("{x:?}"))).collect();
            all.join(" ")
        };
        saved.set("start", place.start);
        saved.set("stopped", self.history.stopped);
        saved.set("epoch", place.epoch);
        for (k, e) in self.history.epochs.iter().enumerate() {
            let validation = e.validation;
            let numbers = [
                Some(e.epoch as f64),
                Some(e.loss),
                e.accuracy,
                validation.map(|v| v.0),
                validation.and_then(|v| v.1),
                Some(e.lr),
                Some(e.seconds),
                Some(e.samples_per_s),
                Some(e.losses.len() as f64),
            ];
            let watched = e.watched.iter().chain(e.validation_watched.iter()).map(|(_, x)| Some(*x));
            saved.info.insert(format!("history.{k}"), text(&numbers.into_iter().chain(watched).collect::<Vec<_>>()));
            e.noise_scale.inspect(|scale| saved.set(&format!("history.{k}.noise_scale"), scale));
            saved.set_norms(&format!("history.{k}."), &e.norms);
            losses.extend_from_slice(&e.losses);
        }
        if self.update.readouts.noise_scale {
            saved.set("noise.signal", self.noise.signal);
            saved.set("noise.noise", self.noise.noise);
        }
        if let Some((tally, so_far)) = &self.tally {
            saved.set("first", place.first);
            saved.set("lr", place.lr);
            saved.set("seconds", place.began.elapsed().as_secs_f64());
            saved.info.insert("tally".into(), text(&tally.numbers().into_iter().map(Some).collect::<Vec<_>>()));
            saved.set_norms("", &self.measured);
            losses.extend_from_slice(so_far);
        }
        saved.tensors.push(("losses".into(), Host::new([losses.len()], losses)));
        saved
    }
    /// Goes to the place that [`save_place`](Trainer::save_place) described.
    pub(super) fn load_place(&mut self, path: &Path, saved: &Saved) -> Result<()> {
        let bad = |what: &str| Error::format(path, format!("its {what} cannot be read"));
        let numbers = |text: &str| -> Option<Vec<Option<f64>>> {
            text.split_whitespace().map(|x| if x == "-" { Some(None) } else { x.parse().ok().map(Some) }).collect()
        };
        let losses = saved.tensors.iter().find(|(name, _)| name == "losses").ok_or_else(|| bad("list of losses"))?;
        let mut losses = losses.1.f().to_vec().into_iter();
        let mut place = Place { start: saved.get("start")?, ..Place::after(saved.get("epoch")?) };
        let mut history = History { micro_batch: self.history.micro_batch, stopped: saved.get("stopped")?, epochs: Vec::new() };
        for k in 0.. {
            let Some(text) = saved.info.get(&format!("history.{k}")) else { break };
            let row = numbers(text).ok_or_else(|| bad("report of an epoch"))?;
            let (&row, watched) = row.split_first_chunk().ok_or_else(|| bad("report of an epoch"))?;
            let [Some(epoch), Some(loss), accuracy, val_loss, val_accuracy, Some(lr), Some(seconds), Some(samples_per_s), Some(n)] = row
            else {
                return Err(bad("report of an epoch"));
            };
            let validation = val_loss.map(|loss| (loss, val_accuracy));
            let watched: Vec<f64> = watched.iter().copied().flatten().collect();
            let names = self.kept.names();
            let mut parts = match watched.len() {
                0 => Vec::new(),
                n if n.is_multiple_of(names.len().max(1)) => {
                    watched.chunks(names.len()).map(|part| Named::new(names.clone(), part.to_vec())).collect()
                }
                _ => return Err(bad("report of an epoch")),
            }
            .into_iter();
            let (watched, validation_watched) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let losses: Vec<f32> = losses.by_ref().take(n as usize).collect();
            let noise_scale = match saved.info.contains_key(&format!("history.{k}.noise_scale")) {
                true => Some(saved.get(&format!("history.{k}.noise_scale"))?),
                false => None,
            };
            let norms = saved.norms(&format!("history.{k}."), &self.trained).ok_or_else(|| bad("list of norms"))?;
            let epoch = epoch as usize;
            history.epochs.push(Epoch {
                epoch,
                loss,
                accuracy,
                watched,
                validation,
                validation_watched,
                losses,
                lr,
                seconds,
                samples_per_s,
                noise_scale,
                norms,
            });
        }
        let tally = match saved.info.get("tally") {
            None => None,
            Some(text) => {
                let sums = numbers(text).and_then(|sums| sums.into_iter().collect::<Option<Vec<f64>>>());
                let sums = sums.and_then(|sums| Tally::of_numbers(&sums, &self.kept)).ok_or_else(|| bad("sums of an epoch"))?;
                (place.first, place.lr) = (saved.get("first")?, saved.get("lr")?);
                let seconds = Duration::try_from_secs_f64(saved.get("seconds")?).unwrap_or_default();
                place.began = place.began.checked_sub(seconds).unwrap_or(place.began);
                Some((sums, losses.collect()))
            }
        };
        let measured = saved.norms("", &self.trained).ok_or_else(|| bad("list of norms"))?;
        let noise = match saved.info.contains_key("noise.signal") {
            true => Noise::of(saved.get("noise.signal")?, saved.get("noise.noise")?),
            false => Noise::default(),
        };
        (self.place, self.history, self.tally, self.measured, self.noise) = (place, history, tally, measured, noise);
        Ok(())
    }
    /// Returns the number of steps made of the epoch in progress.
    pub(super) fn steps_of_epoch(&self) -> usize {
        match self.tally {
            // After a resume on another number of ranks, the epoch may seem to have begun before the first step.
            Some(_) => self.step.wrapping_sub(self.place.first) as usize,
            None => 0,
        }
    }
}
