//! Means, variances, norms and normalisation of values that are large, equal or far from 0.

use crate::common::Suite;

pub fn trials(_suite: &mut Suite) {}
