//! Files, through gzip where their content says so, and where sets of them are looked for.

use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Component, Path, PathBuf},
};

/// Where data sets are looked for by name: `$DOWNHILL_DATA`, the user's cache, and where Debian's packages put data.
pub(super) fn roots() -> Vec<PathBuf> {
    let set = |key: &str| env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let roots = [set("DOWNHILL_DATA"), cache.map(|c| c.join("downhill")), Some("/usr/share/datasets".into())];
    roots.into_iter().flatten().collect()
}

/// The folders that `name` can mean. Only a bare name is looked up; a path means itself.
pub(super) fn places(name: &Path, roots: &[PathBuf]) -> Vec<PathBuf> {
    let bare = matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let below = roots.iter().filter(|_| bare).map(|root| root.join(name));
    std::iter::once(name.to_path_buf()).chain(below).collect()
}

pub(super) struct Source {
    path: PathBuf,
    gzip: bool,
    reader: Box<dyn Read>,
}

pub(super) fn open(path: &Path) -> Result<Source> {
    let mut file = BufReader::new(File::open(path).map_err(|e| Error::file(path, e))?);
    let gzip = file.fill_buf().map_err(|e| Error::file(path, e))?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(Source { path: path.to_path_buf(), gzip, reader })
}

impl Source {
    /// The next bytes, at most `limit`; fewer where the file ends. Memory grows with what comes, never with `limit`.
    pub fn read(&mut self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match (&mut self.reader).take(limit).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(e) if self.gzip => Err(Error::format(&self.path, format!("corrupt gzip ({e}); copy or download it again"))),
            Err(e) => Err(Error::file(&self.path, e)),
        }
    }
}
