//! Files, through gzip where their content says so.

use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

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
