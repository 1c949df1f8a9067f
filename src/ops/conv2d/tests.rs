use super::*;
use crate::{Graph, ops::checks};

#[test]
fn wgsl() {
    checks::wgsl::<Conv2d>();
    checks::wgsl::<Conv2dGradX>();
    checks::wgsl::<Conv2dGradW>();
}
