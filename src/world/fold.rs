//! The mean over ranks, with the arithmetic of accumulation.

use super::{
    mail::{Mail, Message},
    tag::Tag,
};
use crate::{
    cpu::add_micro,
    error::{Error, Result},
    optim::Guard,
};
use half::{bf16, f16};
use std::{ops::Range, sync::Arc, time::Duration};

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

impl Wire {
    fn encode(self, values: &[f32], to: &mut Vec<u8>) {
        match self {
            Wire::F32 => values.iter().for_each(|x| to.extend(x.to_le_bytes())),
            Wire::Bf16 => values.iter().for_each(|&x| to.extend(bf16::from_f32(x).to_le_bytes())),
            Wire::F16 => values.iter().for_each(|&x| to.extend(f16::from_f32(x).to_le_bytes())),
        }
    }
    /// Decodes `count` values. Returns `None` for another number of bytes.
    fn decode(self, bytes: &[u8], count: usize) -> Option<Vec<f32>> {
        let size = if self == Wire::F32 { 4 } else { 2 };
        (bytes.len() == size * count).then(|| match self {
            Wire::F32 => bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect(),
            Wire::Bf16 => bytes.as_chunks().0.iter().map(|&x| bf16::from_le_bytes(x).to_f32()).collect(),
            Wire::F16 => bytes.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x).to_f32()).collect(),
        })
    }
}

/// The number of elements to which the bounds of shards are rounded.
const GRAIN: usize = 64;

/// Returns the part of `n` elements that `rank` adds up.
fn shard(n: usize, rank: usize, ranks: usize) -> Range<usize> {
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

/// Computes the mean over ranks: each rank gets its shard from all ranks, adds up, and sends the mean to all ranks.
pub(super) fn reduce(mail: &mut Mail, tag: Tag, values: &[f32], weight: Option<f32>, terms: Terms) -> Result<Vec<f32>> {
    let (rank, ranks, Terms { timeout, wire }) = (mail.rank(), mail.size(), terms);
    let part = |rank: usize| {
        Mail::message(tag, |to| {
            to.extend([u8::from(weight.is_some()), 0, 0, 0]);
            to.extend(weight.unwrap_or(0.0).to_le_bytes());
            wire.encode(&values[shard(values.len(), rank, ranks)], to);
        })
    };
    let own = shard(values.len(), rank, ranks).len();
    let came = mail.exchange(tag, (0..ranks).map(part).collect(), timeout)?;
    let (mut guard, mut mean) = (Guard { weight: 0.0, ..Guard::default() }, vec![0.0; own]);
    for (rank, message) in came.iter().enumerate() {
        let wrong = || {
            let why = format!("it sent {} bytes at {tag}, which do not fit the model of this rank", message.len());
            Error::Rank { rank, why }
        };
        let (&[some, ..], rest) = Mail::content(message).split_first_chunk::<4>().ok_or_else(wrong)?;
        let (&weight, values) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        let values = wire.decode(values, own).ok_or_else(wrong)?;
        if some != 0 {
            guard.weigh(f32::from_le_bytes(weight), 0.0);
            add_micro(&guard, &mut mean, &values);
        }
    }
    let mean: Message = Mail::message(tag, |to| wire.encode(&mean, to));
    let all = mail.exchange(tag, vec![Arc::clone(&mean); ranks], timeout)?;
    let mut whole = Vec::with_capacity(values.len());
    for (rank, message) in all.iter().enumerate() {
        let part = wire.decode(Mail::content(message), shard(values.len(), rank, ranks).len());
        whole.extend(part.ok_or_else(|| Error::Rank { rank, why: format!("its mean at {tag} has a wrong size") })?);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_cover_all() {
        for n in [0, 1, 63, 64, 65, 1000, 4097] {
            for ranks in 1..7 {
                let shards: Vec<_> = (0..ranks).map(|rank| shard(n, rank, ranks)).collect();
                assert_eq!((shards[0].start, shards[ranks - 1].end), (0, n));
                assert!(shards.windows(2).all(|pair| pair[0].end == pair[1].start));
            }
        }
        assert_eq!(shard(4096, 1, 4), 1024..2048);
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
            wire.encode(&values, &mut bytes);
            assert_eq!(wire.decode(&bytes, 4).unwrap(), want);
            assert_eq!(wire.decode(&bytes, 3), None);
        }
    }
}
