//! Clipping, updates and indices where something overflows or does not exist.

use crate::common::Suite;

pub fn trials(_suite: &mut Suite) {}
