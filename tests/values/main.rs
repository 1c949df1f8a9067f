//! Right numbers where public bug reports of other libraries showed wrong ones, and answers where they had NaN, infinity or a
//! refusal. Each value is a closed form, or PyTorch's in f64.

#[path = "../common/mod.rs"]
mod common;

mod anything;
mod clips;
mod elementwise;
mod evaluation;
mod frozen;
mod groups;
mod losses;
mod norms;
mod refusals;
mod trainer;
mod updates;
mod watchdog;
mod whole;

fn main() {
    let mut suite = common::Suite::new();
    anything::trials(&mut suite);
    clips::trials(&mut suite);
    elementwise::trials(&mut suite);
    evaluation::trials(&mut suite);
    frozen::trials(&mut suite);
    groups::trials(&mut suite);
    losses::trials(&mut suite);
    norms::trials(&mut suite);
    refusals::trials(&mut suite);
    trainer::trials(&mut suite);
    updates::trials(&mut suite);
    watchdog::trials(&mut suite);
    whole::trials(&mut suite);
    suite.run()
}
