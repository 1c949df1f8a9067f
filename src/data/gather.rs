//! Batches: samples of a data set, gathered on the host.

use super::{Augment, Dataset, Features, Field, Selection, pixel};
use crate::{
    error::{Error, Result},
    host::{Data, Host},
    scratch,
    threads::{chunk, lines},
};

impl Dataset {
    /// Returns the rows `rows` as a batch: `x` is `[b, sample…]`, and `y` is labels or numbers `[b, target…]`. They are the
    /// first feature and the first target. Without targets, `y` is `[0]`.
    pub fn batch(&self, rows: impl Selection) -> Result<(Host<f32>, Host<f32>)> {
        let mut batch = [Host::new([0], Vec::new()), Host::labels([0], Vec::new())];
        let picks: Vec<usize> = [Some(0), self.first_target()].into_iter().flatten().collect();
        self.gather_into(&picks, &rows.rows(self.len), None, &mut batch)?;
        Ok(batch.into())
    }
    /// Returns the rows `rows` of all columns, each `[b, sample…]`. [`Trainer::step`](crate::Trainer::step) takes them in this
    /// order.
    pub fn columns(&self, rows: impl Selection) -> Result<Vec<Host<f32>>> {
        let picks: Vec<usize> = (0..self.fields.len()).collect();
        let mut batch = vec![Host::new([0], Vec::new()); picks.len()];
        self.gather_into(&picks, &rows.rows(self.len), None, &mut batch)?;
        Ok(batch)
    }
    /// Gathers the rows `rows` of the columns `picks` into existing tensors and reuses their memory. `augment` changes the
    /// images of the first of these columns. The seed and the step determine its random numbers.
    pub(crate) fn gather_into(
        &self,
        picks: &[usize],
        rows: &[usize],
        augment: Option<(&Augment, u64, u64)>,
        out: &mut [Host<f32>],
    ) -> Result<()> {
        self.check_rows(rows)?;
        for (i, (&pick, out)) in picks.iter().zip(out).enumerate() {
            self.fields[pick].gather(rows, augment.filter(|_| i == 0), out)?;
        }
        Ok(())
    }
}

impl Field {
    fn gather(&self, rows: &[usize], augment: Option<(&Augment, u64, u64)>, out: &mut Host<f32>) -> Result<()> {
        let width = self.width();
        out.shape = self.sample.batched(rows.len()).expect("check_sample left room for this axis");
        let len = rows.len() * width;
        // Below about 64 thousand numbers, a thread costs more time than it saves.
        let least = 1 + (1 << 16) / width;
        let change = augment.map(|(augment, seed, step)| {
            let [.., height, across] = self.sample.dims() else { unreachable!("Augment::check has seen that these are images") };
            let image = [*height, *across];
            move |place, from: &[f32], outside, out: &mut [f32]| augment.apply(image, (seed, step, place), from, outside, out)
        });
        match &self.data {
            Features::Float(v) => lines(floats(out, len), width, least, |place, out| {
                let from = chunk(v, width, rows[place]);
                match &change {
                    Some(change) => change(place, from, 0.0, out),
                    None => out.copy_from_slice(from),
                }
            }),
            Features::Bytes { data, scale, shift } => {
                let outside = self.means()[0];
                lines(floats(out, len), width, least, |place, out| {
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
            Features::Tokens { data, .. } => labels(out, data, width, rows),
            Features::Source(all) if all.vocabulary().is_some() => {
                let out = indices(out);
                out.resize(len, 0);
                all.read_tokens(rows, out)?;
                self.check_indices(out, all.vocabulary().unwrap_or(0)).map_err(|e| match e {
                    // The error names the row of the data set.
                    Error::Label { row, label, classes } => Error::Label { row: rows[row], label, classes },
                    Error::Index { op, index, mut position, rows: below } => {
                        position[0] = rows[position[0]];
                        Error::Index { op, index, position, rows: below }
                    }
                    other => other,
                })?;
            }
            Features::Source(all) => {
                let out = floats(out, len);
                all.read(rows, out)?;
                super::check_finite(&self.called(), out, self.sample).map_err(|e| match e {
                    // The error names the row of the data set.
                    Error::NonFinite { what, value, row, column } => Error::NonFinite { what, value, row: rows[row], column },
                    other => other,
                })?;
                if let Some(change) = &change {
                    lines(out, width, least, |place, out| {
                        scratch::with(width, |from: &mut [f32]| {
                            from.copy_from_slice(out);
                            change(place, from, 0.0, out);
                        });
                    });
                }
            }
        }
        Ok(())
    }
    /// Returns the value of each possible byte.
    pub(crate) fn means(&self) -> [f32; 256] {
        let Features::Bytes { scale, shift, .. } = self.data else { return [0.0; 256] };
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

/// Returns the label buffer of `h`. Reuses its memory.
fn indices(h: &mut Host<f32>) -> &mut Vec<u32> {
    if let Data::Float(_) = h.data {
        h.data = Data::Index(Vec::new());
    }
    match &mut h.data {
        Data::Index(v) => v,
        Data::Float(_) => unreachable!("made an index above"),
    }
}

/// Copies the rows `rows` of `from` into the label buffer of `h`. Reuses its memory.
fn labels(h: &mut Host<f32>, from: &[u32], width: usize, rows: &[usize]) {
    let out = indices(h);
    out.clear();
    rows.iter().for_each(|&r| out.extend_from_slice(&from[r * width..(r + 1) * width]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Target, shuffled};

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
        let mut batch: [Host<f32>; 2] = six().batch(&[0, 1, 2, 3]).unwrap().into();
        let (px, py) = (batch[0].f().as_ptr(), batch[1].u().as_ptr());
        six().gather_into(&[0, 1], &[4, 5], None, &mut batch).unwrap();
        assert_eq!(batch, [Host::new([2, 2], vec![8.0, 9.0, 10.0, 11.0]), Host::labels([2], vec![1, 2])]);
        assert_eq!((batch[0].f().as_ptr(), batch[1].u().as_ptr()), (px, py));
        six().with_float_labels().gather_into(&[0, 1], &[1], None, &mut batch).unwrap();
        assert_eq!(batch[1], Host::new([1, 1], vec![1.0]));
    }

    #[test]
    fn columns_of_every_kind() {
        let data = Dataset::of([
            Field::weights(vec![1.0, 0.5, 0.0]),
            Field::values("price", [1], vec![3.0, 4.0, 5.0]),
            Field::bytes("image", [1, 2], vec![0, 2, 4, 6, 8, 10], 0.5),
            Field::tokens("words", [2], vec![0, 1, 2, 3, 4, 0], 5),
            Field::labels("kind", vec![2, 1, 0], 3),
            Field::lengths(vec![2, 1, 0], 2),
            Field::mask([2], &[true, true, true, false, false, false]),
        ])
        .unwrap();
        // The columns are sorted by role, and keep their order within a role.
        assert_eq!(data.names().collect::<Vec<_>>(), ["image", "words", "price", "kind", "weight", "mask", "length"]);
        let want = [
            Host::new([2, 1, 2], vec![4.0, 5.0, 0.0, 1.0]),
            Host::labels([2, 2], vec![4, 0, 0, 1]),
            Host::new([2, 1], vec![5.0, 3.0]),
            Host::labels([2], vec![0, 2]),
            Host::new([2], vec![0.0, 1.0]),
            Host::new([2, 2], vec![0.0, 0.0, 1.0, 1.0]),
            Host::labels([2], vec![0, 2]),
        ];
        assert_eq!(data.columns(&[2, 0]).unwrap(), want);
        assert_eq!(data.subset(&[2, 0]).unwrap().columns(&[0, 1]).unwrap(), want);
        let (a, b) = data.split(0.67, 1).unwrap();
        assert_eq!((a.len(), b.len()), (2, 1));
        // `batch` returns the first feature and the first target.
        assert_eq!(data.batch(&[2, 0]).unwrap(), (want[0].clone(), want[2].clone()));
        let part = data.select(&["kind", "words"]).unwrap();
        assert_eq!(part.names().collect::<Vec<_>>(), ["words", "kind"]);
        assert_eq!((part.classes(), part.labels(), data.classes()), (3, &[2, 1, 0][..], 0));
        assert_eq!(part.and(Field::floats("more", [], vec![1.0, 2.0, 3.0])).unwrap().names().nth(1), Some("more"));
    }
}
