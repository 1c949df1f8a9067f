//! Reading of files. This module unpacks gzip, limits the size of files, and finds the folders of named data sets.

use crate::{
    error::{Error, Result},
    threads::lock,
};
use flate2::bufread::GzDecoder;
use std::{
    cell::Cell,
    env,
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
    sync::Mutex,
};

/// The largest size of a file in bytes, unless [`with_read_limit`] sets another size.
const MOST: u64 = 4 << 30;
/// A gzip of any size may unpack to this many bytes. Beyond that it may unpack to [`RATIO`] times its own size.
const ALWAYS: u64 = 16 << 20;
/// Tables of numbers usually shrink to between a fifth and a twentieth. The largest ratio of gzip is 1,032. Only files that
/// repeat a few bytes come near it.
const RATIO: u64 = 256;

thread_local! {
    static LIMIT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs `read` with another limit for the size of files. Each file that `read` reads in this thread may have up to `bytes`
/// bytes, unpacked.
///
/// Without this function, every reader of [`data`](crate::data) stops with [`Error::File`] at 4 GiB. A gzipped file also
/// stops at 256 times its own size, but not below 16 MiB, because a small gzip can unpack to more than the memory holds.
/// `bytes` replaces both rules, and may be larger or smaller.
///
/// ```no_run
/// use downhill::data::{self, Csv};
/// let large = data::with_read_limit(32 << 30, || Csv::new("clicks.csv.gz").labels(0).read())?;
/// # Ok::<(), downhill::Error>(())
/// ```
pub fn with_read_limit<T>(bytes: u64, read: impl FnOnce() -> T) -> T {
    struct Back(Option<u64>);
    impl Drop for Back {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    let _back = Back(LIMIT.replace(Some(bytes)));
    read()
}

/// Returns the folders in which data sets are searched by name: `$DOWNHILL_DATA`, the user's cache, and the data folder of
/// Debian's packages.
pub(super) fn roots() -> Vec<PathBuf> {
    let set = |key: &str| env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let roots = [set("DOWNHILL_DATA"), cache.map(|c| c.join("downhill")), Some("/usr/share/datasets".into())];
    roots.into_iter().flatten().collect()
}

/// Returns the folders that `name` can mean. Only a bare name is searched in `roots`. A path means only itself.
pub(super) fn places(name: &Path, roots: &[PathBuf]) -> Vec<PathBuf> {
    let bare = matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let below = roots.iter().filter(|_| bare).map(|root| root.join(name));
    std::iter::once(name.to_path_buf()).chain(below).collect()
}

pub(super) struct DataFile {
    path: PathBuf,
    /// The size of the file on disk in bytes. `None` for a pipe, whose size is unknown.
    size: Option<u64>,
    gzip: bool,
    reader: Box<dyn Read>,
    /// The number of bytes read so far. `limit` is the largest number allowed.
    read: u64,
    limit: u64,
}

pub(super) fn open(path: &Path) -> Result<DataFile> {
    let failed = |e| Error::file(path, e);
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().ok().filter(|m| m.is_file()).map(|m| m.len());
    let mut file = BufReader::new(file);
    let gzip = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    let limit = size.filter(|_| gzip).map_or_else(|| LIMIT.get().unwrap_or(MOST), unpacked);
    let reader: Box<dyn Read> = if gzip { Box::new(Members(Some(GzDecoder::new(file)))) } else { Box::new(file) };
    let source = DataFile { path: path.to_path_buf(), size, gzip, reader, read: 0, limit };
    // The file is too large already. Reading it would only take time.
    if !gzip && size.is_some_and(|size| size > limit) { Err(source.too_large()) } else { Ok(source) }
}

/// Returns the largest number of bytes to which a packed file of `size` bytes may unpack.
pub(super) fn unpacked(size: u64) -> u64 {
    LIMIT.get().unwrap_or(size.saturating_mul(RATIO).clamp(ALWAYS, MOST))
}

impl DataFile {
    /// Reads the rest of the file.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        self.read(u64::MAX)
    }
    /// Reads the next `count` bytes, or fewer at the end of the file. Memory grows with the bytes that arrive, never with
    /// `count` alone.
    pub fn read(&mut self, count: u64) -> Result<Vec<u8>> {
        let (left, mut bytes) = (self.limit - self.read, Vec::new());
        match (&mut self.reader).take(count.min(left.saturating_add(1))).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > left => Err(self.too_large()),
            Ok(_) => {
                self.read += bytes.len() as u64;
                Ok(bytes)
            }
            Err(e) if e.kind() == ErrorKind::OutOfMemory => Err(no_memory(&self.path, bytes.len())),
            Err(e) if self.gzip => Err(Error::format(&self.path, format!("corrupt gzip ({e}); copy or download it again"))),
            Err(e) => Err(Error::file(&self.path, e)),
        }
    }
    fn too_large(&self) -> Error {
        let of = match self.size {
            Some(size) if self.gzip => format!("this gzip of {size} bytes unpacks to"),
            Some(size) => format!("it has {size} bytes,"),
            None => "it has".to_string(),
        };
        let why = format!("{of} more than the limit of {} bytes; data::with_read_limit sets another", self.limit);
        Error::file(&self.path, why)
    }
}

/// A file that is read at any place. Its length must not change.
///
/// Memory that maps a file would end the process with a signal if another program cut the file short. Reading is an error then.
#[derive(Debug)]
pub(super) struct Reads {
    path: PathBuf,
    file: Mutex<File>,
    len: u64,
}

impl Reads {
    pub fn open(path: &Path) -> Result<Reads> {
        let failed = |e| Error::file(path, e);
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        match meta.is_file() {
            true => Ok(Reads { path: path.to_path_buf(), file: Mutex::new(file), len: meta.len() }),
            false => Err(Error::file(path, "it is not a file, so it cannot be read at any place")),
        }
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Returns the length in bytes at the time of opening.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// Reads the bytes from `at` on.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let mut file = lock(&self.file);
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(out));
        drop(file);
        read.map_err(|e| self.check().err().unwrap_or_else(|| Error::file(&self.path, e)))
    }
    /// Returns an error if the length has changed.
    pub fn check(&self) -> Result<()> {
        let now = lock(&self.file).metadata().map_err(|e| Error::file(&self.path, e))?.len();
        match now == self.len {
            true => Ok(()),
            false => {
                let why =
                    format!("it had {} bytes when it was opened, but it has {now} now; leave it as it is while it is in use", self.len);
                Err(Error::file(&self.path, why))
            }
        }
    }
}

/// Reads a whole file as text, without the byte order mark of UTF-8.
pub(super) fn text(path: &Path) -> Result<String> {
    let mut text = utf8(path, open(path)?.rest()?)?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + lines(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        Error::format(path, format!("line {line}: not UTF-8 text; save it as UTF-8"))
    })
}

/// Counts the ends of lines in a text: `\n`, `\r\n` or `\r`.
pub(super) fn lines(text: &[u8]) -> usize {
    let ends = |(i, &byte): (usize, &u8)| byte == b'\n' || (byte == b'\r' && text.get(i + 1) != Some(&b'\n'));
    text.iter().enumerate().filter(|&at| ends(at)).count()
}

/// Returns an empty vector with room for `len` elements of a file.
pub(super) fn room<T>(path: &Path, len: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(len).map_err(|_| no_memory(path, len.saturating_mul(size_of::<T>())))?;
    Ok(room)
}

pub(super) fn no_memory(path: &Path, bytes: usize) -> Error {
    Error::file(path, format!("there is no memory for its content ({bytes} bytes so far)"))
}

/// The members of a gzip file, one after the other. Zeros may stand between and after the members, because archives and tapes
/// are padded. `gzip` and Python accept such zeros too.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            match member.read(buffer)? {
                0 if !buffer.is_empty() => {}
                n => return Ok(n),
            }
            let mut rest = self.0.take().expect("matched above").into_inner();
            // The reader is `None` at the end of the file.
            self.0 = loop {
                let bytes = rest.fill_buf()?;
                let (zeros, len) = (bytes.iter().take_while(|&&b| b == 0).count(), bytes.len());
                rest.consume(zeros);
                match () {
                    () if len == 0 => break None,
                    () if zeros < len => break Some(GzDecoder::new(rest)),
                    () => {}
                }
            };
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::idx::tests::gzip, *};
    use flate2::{Compression, write::GzEncoder};
    use std::{fs, io::Write};

    fn read(bytes: &[u8]) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, bytes).unwrap();
        open(&path)?.rest()
    }

    #[test]
    fn members_and_the_zeros_around_them() {
        let (a, b, none) = (gzip(b"one, "), gzip(b"two"), gzip(b""));
        // More zeros than the reader's buffer holds.
        let zeros = vec![0; 20_000];
        for parts in
            [vec![&a[..], &b], vec![&a, &b, &[0]], vec![&a, &zeros, &b, &zeros], vec![&none, &a, &none, &zeros, &none, &b, &none, &[0; 3]]]
        {
            assert_eq!(read(&parts.concat()).unwrap(), b"one, two", "{} parts", parts.len());
        }
        for (parts, what) in [
            (vec![&a[..], b"x"], "other bytes behind it"),
            (vec![&a, &zeros, b"x"], "other bytes behind the zeros"),
            (vec![&a, &[0; 3], &b[..b.len() - 1]], "half a member"),
            (vec![&a, &[0x1f]], "half a header"),
        ] {
            let e = read(&parts.concat()).unwrap_err();
            assert!(matches!(e, Error::Format { .. }) && e.to_string().contains("corrupt gzip"), "{what}: {e}");
        }
    }

    #[test]
    fn reading_stops_at_a_limit() {
        // The best compression makes the file so small that the ratio alone would allow less.
        let sevens = |n: u64| {
            let mut packed = GzEncoder::new(Vec::new(), Compression::best());
            packed.write_all(&vec![b'7'; n as usize]).unwrap();
            packed.finish().unwrap()
        };
        let large = sevens(ALWAYS + 1);
        let e = read(&large).err().unwrap();
        let want = format!("this gzip of {} bytes unpacks to more than the limit of {ALWAYS} bytes; data::with_read_limit", large.len());
        assert!(matches!(e, Error::File { .. }) && e.to_string().contains(&want), "{e}");
        assert_eq!(with_read_limit(ALWAYS + 1, || read(&large)).unwrap().len() as u64, ALWAYS + 1);
        assert!(read(&sevens(ALWAYS)).is_ok());

        // The limit is exact to the byte, gzipped or not. After the call it no longer applies.
        for bytes in [b"12345678".to_vec(), gzip(b"12345678")] {
            assert!(with_read_limit(8, || read(&bytes)).is_ok());
            let e = with_read_limit(7, || read(&bytes)).unwrap_err();
            assert!(matches!(e, Error::File { .. }) && e.to_string().contains("more than the limit of 7 bytes"), "{e}");
            assert!(read(&bytes).is_ok());
        }
        let outer = with_read_limit(3, || with_read_limit(9, || read(b"12345678")).is_ok() && read(b"12345678").is_err());
        assert!(outer);
        let caught = std::panic::catch_unwind(|| with_read_limit(3, || panic!("on purpose")));
        assert!(caught.is_err() && read(b"12345678").is_ok());
    }

    #[test]
    #[cfg(unix)]
    fn what_never_ends_or_only_seems_large() {
        let e = with_read_limit(1 << 20, || open(Path::new("/dev/zero"))?.rest()).unwrap_err();
        assert!(e.to_string().starts_with("/dev/zero: it has more than the limit of 1048576 bytes"), "{e}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        let e = open(&path).err().unwrap();
        assert!(e.to_string().contains("it has 4294967297 bytes, more than the limit of 4294967296 bytes"), "{e}");
    }

    #[test]
    fn lines_of_every_system() {
        for (text, n) in [("", 0), ("a", 0), ("a\nb\n", 2), ("a\r\nb\r\n", 2), ("a\rb\r", 2), ("\n\r\n\r\r\n", 4)] {
            assert_eq!(lines(text.as_bytes()), n, "{text:?}");
        }
    }
}
