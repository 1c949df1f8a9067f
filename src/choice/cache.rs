//! The files that store data from run to run: the choices as JSON, and the driver's compiled pipelines. A faulty file or
//! folder is treated like a missing one. Everything in the files can be measured or compiled again.

use super::{Candidate, Chosen, Origin, Verdict};
use crate::{file, kernel::Caps, rng::fnv1a};
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

/// The format of the files. A file of another format is ignored.
const FORMAT: u32 = 2;
/// The largest size of a file that is read. Choices take a few hundred kilobytes, and a driver's pipelines take some
/// megabytes.
const MOST: u64 = 256 << 20;

/// Returns the folder for the files: the folder that the caller wants, else the folder that the environment names, else a
/// folder in the user's cache folder. Returns `None` if none of these exists.
pub(crate) fn folder(wanted: Option<PathBuf>) -> Option<PathBuf> {
    wanted.or_else(|| folder_by(|name| env::var_os(name)))
}

fn folder_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if variable("DOWNHILL_CACHE").is_some() {
        return set("DOWNHILL_CACHE");
    }
    let user = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_vendor = "apple") {
        set("HOME").map(|home| home.join("Library").join("Caches"))
    } else {
        set("XDG_CACHE_HOME").filter(|folder| folder.is_absolute()).or_else(|| set("HOME").map(|home| home.join(".cache")))
    };
    user.filter(|folder| folder.is_absolute()).map(|folder| folder.join("downhill"))
}

/// Returns the hash of several texts in order.
pub(crate) fn hash(texts: &[&[u8]]) -> u64 {
    fnv1a(texts.iter().flat_map(|text| text.iter().chain(&[0xff]).copied()))
}

/// Returns the bytes of the file, or `None` if the path is not a regular file, is too large or cannot be read.
fn read(path: &Path) -> Option<Vec<u8>> {
    // Opening a pipe would block until another program writes to it.
    let size = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
    if size > MOST {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Replaces the content of a file with `bytes`. Creates the folder if it does not exist.
fn replace(path: &Path, bytes: &[u8]) {
    let Some(folder) = path.parent() else { return };
    // An error is ignored. Data that are not stored are measured again.
    let _ = fs::create_dir_all(folder);
    let _ = file::replace(path, bytes);
}

/// The conditions under which a stored choice is valid: the adapter, the driver, the limits in use and the library version.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceKey(Value);

impl DeviceKey {
    /// `adapter` lists the name, the kind, the backend and the driver.
    pub fn new(adapter: [&str; 4], caps: &Caps, checked: bool) -> DeviceKey {
        let [name, kind, backend, driver] = adapter;
        DeviceKey(json!({
            "format": FORMAT,
            "library": env!("CARGO_PKG_VERSION"),
            "adapter": name,
            "kind": kind,
            "backend": backend,
            "driver": driver,
            "limits": format!("{caps:?}"),
            "checked": checked,
        }))
    }
}

/// A choice, and the hash of the shaders of its candidates (see [`super::shaders`]).
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub text: u64,
    pub chosen: Chosen,
}

/// The file with the choices of one device.
#[derive(Clone, Debug)]
pub(crate) struct ChoiceFile {
    path: PathBuf,
    key: DeviceKey,
}

impl ChoiceFile {
    pub fn new(folder: &Path, key: DeviceKey) -> ChoiceFile {
        let text = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = key.0["adapter"].as_str().unwrap_or("").chars().take(40).map(text).collect();
        let number = hash(&[key.0.to_string().as_bytes()]);
        ChoiceFile { path: folder.join(format!("kernels-{name}-{number:016x}.json")), key }
    }
    /// Returns the stored choices by class. Returns an empty map if the file is missing, damaged or belongs to another device.
    pub fn read(&self) -> HashMap<String, Entry> {
        let text = read(&self.path).unwrap_or_default();
        let Ok(value) = serde_json::from_slice::<Value>(&text) else { return HashMap::new() };
        if value["device"] != self.key.0 {
            return HashMap::new();
        }
        let classes = value["classes"].as_object().into_iter().flatten();
        classes.filter_map(|(class, value)| Some((class.clone(), entry(class, value)?))).collect()
    }
    /// Adds choices to the file. The file is read again first, because another program may have written to it.
    pub fn add(&self, news: &[(u64, Chosen)]) {
        let mut all: Map<String, Value> = self.read().into_iter().map(|(class, e)| (class, value(e.text, &e.chosen))).collect();
        all.extend(news.iter().map(|(text, chosen)| (chosen.class.clone(), value(*text, chosen))));
        let file = json!({ "device": self.key.0, "classes": all });
        replace(&self.path, format!("{file:#}\n").as_bytes());
    }
}

fn value(text: u64, chosen: &Chosen) -> Value {
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let candidate = |Candidate { kernel, verdict }: &Candidate| match verdict {
        Verdict::Time(time) => json!({ "kernel": kernel, "ms": ms(time) }),
        Verdict::Slow(time) => json!({ "kernel": kernel, "slow_ms": ms(time) }),
        Verdict::Wrong(why) => json!({ "kernel": kernel, "wrong": why }),
        Verdict::DoesNotRun(why) => json!({ "kernel": kernel, "does_not_run": why }),
        Verdict::NotMeasured => json!({ "kernel": kernel }),
    };
    let candidates: Vec<Value> = chosen.candidates.iter().map(candidate).collect();
    json!({ "kernel": chosen.kernel, "shaders": format!("{text:016x}"), "candidates": candidates })
}

fn entry(class: &str, value: &Value) -> Option<Entry> {
    let name = |value: &Value| value["kernel"].as_str().map(str::to_string);
    let time = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).ok();
    let candidate = |value: &Value| {
        let (number, text) = (|key: &str| value[key].as_f64(), |key: &str| value[key].as_str().map(str::to_string));
        let verdict = if let Some(ms) = number("ms") {
            Verdict::Time(time(ms)?)
        } else if let Some(ms) = number("slow_ms") {
            Verdict::Slow(time(ms)?)
        } else if let Some(why) = text("wrong") {
            Verdict::Wrong(why)
        } else {
            text("does_not_run").map_or(Verdict::NotMeasured, Verdict::DoesNotRun)
        };
        Some(Candidate { kernel: name(value)?, verdict })
    };
    let candidates = value["candidates"].as_array()?.iter().map(candidate).collect::<Option<Vec<_>>>()?;
    let chosen = Chosen { class: class.to_string(), kernel: name(value)?, origin: Origin::Cache, candidates };
    let good = |c: &Candidate| c.kernel == chosen.kernel && !c.verdict.is_fault();
    let text = u64::from_str_radix(value["shaders"].as_str()?, 16).ok()?;
    chosen.candidates.iter().any(good).then_some(Entry { text, chosen })
}

/// A file of bytes. It begins with a hash of the owner and the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    path: PathBuf,
    owner: String,
}

impl Blob {
    /// Describes the file of `owner` at `path`. Data of another owner are not read.
    pub fn new(path: PathBuf, owner: String) -> Blob {
        Blob { path, owner }
    }
    fn hash(&self, data: &[u8]) -> [u8; 8] {
        hash(&[self.owner.as_bytes(), data]).to_le_bytes()
    }
    /// Returns the bytes, or `None` if the file is missing, damaged or belongs to another owner.
    pub fn read(&self) -> Option<Vec<u8>> {
        let bytes = read(&self.path)?;
        let (number, data) = bytes.split_first_chunk()?;
        (*number == self.hash(data)).then(|| data.to_vec())
    }
    pub fn write(&self, data: &[u8]) {
        replace(&self.path, &[&self.hash(data), data].concat());
    }
}

/// Returns a choice whose candidates have one verdict of each kind.
fn every_verdict() -> Chosen {
    let verdicts = [
        Verdict::Time(Duration::from_micros(250)),
        Verdict::Slow(Duration::from_millis(9)),
        Verdict::Wrong("element 3 is 2, not 1".into()),
        Verdict::DoesNotRun("no definition in scope".into()),
        Verdict::NotMeasured,
    ];
    let names = ["tiled", "naive", "rows", "dot", "plain"];
    let candidates = verdicts.into_iter().zip(names).map(|(verdict, k)| Candidate { kernel: k.into(), verdict }).collect();
    let class = format!("matmul [8, 8] × [8, 8] → [8, 8]: {}", names.join(", "));
    Chosen { class, kernel: "tiled".into(), origin: Origin::Cache, candidates }
}

/// Both kinds of files for a device that does not exist. The fuzzer uses them.
#[doc(hidden)]
pub struct Sample {
    file: ChoiceFile,
    blob: Blob,
}

impl Sample {
    /// Writes both files to a folder.
    pub fn new(folder: &Path) -> Sample {
        let key = DeviceKey(json!({ "format": FORMAT, "adapter": "none" }));
        let sample = Sample { file: ChoiceFile::new(folder, key), blob: Blob::new(folder.join("blob.bin"), "none".into()) };
        sample.file.add(&[(0x1234, every_verdict())]);
        sample.blob.write(b"compiled");
        sample
    }
    /// Returns the paths of the choices and of the pipelines.
    pub fn paths(&self) -> [&Path; 2] {
        [&self.file.path, &self.blob.path]
    }
    /// Reads both files as a device does. Returns the number of choices, and whether the pipelines could be read.
    pub fn read(&self) -> (usize, bool) {
        let choices = self.file.read();
        let all: Vec<String> = choices.values().map(|entry| entry.chosen.to_string()).collect();
        (all.len(), self.blob.read().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_whole_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blob = Blob::new(folder.path().join("deep/blob.bin"), "this device".into());
        assert_eq!(blob.read(), None);
        for data in [&b""[..], b"compiled"] {
            blob.write(data);
            assert_eq!(blob.read().as_deref(), Some(data));
        }
        let path = &blob.path;
        assert_eq!(Blob::new(path.clone(), "another device".into()).read(), None);
        let bytes = fs::read(path).unwrap();
        for k in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[k] ^= 1;
            fs::write(path, &changed).unwrap();
            assert_eq!(blob.read(), None, "byte {k}");
            fs::write(path, &bytes[..k]).unwrap();
            assert_eq!(blob.read(), None, "{k} bytes");
        }
        fs::write(path, [&bytes[..], b"x"].concat()).unwrap();
        assert_eq!(blob.read(), None);
        fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(blob.read(), None, "a file of a terabyte");
        // No temporary file remains in the folder.
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_gives_back_every_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let file = ChoiceFile::new(folder.path(), DeviceKey::new(["a", "b", "c", "d"], &Caps::default(), false));
        let chosen = every_verdict();
        file.add(&[(7, chosen.clone())]);
        let read = file.read();
        assert_eq!((read[&chosen.class].text, &read[&chosen.class].chosen), (7, &chosen));
        // A candidate with a fault must not be chosen.
        for kernel in ["rows", "dot"] {
            file.add(&[(7, Chosen { kernel: kernel.into(), ..chosen.clone() })]);
            assert_eq!(file.read().len(), 0, "{kernel}");
        }
    }

    #[test]
    fn names_of_files_are_plain_and_differ_by_device() {
        let file = |name: &str, driver: &str, caps: &Caps| {
            ChoiceFile::new(Path::new("f"), DeviceKey::new([name, "discrete GPU", "vulkan", driver], caps, false)).path
        };
        let (caps, small) = (Caps::default(), Caps { max_invocations: 64, ..Caps::default() });
        let first = file("../A: B/C™", "1.0", &caps);
        assert!(first.to_str().unwrap().starts_with("f/kernels----a--b-c--") && first.parent() == Some(Path::new("f")), "{first:?}");
        let others = [file("../A: B/C™", "1.1", &caps), file("other", "1.0", &caps), file("../A: B/C™", "1.0", &small)];
        assert!(!others.contains(&first));
    }

    #[test]
    #[cfg(all(unix, not(target_vendor = "apple")))]
    fn folders_by_the_environment() {
        let by = |set: &[(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            folder_by(value).map(|path| path.to_str().unwrap().to_string())
        };
        let (home, xdg) = (("HOME", "/home/me"), ("XDG_CACHE_HOME", "/cache"));
        assert_eq!(by(&[]), None);
        assert_eq!(by(&[home]).as_deref(), Some("/home/me/.cache/downhill"));
        assert_eq!(by(&[home, xdg]).as_deref(), Some("/cache/downhill"));
        // The XDG standard says that a relative path in this variable must be ignored.
        assert_eq!(by(&[home, ("XDG_CACHE_HOME", "cache")]).as_deref(), Some("/home/me/.cache/downhill"));
        assert_eq!(by(&[home, xdg, ("DOWNHILL_CACHE", "mine")]).as_deref(), Some("mine"));
        assert_eq!(by(&[home, xdg, ("DOWNHILL_CACHE", "")]), None);
        assert_eq!(folder(Some("mine".into())), Some("mine".into()));
    }
}
