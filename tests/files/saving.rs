//! Files that are written: whole, whoever else writes, and whenever the process dies.

use crate::common::Suite;

pub fn trials(_suite: &mut Suite) {}
