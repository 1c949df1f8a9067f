//! Files that are read and written.

#[path = "../common/mod.rs"]
mod common;

mod mutations;
mod parsers;
mod readers;
mod saving;

fn main() {
    let mut suite = common::Suite::new();
    mutations::trials(&mut suite);
    parsers::trials(&mut suite);
    saving::trials(&mut suite);
    suite.run()
}
