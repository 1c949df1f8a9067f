//! Random changes to images that do not change their class.

use super::Field;
use crate::{
    error::{Error, Result},
    rng::{philox, words},
};

/// Random changes to the images of a training batch. Every step draws new changes: see [`Fit::augment`](crate::Fit::augment).
///
/// The changes are torchvision's: `RandomCrop(size, padding=crop_padding)` with the image's own size, then
/// `RandomHorizontalFlip(p=horizontal_flip)` and `RandomVerticalFlip(p=vertical_flip)`. Each image has its own random
/// numbers. They depend only on the seed, the step and the image's position in the batch. So they are the same on every
/// device, and the same after a checkpoint is loaded.
///
/// ```
/// use downhill::{Fit, data::Augment};
/// // The usual augmentation for CIFAR-10.
/// let fit = Fit::new().augment(Augment { horizontal_flip: 0.5, crop_padding: 4, ..Augment::default() });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// The probability that an image is mirrored left to right.
    pub horizontal_flip: f32,
    /// The probability that an image is mirrored top to bottom.
    pub vertical_flip: f32,
    /// The largest shift in pixels, horizontally and vertically. All shifts are equally likely. Pixels from outside the image
    /// have the value of byte 0 in a data set of bytes, as in torchvision, which crops before it normalises. In a data set of
    /// floats they are 0.0.
    pub crop_padding: usize,
}

/// The number of the random stream. The streams of a graph's nodes count up from 1.
const STREAM: u32 = u32::MAX;

impl Augment {
    /// Returns an error unless the settings are in range and fit the images of the column.
    pub(crate) fn check(&self, images: &Field) -> Result<()> {
        let wrong = |why: String| Err(Error::argument("augment", why));
        for (name, p) in [("horizontal_flip", self.horizontal_flip), ("vertical_flip", self.vertical_flip)] {
            if !(0.0..=1.0).contains(&p) {
                return wrong(format!("{name} is {p}, but a probability is 0 to 1"));
            }
        }
        let sample = images.sample;
        if sample.rank() != 3 || images.data.vocabulary().is_some() {
            return wrong(format!("samples must be images [channels, height, width], not {sample}: see Dataset::reshape"));
        }
        let least = sample.dims()[1].min(sample.dims()[2]);
        if self.crop_padding > least {
            return wrong(format!("crop_padding is {}, which moves images of {sample} out of sight", self.crop_padding));
        }
        Ok(())
    }
    /// Returns the two thresholds for random numbers of 24 bits. An image is mirrored left to right if 24 bits are below the
    /// first threshold. It is mirrored top to bottom if another 24 bits are below the second threshold.
    pub(crate) fn thresholds(&self) -> [u32; 2] {
        [self.horizontal_flip, self.vertical_flip].map(|p| (f64::from(p) * f64::from(1 << 24)).ceil() as u32)
    }
    /// Draws the changes of the image at position `place` of a batch. `shaders/feed.wgsl` does the same on the GPU.
    fn draw(&self, seed: u64, step: u64, place: usize) -> Drawn {
        let [lo, hi] = words(step);
        let [vertical, horizontal, down, right] = philox([place as u32, STREAM, lo, hi], words(seed));
        let [across, along] = self.thresholds();
        let range = 2 * self.crop_padding as u64 + 1;
        let shift = |word: u32| ((u64::from(word) * range) >> 32) as isize - self.crop_padding as isize;
        Drawn { horizontal: horizontal >> 8 < across, vertical: vertical >> 8 < along, down: shift(down), right: shift(right) }
    }
    /// Changes one image `[channels, height, width]`. Reads `image` and writes `out`.
    pub(crate) fn apply<T: Copy>(&self, [height, width]: [usize; 2], key: (u64, u64, usize), image: &[T], outside: T, out: &mut [T]) {
        let drawn = self.draw(key.0, key.1, key.2);
        let from = |i: usize, n: usize, flip: bool, shift: isize| {
            let i = if flip { n - 1 - i } else { i };
            i.checked_add_signed(shift).filter(|&i| i < n)
        };
        for (line, out) in out.chunks_mut(width).enumerate() {
            let Some(down) = from(line % height, height, drawn.vertical, drawn.down) else {
                out.fill(outside);
                continue;
            };
            let line = &image[(line / height * height + down) * width..][..width];
            for (i, out) in out.iter_mut().enumerate() {
                *out = from(i, width, drawn.horizontal, drawn.right).map_or(outside, |i| line[i]);
            }
        }
    }
}

/// The changes of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Drawn {
    horizontal: bool,
    vertical: bool,
    down: isize,
    right: isize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Dataset, Target},
        host::Host,
    };

    /// An image with two channels, two rows and three columns. Its pixels count up from 10.
    fn image() -> Dataset {
        Dataset::bytes((10..22).collect(), [2, 2, 3], 0.5, Target::None).unwrap()
    }

    fn batch(data: &Dataset, augment: Augment, n: usize, step: u64) -> Vec<f32> {
        let mut x = [Host::new([0], Vec::new())];
        augment.check(&data.fields[0]).unwrap();
        data.gather_into(&[0], &vec![0; n], Some((&augment, 7, step)), &mut x).unwrap();
        x[0].f().iter().map(|x| x * 2.0).collect()
    }

    #[test]
    fn certain_flips() {
        let flip = |horizontal: f32, vertical: f32| Augment { horizontal_flip: horizontal, vertical_flip: vertical, crop_padding: 0 };
        let one = |augment| batch(&image(), augment, 1, 0);
        assert_eq!(one(flip(0.0, 0.0)), (10..22).map(|i| i as f32).collect::<Vec<_>>());
        assert_eq!(one(flip(1.0, 0.0)), [12., 11., 10., 15., 14., 13., /**/ 18., 17., 16., 21., 20., 19.]);
        assert_eq!(one(flip(0.0, 1.0)), [13., 14., 15., 10., 11., 12., /**/ 19., 20., 21., 16., 17., 18.]);
    }

    #[test]
    fn every_shift_is_as_likely_and_brings_in_what_zero_means() {
        let n = 5000;
        let mut data = image();
        // After normalisation byte b has the value 2b + 1, so byte 0 has the value 1.
        crate::data::Normalise { mean: vec![-0.25], std: vec![0.25] }.apply(&mut data).unwrap();
        let augment = Augment { crop_padding: 1, ..Augment::default() };
        let got = batch(&data, augment, n, 3);
        let mut counts = [0; 9];
        for image in got.chunks(12) {
            let seen = (0..9).filter(|shift| {
                let (down, right) = (shift / 3 - 1, shift % 3 - 1);
                (0..12i32).all(|i| {
                    let (row, column) = (i / 3 % 2 + down, i % 3 + right);
                    let inside = (0..2).contains(&row) && (0..3).contains(&column);
                    let byte = if inside { 10 + i / 6 * 6 + row * 3 + column } else { 0 };
                    // One of the two factors of 2 comes from `batch`.
                    image[i as usize] == 2.0 * (2 * byte + 1) as f32
                })
            });
            let seen: Vec<i32> = seen.collect();
            assert_eq!(seen.len(), 1, "{image:?} is no shift, or several");
            counts[seen[0] as usize] += 1;
        }
        // Each shift is expected in n/9 of the images. The bound is 5 standard deviations of the binomial distribution.
        let expect = n as f64 / 9.0;
        assert!(counts.iter().all(|&c| (f64::from(c) - expect).abs() < 5.0 * (expect * 8.0 / 9.0).sqrt()), "{counts:?}");
    }

    #[test]
    fn flips_happen_as_often_as_asked_for_and_anew_in_each_step() {
        let (n, augment) = (5000, Augment { horizontal_flip: 0.3, ..Augment::default() });
        let flips = |step| -> Vec<bool> { batch(&image(), augment, n, step).chunks(12).map(|image| image[0] == 12.0).collect() };
        let (first, second) = (flips(0), flips(1));
        for flips in [&first, &second] {
            let count = flips.iter().filter(|&&f| f).count() as f64;
            assert!((count - 0.3 * n as f64).abs() < 5.0 * (n as f64 * 0.21).sqrt(), "{count}");
        }
        let same = first.iter().zip(&second).filter(|(a, b)| a == b).count() as f64;
        assert!((same - 0.58 * n as f64).abs() < 5.0 * (n as f64 * 0.58 * 0.42).sqrt(), "{same}");
        assert_eq!(first, flips(0));
    }
}
