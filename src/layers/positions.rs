//! Embeddings and positions. Parameters and defaults are PyTorch's.

use crate::{
    graph::{Below, Tensor},
    host::Host,
    init::Init,
    shape::DType,
};
use std::panic::Location;

/// Options of [rotary positions](Tensor::rotary_with).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// The base of the angles. A larger base makes the angles of late pairs smaller. The default is 10,000.
    pub base: f32,
    /// Whether pair k has the features 2k and 2k + 1, as in the paper and in torchtune. Otherwise it has the features k and k + d/2, as in
    /// Hugging Face's Llama. The default is false.
    pub interleaved: bool,
}

impl Default for Rotary {
    fn default() -> Self {
        Rotary { base: 1e4, interleaved: false }
    }
}

impl<'g> Tensor<'g> {
    /// Looks up a vector for each index: indices `[..]` below `vocabulary` become `[.., dim]`. The vectors are the rows of
    /// the parameter `name.weight` `[vocabulary, dim]`, which starts standard normal. An index out of range is an error
    /// before the step runs.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::training();
    /// let y = g.labels([2, 3]).embedding("words", 10, 4);
    /// assert_eq!(y.shape().dims(), &[2, 3, 4]);
    /// let mut f = Device::cpu().compile(&[y])?;
    /// let error = f.run(&[Host::labels([2, 3], vec![0, 1, 2, 3, 10, 5])]).unwrap_err();
    /// assert_eq!(error.to_string(), "embedding: the index 10 at position [1, 1] is not below 10, the size of the vocabulary");
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn embedding(self, name: &str, vocabulary: usize, dim: usize) -> Tensor<'g> {
        let shape = self.shape();
        if self.is_dead() {
            return self;
        }
        if shape.dtype() != DType::U32 {
            let why = "takes indices (Graph::labels), not floats".to_string();
            return self.graph().mistake("embedding", &[self], why, Location::caller());
        }
        let table = self.graph().param(&format!("{name}.weight"), [vocabulary, dim], Init::Normal { mean: 0.0, std: 1.0 });
        // This check comes before the one of gather_rows, because its message speaks of the vocabulary.
        self.graph().require(self, Below { count: vocabulary, table: Some("embedding"), least: None, ignored: None });
        table.gather_rows(self)
    }
    /// Adds a learnt vector to each position of `[.., t, e]`: the first t rows of the parameter `name.weight` `[longest, e]`.
    /// The parameter starts normal with a standard deviation of 0.02. A sequence longer than `longest` is a mistake.
    #[track_caller]
    pub fn positional_embedding(self, name: &str, longest: usize) -> Tensor<'g> {
        let Some([t, e]) = self.places("positional_embedding") else { return self.graph().dead() };
        if t > longest {
            let why = format!("the sequence has {t} places, but {longest} were planned");
            return self.graph().mistake("positional_embedding", &[self], why, Location::caller());
        }
        let table = self.graph().param(&format!("{name}.weight"), [longest, e], Init::Normal { mean: 0.0, std: 0.02 });
        self + table.slice(0, 0, t)
    }
    /// Adds sinusoidal positions to `[.., t, e]`. Feature 2k of position i gets sin(i / 10000^(2k/e)), and feature 2k + 1
    /// gets the cosine of the same angle (Vaswani et al. 2017, §3.5).
    #[track_caller]
    pub fn sinusoidal_positions(self) -> Tensor<'g> {
        let Some([t, e]) = self.places("sinusoidal_positions") else { return self.graph().dead() };
        let value = |at: usize| {
            let (i, c) = ((at / e) as f64, at % e);
            let angle = i / 1e4f64.powf((c - c % 2) as f64 / e as f64);
            (if c % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
        };
        self + self.graph().constant(Host::new([t, e], (0..t * e).map(value).collect()))
    }
    /// Turns each pair of features of a sequence `[.., t, d]` by an angle that grows with the position: rotary positions (Su et al. 2021,
    /// §3.2.2). Pair k of position i becomes `(a·cos θ − b·sin θ, b·cos θ + a·sin θ)` with `θ = i / base^(2k/d)`. The product of a turned
    /// query and a turned key then depends on the distance of their positions only. Apply it to queries and keys with heads,
    /// `[n, heads, t, d]`.
    ///
    /// By default pair k has the features k and k + d/2, as in Hugging Face's Llama. It is a mistake if d is odd.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2, 2]).rotary()])?;
    /// let y = f.run(&[Host::new([2, 2], vec![1.0, 0.0, 1.0, 0.0])])?;
    /// assert_eq!(y[0].f(), &[1.0, 0.0, 1f32.cos(), 1f32.sin()]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn rotary(self) -> Tensor<'g> {
        self.rotary_with(Rotary::default())
    }
    /// [`rotary`](Tensor::rotary) with options. It is also a mistake if the base is not a positive, finite number.
    #[track_caller]
    pub fn rotary_with(self, options: Rotary) -> Tensor<'g> {
        let Rotary { base, interleaved } = options;
        let Some([t, d]) = self.places("rotary") else { return self.graph().dead() };
        let (g, shape, _line) = (self.graph(), self.shape(), self.graph().line());
        if !(d.is_multiple_of(2) && base > 0.0 && base.is_finite()) {
            let why = match d % 2 {
                0 => format!("the base must be a positive number, not {base}"),
                _ => format!("takes pairs of features, but there are {d}"),
            };
            return g.mistake("rotary", &[self], why, Location::caller());
        }
        // The axis of the two features of a pair.
        let (half, axis) = (d / 2, if interleaved { 3 } else { 2 });
        let (pairs, turns) = if interleaved { ([half, 2], [t, half, 1]) } else { ([2, half], [t, 1, half]) };
        let angle = |at: usize| (at / half) as f64 / f64::from(base).powf((2 * (at % half)) as f64 / d as f64);
        let table = |of: fn(f64) -> f64| g.constant(Host::new(turns, (0..t * half).map(|at| of(angle(at)) as f32).collect()));
        let (cos, sin) = (table(libm::cos), table(libm::sin));
        let x = self.reshape([shape.elements() / (t * d), t, pairs[0], pairs[1]]);
        let (a, b) = (x.slice(axis, 0, 1), x.slice(axis, 1, 2));
        (a * cos - b * sin).concat(&[b * cos + a * sin], axis).reshape(shape)
    }
    /// Returns the sizes of the last two axes of a sequence.
    #[track_caller]
    fn places(self, op: &str) -> Option<[usize; 2]> {
        let shape = self.shape();
        match shape.dims() {
            _ if self.is_dead() => None,
            [.., t, e] if shape.dtype() == DType::F32 => Some([*t, *e]),
            _ => {
                self.graph().mistake(op, &[self], "takes floats [.., places, features]".into(), Location::caller());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Graph, Shape};

    #[test]
    fn positions() {
        let g = Graph::inference();
        let y = Device::cpu().compile(&[(g.input([3, 5]) * 0.0).sinusoidal_positions()]).unwrap().run(&[Host::zeros(Shape::from([3, 5]))]);
        let y = y.unwrap().remove(0);
        let at = |i: f64, k: i32| i / 1e4f64.powf(f64::from(2 * k) / 5.0);
        let want: Vec<f64> = (0..3).flat_map(|i| [0, 0, 1, 1, 2].map(|k| at(f64::from(i), k))).collect();
        for (c, (got, angle)) in y.f().iter().zip(want).enumerate() {
            let want = if c % 5 % 2 == 0 { angle.sin() } else { angle.cos() };
            assert!((f64::from(*got) - want).abs() < 1e-6, "{c}");
        }
    }
    #[test]
    fn mistakes() {
        let told = |f: for<'g> fn(&'g Graph) -> Tensor<'g>, want: &str| {
            let g = Graph::training();
            assert!(f(&g).is_dead());
            let text = g.error().map_or(String::new(), |e| e.to_string());
            assert!(text.starts_with(want) && text.contains("(src/layers/positions.rs:"), "{text}");
        };
        told(|g| g.input([4, 3]).embedding("e", 5, 2), "embedding: [4, 3]: takes indices (Graph::labels), not floats");
        told(
            |g| g.input([2, 12, 4]).positional_embedding("p", 8),
            "positional_embedding: [2, 12, 4]: the sequence has 12 places, but 8 were planned",
        );
        told(|g| g.input([4]).sinusoidal_positions(), "sinusoidal_positions: [4]: takes floats [.., places, features]");
        told(|g| g.input([4]).rotary(), "rotary: [4]: takes floats [.., places, features]");
        told(|g| g.input([4, 5]).rotary(), "rotary: [4, 5]: takes pairs of features, but there are 5");
        told(
            |g| g.input([4, 6]).rotary_with(Rotary { base: -1.0, interleaved: true }),
            "rotary: [4, 6]: the base must be a positive number, not -1",
        );
    }
}
