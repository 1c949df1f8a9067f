//! Every op's own cases, on the CPU device and on GPUs: see `downhill::testing` for what is checked.
//!
//! On `small` the limits are so low that dispatches fold past the group limit, and that elementwise code, reductions
//! and flat buffers split past the binding limit.

mod common;

use common::{Check, On, Suite};
use downhill::{
    Device,
    ops::{self, Case},
    testing,
};

fn main() {
    let mut suite = Suite::new();
    for (op, cases) in ops::all() {
        for (i, case) in cases.into_iter().enumerate() {
            let name = format!("{op}/{i} {}", case.name.replace(' ', "_"));
            let c = case.clone();
            suite.test(&format!("reference/{name}"), move || Ok(testing::check_reference(&c)?));
            for on in [On::Cpu, On::Gpu] {
                let c = case.clone();
                suite.on(on, &name, move |device| Ok(testing::check_device(&c, device)?));
            }
            suite.on(On::Small, &name, move |device| small(op, &case, device));
        }
    }
    suite.run()
}

/// Right, or an error that names need and limit: never a wrong number.
fn small(op: &str, case: &Case, device: &Device) -> Check {
    let Err(why) = testing::check_device(case, device) else { return Ok(()) };
    let limit = common::inner(device).caps().max_binding_bytes;
    let most = case.inputs.iter().map(|(s, _)| s.bytes()).max().unwrap_or(0);
    let splits = ["map", "reduce"].contains(&op);
    match why.contains(&format!("but this device's limit is {limit}:")) && most > limit && !splits {
        true => Ok(()),
        false => Err(why.into()),
    }
}
