//! Files that are read and written.

#[path = "../common/mod.rs"]
mod common;

mod parsers;
mod saving;

fn main() {
    let mut suite = common::Suite::new();
    parsers::trials(&mut suite);
    saving::trials(&mut suite);
    suite.run()
}
