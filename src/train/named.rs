//! Values with names.

use crate::error::{Error, Result};
use std::sync::Arc;

/// Values with names, in a fixed order: the watched scalars of a report, or the outputs of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T> {
    names: Arc<[String]>,
    values: Vec<T>,
}

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named { names: Arc::default(), values: Vec::new() }
    }
}

impl<T> Named<T> {
    pub(super) fn new(names: Arc<[String]>, values: Vec<T>) -> Named<T> {
        debug_assert_eq!(names.len(), values.len());
        Named { names, values }
    }
    /// Returns the value `name`.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such name. The error lists the names.
    pub fn get(&self, name: &str) -> Result<&T> {
        let found = self.iter().find(|(other, _)| *other == name).map(|(_, value)| value);
        found.ok_or_else(|| {
            let names = if self.names.is_empty() { "no names".to_string() } else { self.names.join(", ") };
            Error::argument(format!("`{name}`"), format!("there is no value of this name; there are {names}"))
        })
    }
    /// Returns the names and the values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.names.iter().map(String::as_str).zip(&self.values)
    }
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.values.len()
    }
    /// Returns true if there are no values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl Named<f64> {
    /// Rounds the values.
    pub(super) fn rounded(self) -> Named<f32> {
        Named { names: self.names, values: self.values.into_iter().map(|x| x as f32).collect() }
    }
}
