//! How files are written: whole, or not at all. Everything that this crate writes goes through here.

use crate::error::{Error, Result};
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::{Builder, NamedTempFile};

/// What the names of temporary files begin and end with.
const NAME: [&str; 2] = [".downhill-", ".tmp"];

/// A temporary file that nobody has written to for so long, and that nobody has locked, was left by a process that is no more.
const STALE: Duration = Duration::from_secs(3600);

/// Puts `bytes` in the place of a file, which is made if it is not there. Whoever reads it at the same time sees the old content or
/// the new one, and so it is after a crash, a loss of power, and where writing fails.
///
/// The bytes go to a file with a name of its own in the same folder, are synced, and that file is renamed. So writers of one
/// path do not meet: the last one counts. The file keeps its permissions (and its owner, where the system lets us); a symbolic
/// link stays, and what it points to is replaced. A hard link is parted from the other names of the file. A path that is no file,
/// such as a pipe or `/dev/stdout`, is written to as it is.
///
/// A process that is killed meanwhile leaves its temporary file, `.downhill-….tmp`; a later call in that folder removes it after
/// an hour.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// downhill::file::replace(folder.path().join("results.json"), b"{}")?;
/// assert_eq!(std::fs::read(folder.path().join("results.json"))?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::File`] where the folder is not there or cannot be written to, the disk is full, or the path is a folder. The old file is
/// then as it was, and nothing is left beside it.
pub fn replace(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write(path.as_ref(), |out| out.write_all(bytes))
}

/// [`replace`] with whatever `content` writes.
pub(crate) fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_to(path, content).map_err(|e| Error::file(path, e))
}

fn write_to(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let old = match fs::metadata(path) {
        Ok(old) if old.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(old) if !old.is_file() => return stream(path, content),
        Ok(old) => Some(old),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let Some(target) = follow(path)? else { return stream(path, content) };
    let folder = target.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sweep(folder);
    let part = create(folder, old.as_ref())?;
    // Says that somebody is at work on it. Where the system has no locks, nothing is ever swept.
    let _ = part.as_file().try_lock();
    fill(part.as_file(), content)?;
    part.as_file().sync_all()?;
    // Windows lets nobody read what is locked.
    let _ = part.as_file().unlock();
    part.persist(&target).map_err(|e| e.error)?;
    sync_folder(folder)
}

/// To what is no file to replace: behind what is there.
fn stream(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    fill(&OpenOptions::new().append(true).open(path)?, content)
}

fn fill(file: &File, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    content(&mut out)?;
    out.flush()
}

/// Through symbolic links to the place that they name, whether there is a file or not. `None` for a file that this process or another
/// one has opened, `/dev/stdout` for instance: its name counts for nothing.
fn follow(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut at = path.to_path_buf();
    for _ in 0..40 {
        if at.starts_with("/proc") {
            return Ok(None);
        }
        let Ok(to) = fs::read_link(&at) else { return Ok(Some(at)) };
        at = at.parent().unwrap_or(Path::new("")).join(to);
    }
    Err(io::Error::other("too many symbolic links, one behind the other"))
}

/// A temporary file that whoever may read the old file may read, or anybody whom the system's defaults let read a new one.
#[cfg(unix)]
fn create(folder: &Path, old: Option<&Metadata>) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let mut builder = Builder::new();
    builder.prefix(NAME[0]).suffix(NAME[1]);
    let Some(old) = old else { return builder.permissions(fs::Permissions::from_mode(0o666)).tempfile_in(folder) };
    let part = builder.tempfile_in(folder)?;
    // Some file systems have no owners, some no permissions; only root gives files away. An owner or a mode that cannot be set is left alone.
    let new = part.as_file().metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        let _ = fchown(part.as_file(), Some(old.uid()), Some(old.gid()));
    }
    let _ = part.as_file().set_permissions(old.permissions());
    Ok(part)
}

#[cfg(not(unix))]
fn create(folder: &Path, _: Option<&Metadata>) -> io::Result<NamedTempFile> {
    Builder::new().prefix(NAME[0]).suffix(NAME[1]).tempfile_in(folder)
}

/// Makes the renaming last.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    // Some file systems have no such thing, and some folders can be written to but not opened.
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.or_else(|e| if e.raw_os_error() == Some(EIO) { Err(e) } else { Ok(()) })
}

/// The disk is broken.
#[cfg(unix)]
const EIO: i32 = 5;

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes what killed processes left. Whoever writes a file holds its lock, and what was made just now is no candidate, so this never
/// takes a file away from a writer.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.starts_with(NAME[0]) && name.ends_with(NAME[1])) {
            continue;
        }
        let old = |m: Metadata| m.is_file() && m.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE));
        if entry.metadata().is_ok_and(old) && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
