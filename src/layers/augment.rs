//! Random changes to images and labels, as a part of the model. A training graph makes them, an inference graph does not.
//!
//! The random numbers are those of [`Graph::uniform`](crate::Graph::uniform): they depend on the seed, the step and the
//! sample's place in the batch, and are the same on every device. [`data::Augment`](crate::data::Augment) flips and shifts
//! images while they are fetched.

use crate::{
    graph::Tensor,
    host::Host,
    shape::{DType, Shape},
};
use std::{f32::consts::PI, panic::Location};

/// Options of a [random turn, scale and shift](Tensor::random_affine) of images.
///
/// The names are torchvision's `RandomAffine`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomAffine {
    /// The largest angle, in degrees, by which an image is turned to either side.
    pub degrees: f32,
    /// The least and the largest factor by which an image is enlarged.
    pub scale: [f32; 2],
    /// The largest shift of an image to either side, as a share of its width and of its height.
    pub translate: [f32; 2],
}

impl Default for RandomAffine {
    fn default() -> RandomAffine {
        RandomAffine { degrees: 0.0, scale: [1.0, 1.0], translate: [0.0, 0.0] }
    }
}

impl<'g> Tensor<'g> {
    /// Turns, enlarges and shifts each image of `[n, channels, height, width]` by random amounts, all equally likely within
    /// their limits. The value between pixels is bilinear, and 0 outside of the image. An inference graph returns the images
    /// unchanged. No gradient flows through this method, because it changes data.
    ///
    /// ```
    /// use downhill::{Graph, layers::RandomAffine};
    /// let g = Graph::training();
    /// let x = g.input([32, 3, 28, 28]);
    /// let y = x.random_affine(RandomAffine { degrees: 15.0, scale: [0.9, 1.1], ..RandomAffine::default() });
    /// assert_eq!(y.shape(), x.shape());
    /// ```
    ///
    /// It is a mistake if there are not four axes, or an option is out of range.
    #[track_caller]
    pub fn random_affine(self, options: RandomAffine) -> Tensor<'g> {
        let (g, shape) = (self.graph(), self.shape());
        let RandomAffine { degrees, scale: [least, most], translate: [across, along] } = options;
        let fits = |x: f32, most: f32| (0.0..=most).contains(&x);
        let why = match shape.dims() {
            [_, _, _, _] if shape.dtype() == DType::F32 => match () {
                () if !fits(degrees, 180.0) => Some(format!("degrees are {degrees}, but must be in 0..=180")),
                () if !(least > 0.0 && least <= most && most.is_finite()) => {
                    Some(format!("the scale is {least} to {most}, but must be above 0 and in order"))
                }
                () if !fits(across, 1.0) || !fits(along, 1.0) => Some(format!("translate is {across} and {along}, but must be in 0..=1")),
                () => None,
            },
            _ => Some("takes images [n, channels, height, width] of floats".to_string()),
        };
        let Some(n) = self.random("random_affine", why) else { return self };
        let _line = g.line();
        let [height, width] = [shape.dims()[2] as f32, shape.dims()[3] as f32];
        // Each of them is [n, 1].
        let within = |low: f32, high: f32| g.uniform([n, 1]) * (high - low) + low;
        let angle = within(-degrees * PI / 180.0, degrees * PI / 180.0);
        let shrink = within(least, most).reciprocal();
        let (right, down) = (within(-across * width, across * width), within(-along * height, along * height));
        // The map goes from the changed image to the image: back by the shift, then turned back and shrunk.
        let (cos, sin) = (angle.cos() * shrink, angle.sin() * shrink);
        let column = [cos, sin, -(cos * right + sin * down)];
        let row = [-sin, cos, sin * right - cos * down];
        let maps = column[0].concat(&[column[1], column[2], row[0], row[1], row[2]], 1);
        self.warp(maps)
    }
    /// Adds a random number in ±`delta` to all pixels of each image `[n, …]`. Keras's `RandomBrightness`. An inference graph
    /// returns the images unchanged.
    ///
    /// It is a mistake if `delta` is negative or not finite.
    #[track_caller]
    pub fn random_brightness(self, delta: f32) -> Tensor<'g> {
        let why = (!(delta >= 0.0 && delta.is_finite())).then(|| format!("delta is {delta}, but must be finite and at least 0"));
        let Some(n) = self.random("random_brightness", why) else { return self };
        let _line = self.graph().line();
        self + (self.graph().uniform(self.each(n)) * (2.0 * delta) - delta)
    }
    /// Multiplies the contrast of each image `[n, channels, height, width]` by a random factor in 1 ± `delta`: each channel
    /// keeps its mean. Keras's `RandomContrast`. An inference graph returns the images unchanged.
    ///
    /// It is a mistake if there are not four axes, or `delta` is not in 0..=1.
    #[track_caller]
    pub fn random_contrast(self, delta: f32) -> Tensor<'g> {
        let why = match self.shape().rank() {
            4 if (0.0..=1.0).contains(&delta) => None,
            4 => Some(format!("delta is {delta}, but must be in 0..=1")),
            _ => Some("takes images [n, channels, height, width]".to_string()),
        };
        let Some(n) = self.random("random_contrast", why) else { return self };
        let _line = self.graph().line();
        let mean = self.mean(&[2, 3], true);
        (self - mean) * (self.graph().uniform(self.each(n)) * (2.0 * delta) + (1.0 - delta)) + mean
    }
    /// Sets a square of `size` × `size` pixels of each image `[n, channels, height, width]` to 0 (DeVries & Taylor 2017). Its
    /// centre is any pixel, so a part of the square may be outside of the image. An inference graph returns the images
    /// unchanged.
    ///
    /// It is a mistake if there are not four axes.
    #[track_caller]
    pub fn cutout(self, size: usize) -> Tensor<'g> {
        let why = (self.shape().rank() != 4).then(|| "takes images [n, channels, height, width]".to_string());
        let Some(n) = self.random("cutout", why) else { return self };
        let (g, shape) = (self.graph(), self.shape());
        let _line = g.line();
        // Along an axis, a pixel is in the square if it is less than half a size away from the middle of the centre pixel.
        let near = |axis: usize| {
            let len = shape.dims()[axis];
            let along = Shape::from([1; 4]).with(axis, len);
            let places = g.constant(Host::new(along, (0..len).map(|i| i as f32).collect()));
            // The start of the square: whole numbers, all equally likely.
            let start = g.uniform([n, 1, 1, 1]) * len as f32 - (size / 2) as f32;
            let inside = |from: f32| places - start - from;
            inside(0.0).gt(-1.0) * inside(size as f32).le(-1.0)
        };
        (near(2) * near(3)).where_(0.0, self)
    }
    /// Mixes each sample `[n, …]` with another sample of the batch: `λ·x + (1 − λ)·x'`, and their labels `[n]` in the same way
    /// (Zhang et al. 2018, eq. 1). λ has the distribution Beta(`alpha`, `alpha`). The labels become probabilities `[n,
    /// classes]`, for [`losses::cross_entropy_soft`](crate::losses::cross_entropy_soft). Returns samples and labels. An
    /// inference graph mixes nothing.
    ///
    /// ```
    /// use downhill::{Device, Fit, Outputs, Trainer, data, losses, optim::Adam};
    /// let iris = data::iris();
    /// let mut trainer = Trainer::for_batches(
    ///     &Device::cpu(),
    ///     &iris,
    ///     |b| {
    ///         let (x, y) = b["x"].mixup(b["y"], 3, 0.2);
    ///         let scores = x.linear("fc", 3);
    ///         Outputs::new().output("scores", scores).loss("loss", 1.0, losses::cross_entropy_soft(scores, y).mean())
    ///     },
    ///     Adam::new(0.05),
    /// )?;
    /// trainer.fit(&iris, Fit::new().epochs(20))?;
    /// assert!(trainer.evaluate(&iris)?.accuracy > Some(0.8));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if the labels are not `[n]`, or `alpha` is not finite and positive.
    #[track_caller]
    pub fn mixup(self, labels: Tensor<'g>, classes: usize, alpha: f32) -> (Tensor<'g>, Tensor<'g>) {
        let _line = self.graph().line();
        let y = labels.one_hot(classes);
        let why = match () {
            () if self.shape().rank() == 0 || labels.shape().dims() != [self.shape().dims()[0]] => {
                Some(format!("takes samples [n, …] and labels [n], not {}", labels.shape()))
            }
            () if !(alpha > 0.0 && alpha.is_finite()) => Some(format!("alpha is {alpha}, but must be finite and positive")),
            () => None,
        };
        let Some(n) = self.random("mixup", why) else { return (self, y) };
        let g = self.graph();
        // λ is one of the quantiles of the distribution, each as likely: the sum of the steps between them that the random
        // number has passed.
        let quantiles = beta_quantiles(f64::from(alpha), QUANTILES);
        let steps = (0..QUANTILES).map(|k| if k == 0 { quantiles[0] } else { quantiles[k] - quantiles[k - 1] }).collect();
        let starts = (0..QUANTILES).map(|k| k as f32 / QUANTILES as f32).collect();
        let passed = g.uniform([n, 1]).ge(g.constant(Host::new([1, QUANTILES], starts)));
        let share = (passed * g.constant(Host::new([1, QUANTILES], steps))).sum(&[1], false);
        let mix = |x: Tensor<'g>| {
            let share = share.reshape(x.each(n));
            x * share + x.flip(0) * (1.0 - share)
        };
        (mix(self), mix(y))
    }

    /// Returns the shape `[n, 1, …]` of one number for each sample.
    fn each(self, n: usize) -> Shape {
        (1..self.shape().rank()).fold(self.shape(), |s, axis| s.with(axis, 1)).with(0, n)
    }
    /// Returns the number of samples, if the graph trains and there is no mistake.
    #[track_caller]
    fn random(self, op: &str, why: Option<String>) -> Option<usize> {
        let (g, place) = (self.graph(), Location::caller());
        if self.is_dead() {
            return None;
        }
        let why = why.or_else(|| (self.shape().rank() == 0).then(|| "takes samples [n, …]".to_string()));
        if let Some(why) = why {
            g.mistake(op, &[self], why, place);
            return None;
        }
        g.trains(op, &[self], place).then(|| self.shape().dims()[0])
    }
}

/// The number of values that λ can have.
const QUANTILES: usize = 256;

/// Returns the quantiles (k + ½)/n of Beta(a, a).
fn beta_quantiles(a: f64, n: usize) -> Vec<f32> {
    // The density t^(a−1)·(1 − t)^(a−1) is not finite at the ends if a < 1. With t = s^(1/a)/2 on the lower half, the density
    // of s is (1 − t)^(a−1) up to a factor, which is finite. The upper half mirrors the lower half.
    const GRID: usize = 4096;
    let t = |s: f64| s.powf(1.0 / a) / 2.0;
    let mut sums = vec![0.0];
    for k in 0..GRID {
        let s = (k as f64 + 0.5) / GRID as f64;
        sums.push(sums[k] + (1.0 - t(s)).powf(a - 1.0));
    }
    let all = sums[GRID];
    let lower = |p: f64| {
        let want = 2.0 * p * all;
        let k = sums.partition_point(|&sum| sum < want).clamp(1, GRID);
        let part = (want - sums[k - 1]) / (sums[k] - sums[k - 1]);
        t((k as f64 - 1.0 + part) / GRID as f64)
    };
    (0..n).map(|k| (k as f64 + 0.5) / n as f64).map(|p| if p <= 0.5 { lower(p) } else { 1.0 - lower(1.0 - p) } as f32).collect()
}
