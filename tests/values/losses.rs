//! Losses and their gradients: small values, masked classes, weights of 0.

use crate::common::Suite;

pub fn trials(_suite: &mut Suite) {}
