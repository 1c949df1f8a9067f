//! The time of every case of an op, by the clock and the table of `cargo bench`.

#[path = "../../benches/bench/table.rs"]
#[allow(dead_code)]
mod table;

use crate::common::{BOTH, On};
use downhill::{Compiled, Device, Error, Graph, Shape, ops, ops::Case, plan, testing};
use std::time::Duration;
use table::{Budget, Rate, Table};

/// Times the ops with `part` in their name, all of them without it. A machine without a GPU has the rows of the CPU device alone.
pub fn run(part: Option<&str>) {
    if cfg!(debug_assertions) {
        println!("Add --release for times of the CPU device that mean something; kernels of a GPU are the same either way.");
    }
    let budget = Budget { time: Duration::from_millis(100), repetition: Duration::from_millis(2) };
    let mut table = Table::new(None, None, budget).expect("no file is opened");
    let mut timed = false;
    for on in BOTH {
        let device = match on.open() {
            Ok(device) => device,
            Err(why) => {
                println!("\n{}: {why}", On::name(on));
                continue;
            }
        };
        table.device(&device);
        for (op, cases) in ops::all().into_iter().filter(|(op, _)| part.is_none_or(|part| op.contains(part))) {
            table.open(op, "every case, forward; bytes that must move, or operations where there are more than four for each byte");
            cases.iter().for_each(|case| rows(&mut table, &device, case));
            table.close();
            timed = true;
        }
    }
    if !timed || table.failed {
        eprintln!("{}", if timed { "not every row could be measured" } else { "no op has that in its name" });
        std::process::exit(1);
    }
}

/// A row for each candidate of one case.
fn rows(table: &mut Table, device: &Device, case: &Case) {
    let g = Graph::inference();
    let y = testing::alone(&g, case);
    let shapes: Vec<Shape> = case.inputs.iter().map(|i| i.0).collect();
    let (flops, bytes) = (case.op.flops(&shapes, y.shape()), case.op.bytes(&shapes, y.shape()));
    let rate = if flops > 4 * bytes { Rate::Flop(flops as f64) } else { Rate::Bytes(bytes as f64) };
    let names = match device.as_gpu() {
        None => vec!["cpu"],
        Some(_) if case.op.is_alias() => return,
        Some(gpu) => case.op.kernels(&shapes, y.shape(), gpu.caps()).iter().map(|kernel| kernel.name).collect(),
    };
    for (candidate, name) in names.into_iter().enumerate() {
        let row = format!("{}: {name}", case.name);
        let options = plan::PlanOptions { candidate: Some(candidate), ..device.plan_options() };
        let loaded = Compiled::new(device, &[y], &options, 0).and_then(|mut f| f.load(&case.fill(17)).map(|()| f));
        match loaded {
            Ok(mut f) => table.repeated(&row, rate, |n| {
                (0..n).try_for_each(|_| f.launch())?;
                f.wait()
            }),
            Err(error) => table.repeated(&row, rate, |_| Err(Error::clone(&error))),
        }
    }
}
