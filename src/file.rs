//! Writing of files. A file is written completely or not at all. The whole crate writes its files through this module.

use crate::error::{Error, Result};
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::{Builder, NamedTempFile};

/// The prefix and the suffix of the names of temporary files.
const NAME: [&str; 2] = [".downhill-", ".tmp"];

/// The age after which an unlocked temporary file counts as abandoned: the process that wrote it has ended.
const STALE: Duration = Duration::from_secs(3600);

/// Replaces the content of a file with `bytes`, or creates the file. Another process that reads the file at the same time
/// sees either the old content or the new content. After a crash, a loss of power or a failed write, the file also has one
/// of the two contents.
///
/// The bytes go to a temporary file with a unique name in the same folder. That file is synced and then renamed. So several
/// processes may write the same path at once. The last rename wins. The file keeps its permissions, and its owner if the
/// system allows it. A symbolic link stays, and the file to which it points is replaced. A hard link is separated from the
/// other names of the file. If the path is not a regular file, such as a pipe or `/dev/stdout`, the bytes are written to it
/// directly.
///
/// If the process is killed during the write, a temporary file `.downhill-….tmp` remains. A later call in the same folder
/// removes it after an hour.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// downhill::file::replace(folder.path().join("results.json"), b"{}")?;
/// assert_eq!(std::fs::read(folder.path().join("results.json"))?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::File`] if the folder does not exist or cannot be written to, if the disk is full, or if the path is a folder.
/// Then the old file is unchanged and no temporary file remains.
pub fn replace(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write(path.as_ref(), |out| out.write_all(bytes))
}

/// Replaces a file like [`replace`], with the bytes that `content` writes.
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
    // The lock tells other processes that this file is in use. On a system without locks, no temporary file is ever removed.
    let _ = part.as_file().try_lock();
    fill(part.as_file(), content)?;
    part.as_file().sync_all()?;
    // On Windows, nobody can read a locked file.
    let _ = part.as_file().unlock();
    part.persist(&target).map_err(|e| e.error)?;
    sync_folder(folder)
}

/// Appends to a path that is not a regular file.
fn stream(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    fill(&OpenOptions::new().append(true).open(path)?, content)
}

fn fill(file: &File, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    content(&mut out)?;
    out.flush()
}

/// Follows symbolic links and returns the path at the end, whether a file exists there or not. Returns `None` for an open
/// file of a process, such as `/dev/stdout`, because the name of such a file cannot be used.
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

/// Creates a temporary file with the permissions and the owner of the old file. Without an old file, it gets the system's
/// default permissions.
#[cfg(unix)]
fn create(folder: &Path, old: Option<&Metadata>) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let mut builder = Builder::new();
    builder.prefix(NAME[0]).suffix(NAME[1]);
    let Some(old) = old else { return builder.permissions(fs::Permissions::from_mode(0o666)).tempfile_in(folder) };
    let part = builder.tempfile_in(folder)?;
    // Some file systems have no owners or no permissions, and only root can give a file to another owner. Such failures are
    // ignored.
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

/// Syncs the folder, so that the new name survives a loss of power.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    // Some file systems cannot sync a folder, and some folders can be written to but not opened.
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.or_else(|e| if e.raw_os_error() == Some(EIO) { Err(e) } else { Ok(()) })
}

/// The error code for a broken disk.
#[cfg(unix)]
const EIO: i32 = 5;

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes the temporary files of killed processes. A process that writes a file holds its lock, and recent files are
/// skipped. So this never removes a file that is being written.
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
