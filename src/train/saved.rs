//! State as strings and tensors with names, in memory or in a file.

use crate::{
    error::{Error, Result},
    host::Host,
    weights::{WeightFile, write_to},
};
use std::{collections::BTreeMap, fmt::Debug, path::Path, str::FromStr};

/// Strings and tensors with names. A [`Callback`](super::Callback) saves its state in this form, and
/// [`Run::snapshot`](super::Run::snapshot) returns the whole state of a training.
///
/// ```
/// use downhill::train::Saved;
/// let mut saved = Saved::default();
/// saved.set("best", 0.1 + 0.2);
/// assert_eq!(saved.get::<f64>("best")?, 0.1 + 0.2);
/// assert!(saved.get::<f64>("worst").is_err());
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    /// The strings by name.
    pub info: BTreeMap<String, String>,
    /// The tensors with their names, in the order of a file.
    pub tensors: Vec<(String, Host<f32>)>,
}

impl Saved {
    /// Stores a number or another simple value as its `Debug` text. The text of a float has all of its digits, so
    /// [`get`](Saved::get) returns the same bits.
    pub fn set(&mut self, name: &str, value: impl Debug) {
        self.info.insert(name.into(), format!("{value:?}"));
    }
    /// Returns a value that [`set`](Saved::set) stored.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no value of this name, or if the value has another type.
    pub fn get<T: FromStr>(&self, name: &str) -> Result<T> {
        let text = self.info.get(name).ok_or_else(|| Error::argument("saved state", format!("there is no `{name}`")))?;
        text.parse().map_err(|_| Error::argument("saved state", format!("`{name}` is `{text}`, which cannot be read")))
    }
    /// Writes a safetensors file. The file is [replaced](crate::file::replace) whole or not at all. Equal states give equal bytes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        crate::file::write(path.as_ref(), |out| write_to(out, &self.tensors, &self.info))
    }
    /// Returns all strings and tensors of a file whose names start with `prefix`, without the prefix.
    pub(super) fn of_file(file: &WeightFile, prefix: &str) -> Result<Saved> {
        let mut saved = Saved::default();
        let rest = |name: &str| name.strip_prefix(prefix).map(str::to_string);
        saved.info.extend(file.info.iter().filter_map(|(name, text)| Some((rest(name)?, text.clone()))));
        for name in file.names().into_iter().filter(|name| name.starts_with(prefix)) {
            saved.tensors.push((name[prefix.len()..].to_string(), file.take(name, file.shape(name)?)?));
        }
        Ok(saved)
    }
    /// Adds everything from `other`. The names get the prefix.
    pub(super) fn join(&mut self, prefix: &str, other: Saved) {
        self.info.extend(other.info.into_iter().map(|(name, text)| (format!("{prefix}{name}"), text)));
        self.tensors.extend(other.tensors.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
    }
    /// Returns everything whose name has the prefix, without the prefix.
    pub(super) fn part(&self, prefix: &str) -> Saved {
        let name = |name: &str| name.strip_prefix(prefix).map(str::to_string);
        Saved {
            info: self.info.iter().filter_map(|(n, text)| Some((name(n)?, text.clone()))).collect(),
            tensors: self.tensors.iter().filter_map(|(n, value)| Some((name(n)?, value.clone()))).collect(),
        }
    }
}
