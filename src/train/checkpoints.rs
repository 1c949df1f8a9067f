//! Checkpoints that `fit` writes while it trains, and from which it goes on after its process was killed.

use super::{
    Trainer,
    checkpoint::named,
    cut::Cut,
    options::Fit,
    place::{CALLBACK, FIT},
    saved::Saved,
};
use crate::{
    engine::StoreCopy,
    error::{Error, Result},
    weights::{WeightFile, read_bytes},
};
use std::{
    fs,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// When and where [`fit`](crate::Trainer::fit) writes checkpoints. [`Fit::checkpoints`] takes it, and [`Fit::resume`] goes on from the
/// folder.
///
/// A checkpoint is a copy of all parameters and states that the device makes between two steps. Another thread writes the copy to a file,
/// while training goes on. The file is [synced and renamed](crate::file::replace), so each file in the folder is whole. On a GPU the copy
/// needs as much memory as the parameters and the optimizer's states, which [`Fit::memory`] counts.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    steps: Option<u64>,
    time: Option<Duration>,
    keep: usize,
}

impl Checkpoints {
    /// Writes checkpoints into a folder, which is created. By default there is one every ten minutes and one at the end, and the latest is
    /// kept.
    pub fn new(folder: impl AsRef<Path>) -> Checkpoints {
        Checkpoints { folder: folder.as_ref().into(), steps: None, time: None, keep: 1 }
    }
    /// Writes a checkpoint after each n-th step.
    pub fn every_steps(self, n: u64) -> Self {
        Checkpoints { steps: Some(n), ..self }
    }
    /// Writes a checkpoint at the first step after this time.
    pub fn every(self, time: Duration) -> Self {
        Checkpoints { time: Some(time), ..self }
    }
    /// Sets how many of the latest checkpoints are kept. 1 by default.
    pub fn keep(self, count: usize) -> Self {
        Checkpoints { keep: count.max(1), ..self }
    }
}

/// The name of the list of callbacks in a file.
const CALLBACKS: &str = "callbacks";
/// The name of the number of ranks in a file.
const RANKS: &str = "ranks";
const NAME: [&str; 2] = ["checkpoint-", ".safetensors"];

/// Returns the numbers of the checkpoints in a folder, in order. A folder that does not exist has none.
fn numbers(folder: &Path) -> Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::file(folder, e))?,
    };
    let number = |name: &str| name.strip_prefix(NAME[0])?.strip_suffix(NAME[1])?.parse().ok();
    let mut all: Vec<u64> = entries.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    all.sort_unstable();
    Ok(all)
}

fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{}{number:08}{}", NAME[0], NAME[1]))
}

/// Writes the checkpoints of a call of `fit`.
pub(super) struct Saver {
    wants: Checkpoints,
    /// The time of the latest checkpoint.
    last: Instant,
    /// The number of the next file.
    next: u64,
    /// The copy that the device makes, and the rest of the checkpoint.
    copying: Option<(StoreCopy, Saved)>,
    /// The thread that writes a file.
    writing: Option<JoinHandle<Result<()>>>,
}

impl Saver {
    /// Makes the folder. If training does not resume, the folder must have no checkpoints.
    pub fn new(mut wants: Checkpoints, resumes: bool) -> Result<Saver> {
        if wants.steps == Some(0) {
            return Err(Error::argument("checkpoints", "every_steps must be at least 1"));
        }
        if wants.steps.is_none() && wants.time.is_none() {
            wants.time = Some(Duration::from_secs(600));
        }
        let there = numbers(&wants.folder)?;
        if !resumes && !there.is_empty() {
            let why = format!("{} has checkpoints; go on from them with Fit::resume, or use another folder", wants.folder.display());
            return Err(Error::argument("checkpoints", why));
        }
        fs::create_dir_all(&wants.folder).map_err(|e| Error::file(&wants.folder, e))?;
        let next = there.last().map_or(1, |last| last + 1);
        Ok(Saver { wants, last: Instant::now(), next, copying: None, writing: None })
    }
    /// Returns whether there is to be a checkpoint after the step with this number. The trainer's first step is 1.
    fn due(&self, step: u64) -> bool {
        self.wants.steps.is_some_and(|n| step.is_multiple_of(n)) || self.wants.time.is_some_and(|time| self.last.elapsed() >= time)
    }
    /// Lets the other thread write the copy, if the device has made it. With `wait`, it waits for the device and for an earlier file.
    fn advance(&mut self, trainer: &Trainer, wait: bool) -> Result<()> {
        let Some((copy, _)) = &self.copying else { return Ok(()) };
        let busy = self.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        if !wait && (busy || !copy.is_ready()?) {
            return Ok(());
        }
        self.join()?;
        let Some((copy, mut saved)) = self.copying.take() else { return Ok(()) };
        let flat = copy.take()?;
        let (params, layout) = (trainer.params.clone(), trainer.whole_layout()?);
        let states: Vec<&'static str> = trainer.update.optimizer.states().iter().map(|state| state.name).collect();
        let (folder, number, keep) = (self.wants.folder.clone(), self.next, self.wants.keep);
        self.next += 1;
        self.writing = Some(thread::spawn(move || {
            saved.tensors.splice(0..0, named(&params, &layout, &states, &flat));
            saved.write(file(&folder, number))?;
            let there = numbers(&folder)?;
            for old in &there[..there.len().saturating_sub(keep)] {
                let path = file(&folder, *old);
                fs::remove_file(&path).map_err(|e| Error::file(&path, e))?;
            }
            Ok(())
        }));
        Ok(())
    }
    /// Waits for the thread.
    fn join(&mut self) -> Result<()> {
        let gone = || Error::argument("checkpoints", "the thread that writes them ended");
        self.writing.take().map_or(Ok(()), |writing| writing.join().map_err(|_| gone())?)
    }
}

impl Fit<'_> {
    /// Returns whether there is to be a checkpoint after the step with this number.
    pub(super) fn saves(&self, step: u64) -> bool {
        self.saver.as_ref().is_some_and(|saver| saver.due(step))
    }
    /// Goes on with a checkpoint whose copy the device makes. Never waits.
    pub(super) fn advance(&mut self, trainer: &Trainer) -> Result<()> {
        self.saver.as_mut().map_or(Ok(()), |saver| saver.advance(trainer, false))
    }
    /// Begins a checkpoint of the trainer, whose steps have all been read.
    pub(super) async fn save(&mut self, trainer: &Trainer, cut: Cut) -> Result<()> {
        let gathered = if self.gathers { Some(trainer.whole(&trainer.whole_layout()?, Some(0)).await?) } else { None };
        let Some(saver) = &mut self.saver else { return Ok(()) };
        saver.advance(trainer, true)?;
        let mut saved = Saved { info: trainer.info(trainer.step), ..Saved::default() };
        saved.join(FIT, trainer.save_place());
        saved.info.insert(format!("{FIT}cut"), trainer.epoch_text(cut, self.shuffle));
        if trainer.ranks() > 1 {
            saved.info.insert(format!("{FIT}{RANKS}"), trainer.ranks().to_string());
        }
        let names: Vec<String> = self.hooks.iter().map(|callback| callback.name()).collect();
        saved.info.insert(format!("{FIT}{CALLBACKS}"), names.join("\n"));
        for (k, callback) in self.hooks.iter().enumerate() {
            saved.join(&format!("{CALLBACK}{k}."), callback.save());
        }
        let copy = match gathered {
            Some(flat) => StoreCopy::Cpu(flat),
            None => trainer.store.copy().await?,
        };
        saver.copying = Some((copy, saved));
        saver.last = Instant::now();
        saver.advance(trainer, false)
    }
    /// Returns the state of each callback in a checkpoint. `names` are those of the callbacks that the training had, a line each.
    /// Callbacks without a state may come and go.
    fn states(&self, path: &Path, names: Option<&String>, state: impl Fn(usize) -> Result<Saved>) -> Result<Vec<Saved>> {
        let none = Saved::default();
        // A file that a callback wrote has no states. A file of an older version has no names.
        let Some(names) = names else { return (0..self.hooks.len()).map(state).collect() };
        let mut were = Vec::new();
        for (k, name) in names.lines().enumerate() {
            let state = state(k)?;
            if state != none {
                were.push((name, state));
            }
        }
        let are: Vec<(String, bool)> = self.hooks.iter().map(|callback| (callback.name(), callback.save() != none)).collect();
        let (mut states, mut left) = (Vec::new(), were.iter().peekable());
        for (name, has_state) in &are {
            let state = left.next_if(|(was, _)| was == name).map(|(_, state)| state.clone());
            if state.is_none() && *has_state {
                break;
            }
            states.push(state.unwrap_or_default());
        }
        if states.len() == are.len() && left.next().is_none() {
            return Ok(states);
        }
        let told = |names: Vec<&str>| if names.is_empty() { "no callback with a state".to_string() } else { names.join(", ") };
        let was = told(were.iter().map(|(name, _)| *name).collect());
        let is = told(
            are.iter()
                .filter(|(name, has_state)| *has_state || were.iter().any(|(was, _)| was == name))
                .map(|(name, _)| name.as_str())
                .collect(),
        );
        Err(Error::format(
            path,
            format!("its training had the callbacks {was}, but this one has {is}; add the same callbacks in the same order"),
        ))
    }
    /// Waits until all checkpoints are written.
    pub(super) fn finish(&mut self, trainer: &Trainer) -> Result<()> {
        let Some(saver) = &mut self.saver else { return Ok(()) };
        saver.advance(trainer, true)?;
        saver.join()
    }
}

impl Trainer {
    /// Loads the checkpoint from which `fit` goes on. Returns the state of each callback. The trainer is unchanged if there is no
    /// checkpoint, or if the checkpoint does not fit. `samples` is the number of samples of the data.
    pub(super) fn resume(&mut self, path: &Path, fit: &Fit<'_>, cut: Cut, samples: usize) -> Result<Vec<Saved>> {
        let path = match numbers(path) {
            Ok(there) => match there.last() {
                Some(last) => file(path, *last),
                None => return Ok(Vec::new()),
            },
            // The path is a file.
            Err(_) => path.to_path_buf(),
        };
        let bytes = read_bytes(&path)?;
        let weights = WeightFile::new(&path, &bytes)?;
        let place = Saved::of_file(&weights, FIT)?;
        if place.info.is_empty() {
            return Err(Error::format(&path, "it has no place in a training; Trainer::load takes it"));
        }
        let (was, is) = (place.info.get("cut"), self.epoch_text(cut, fit.shuffle));
        // The steps of the same training on another number of ranks.
        let ranks =
            place.info.get(RANKS).map_or(Ok(1), |text| text.parse().map_err(|_| Error::format(&path, "its ranks cannot be read")))?;
        let old = fit.cut(samples, ranks).map(|old| Cut { micro: if fit.memory.is_some() { cut.micro } else { old.micro }, ..old })?;
        let old = if cut.joins { old.joined() } else { old };
        // A shard belongs to one rank, so a training on shards cannot go on with other ranks.
        let fits = |was: &str| was == is || (ranks != self.ranks() && !cut.sharded && was == old.text(fit.shuffle, &[]));
        if let Some(was) = was.filter(|was| !fits(was)) {
            return Err(Error::format(&path, format!("its training had {was}, but this one has {is}")));
        }
        let other = was.is_some_and(|was| *was != is);
        let states = fit.states(&path, place.info.get(CALLBACKS), |k| Saved::of_file(&weights, &format!("{CALLBACK}{k}.")))?;
        self.adopt(&path, &bytes)?;
        self.load_place(&path, &place)?;
        if other && self.tally.is_some() {
            // The epoch goes on behind the samples that it has had, at a whole step.
            let made = (self.steps_of_epoch() * old.each / cut.each).min(cut.steps);
            self.place.first = self.step.wrapping_sub(made as u64);
        }
        Ok(states)
    }
}
