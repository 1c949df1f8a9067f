//! Measures the candidates that a plan needs and that nobody has measured: first their numbers, then their time.
//!
//! [`measure`] goes through the ops of a plan before kernels are chosen for it. For each class of ops without a choice it runs the
//! candidates, first on a small problem with awkward sizes against the op's definition in `f64`, then for time. The results are
//! data of [`crate::choice`].

mod measure;
mod problem;

pub(crate) use measure::measure;
