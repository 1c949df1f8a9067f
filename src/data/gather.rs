//! Batches: samples of a data set, gathered on the host.

use super::{Augment, Dataset, Features, Target, pixel};
use crate::{
    error::Result,
    host::{Data, Host},
    scratch,
    shape::Shape,
    threads::{chunk, lines},
};

impl Dataset {
    /// Returns the rows `rows` as a batch: `x` is `[b, sample…]`, and `y` is labels or numbers `[b, target…]`. Without
    /// targets, `y` is `[0]`.
    pub fn batch(&self, rows: &[usize]) -> Result<(Host<f32>, Host<f32>)> {
        let (mut x, mut y) = (Host::new([0], Vec::new()), Host::new([0], Vec::new()));
        self.gather_into(rows, &mut x, &mut y)?;
        Ok((x, y))
    }
    /// Gathers a [`batch`](Dataset::batch) into existing tensors and reuses their memory.
    pub(crate) fn gather_into(&self, rows: &[usize], x: &mut Host<f32>, y: &mut Host<f32>) -> Result<()> {
        self.gather_augmented(rows, None, x, y)
    }
    /// Gathers a batch with augmented images. The seed and the step determine the random numbers.
    pub(crate) fn gather_augmented(
        &self,
        rows: &[usize],
        augment: Option<(&Augment, u64, u64)>,
        x: &mut Host<f32>,
        y: &mut Host<f32>,
    ) -> Result<()> {
        self.check_rows(rows)?;
        let batched = |s: Shape| s.batched(rows.len()).expect("check_sample left room for this axis");
        let width = self.sample.elements();
        x.shape = batched(self.sample);
        let len = rows.len() * width;
        // Below about 64 thousand numbers, a thread costs more time than it saves.
        let least = 1 + (1 << 16) / width;
        let change = augment.map(|(augment, seed, step)| {
            let [.., height, across] = self.sample.dims() else { unreachable!("Augment::check has seen that these are images") };
            let image = [*height, *across];
            move |place, from: &[f32], outside, out: &mut [f32]| augment.apply(image, (seed, step, place), from, outside, out)
        });
        match &self.features {
            Features::Float(v) => lines(floats(x, len), width, least, |place, out| {
                let from = chunk(v, width, rows[place]);
                match &change {
                    Some(change) => change(place, from, 0.0, out),
                    None => out.copy_from_slice(from),
                }
            }),
            Features::Bytes { data, scale, shift } => {
                let outside = self.means()[0];
                lines(floats(x, len), width, least, |place, out| {
                    let bytes = chunk(data, width, rows[place]);
                    out.iter_mut().zip(bytes).for_each(|(x, &b)| *x = pixel(b, *scale, *shift) as f32);
                    if let Some(change) = &change {
                        scratch::with(width, |from: &mut [f32]| {
                            from.copy_from_slice(out);
                            change(place, from, outside, out);
                        });
                    }
                })
            }
            Features::Tokens { data, .. } => labels(x, data, width, rows),
        }
        match &self.target {
            Target::None => *y = Host::labels([0], Vec::new()),
            Target::Labels { sample, values, .. } => {
                y.shape = batched(*sample);
                labels(y, values, sample.elements(), rows);
            }
            Target::Values { sample, data } => {
                y.shape = batched(*sample);
                let width = sample.elements();
                for (out, &r) in floats(y, rows.len() * width).chunks_mut(width).zip(rows) {
                    out.copy_from_slice(&data[r * width..(r + 1) * width]);
                }
            }
        }
        Ok(())
    }
    /// Returns the value of each possible byte of the features.
    pub(crate) fn means(&self) -> [f32; 256] {
        let Features::Bytes { scale, shift, .. } = self.features else { return [0.0; 256] };
        std::array::from_fn(|byte| pixel(byte as u8, scale, shift) as f32)
    }
}

/// Returns the float buffer of `h`, resized to `len`. Reuses its memory.
fn floats(h: &mut Host<f32>, len: usize) -> &mut [f32] {
    if let Data::Index(_) = h.data {
        h.data = Data::Float(Vec::new());
    }
    match &mut h.data {
        Data::Float(v) => {
            v.resize(len, 0.0);
            v
        }
        Data::Index(_) => unreachable!("made a float above"),
    }
}

/// Copies the rows `rows` of `from` into the label buffer of `h`. Reuses its memory.
fn labels(h: &mut Host<f32>, from: &[u32], width: usize, rows: &[usize]) {
    let mut out = match std::mem::replace(&mut h.data, Data::Index(Vec::new())) {
        Data::Index(v) => v,
        Data::Float(_) => Vec::new(),
    };
    out.clear();
    rows.iter().for_each(|&r| out.extend_from_slice(&from[r * width..(r + 1) * width]));
    h.data = Data::Index(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shuffled;

    fn six() -> Dataset {
        Dataset::new((0..12).map(|i| i as f32).collect(), [2], Target::labels(vec![0, 1, 2, 0, 1, 2], 3)).unwrap()
    }

    #[test]
    fn large_batches_gather_in_parallel_to_the_same() {
        let (n, width) = (300, 784);
        let data: Vec<u8> = (0..n * width).map(|i| (i * 31 % 251) as u8).collect();
        let bytes = Dataset::bytes(data.clone(), [width], 0.5, Target::None).unwrap();
        let float = Dataset::new(data.iter().map(|&b| b as f32 * 0.5).collect(), [width], Target::None).unwrap();
        let rows = shuffled(n, 1, 0);
        let x = bytes.batch(&rows).unwrap().0;
        assert_eq!(x, float.batch(&rows).unwrap().0);
        assert_eq!(x.f()[width * 299 + 5], data[rows[299] * width + 5] as f32 * 0.5);
    }

    #[test]
    fn gathering_uses_the_memory_again() {
        let (mut x, mut y) = six().batch(&[0, 1, 2, 3]).unwrap();
        let (px, py) = (x.f().as_ptr(), y.u().as_ptr());
        six().gather_into(&[4, 5], &mut x, &mut y).unwrap();
        assert_eq!((&x, &y), (&Host::new([2, 2], vec![8.0, 9.0, 10.0, 11.0]), &Host::labels([2], vec![1, 2])));
        assert_eq!((x.f().as_ptr(), y.u().as_ptr()), (px, py));
        six().with_float_labels().gather_into(&[1], &mut x, &mut y).unwrap();
        assert_eq!(y, Host::new([1, 1], vec![1.0]));
    }
}
