//! Every op's own cases, on the CPU device and on a GPU: see `downhill::testing` for what is checked.

use downhill::{Device, ops, testing};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let args = Arguments::from_args();
    let gpu = Device::gpu();
    let mut trials = Vec::new();
    for (op, cases) in ops::all() {
        for (i, case) in cases.into_iter().enumerate() {
            let name = format!("{op}/{i} {}", case.name.replace(' ', "_"));
            let c = case.clone();
            trials.push(Trial::test(format!("reference/{name}"), move || Ok(testing::check_reference(&c)?)));
            let c = case.clone();
            trials.push(Trial::test(format!("cpu/{name}"), move || Ok(testing::check_device(&c, &Device::cpu())?)));
            let gpu = gpu.clone();
            trials.push(Trial::test(format!("gpu/{name}"), move || match gpu {
                Ok(gpu) => Ok(testing::check_device(&case, &gpu)?),
                Err(e) => Err(e.to_string().into()),
            }));
        }
    }
    libtest_mimic::run(&args, trials).exit()
}
