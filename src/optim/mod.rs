//! Optimizers: one rule, one dispatch over the flat buffers of the whole model.

use crate::{
    error::Result,
    graph::ParamDef,
    host::Real,
    kernel::{Source, Word},
};
use std::fmt;

/// Hyperparameters of one group for one step, computed on the host in `f64`: the rule says what each entry means.
pub type Hyper = [f64; 8];

/// An update rule. Its WGSL file defines
/// `fn update(i: u32, w: f32, g: f32, h: Hyper) -> f32`, which returns the new weight, and reads and writes the
/// states as arrays named as in `STATES`, at `i`.
pub trait Rule: fmt::Debug + Clone + Send + Sync + 'static {
    /// The file's name and the optimizer's.
    const NAME: &'static str;
    /// The flat state buffers, by name.
    fn states(&self) -> Vec<&'static str>;
    /// The WGSL file.
    fn source(&self) -> Source;
    /// Options that are compiled in.
    fn consts(&self) -> Vec<(&'static str, Word)>;
    /// The hyperparameters of step `t` (from 1), at learning rate `lr` and weight decay `decay`.
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper;
    /// The definition: the new weight; `s` are this element's states.
    fn update<T: Real>(&self, w: T, g: T, s: &mut [T], h: &[T; 8]) -> T;
}
