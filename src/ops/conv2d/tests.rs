use super::*;
use crate::{Graph, ops::checks};

#[test]
fn cpu() {
    checks::cpu::<Conv2d>();
    checks::cpu::<Conv2dGradX>();
    checks::cpu::<Conv2dGradW>();
}

#[test]
fn wgsl() {
    checks::wgsl::<Conv2d>();
    checks::wgsl::<Conv2dGradX>();
    checks::wgsl::<Conv2dGradW>();
}
