//! What every target does: the reader of that name gets the bytes. The readers, and what must hold, are the suite's.

#[path = "../tests/files/readers.rs"]
mod readers;

use readers::{READERS, Reader};
use std::{cell::RefCell, fs, path::Path};
use tempfile::TempDir;

thread_local! {
    /// Made at the first call, with a folder that stays as long as the process.
    static READER: RefCell<Option<(Reader, TempDir)>> = const { RefCell::new(None) };
}

fn with(name: &str, f: impl FnOnce(&mut Reader)) {
    READER.with_borrow_mut(|known| {
        let (reader, _) = known.get_or_insert_with(|| {
            let folder = tempfile::tempdir().expect("there is a folder for temporary files");
            let (_, make) = READERS.iter().find(|(known, _)| *known == name).expect("targets have the names of readers");
            (make(folder.path()), folder)
        });
        f(reader);
    });
}

/// Puts the samples where libFuzzer looks for files to begin with.
pub fn samples(name: &str) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    with(name, |reader| {
        for (k, sample) in reader.samples.iter().enumerate() {
            for (kind, bytes) in [("plain", sample.clone()), ("wrapped", (reader.wrap)(sample))] {
                // Where that is no folder, it begins with nothing.
                let _ = fs::create_dir_all(&corpus).and_then(|()| fs::write(corpus.join(format!("{kind}-{k}")), bytes));
            }
        }
    });
}

/// The bytes as they are, and wrapped: gzipped, for most.
pub fn read(name: &str, bytes: &[u8]) {
    with(name, |reader| {
        for bytes in [bytes.to_vec(), (reader.wrap)(bytes)] {
            if let Err(why) = reader.read(&bytes) {
                panic!("{why}");
            }
        }
    });
}
