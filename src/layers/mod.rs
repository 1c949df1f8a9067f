//! Layers: they combine named parameters and ops. Layers have no kernels of their own.

mod attention;
mod augment;
mod conv;
mod norm;
mod positions;
mod recurrent;
mod unrolled;
mod volumes;

pub use crate::ops::attention::AttentionMask;
pub use attention::{MultiHeadAttention, TransformerDecoderLayer, TransformerEncoderLayer};
pub use augment::RandomAffine;
pub use conv::{Conv, Conv1d, Conv2d, ConvTranspose2d};
pub use norm::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm};
pub use positions::Rotary;
pub use recurrent::{Direction, Gru, Lstm, Recurrent};
pub use volumes::Conv3d;

use crate::{graph::Tensor, init::Init};
use std::panic::Location;

/// Options of a [linear layer](Tensor::linear_with).
#[derive(Clone, Debug, Default)]
pub struct Linear {
    /// Leaves the bias out.
    pub no_bias: bool,
    /// The initialiser of the weight; `None` means PyTorch's default.
    pub weight: Option<Init>,
    /// The initialiser of the bias; `None` means PyTorch's default.
    pub bias: Option<Init>,
}

impl<'g> Tensor<'g> {
    /// Applies a linear layer to the last axis: `y = x·Wᵀ + b`, `[…, in]` to `[…, out]`. The parameters are `name.weight`
    /// `[out, in]` and `name.bias` `[out]`. Both start uniform in ±1/√in, as in PyTorch.
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
        // The leading axes are joined, so that one matrix product computes all rows.
        let rows = self.reshape([shape.elements() / features, features]);
        let mut y = rows.matmul_t(w, false, true);
        if !options.no_bias {
            y = y + self.graph().param(&format!("{name}.bias"), [out], options.bias.unwrap_or_else(default));
        }
        if shape.rank() == 2 { y } else { y.reshape(shape.with(shape.rank() - 1, out)) }
    }
}
