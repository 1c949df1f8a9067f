//! Measures the candidates that a plan needs and that have no verdict yet.
//!
//! [`measure`] visits the ops of a plan before the plan chooses kernels. For each class of ops without a choice, it checks and
//! times the candidates. The check compares a candidate with the op's definition in `f64` on a small problem with awkward
//! sizes. The module [`crate::choice`] stores the results.

mod measure;
mod problem;

pub(crate) use measure::measure;
