//! Access to parameters and state by name.

use super::{Trainer, saved::Saved};
use crate::{
    error::{Error, Result},
    graph::ParamDef,
    host::Host,
    shape::Shape,
};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde_json::{Map, json};
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    path::Path,
};

/// A handle to the parameters and the state of a trainer, by name. [`Graph::state`](crate::Graph::state) explains state.
///
/// ```
/// use downhill::{Device, Graph, Host, Trainer, optim::Sgd};
/// let g = Graph::training();
/// let loss = g.input([1, 2]).linear("fc", 1).sum_all();
/// let trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(0.1))?;
/// trainer.params().set("fc.weight", &Host::new([1, 2], vec![0.5, -0.25]))?;
/// assert_eq!(trainer.params().names().collect::<Vec<_>>(), ["fc.weight", "fc.bias"]);
/// assert_eq!(trainer.params().get("fc.weight")?.f(), &[0.5, -0.25]);
/// # Ok::<(), downhill::Error>(())
/// ```
pub struct Params<'a> {
    trainer: &'a Trainer,
}

impl<'a> Params<'a> {
    pub(super) fn new(trainer: &'a Trainer) -> Params<'a> {
        Params { trainer }
    }
    /// Returns the names, in the order in which the model created them.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.trainer.params.iter().map(|p| p.name.as_str())
    }
    /// Returns the name and the shape of each.
    pub fn shapes(&self) -> impl Iterator<Item = (&'a str, Shape)> {
        self.trainer.params.iter().map(|p| (p.name.as_str(), p.shape))
    }
    /// Returns the number of elements of all parameters together. Frozen parameters count. State does not count.
    pub fn elements(&self) -> usize {
        self.trainer.params.iter().filter(|p| p.trained).map(|p| p.shape.elements()).sum()
    }
    pub(super) fn index(&self, name: &str) -> Result<usize> {
        let known = self.trainer.params.iter().position(|p| p.name == name);
        known.ok_or_else(|| unknown(name, &self.trainer.params))
    }
    /// Returns the value of a parameter or state, after all steps made so far.
    pub fn get(&self, name: &str) -> Result<Host<f32>> {
        Ok(self.all()?.swap_remove(self.index(name)?).1)
    }
    /// Returns all names and values.
    pub fn all(&self) -> Result<Vec<(String, Host<f32>)>> {
        let flat = pollster::block_on(self.trainer.store.read_params())?;
        Ok(split(&self.trainer.params, &self.trainer.store.layout().ranges, &flat))
    }
    /// Sets the value of a parameter or state.
    pub fn set(&self, name: &str, value: &Host<f32>) -> Result<()> {
        self.set_all(&[(name.to_string(), value.clone())])
    }
    /// Sets several values. If one of them does not fit, none is set.
    pub fn set_all(&self, values: &[(String, Host<f32>)]) -> Result<()> {
        let (store, ranges) = (&self.trainer.store, self.trainer.store.layout().ranges);
        let mut flat = pollster::block_on(store.read_params())?;
        for (name, value) in values {
            let i = self.index(name)?;
            fits(&self.trainer.params[i], value)?;
            flat[ranges[i].piece][ranges[i].of()].copy_from_slice(value.f());
        }
        store.write_params(flat)?;
        store.mark_trained();
        Ok(())
    }
    /// Saves all values to a safetensors file, which PyTorch and others can read. The file is [replaced](crate::file::replace)
    /// whole or not at all. Equal values give equal bytes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Saved { tensors: self.all()?, ..Saved::default() }.write(path)
    }
    /// Loads all values from a safetensors file. If a value is missing or has another shape, nothing is changed. Other tensors
    /// in the file are ignored. Values need not be finite. `f16` and `bf16` values are converted exactly. `f64` values are
    /// rounded.
    ///
    /// # Errors
    /// - The file is missing or is no safetensors file.
    /// - A parameter is missing, has another shape, or its values are not floats. If several are missing, the error names all of them.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        let bytes = read(path.as_ref())?;
        let file = WeightFile::new(path.as_ref(), &bytes)?;
        let take = |p: &ParamDef| match file.take(&p.name, p.shape) {
            Ok(value) => Ok((p.name.clone(), value)),
            Err(e) => Err(file.missing(&self.trainer.params).filter(|_| !file.names().contains(&p.name.as_str())).unwrap_or(e)),
        };
        let values: Vec<(String, Host<f32>)> = self.trainer.params.iter().map(take).collect::<Result<_>>()?;
        self.set_all(&values)
    }
}

fn unknown(name: &str, params: &[ParamDef]) -> Error {
    let names: Vec<&str> = params.iter().map(|p| p.name.as_str()).collect();
    Error::Parameter { name: name.to_string(), why: format!("the model has no parameter of this name; it has {}", names.join(", ")) }
}

fn fits(p: &ParamDef, value: &Host<f32>) -> Result<()> {
    if value.fits(p.shape) {
        return Ok(());
    }
    let why = format!("got {} with {}, but the model has {}", value.shape, value.content(), p.shape);
    Err(Error::Parameter { name: p.name.clone(), why })
}

/// Splits the flat buffers into the values of the parameters, with their names.
pub(super) fn split(params: &[ParamDef], ranges: &[crate::params::Range], flat: &[Vec<f32>]) -> Vec<(String, Host<f32>)> {
    let part = |(p, r): (&ParamDef, &crate::params::Range)| (p.name.clone(), Host::new(p.shape, flat[r.piece][r.of()].to_vec()));
    params.iter().zip(ranges).map(part).collect()
}

/// Writes the content of a safetensors file. Tensors are in the given order and the metadata is sorted by name, so equal contents give equal bytes. The
/// crate `safetensors` cannot do this, because it stores the metadata in a `HashMap`.
pub(super) fn write(out: &mut dyn Write, tensors: &[(String, Host<f32>)], info: &BTreeMap<String, String>) -> io::Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    if !info.is_empty() {
        header.insert("__metadata__".into(), json!(info));
    }
    for (name, value) in tensors {
        let start = end;
        end += 4 * value.len();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": value.shape.dims(), "data_offsets": [start, end] }));
    }
    let mut header = serde_json::to_vec(&header).expect("names and numbers are JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    // The values are written in chunks, because converting them to the file's byte order makes a copy.
    let mut words = tensors.iter().flat_map(|(_, value)| value.f().chunks(1 << 16));
    words.try_for_each(|part| out.write_all(bytemuck::cast_slice(&part.iter().map(|x| x.to_bits().to_le()).collect::<Vec<u32>>())))
}

/// A safetensors file in memory.
pub(super) struct WeightFile<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    /// The metadata.
    pub info: HashMap<String, String>,
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::file(path, e))
}

impl<'a> WeightFile<'a> {
    /// Parses `bytes`, which are the content of the file at `path`.
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Result<WeightFile<'a>> {
        let format = |e: SafeTensorError| Error::format(path, format!("not a safetensors file: {e}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(format)?;
        Ok(WeightFile { path, tensors, info: header.metadata().clone().unwrap_or_default() })
    }
    /// Returns the names of all tensors.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.names()
    }
    /// Returns an error that names every parameter that is missing in the file, or `None` if there are all.
    pub fn missing(&self, params: &[ParamDef]) -> Option<Error> {
        let missing: Vec<&str> = params.iter().map(|p| p.name.as_str()).filter(|name| self.tensors.tensor(name).is_err()).collect();
        let more = if missing.len() > 1 { format!("; {} are missing: {}", missing.len(), missing.join(", ")) } else { String::new() };
        let first = missing.first()?;
        Some(Error::Parameter { name: first.to_string(), why: format!("not in {}{more}", self.path.display()) })
    }
    /// Returns all strings and tensors whose names start with `prefix`, without the prefix.
    pub fn part(&self, prefix: &str) -> Result<Saved> {
        let mut saved = Saved::default();
        let rest = |name: &str| name.strip_prefix(prefix).map(str::to_string);
        saved.info.extend(self.info.iter().filter_map(|(name, text)| Some((rest(name)?, text.clone()))));
        for (name, view) in self.tensors.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let shape = Shape::new(view.shape()).ok_or_else(|| Error::format(self.path, format!("`{name}` has too many axes")))?;
            saved.tensors.extend(rest(name).map(|rest| Ok((rest, self.take(name, shape)?))).transpose()?);
        }
        Ok(saved)
    }
    /// Returns the tensor `name`, which must have float values and the shape `shape`.
    pub fn take(&self, name: &str, shape: Shape) -> Result<Host<f32>> {
        let error = |why: String| Error::Parameter { name: name.to_string(), why };
        let view = self.tensors.tensor(name).map_err(|_| error(format!("not in {}", self.path.display())))?;
        if view.shape() != shape.dims() {
            let values: usize = view.shape().iter().product();
            return Err(error(format!("got {:?} with {values} values, but the model has {shape}", view.shape())));
        }
        let values = floats(&view).map_err(|why| error(format!("{why} in {}", self.path.display())))?;
        Ok(Host::new(shape, values))
    }
}

/// Converts the values to `f32`. Shorter floats are converted exactly, and `f64` is rounded.
fn floats(view: &TensorView) -> Result<Vec<f32>, String> {
    fn each<const N: usize>(view: &TensorView, f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        view.data().as_chunks().0.iter().map(|bytes| f(*bytes)).collect()
    }
    Ok(match view.dtype() {
        Dtype::F32 => each(view, f32::from_le_bytes),
        Dtype::F16 => each(view, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(view, |b| half::bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => {
            let large =
                view.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).find(|x| x.is_finite() && !(*x as f32).is_finite());
            if let Some(x) = large {
                return Err(format!("{x:e} is too large for an f32,"));
            }
            each(view, |b| f64::from_le_bytes(b) as f32)
        }
        other => return Err(format!("{other:?} instead of floats (F32, F16, BF16 or F64)")),
    })
}
