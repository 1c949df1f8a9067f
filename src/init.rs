//! Initialisers, which compute the initial values of parameters.
//!
//! The initial values of a parameter depend only on the seed and on the parameter's name and shape. So adding a layer does not
//! change the initial values of other layers.
//!
//! Weights are `[out, in, …]`. Let `field` be the product of the other axes, which is 1 for a linear layer and the kernel's
//! area for a convolution. Then `fan_in = in · field` and `fan_out = out · field`.

use crate::{
    error::{Error, Result},
    host,
    rng::Stream,
    shape::Shape,
    threads::lines,
};
use rand::RngExt;
use std::sync::Arc;

/// An initialiser of a parameter.
///
/// ```
/// use downhill::{Shape, init::Init};
/// let w = Init::FanIn.values(Shape::from([10, 64]), 1, "fc.weight")?;
/// assert!(w.len() == 640 && w.iter().all(|w| w.abs() <= 1.0 / 8.0));
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// All values are 0, as usual for a bias.
    Zeros,
    /// All values are 1, as usual for a scale.
    Ones,
    /// All values are this number.
    Constant(f32),
    /// Uniform in `low..high`.
    Uniform {
        /// The smallest possible value.
        low: f32,
        /// The upper bound, which is not included.
        high: f32,
    },
    /// Normal (Gaussian) with this mean and standard deviation.
    Normal {
        /// The mean.
        mean: f32,
        /// The standard deviation.
        std: f32,
    },
    /// Uniform in ±gain·√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16). The gain is 1 for linear layers and sigmoid,
    /// 5/3 for tanh and √2 for ReLU.
    XavierUniform {
        /// The factor that compensates for the activation after the layer.
        gain: f32,
    },
    /// Normal with standard deviation gain·√(2 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 12).
    XavierNormal {
        /// The factor that compensates for the activation after the layer.
        gain: f32,
    },
    /// Uniform in ±√(6 / ((1 + a²)·fan_in)) (He et al. 2015, eq. 15). `a` is the slope of the activation below 0, which is 0
    /// for ReLU.
    KaimingUniform {
        /// The slope of the activation below 0.
        a: f32,
    },
    /// Normal with standard deviation √(2 / ((1 + a²)·fan_in)) (He et al. 2015, eq. 15).
    KaimingNormal {
        /// The slope of the activation below 0.
        a: f32,
    },
    /// Uniform in ±1/√fan_in. PyTorch's `Linear` and `Conv2d` initialise their weights so (`KaimingUniform` with a = √5). They
    /// initialise their biases by a `Uniform` in ±1/√fan_in of the weight.
    FanIn,
    /// `gain` times a random matrix with orthonormal rows, or orthonormal columns if there are fewer columns than rows (Saxe,
    /// McClelland & Ganguli 2013). The rows are the axis `out`, and the columns are all other axes.
    Orthogonal {
        /// The length of the orthogonal vectors.
        gain: f32,
    },
    /// These values, row-major.
    Values(Arc<Vec<f32>>),
}

impl Init {
    /// Returns the initial values of a parameter with the given shape and name.
    ///
    /// # Errors
    /// - [`Error::Parameter`] if the initialiser needs two axes and the shape has fewer.
    /// - [`Error::Parameter`] if the number of [`Init::Values`] is not the number of elements.
    /// - [`Error::Parameter`] if the settings define no distribution (a NaN, `low > high`, `std < 0`).
    /// - [`Error::Device`] if there is not enough memory.
    pub fn values(&self, shape: Shape, seed: u64, name: &str) -> Result<Vec<f32>> {
        let (n, what) = (shape.elements(), format!("initial values of {name} {shape}"));
        let filled = |value: &mut dyn FnMut() -> f64| -> Result<Vec<f32>> {
            let mut all = host::zeros(&what, n)?;
            all.iter_mut().for_each(|x: &mut f32| *x = value() as f32);
            Ok(all)
        };
        let refuse = |why: String| Error::Parameter { name: name.to_string(), why };
        let fans = || match *shape.dims() {
            [out, inputs, ref field @ ..] => {
                let field: usize = field.iter().product();
                Ok(((inputs * field) as f64, (out * field) as f64))
            }
            _ => Err(refuse(format!("{self:?} needs the shape of a weight, [out, in, …], not {shape}; Uniform or Normal fit any shape"))),
        };
        let mut stream = Stream::new(seed, name);
        let mut uniform = |low: f64, high: f64| match low <= high && (high - low).is_finite() {
            true => filled(&mut || low + (high - low) * stream.random::<f64>()),
            false => Err(refuse(format!("{self:?} is no range of numbers"))),
        };
        let mut stream = Stream::new(seed, name);
        let mut normal = |mean: f64, std: f64| match mean.is_finite() && std.is_finite() && std >= 0.0 {
            true => filled(&mut || mean + std * stream.normal()),
            false => Err(refuse(format!("{self:?} is no normal distribution"))),
        };
        match *self {
            _ if n == 0 => Ok(Vec::new()),
            Init::Zeros => host::zeros(&what, n),
            Init::Ones => filled(&mut || 1.0),
            Init::Constant(c) => filled(&mut || f64::from(c)),
            Init::Uniform { low, high } => uniform(low as f64, high as f64),
            Init::Normal { mean, std } => normal(mean as f64, std as f64),
            Init::XavierUniform { gain } => {
                let (fan_in, fan_out) = fans()?;
                let bound = gain as f64 * (6.0 / (fan_in + fan_out)).sqrt();
                uniform(-bound, bound)
            }
            Init::XavierNormal { gain } => {
                let (fan_in, fan_out) = fans()?;
                normal(0.0, gain as f64 * (2.0 / (fan_in + fan_out)).sqrt())
            }
            Init::KaimingUniform { a } => {
                let bound = (6.0 / ((1.0 + (a as f64).powi(2)) * fans()?.0)).sqrt();
                uniform(-bound, bound)
            }
            Init::KaimingNormal { a } => normal(0.0, (2.0 / ((1.0 + (a as f64).powi(2)) * fans()?.0)).sqrt()),
            Init::FanIn => {
                let bound = 1.0 / fans()?.0.sqrt();
                uniform(-bound, bound)
            }
            Init::Orthogonal { gain } => {
                fans()?;
                if !gain.is_finite() {
                    return Err(refuse(format!("{self:?} has no finite gain")));
                }
                let rows = shape.dims()[0];
                let q = orthogonal(rows, n / rows, &mut Stream::new(seed, name), &what)?;
                let mut q = q.iter();
                filled(&mut || q.next().map_or(0.0, |q| q * gain as f64))
            }
            Init::Values(ref v) if v.len() == n => host::copy(&what, v),
            Init::Values(ref v) => Err(refuse(format!("{} values were given for {shape}, which has {n} elements", v.len()))),
        }
    }
}

/// Returns a random `rows` × `cols` matrix, row-major, with orthonormal rows, or orthonormal columns if there are fewer columns
/// than rows.
///
/// Gram-Schmidt on normal vectors gives a uniform distribution over orthogonal matrices. The modified form subtracts from every
/// later vector its projection onto each finished vector. The later vectors do not depend on each other, so the subtractions
/// run in parallel. In `f64` the error is about ε·κ. This is about 1e-11 for matrices of normal numbers, so one pass is enough.
fn orthogonal(rows: usize, cols: usize, stream: &mut Stream, what: &str) -> Result<Vec<f64>> {
    let (n, len) = (rows.min(cols), rows.max(cols));
    let mut q: Vec<f64> = host::zeros(what, n * len)?;
    q.iter_mut().for_each(|x| *x = stream.normal());
    for i in 0..n {
        let (done, later) = q.split_at_mut((i + 1) * len);
        let v = &mut done[i * len..];
        let norm = dot(v, v).sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
        lines(later, len, 1 + (1 << 14) / len, |_, w| {
            let along = dot(v, w);
            w.iter_mut().zip(&*v).for_each(|(w, v)| *w -= along * v);
        });
    }
    if rows <= cols {
        return Ok(q);
    }
    let mut turned = host::zeros(what, n * len)?;
    turned.iter_mut().enumerate().for_each(|(i, x)| *x = q[i % cols * len + i / cols]);
    Ok(turned)
}

/// Returns the dot product. It uses four partial sums, so that additions need not wait for each other.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.chunks_exact(4), b.chunks_exact(4));
    let tail: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    let mut sum = [0.0; 4];
    for (x, y) in a.zip(b) {
        for i in 0..4 {
            sum[i] += x[i] * y[i];
        }
    }
    sum.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims).unwrap()
    }

    /// Checks that values are uniform in ±`bound`: none exceeds the bound, the largest is near the bound, and the variance is
    /// bound²/3.
    fn check_uniform(v: &[f32], bound: f64, what: &str) {
        let n = v.len() as f64;
        let largest = v.iter().fold(0.0f64, |m, &x| m.max(x.abs() as f64));
        // The largest of n values is less than bound·(1 - 20/n) with probability e^-20.
        assert!(largest <= bound * (1.0 + 1e-6) && largest >= bound * (1.0 - 20.0 / n), "{what}: reaches {largest}, not {bound}");
        check_moments(v, bound / 3f64.sqrt(), 0.8, what);
    }

    /// Checks for mean 0 and standard deviation `std`, with a tolerance of 5 standard deviations of each estimate. `spread` is
    /// var(x²) / std⁴.
    fn check_moments(v: &[f32], std: f64, spread: f64, what: &str) {
        let n = v.len() as f64;
        let moment = |k| v.iter().map(|&x| (x as f64).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 5.0 * std / n.sqrt(), "{what}: mean {}", moment(1));
        assert!((moment(2) / (std * std) - 1.0).abs() < 5.0 * (spread / n).sqrt(), "{what}: std {}, not {std}", moment(2).sqrt());
    }

    #[test]
    fn bounds_and_deviations_are_pytorchs() {
        let golden: Value = serde_json::from_str(include_str!("../tests/golden/init.json")).unwrap();
        let mut checked = 0;
        for case in golden["cases"].as_array().unwrap() {
            let (what, args) = (case.to_string(), &case["args"]);
            let number = |v: &Value| v.as_f64().unwrap_or(0.0);
            let relu = args["mode"] == "fan_in" && ["relu", "leaky_relu"].iter().any(|n| args["nonlinearity"] == *n);
            let (gain, a) = (number(&args["gain"]) as f32, number(&args["a"]) as f32);
            let init = match case["init"].as_str().unwrap() {
                "xavier_uniform" => Init::XavierUniform { gain },
                "xavier_normal" => Init::XavierNormal { gain },
                "kaiming_uniform" if relu => Init::KaimingUniform { a },
                "kaiming_normal" if relu => Init::KaimingNormal { a },
                "torch_default_weight" => Init::FanIn,
                _ => continue,
            };
            checked += 1;
            let dims: Vec<usize> = case["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
            let v = init.values(shape(&dims), checked, "w").unwrap();
            match (case["bound"].as_f64(), case["std"].as_f64()) {
                (Some(bound), _) => check_uniform(&v, bound, &what),
                (_, Some(std)) => check_moments(&v, std, 2.0, &what),
                _ => panic!("neither bound nor std: {what}"),
            }
        }
        // Two shapes × (7 gains × 2 Xavier + 3 slopes × 2 Kaiming + FanIn).
        assert_eq!(checked, 42);
    }

    #[test]
    fn plain_ones() {
        let v = |init: Init, n: usize| init.values(shape(&[n]), 1, "b").unwrap();
        assert_eq!(v(Init::Zeros, 3), [0.0; 3]);
        assert_eq!(v(Init::Ones, 3), [1.0; 3]);
        assert_eq!(v(Init::Constant(0.25), 2), [0.25; 2]);
        assert_eq!(v(Init::Values(Arc::new(vec![0.2, 1.4, 30.0])), 3), [0.2, 1.4, 30.0]);
        let u = v(Init::Uniform { low: 3.0, high: 5.0 }, 4096).iter().map(|x| x - 4.0).collect::<Vec<_>>();
        check_uniform(&u, 1.0, "Uniform");
        let n = v(Init::Normal { mean: -2.0, std: 0.5 }, 4096).iter().map(|x| x + 2.0).collect::<Vec<_>>();
        check_moments(&n, 0.5, 2.0, "Normal");
        assert_eq!(Init::Constant(7.0).values(Shape::SCALAR, 1, "temperature").unwrap(), [7.0]);
        assert_eq!(Init::FanIn.values(shape(&[3, 0]), 1, "w").unwrap(), [0.0; 0]);
    }

    #[test]
    fn orthogonal_is_orthogonal() {
        for (dims, gain) in [(&[7, 7][..], 1.0f32), (&[5, 40], 2.0), (&[64, 10], 1.0), (&[8, 3, 3, 3], 1.0), (&[1, 1], 3.0)] {
            let w = Init::Orthogonal { gain }.values(shape(dims), 1, "w").unwrap();
            let (rows, cols) = (dims[0], w.len() / dims[0]);
            let at = |i: usize, k: usize| if rows <= cols { w[i * cols + k] } else { w[k * cols + i] } as f64;
            let n = rows.min(cols);
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let got: f64 = (0..rows.max(cols)).map(|k| at(i, k) * at(j, k)).sum();
                let want = if i == j { (gain * gain) as f64 } else { 0.0 };
                assert!((got - want).abs() < 1e-5, "{dims:?}: vectors {i} and {j} have the product {got}");
            }
        }
    }

    #[test]
    fn the_seed_and_the_name_decide() {
        for init in [Init::FanIn, Init::Normal { mean: 0.0, std: 1.0 }, Init::Orthogonal { gain: 1.0 }] {
            let v = |seed, name| init.values(shape(&[8, 8]), seed, name).unwrap();
            assert_eq!(v(1, "fc1.weight"), v(1, "fc1.weight"));
            assert_ne!(v(1, "fc1.weight"), v(2, "fc1.weight"));
            assert_ne!(v(1, "fc1.weight"), v(1, "fc2.weight"));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let error = |init: Init, dims: &[usize]| init.values(shape(dims), 1, "fc.bias").unwrap_err().to_string();
        assert!(error(Init::FanIn, &[3]).contains("parameter fc.bias: FanIn needs the shape of a weight, [out, in, …], not [3]"));
        assert!(error(Init::Orthogonal { gain: 1.0 }, &[]).contains("not []"));
        assert!(error(Init::Orthogonal { gain: f32::NAN }, &[2, 2]).contains("gain"));
        assert!(error(Init::Values(Arc::new(vec![0.0; 5])), &[2, 3]).contains("5 values were given for [2, 3], which has 6 elements"));
        assert!(error(Init::Uniform { low: 1.0, high: 0.0 }, &[2]).contains("no range"));
        assert!(error(Init::Uniform { low: 0.0, high: f32::INFINITY }, &[2]).contains("no range"));
        assert!(error(Init::Normal { mean: 0.0, std: -1.0 }, &[2]).contains("no normal"));
        assert!(error(Init::KaimingNormal { a: f32::NAN }, &[2, 2]).contains("no normal"));
    }
}
