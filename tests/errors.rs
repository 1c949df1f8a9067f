mod common;
fn main() {
    common::Suite::new().run()
}
