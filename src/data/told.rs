//! The events of the crate `log` that a unit test causes. A process has one logger, so all unit tests share this one.

use std::{cell::RefCell, sync::Once};

thread_local!(static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

struct Told;

impl log::Log for Told {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        if record.target().starts_with("downhill") {
            TOLD.with_borrow_mut(|told| told.push(format!("{} {}: {}", record.level(), record.target(), record.args())));
        }
    }
    fn flush(&self) {}
}

/// Returns the events of `f` on this thread whose target starts with `target`.
pub(crate) fn told(target: &str, f: impl FnOnce()) -> Vec<String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Told).expect("no other test of this library has a logger");
        log::set_max_level(log::LevelFilter::Info);
    });
    TOLD.take();
    f();
    TOLD.take().into_iter().filter(|event| event.split_once(' ').is_some_and(|(_, rest)| rest.starts_with(target))).collect()
}
