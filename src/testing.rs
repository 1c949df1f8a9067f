//! Checks for ops.
use crate::{host::Host, ops::Fill, shape::Shape};

pub fn fill(_shape: Shape, _fill: &Fill, _seed: u64) -> Host<f32> {
    Host::zeros(_shape)
}
