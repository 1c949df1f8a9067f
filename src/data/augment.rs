//! Random changes to images that leave their class alone.

use super::{Dataset, Features};
use crate::{
    error::{Error, Result},
    rng::{philox, words},
};

/// Random changes to the images of a training batch, new ones in every step: [`Fit::augment`](crate::Fit::augment).
///
/// They are those of torchvision's `RandomCrop(size, padding=crop_padding)`, with the image's own size, then
/// `RandomHorizontalFlip(p=horizontal_flip)` and `RandomVerticalFlip(p=vertical_flip)`. Each image has its own draws,
/// which depend on the seed, the step and the image's place in the batch only: they are the same on every device, and
/// after a checkpoint.
///
/// ```
/// use downhill::{Fit, data::Augment};
/// // What CIFAR-10 is usually trained with.
/// let fit = Fit::new().augment(Augment { horizontal_flip: 0.5, crop_padding: 4, ..Augment::default() });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// The probability that an image is mirrored left to right.
    pub horizontal_flip: f32,
    /// The probability that an image is mirrored top to bottom.
    pub vertical_flip: f32,
    /// An image is moved by up to so many pixels, to the left or the right and up or down, every distance being as likely. What
    /// comes in from outside is what a byte 0 means in a data set of bytes, as torchvision has it before images are
    /// normalised, and 0.0 in one of floats.
    pub crop_padding: usize,
}

/// The random stream; those of a graph's nodes count from 1.
const STREAM: u32 = u32::MAX;

impl Augment {
    /// An error unless the settings are in range and fit images of the data.
    pub(crate) fn check(&self, data: &Dataset) -> Result<()> {
        let wrong = |why: String| Err(Error::argument("augment", why));
        for (name, p) in [("horizontal_flip", self.horizontal_flip), ("vertical_flip", self.vertical_flip)] {
            if !(0.0..=1.0).contains(&p) {
                return wrong(format!("{name} is {p}, but a probability is 0 to 1"));
            }
        }
        let sample = data.sample_shape();
        if sample.rank() != 3 || matches!(data.features(), Features::Tokens { .. }) {
            return wrong(format!("samples must be images [channels, height, width], not {sample}: see Dataset::reshape"));
        }
        let least = sample.dims()[1].min(sample.dims()[2]);
        if self.crop_padding > least {
            return wrong(format!("crop_padding is {}, which moves images of {sample} out of sight", self.crop_padding));
        }
        Ok(())
    }
    /// Below these, of 24 random bits, an image is mirrored: left to right, top to bottom.
    pub(crate) fn thresholds(&self) -> [u32; 2] {
        [self.horizontal_flip, self.vertical_flip].map(|p| (f64::from(p) * f64::from(1 << 24)).ceil() as u32)
    }
    /// What happens to the image at a place of a batch: the twin of `shaders/feed.wgsl`.
    fn draw(&self, seed: u64, step: u64, place: usize) -> Drawn {
        let [lo, hi] = words(step);
        let [vertical, horizontal, down, right] = philox([place as u32, STREAM, lo, hi], words(seed));
        let [across, along] = self.thresholds();
        let range = 2 * self.crop_padding as u64 + 1;
        let shift = |word: u32| (u64::from(word) * range >> 32) as isize - self.crop_padding as isize;
        Drawn { horizontal: horizontal >> 8 < across, vertical: vertical >> 8 < along, down: shift(down), right: shift(right) }
    }
    /// Changes one image `[channels, height, width]`, from `image` into `out`.
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

/// What happens to one image.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Drawn {
    horizontal: bool,
    vertical: bool,
    down: isize,
    right: isize,
}
