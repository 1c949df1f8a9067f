//! Right numbers where public bug reports of other libraries showed wrong ones, and answers where they had NaN, infinity or a
//! refusal. Each value is a closed form, or PyTorch's in f64.

#[path = "../common/mod.rs"]
mod common;

mod anything;
mod elementwise;
mod evaluation;
mod losses;
mod norms;
mod refusals;
mod trainer;
mod updates;

fn main() {
    let mut suite = common::Suite::new();
    anything::trials(&mut suite);
    elementwise::trials(&mut suite);
    evaluation::trials(&mut suite);
    losses::trials(&mut suite);
    norms::trials(&mut suite);
    refusals::trials(&mut suite);
    trainer::trials(&mut suite);
    updates::trials(&mut suite);
    suite.run()
}
