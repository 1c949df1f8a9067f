//! The trained tensors, and state, by name.

use super::Trainer;
use crate::{
    error::{Error, Result},
    graph::ParamDef,
    host::Host,
    shape::Shape,
};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::{collections::BTreeMap, path::Path};

/// A trainer's parameters and its state (see [`Graph::state`](crate::Graph::state)): names, shapes and values.
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
    /// The names, in the order in which the model made them.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.trainer.params.iter().map(|p| p.name.as_str())
    }
    /// Name and shape of each.
    pub fn shapes(&self) -> impl Iterator<Item = (&'a str, Shape)> {
        self.trainer.params.iter().map(|p| (p.name.as_str(), p.shape))
    }
    /// How many numbers are trained.
    pub fn elements(&self) -> usize {
        self.trainer.params.iter().filter(|p| p.trained).map(|p| p.shape.elements()).sum()
    }
    pub(super) fn index(&self, name: &str) -> Result<usize> {
        let known = self.trainer.params.iter().position(|p| p.name == name);
        known.ok_or_else(|| unknown(name, &self.trainer.params))
    }
    /// The value of one, after all steps made so far.
    pub fn get(&self, name: &str) -> Result<Host<f32>> {
        Ok(self.all()?.swap_remove(self.index(name)?).1)
    }
    /// Every name and value.
    pub fn all(&self) -> Result<Vec<(String, Host<f32>)>> {
        let flat = pollster::block_on(self.trainer.store.read_params())?;
        Ok(split(&self.trainer.params, &self.trainer.store.layout().ranges, &flat))
    }
    /// Sets one.
    pub fn set(&self, name: &str, value: &Host<f32>) -> Result<()> {
        self.set_all(&[(name.to_string(), value.clone())])
    }
    /// Sets several; all are checked before any is set.
    pub fn set_all(&self, values: &[(String, Host<f32>)]) -> Result<()> {
        let (store, ranges) = (&self.trainer.store, self.trainer.store.layout().ranges);
        let mut flat = pollster::block_on(store.read_params())?;
        for (name, value) in values {
            let i = self.index(name)?;
            fits(&self.trainer.params[i], value)?;
            flat[ranges[i].piece][ranges[i].start..][..ranges[i].len].copy_from_slice(value.f());
        }
        store.write_params(flat)?;
        store.mark_trained();
        Ok(())
    }
    /// Writes all of them to a safetensors file, which PyTorch and others read.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path.as_ref(), &self.all()?, None)
    }
    /// Reads all of them from a safetensors file; nothing is changed unless each is there, finite or not, in its shape. What
    /// else is in the file is left aside.
    ///
    /// # Errors
    /// A file that is missing or not safetensors; a parameter that is missing, of another shape, or not `f32`.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        let (mut found, _) = read(path.as_ref(), &self.trainer.params)?;
        let take = |p: &ParamDef| {
            let value = found.remove(&p.name).ok_or_else(|| missing(path.as_ref(), &p.name))?;
            Ok((p.name.clone(), value))
        };
        let values: Vec<(String, Host<f32>)> = self.trainer.params.iter().map(take).collect::<Result<_>>()?;
        self.set_all(&values)
    }
}

fn unknown(name: &str, params: &[ParamDef]) -> Error {
    let names: Vec<&str> = params.iter().map(|p| p.name.as_str()).collect();
    Error::Parameter { name: name.to_string(), why: format!("there is none of that name; there are {}", names.join(", ")) }
}

pub(super) fn missing(path: &Path, name: &str) -> Error {
    Error::Parameter { name: name.to_string(), why: format!("not in {}", path.display()) }
}

pub(super) fn fits(p: &ParamDef, value: &Host<f32>) -> Result<()> {
    if value.fits(p.shape) {
        return Ok(());
    }
    let why = format!("got {} with {}, but the model has {}", value.shape, value.content(), p.shape);
    Err(Error::Parameter { name: p.name.clone(), why })
}

/// Each parameter's part of a flat buffer.
pub(super) fn split(params: &[ParamDef], ranges: &[crate::params::Range], flat: &[Vec<f32>]) -> Vec<(String, Host<f32>)> {
    let part =
        |(p, r): (&ParamDef, &crate::params::Range)| (p.name.clone(), Host::new(p.shape, flat[r.piece][r.start..r.start + r.len].to_vec()));
    params.iter().zip(ranges).map(part).collect()
}

/// Writes a safetensors file, by way of a temporary one, so that a failure leaves the old file whole.
pub(super) fn write(path: &Path, tensors: &[(String, Host<f32>)], info: Option<BTreeMap<String, String>>) -> Result<()> {
    let bytes: Vec<(&String, Shape, Vec<u8>)> =
        tensors.iter().map(|(n, h)| (n, h.shape, h.f().iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
    let views: Vec<(&String, TensorView)> = bytes
        .iter()
        .map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F32, shape.dims().to_vec(), data);
            view.map(|v| (*name, v)).map_err(|e| Error::file(path, e))
        })
        .collect::<Result<_>>()?;
    let info = info.map(|i| i.into_iter().collect());
    let file = safetensors::serialize(views, info).map_err(|e| Error::file(path, e))?;
    let part = path.with_extension("part");
    std::fs::write(&part, file).and_then(|()| std::fs::rename(&part, path)).map_err(|e| Error::file(path, e))
}

/// All tensors of a safetensors file by name, and what is written beside them.
pub(super) type File = (BTreeMap<String, Host<f32>>, BTreeMap<String, String>);

/// Reads a safetensors file. A tensor that is not `f32` is an error where it has the name of one of `params`, else left out:
/// PyTorch counts batches in an integer, for instance.
pub(super) fn read(path: &Path, params: &[ParamDef]) -> Result<File> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let format = |e: safetensors::SafeTensorError| Error::format(path, format!("not a safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(format)?;
    let info = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut found = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(&bytes).map_err(format)?.tensors() {
        let shape = Shape::new(view.shape()).ok_or_else(|| Error::format(path, format!("{name}: {:?} has too many axes", view.shape())))?;
        if view.dtype() != Dtype::F32 {
            if params.iter().all(|p| p.name != name) {
                continue;
            }
            return Err(Error::Parameter { name, why: format!("{:?} in {}, but F32 is needed", view.dtype(), path.display()) });
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        found.insert(name, Host::new(shape, values));
    }
    Ok((found, info))
}
