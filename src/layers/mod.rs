//! Layers: named parameters and ops, no kernels of their own.

mod attention;
mod conv;
mod norm;
mod recurrent;

pub use attention::{MultiHeadAttention, TransformerEncoderLayer};
pub use conv::{Conv, Conv1d, Conv2d, ConvTranspose2d};
pub use norm::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm};
pub use recurrent::{Direction, Gru, Lstm, Recurrent};

use crate::{graph::Tensor, init::Init};
use std::panic::Location;

/// What a linear layer is made with.
#[derive(Clone, Debug, Default)]
pub struct Linear {
    /// Leaves the bias out.
    pub no_bias: bool,
    /// How the weight starts; PyTorch's default without one.
    pub weight: Option<Init>,
    /// How the bias starts; PyTorch's default without one.
    pub bias: Option<Init>,
}

impl<'g> Tensor<'g> {
    /// `y = x·Wᵀ + b` for the last axis: `[…, in]` to `[…, out]`, with the parameters `name.weight` `[out, in]` and
    /// `name.bias` `[out]`, which start uniform in ±1/√in, as PyTorch's do.
    ///
    /// ```
    /// use downhill::{Device, Graph};
    /// let g = Graph::training();
    /// let y = g.input([32, 784]).linear("fc1", 256).relu().linear("fc2", 10);
    /// assert_eq!(y.shape().dims(), &[32, 10]);
    /// ```
    #[track_caller]
    pub fn linear(self, name: &str, out: usize) -> Tensor<'g> {
        self.linear_with(name, out, Linear::default())
    }
    /// [`linear`](Tensor::linear) with options.
    #[track_caller]
    pub fn linear_with(self, name: &str, out: usize, options: Linear) -> Tensor<'g> {
        let shape = self.shape();
        if self.is_dead() {
            return self;
        }
        if shape.rank() == 0 {
            return self.graph().mistake("linear", &[self], "there is no axis to transform".into(), Location::caller());
        }
        let features = shape.last();
        let bound = 1.0 / (features as f32).sqrt();
        let default = || Init::Uniform { low: -bound, high: bound };
        let w = self.graph().param(&format!("{name}.weight"), [out, features], options.weight.unwrap_or_else(default));
        // All leading axes are rows of one product.
        let rows = self.reshape([shape.elements() / features, features]);
        let mut y = rows.matmul_t(w, false, true);
        if !options.no_bias {
            y = y + self.graph().param(&format!("{name}.bias"), [out], options.bias.unwrap_or_else(default));
        }
        if shape.rank() == 2 { y } else { y.reshape(shape.with(shape.rank() - 1, out)) }
    }
}
