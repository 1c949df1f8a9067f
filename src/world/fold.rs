//! The mean over ranks, with the arithmetic of accumulation.

use super::{mail::Mail, tag::Tag};
use crate::{
    error::{Error, Result},
    optim::Guard,
    scratch,
};
use half::{
    bf16, f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};
use std::{ops::Range, time::Duration};

/// The format of gradients on the way between ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// 4 bytes for a number, without rounding.
    #[default]
    F32,
    /// 2 bytes for a number, with the range of `f32` and 8 bits of precision.
    Bf16,
    /// 2 bytes for a number, with 11 bits of precision. Numbers above 65,504 become infinite, so that the step is not finite.
    F16,
}

/// The terms of an exchange.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub timeout: Duration,
    pub wire: Wire,
}

/// The number of values that are encoded or decoded at once. They stay in the nearest cache.
const CHUNK: usize = 1024;

impl Wire {
    /// Returns the number of bytes of a value.
    fn size(self) -> usize {
        if self == Wire::F32 { 4 } else { 2 }
    }
    /// Appends the bytes of values. The lowest byte of a number comes first, also on machines with another order.
    fn encode(self, values: &[f32], to: &mut Vec<u8>) {
        let (mut words, mut halves) = ([0u32; CHUNK], [0u16; CHUNK]);
        for values in values.chunks(CHUNK) {
            let (words, halves) = (&mut words[..values.len()], &mut halves[..values.len()]);
            match self {
                Wire::F32 => words.iter_mut().zip(values).for_each(|(word, x)| *word = x.to_bits().to_le()),
                Wire::Bf16 => halves.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(values),
                Wire::F16 => halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values),
            }
            halves.iter_mut().for_each(|half| *half = half.to_le());
            to.extend_from_slice(if self == Wire::F32 { bytemuck::cast_slice(words) } else { bytemuck::cast_slice(halves) });
        }
    }
    /// Calls `take` with parts of the values that these bytes stand for, in order.
    fn decode(self, bytes: &[u8], mut take: impl FnMut(&[f32])) {
        let (mut values, mut halves) = ([0.0; CHUNK], [0u16; CHUNK]);
        for bytes in bytes.chunks(self.size() * CHUNK) {
            let (pairs, n) = (bytes.as_chunks().0, bytes.len() / self.size());
            let (values, halves) = (&mut values[..n], &mut halves[..n]);
            if self != Wire::F32 {
                halves.iter_mut().zip(pairs).for_each(|(half, &pair)| *half = u16::from_le_bytes(pair));
            }
            match self {
                Wire::F32 => values.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, &word)| *x = f32::from_le_bytes(word)),
                Wire::Bf16 => halves.reinterpret_cast::<bf16>().convert_to_f32_slice(values),
                Wire::F16 => halves.reinterpret_cast::<f16>().convert_to_f32_slice(values),
            }
            take(values);
        }
    }
    /// Rounds values as if they had been sent.
    fn round(self, values: &mut [f32]) {
        match self {
            Wire::F32 => {}
            Wire::Bf16 => values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
            Wire::F16 => values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        }
    }
}

/// The number of elements to which the bounds of parts are rounded.
const GRAIN: usize = 64;

/// Returns the part of `n` elements that `rank` adds up.
fn part_of(n: usize, rank: usize, ranks: usize) -> Range<usize> {
    let bound = |rank: usize| (n.div_ceil(GRAIN) * rank / ranks * GRAIN).min(n);
    bound(rank)..bound(rank + 1)
}

/// Returns the mean over one rank.
pub(super) fn alone(mut values: Vec<f32>, weight: Option<f32>) -> Vec<f32> {
    if weight.is_none() {
        values.fill(0.0);
    }
    values
}

/// Computes the mean over ranks: each rank gets its part from all ranks, adds up, and sends the mean to all ranks. The mean takes the
/// place of the values.
pub(super) fn reduce(mail: &mut Mail, tag: Tag, mut values: Vec<f32>, weight: Option<f32>, terms: Terms) -> Result<Vec<f32>> {
    let (rank, ranks, Terms { timeout, wire }) = (mail.rank(), mail.size(), terms);
    let of = |rank: usize| part_of(values.len(), rank, ranks);
    let (own, ranges) = (of(rank), (0..ranks).map(of).collect::<Vec<_>>());
    let part = |to: usize| {
        // A rank sends itself nothing.
        let values = if to == rank { &[] } else { &values[ranges[to].clone()] };
        mail.message(tag, 8 + wire.size() * values.len(), |bytes| {
            bytes.extend([u8::from(weight.is_some()), 0, 0, 0]);
            bytes.extend(weight.unwrap_or(0.0).to_le_bytes());
            wire.encode(values, bytes);
        })
    };
    let parts = (0..ranks).map(part).collect();
    let came = mail.exchange(tag, parts, timeout)?;
    wire.round(&mut values[own.clone()]);
    scratch::with(own.len(), |mean: &mut [f32]| {
        let (mut guard, mut none) = (Guard { weight: 0.0, ..Guard::default() }, true);
        for (from, message) in came.iter().enumerate() {
            let wrong = || {
                let why = format!("it sent {} bytes at {tag}, which do not fit the model of this rank", message.len());
                Error::Rank { rank: from, why }
            };
            let (&[some, ..], rest) = Mail::content(message).split_first_chunk::<4>().ok_or_else(wrong)?;
            let (&weight, bytes) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
            if from != rank && bytes.len() != wire.size() * own.len() {
                return Err(wrong());
            }
            if some == 0 {
                continue;
            }
            none = false;
            guard.weigh(f32::from_le_bytes(weight), 0.0);
            if from == rank {
                guard.add_micro(mean, &values[own.clone()]);
                continue;
            }
            let mut rest = &mut *mean;
            wire.decode(bytes, |values| {
                let part = rest.split_off_mut(..values.len()).expect("the lengths were compared");
                guard.add_micro(part, values);
            });
        }
        if none {
            mean.fill(0.0);
        }
        wire.round(mean);
        values[own.clone()].copy_from_slice(mean);
        Ok(())
    })?;
    // Their memory serves the means.
    drop(came);
    let mean = mail.message(tag, wire.size() * own.len(), |bytes| wire.encode(&values[own], bytes));
    let all = mail.exchange(tag, vec![mean; ranks], timeout)?;
    for (from, (message, range)) in all.iter().zip(ranges).enumerate().filter(|(from, _)| *from != rank) {
        let bytes = Mail::content(message);
        if bytes.len() != wire.size() * range.len() {
            return Err(Error::Rank { rank: from, why: format!("its mean at {tag} has a wrong size") });
        }
        let mut rest = &mut values[range];
        wire.decode(bytes, |values| rest.split_off_mut(..values.len()).expect("the lengths were compared").copy_from_slice(values));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all() {
        for n in [0, 1, 63, 64, 65, 1000, 4097] {
            for ranks in 1..7 {
                let parts: Vec<_> = (0..ranks).map(|rank| part_of(n, rank, ranks)).collect();
                assert_eq!((parts[0].start, parts[ranks - 1].end), (0, n));
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            }
        }
        assert_eq!(part_of(4096, 1, 4), 1024..2048);
    }

    #[test]
    fn wires() {
        let values = [1.0, -2.5, 1.0 + 1.0 / 1024.0, 1e30];
        for (wire, want) in [
            (Wire::F32, values),
            (Wire::Bf16, [1.0, -2.5, 1.0, bf16::from_f32(1e30).to_f32()]),
            (Wire::F16, [1.0, -2.5, 1.0 + 1.0 / 1024.0, f32::INFINITY]),
        ] {
            let mut bytes = Vec::new();
            // Several chunks, of which the last one is short.
            let many = values.repeat(CHUNK / 2 + 3);
            wire.encode(&many, &mut bytes);
            assert_eq!(bytes.len(), wire.size() * many.len());
            let mut back = Vec::new();
            wire.decode(&bytes, |values| back.extend_from_slice(values));
            assert_eq!(back, want.repeat(CHUNK / 2 + 3));
            let mut rounded = many;
            wire.round(&mut rounded);
            assert_eq!(rounded, back);
        }
    }
}
