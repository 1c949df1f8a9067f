//! Files that are read and written.

#[path = "../common/mod.rs"]
mod common;

mod mutations;
mod parsers;
mod readers;
mod saving;
mod sources;
mod weights;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = saving::child() {
        return code;
    }
    let mut suite = common::Suite::new();
    mutations::trials(&mut suite);
    parsers::trials(&mut suite);
    saving::trials(&mut suite);
    sources::trials(&mut suite);
    weights::trials(&mut suite);
    suite.run()
}
