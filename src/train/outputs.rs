//! Joins the outputs of several batches.

use super::model::Join;
use crate::{
    error::{Error, Result},
    host::{Data, Host},
    shape::Shape,
};

/// The outputs of several batches, joined.
pub(super) struct Joined {
    join: Join,
    /// The shape of the joined output so far.
    shape: Option<Shape>,
    batches: usize,
    /// The numbers of the joined output. Each index of the axes before the joined axis has a vector of its own, so that the
    /// vector can grow.
    lines: Vec<Vec<f32>>,
    /// For [`Join::Mean`]: Σ samples·output.
    sums: Vec<f64>,
    samples: f64,
}

impl Joined {
    pub fn new(join: Join) -> Joined {
        Joined { join, shape: None, batches: 0, lines: Vec::new(), sums: Vec::new(), samples: 0.0 }
    }
    /// Makes a value for each output.
    pub fn all(joins: &[Join]) -> Vec<Joined> {
        joins.iter().map(|&join| Joined::new(join)).collect()
    }
    /// Adds the output `part` of the next batch, which has `samples` samples.
    pub fn push(&mut self, part: Host<f32>, samples: usize) -> Result<()> {
        let values = match part.data {
            Data::Float(v) => v,
            Data::Index(v) => v.into_iter().map(|i| i as f32).collect(),
        };
        let part = part.shape;
        let whole = self.shape.unwrap_or(part);
        let fits = match self.join {
            Join::Along(axis) => part.rank() > axis && part.with(axis, 1).same_dims(whole.with(axis, 1)),
            Join::Mean => part.same_dims(whole),
            Join::Flat => true,
        };
        if !fits {
            let why =
                format!("its output for {samples} samples has the shape {part}, which cannot be joined with {whole} of the samples before");
            return Err(Error::argument("model", why));
        }
        (self.batches, self.samples) = (self.batches + 1, self.samples + samples as f64);
        match self.join {
            Join::Along(axis) => {
                let [outer, n, inner] = part.around(axis);
                self.lines.resize(outer, Vec::new());
                self.lines.iter_mut().zip(values.chunks(n * inner)).for_each(|(line, part)| line.extend_from_slice(part));
                self.shape = Some(self.shape.map_or(part, |before| before.with(axis, before.dims()[axis] + n)));
            }
            Join::Mean => {
                self.sums.resize(values.len(), 0.0);
                self.sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(x) * samples as f64);
                self.shape = Some(part);
            }
            Join::Flat => {
                self.lines.resize(1, Vec::new());
                self.lines[0].extend_from_slice(&values);
                self.shape = Some(part);
            }
        }
        Ok(())
    }
    pub fn join(mut self) -> Host<f32> {
        let shape = self.shape.unwrap_or_default();
        let values = match self.join {
            Join::Mean => self.sums.iter().map(|sum| (sum / self.samples) as f32).collect(),
            // The common case needs no copy.
            _ if self.lines.len() == 1 => self.lines.swap_remove(0),
            _ => self.lines.concat(),
        };
        match self.join {
            Join::Flat if self.batches > 1 => Host::new([values.len()], values),
            _ => Host::new(shape, values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(join: Join, parts: &[(&[usize], usize)]) -> Host<f32> {
        let (mut outputs, mut numbers) = (Joined::new(join), (0..).map(|i| i as f32));
        for &(dims, samples) in parts {
            let shape = Shape::new(dims).unwrap();
            outputs.push(Host::new(shape, numbers.by_ref().take(shape.elements()).collect()), samples).unwrap();
        }
        outputs.join()
    }

    #[test]
    fn by_hand() {
        // Joins rows; makes each row longer; averages 0 of three samples and 1 of one sample; flattens.
        assert_eq!(joined(Join::Along(0), &[(&[2, 1], 2), (&[1, 1], 1)]), Host::new([3, 1], vec![0.0, 1.0, 2.0]));
        assert_eq!(joined(Join::Along(1), &[(&[2, 2], 2), (&[2, 1], 1)]), Host::new([2, 3], vec![0.0, 1.0, 4.0, 2.0, 3.0, 5.0]));
        assert_eq!(joined(Join::Mean, &[(&[], 3), (&[], 1)]), Host::new([], vec![0.25]));
        assert_eq!(joined(Join::Flat, &[(&[2, 2], 2), (&[1, 1], 1)]), Host::new([5], vec![0.0, 1.0, 2.0, 3.0, 4.0]));
        assert_eq!(joined(Join::Flat, &[(&[2, 2], 2)]).shape, Shape::from([2, 2]));
        let mut outputs = Joined::new(Join::Along(0));
        outputs.push(Host::new([2, 3], vec![0.0; 6]), 2).unwrap();
        let error = outputs.push(Host::new([2, 4], vec![0.0; 8]), 2).unwrap_err().to_string();
        assert!(error.contains("[2, 4]") && error.contains("[2, 3]"), "{error}");
    }
}
