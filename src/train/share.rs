//! A step over ranks: each rank computes its micro-batches, and all ranks make the update with the mean gradient.

use super::{Made, Trainer, plans::PlanKey, ranks::Traced, synced::gather_values};
use crate::{
    engine::{Buckets, RING, RingRows},
    error::{Error, Result},
    gpu::StepRow,
    host::Host,
    optim::{Guard, MAX_STATES},
    plan::Flat,
    profile::{BucketTime, Exchange},
    world::{Mean, Tag, Waiting, What},
};
use std::{mem, time::Instant};

/// The means of the first buckets of gradients, which are on their way, and the times at which the buckets were sent.
pub(super) type Sent = Vec<(Waiting<Mean>, Instant)>;

/// The most bytes of the first bucket, and of the others by default.
const FIRST: usize = 1 << 20;
pub(super) const BUCKET: usize = 25 << 20;

/// The micro-batches of one rank in a step.
struct Part {
    /// The guard after them: their weight, loss, spread, and flags of overflow.
    guard: Guard,
    /// For each micro-batch the number of its samples and the numbers that it reported.
    rows: Vec<(usize, Vec<f32>)>,
}

/// The number of words of a guard that a part has.
const WORDS: usize = 3 + MAX_STATES + 2;

impl Part {
    /// Returns the part as bytes: the words of the guard, and a line for each micro-batch.
    fn bytes(&self) -> Vec<u8> {
        let Guard { weight, loss, spread, over, .. } = self.guard;
        let words = [weight, loss, spread].map(f32::to_bits).into_iter().chain(over);
        let rows = self.rows.iter().flat_map(|(samples, row)| [*samples as u32].into_iter().chain(row.iter().map(|x| x.to_bits())));
        words.chain(rows).flat_map(u32::to_le_bytes).collect()
    }
    /// Returns the part of these bytes. Each row has `width` numbers.
    fn of(bytes: &[u8], width: usize) -> Option<Part> {
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        let (head, rows) = words.split_at_checked(WORDS)?;
        let [weight, loss, spread] = [0, 1, 2].map(|i| f32::from_bits(head[i]));
        let guard = Guard { weight, loss, spread, over: head[3..].try_into().ok()?, ..Guard::default() };
        let row = |row: &[u32]| (row[0] as usize, row[1..].iter().map(|&x| f32::from_bits(x)).collect());
        rows.len().is_multiple_of(width + 1).then(|| Part { guard, rows: rows.chunks(width + 1).map(row).collect() })
    }
}

/// Divides a flat list into the pieces of this device. Devices cut the same list in different places.
fn pieces(flat: Vec<f32>, lengths: &[usize]) -> Vec<Vec<f32>> {
    if let [_] = lengths {
        return vec![flat];
    }
    let mut rest = flat.into_iter();
    lengths.iter().map(|&n| rest.by_ref().take(n).collect()).collect()
}

fn flat(mut pieces: Vec<Vec<f32>>) -> Vec<f32> {
    if pieces.len() == 1 { pieces.remove(0) } else { pieces.concat() }
}

/// Returns the mean of the states of all ranks that have one, weighted. The state of a rank is a list of bytes, which is empty for a rank
/// without samples. Equal states stay as they are, to the last bit.
fn mean_state(states: &[Vec<u8>], weights: &[f32]) -> Vec<f32> {
    let with_weight = states.iter().zip(weights).map(|(state, &weight)| (state.as_chunks().0, f64::from(weight)));
    let all: Vec<(&[[u8; 4]], f64)> = with_weight.filter(|(state, _)| !state.is_empty()).collect();
    let total: f64 = all.iter().map(|(_, weight)| weight).sum();
    let n = all.iter().map(|(state, _)| state.len()).min().unwrap_or(0);
    let one = |i: usize| {
        let last = all.last().map_or(0.0, |(state, _)| f64::from(f32::from_le_bytes(state[i])));
        let sum: f64 = all.iter().filter(|(_, w)| *w > 0.0).map(|(state, w)| w * f64::from(f32::from_le_bytes(state[i]))).sum();
        // If no micro-batch has a weight, only the latest one counts.
        (if total > 0.0 { sum / total } else { last }) as f32
    };
    (0..n).map(one).collect()
}

impl Trainer {
    /// Reads the rows of batches that have been queued, and the guard after them. Returns `None` without a batch.
    async fn rows_of(&mut self, made: &[Made]) -> Result<Option<RingRows>> {
        let Some(first) = made.first() else { return Ok(None) };
        let measured = || made.iter().filter_map(|made| made.row.norms);
        let norms = measured().next().map_or(0..0, |first| first..first + measured().count() as u64);
        self.ring.ask(first.row.batch, made.len(), norms)?;
        self.ring.wait().await
    }
    /// Adds a batch of this rank to the next step of all ranks. The step follows, unless `more` micro-batches do. A batch without samples
    /// takes part without a gradient.
    pub(super) async fn share_batch(&mut self, batch: &[Host<f32>], more: bool) -> Result<()> {
        if self.micro == 0 {
            // The numbers of an earlier step of this rank alone.
            self.collect().await?;
        }
        let empty = self.model.is_some() && batch.first().is_some_and(|x| x.shape.rank() > 0 && x.shape.dims()[0] == 0);
        if !empty {
            let key = self.take(batch, PlanKey::Micro).await?;
            self.room_of_rank(self.micro as usize + 1)?;
            if more {
                return self.advance(key, true).await;
            }
            self.update.optimizer.check_time()?;
            self.make_room(1).await?;
            let sent = self.run_last(key, false, [(true, 0)]).await?;
            return self.share(sent).await;
        }
        if more { Ok(()) } else { self.share(Sent::new()).await }
    }
    /// Runs the last micro-batches of this rank in a step. The gradients go to the other ranks while the rest is computed. Returns the means
    /// that are on their way.
    pub(super) async fn run_last(&mut self, key: PlanKey, fed: bool, batches: impl IntoIterator<Item = (bool, u32)>) -> Result<Sent> {
        let (end, mut sent) = (self.number(batches), Sent::new());
        let (world, step) = (self.ranks.as_ref().expect("a step over ranks has ranks").world.clone(), self.step);
        let mut buckets = self.take_buckets(self.micro > 0 || self.rows.len() > 1).await?;
        let loaded = self.plans.get_mut(key).expect("the plan was loaded before its batch");
        let send = |sum, weight| {
            let (tag, now) = (Tag { step, what: What::Grads(sent.len() as u32) }, Instant::now());
            sent.push((world.reduce(tag, sum, Some(weight)), now));
        };
        let left = loaded.engine.exchanges();
        let mut gather = gather_values(&mut self.ranks, step, left, true);
        loaded.engine.run_sending(&self.rows, fed, &self.update, &mut gather, &mut buckets, send).await?;
        drop(gather);
        self.ran(key, fed, end);
        if let Some(ranks) = &mut self.ranks {
            (ranks.last, ranks.buckets) = (Some(key), Some(buckets));
            ranks.lap("gradients");
        }
        Ok(sent)
    }
    /// Returns the buckets of the last step, or new ones if they do not fit this step. With `sums`, this rank has several micro-batches. The
    /// caller gives them back after a step without an error.
    async fn take_buckets(&mut self, sums: bool) -> Result<Buckets> {
        let lists = self.buckets();
        let last = self.ranks.as_mut().and_then(|ranks| ranks.buckets.take());
        match last.filter(|last| last.lists == lists && (last.sums || !sums)) {
            Some(last) => Ok(last),
            None => Buckets::new(&self.store, lists, sums).await,
        }
    }
    /// Returns the trained parameters of each bucket. A bucket is a part of the gradients that ranks exchange at once. The backward pass
    /// finishes the last layers first, so their parameters come first. The first bucket is small, so that the exchange begins early.
    pub(super) fn buckets(&self) -> Vec<Vec<usize>> {
        let most = self.ranks.as_ref().map_or(0, |ranks| ranks.bucket);
        let (mut buckets, mut bytes) = (vec![Vec::new()], 0);
        for i in (0..self.params.len()).rev().filter(|&i| self.update.groups.statuses[i].is_trained()) {
            let own = 4 * self.params[i].shape.elements();
            let most = if buckets.len() == 1 { most.min(FIRST) } else { most };
            if bytes > 0 && bytes + own > most {
                buckets.push(Vec::new());
                bytes = 0;
            }
            bytes += own;
            buckets.last_mut().expect("there is a bucket").push(i);
        }
        buckets
    }
    /// Returns an error if one rank has more micro-batches in a step than the ring can hold.
    pub(super) fn room_of_rank(&self, count: usize) -> Result<()> {
        if count <= RING / 2 {
            return Ok(());
        }
        let why = format!("{count} micro-batches of one rank in a step, but at most {} are possible; make micro-batches larger", RING / 2);
        Err(Error::argument("accumulate", why))
    }
    /// Ends a step over ranks, after this rank's micro-batches. All ranks get the mean gradient and make the update. The reports cover the
    /// micro-batches of all ranks.
    ///
    /// `sent` has the means of the first buckets of gradients, whose exchange has begun.
    pub(super) async fn share(&mut self, mut sent: Sent) -> Result<()> {
        let Some(world) = self.ranks.as_ref().map(|ranks| ranks.world.clone()) else { return Ok(()) };
        self.follow()?;
        let (layout, width) = (self.store.layout(), self.ring.outputs());
        let made = mem::take(&mut self.unread);
        let read = self.rows_of(&made).await?;
        let guard = match &read {
            Some(read) => read.guard,
            None => self.store.read_guard().await?,
        };
        let rows = read.into_iter().flat_map(|read| read.rows).zip(&made).map(|(mut row, made)| {
            row.truncate(width);
            (made.samples, row)
        });
        let mine = Part { guard, rows: rows.collect() };
        let tag = |what| Tag { step: self.step, what };
        let (buckets, mut elements) = (self.buckets(), 0);
        for (bucket, k) in buckets.iter().zip(0..).skip(sent.len()) {
            // A bucket is read from the device while the one before is exchanged.
            let (grads, weight) = match made.is_empty() {
                true => (vec![0.0; bucket.iter().map(|&i| layout.ranges[i].len).sum()], None),
                false => (self.store.read_of(Flat::Grads, bucket).await?, Some(guard.weight)),
            };
            let now = Instant::now();
            sent.push((world.reduce(tag(What::Grads(k)), grads, weight), now));
        }
        let parts = world.gather(tag(What::Rows), mine.bytes());
        let states = match (layout.state > 0, made.is_empty()) {
            (false, _) => None,
            (true, true) => Some(world.gather(tag(What::State), Vec::new())),
            (true, false) => {
                let state = flat(self.store.read_assigned().await?);
                Some(world.gather(tag(What::State), state.iter().flat_map(|x| x.to_le_bytes()).collect()))
            }
        };
        self.ranks.iter_mut().for_each(|ranks| ranks.lap("numbers"));
        let (waiting, begun, n) = (Instant::now(), sent.first().map(|first| first.1), world.size() as u64);
        let bytes = |elements: usize| 8 * (n - 1) * elements as u64 / n;
        let mut memory = Vec::new();
        for ((mean, sent), bucket) in sent.into_iter().zip(&buckets) {
            let Mean { values, arrived } = mean.wait()?;
            elements += values.len();
            // The next mean is on its way meanwhile.
            self.store.write_of(Flat::Grads, bucket, &values)?;
            if let Some(Traced { zero, times, .. }) = self.ranks.as_mut().and_then(|ranks| ranks.times.as_mut()) {
                let [start, end] = [sent, arrived].map(|time| time.saturating_duration_since(*zero).as_secs_f64());
                times.exchange.push(BucketTime { bytes: bytes(values.len()), start, end });
            }
            memory.push(values);
        }
        let (waited, seconds) = (waiting.elapsed().as_secs_f64(), begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64()));
        if let Some(ranks) = &mut self.ranks {
            ranks.exchange = Exchange { bytes: bytes(elements), seconds, waited, ..ranks.exchange };
            ranks.buckets.iter_mut().for_each(|buckets| buckets.reuse(mem::take(&mut memory)));
            ranks.lap("wait for gradients");
        }
        let unread = |rank| Error::Rank { rank, why: "the rows of its step cannot be read".into() };
        let parts: Vec<Part> =
            parts.wait()?.iter().enumerate().map(|(rank, b)| Part::of(b, width).ok_or_else(|| unread(rank))).collect::<Result<_>>()?;
        let states = states.map(|states| states.wait()).transpose()?;
        self.ranks.iter_mut().for_each(|ranks| ranks.lap("wait for numbers"));
        if parts.iter().all(|part| part.rows.is_empty()) {
            return Err(Error::argument("step", "no rank has a sample in this step"));
        }
        // From here on all ranks compute with the same numbers.
        let mut all = Guard { weight: 0.0, ..guard };
        for Part { guard, .. } in parts.iter().filter(|part| !part.rows.is_empty()) {
            all.weigh(guard.weight, guard.loss);
            all.add_spread(f64::from(guard.spread));
            all.over.iter_mut().zip(guard.over).for_each(|(all, own)| *all |= own);
        }
        if let Some(mut states) = states {
            if self.sync_batch_norm {
                // A rank with fewer micro-batches has not seen the last statistics of all ranks.
                let most = parts.iter().map(|part| part.rows.len()).max().unwrap_or(0);
                let fewer = states.iter_mut().zip(&parts).filter(|(_, part)| part.rows.len() < most);
                fewer.for_each(|(state, _)| state.clear());
            }
            let weights: Vec<f32> = parts.iter().map(|part| part.guard.weight).collect();
            self.store.write_assigned(pieces(mean_state(&states, &weights), &layout.pieces[layout.state_pieces()]))?;
        }
        self.store.write_guard(all)?;
        self.micro = 0;
        self.plan(PlanKey::Mean).await?;
        match self.update.owners {
            None => self.run(PlanKey::Mean, false, [(false, 0)])?,
            Some(_) => self.run_halves().await?,
        }
        let update = mem::take(&mut self.unread);
        let Some(mut end) = self.rows_of(&update).await? else { return Ok(()) };
        self.exchange_weights(&mut end).await?;
        let mut tail = end.rows[0][width..].to_vec();
        // The update measures no spread.
        tail.iter_mut().skip(2).for_each(|spread| *spread = all.spread);
        // Reports come from the rows of all micro-batches, as if this rank had computed all of them.
        let rows: Vec<(usize, Vec<f32>)> = parts.into_iter().flat_map(|part| part.rows).collect();
        let (last, row) = (rows.len() - 1, update[0].row);
        let made = |(k, (samples, _)): (usize, &(usize, Vec<f32>))| {
            let row = StepRow { micro: k as u32, more: k < last, norms: row.norms.filter(|_| k == last), ..row };
            Made { row, samples: *samples, given: false }
        };
        self.asked = rows.iter().enumerate().map(made).collect();
        let rows = rows.into_iter().map(|(_, row)| [row, tail.clone()].concat()).collect();
        self.absorb(RingRows { rows, norms: end.norms, guard: end.guard }).await?;
        self.check_weights()?;
        self.ranks.iter_mut().for_each(|ranks| ranks.lap("update"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_as_bytes() {
        let guard = Guard { weight: 3.0, loss: -0.5, spread: 7.0, over: [0, 1, 0, 0, 0], ..Guard::default() };
        let part = Part { guard, rows: vec![(3, vec![0.25, f32::NAN]), (1, vec![-1.0, 2.0])] };
        let back = Part::of(&part.bytes(), 2).unwrap();
        assert_eq!(back.guard, guard);
        assert_eq!(format!("{:?}", back.rows), format!("{:?}", part.rows));
        assert!(Part::of(&part.bytes(), 3).is_none() && Part::of(&[1, 2, 3], 2).is_none());
    }

    #[test]
    fn the_mean_of_states() {
        let of = |x: f32| [x, 0.1].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        // A rank without samples does not count, and equal numbers stay the same.
        assert_eq!(mean_state(&[of(1.0), of(4.0), vec![]], &[2.0, 1.0, 9.0]), [2.0, 0.1]);
        assert_eq!(mean_state(&[of(1.0), of(4.0), vec![]], &[0.0; 3]), [4.0, 0.1]);
    }

    #[test]
    fn pieces_of_any_sizes() {
        let list: Vec<f32> = (0..7).map(|i| i as f32).collect();
        for lengths in [&[7][..], &[3, 4], &[1, 0, 6]] {
            let cut = pieces(list.clone(), lengths);
            assert_eq!((cut.iter().map(Vec::len).collect::<Vec<_>>(), flat(cut)), (lengths.to_vec(), list.clone()));
        }
    }
}
