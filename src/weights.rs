//! Weights by name: [`Params`] reads, sets, saves and loads the parameters of a trainer or of a compiled graph. [`read`] and
//! [`write()`] read and write safetensors files without a model.

use crate::{
    engine::Store,
    error::{Error, Result},
    file,
    graph::ParamDef,
    host::{Data, Host},
    shape::{MAX_RANK, Shape},
};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde_json::{Map, json};
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    path::Path,
};

/// A handle to the parameters and the state of a trainer or of a compiled graph, by name. [`Graph::state`](crate::Graph::state)
/// explains state.
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
    defs: &'a [ParamDef],
    store: &'a Store,
}

impl<'a> Params<'a> {
    pub(crate) fn new(defs: &'a [ParamDef], store: &'a Store) -> Params<'a> {
        Params { defs, store }
    }
    /// Returns the names, in the order in which the model created them.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.defs.iter().map(|p| p.name.as_str())
    }
    /// Returns the name and the shape of each.
    pub fn shapes(&self) -> impl Iterator<Item = (&'a str, Shape)> {
        self.defs.iter().map(|p| (p.name.as_str(), p.shape))
    }
    /// Returns the number of elements of all parameters together. Frozen parameters count. State does not count.
    pub fn elements(&self) -> usize {
        self.defs.iter().filter(|p| p.trained).map(|p| p.shape.elements()).sum()
    }
    pub(crate) fn index(&self, name: &str) -> Result<usize> {
        let known = self.defs.iter().position(|p| p.name == name);
        known.ok_or_else(|| unknown(name, self.defs))
    }
    /// Returns the value of a parameter or state, after all steps made so far.
    pub fn get(&self, name: &str) -> Result<Host<f32>> {
        Ok(self.all()?.swap_remove(self.index(name)?).1)
    }
    /// Returns all names and values.
    pub fn all(&self) -> Result<Vec<(String, Host<f32>)>> {
        let flat = pollster::block_on(self.store.read_params())?;
        Ok(split(self.defs, &self.store.layout().ranges, &flat))
    }
    /// Sets the value of a parameter or state.
    pub fn set(&self, name: &str, value: &Host<f32>) -> Result<()> {
        self.set_all(&[(name.to_string(), value.clone())])
    }
    /// Sets several values. If one of them does not fit, none is set.
    pub fn set_all(&self, values: &[(String, Host<f32>)]) -> Result<()> {
        let (store, ranges) = (self.store, self.store.layout().ranges);
        let mut flat = pollster::block_on(store.read_params())?;
        for (name, value) in values {
            let i = self.index(name)?;
            fits(&self.defs[i], value)?;
            flat[ranges[i].piece][ranges[i].of()].copy_from_slice(value.f());
        }
        store.write_params(flat)?;
        store.mark_trained();
        Ok(())
    }
    /// Copies the values of all parameters and states that both models have under one name, and returns their number. On one
    /// GPU the values do not go through the host, and nothing waits. Steps queued before the copy are made before it.
    ///
    /// So several trainers can work on one set of weights. Each trainer [freezes](crate::optim::Optimizer::freeze) the parts that it does
    /// not train, and takes the new values of those parts after the other trainer's step. A GAN has a trainer for each of its two losses. A
    /// target network takes the weights of another trainer every few steps.
    ///
    /// The copy is small beside a step, which reads and writes weights, gradients and states, and computes with every sample. In a GAN
    /// with batches of 64 and 128, both copies of a step took less than 2 % of its time on the CPU device. A copy into frozen parameters
    /// does not make the next step slower.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Tensor, Trainer, optim::Sgd};
    /// fn generator<'g>(z: Tensor<'g>) -> Tensor<'g> {
    ///     z.linear("g.fc", 4).tanh().linear("g.out", 2)
    /// }
    /// fn judge<'g>(x: Tensor<'g>) -> Tensor<'g> {
    ///     x.linear("d.fc", 8).leaky_relu(0.2).linear("d.out", 1)
    /// }
    /// let (cpu, n) = (Device::cpu(), 4);
    /// let (g, h) = (Graph::training(), Graph::training());
    /// let (real, fake) = (judge(g.input([n, 2])), judge(generator(g.input([n, 3]))));
    /// let loss = real.bce_with_logits(g.full([n, 1], 1.0)) + fake.bce_with_logits(g.full([n, 1], 0.0));
    /// let mut judging = Trainer::new(&cpu, loss, Sgd::new(0.1).freeze(["g"]))?;
    /// let fooled = judge(generator(h.input([n, 3])));
    /// let mut generating = Trainer::new(&cpu, fooled.bce_with_logits(h.full([n, 1], 1.0)), Sgd::new(0.1).freeze(["d"]))?;
    ///
    /// let (x, z) = (Host::new([n, 2], vec![0.5; 8]), Host::new([n, 3], vec![0.25; 12]));
    /// for _ in 0..3 {
    ///     judging.step(&[x.clone(), z.clone()])?;
    ///     generating.params().copy_from(&judging.params(), |name| name.starts_with("d."))?;
    ///     generating.step(&[z.clone()])?;
    ///     judging.params().copy_from(&generating.params(), |name| name.starts_with("g."))?;
    /// }
    /// assert_eq!(judging.params().get("g.out.bias")?, generating.params().get("g.out.bias")?);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Parameter`] for a parameter that has another shape in the other model. [`Error::Argument`] if the models have
    /// no parameter in common for which `only` is true. Nothing is copied then.
    pub fn copy_from(&self, from: &Params<'_>, only: impl Fn(&str) -> bool) -> Result<usize> {
        self.follow("copy_from", from, 1.0, &only)
    }
    /// Moves the values of all parameters and states that both models have under one name by a share `tau` of their way to those of
    /// `from`, and returns their number:
    ///
    /// ```text
    /// w ← (1 − tau)·w + tau·w'
    /// ```
    /// A target network follows its network so: a share of 1 copies, and a share of 0.005 is usual. On one GPU the device computes it,
    /// nothing goes through the host, and nothing waits. Steps queued before are made before. The cost is that of
    /// [`copy_from`](Params::copy_from), small beside a step. Lillicrap et al. 2015, arXiv:1509.02971.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::Sgd};
    /// let g = Graph::training();
    /// let loss = g.input([4, 2]).linear("q", 3).square().mean_all();
    /// let mut network = Trainer::new(&Device::cpu(), loss, Sgd::new(0.1))?;
    /// let h = Graph::inference();
    /// let mut target = Device::cpu().compile(&[h.input([4, 2]).linear("q", 3)])?;
    /// target.params().copy_from(&network.params(), |_| true)?;
    /// for _ in 0..10 {
    ///     network.step(&[Host::new([4, 2], vec![0.5; 8])])?;
    ///     target.params().soft_update(&network.params(), 0.005, |_| true)?;
    /// }
    /// let y = target.run(&[Host::new([4, 2], vec![0.5; 8])])?;
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`copy_from`](Params::copy_from), and a share that is not in 0..=1. Nothing is changed then.
    pub fn soft_update(&self, from: &Params<'_>, tau: f64, only: impl Fn(&str) -> bool) -> Result<usize> {
        if !(0.0..=1.0).contains(&tau) {
            return Err(Error::argument("soft_update", format!("tau is {tau}, but must be in 0..=1")));
        }
        self.follow("soft_update", from, tau as f32, &only)
    }
    fn follow(&self, what: &str, from: &Params<'_>, share: f32, only: &dyn Fn(&str) -> bool) -> Result<usize> {
        let mut pairs = Vec::new();
        for (to, p) in self.defs.iter().enumerate().filter(|(_, p)| only(&p.name)) {
            let Some(at) = from.defs.iter().position(|other| other.name == p.name) else { continue };
            if from.defs[at].shape != p.shape {
                let why = format!("it is {} in one model and {} in the other", from.defs[at].shape, p.shape);
                return Err(Error::Parameter { name: p.name.clone(), why });
            }
            pairs.push((at, to));
        }
        if pairs.is_empty() {
            return Err(Error::argument(what, "the models have none of these parameters in common"));
        }
        pollster::block_on(self.store.copy_from(from.store, &pairs, share))?;
        Ok(pairs.len())
    }
    /// Saves all values to a safetensors file, which PyTorch and others can read. The file is [replaced](crate::file::replace)
    /// whole or not at all. Equal values give equal bytes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write(path, &self.all()?)
    }
    /// Loads all values from a safetensors file. If a value is missing or has another shape, nothing is changed. Other tensors
    /// in the file are ignored, whatever their type or rank. Values need not be finite. `f16` and `bf16` values are converted
    /// exactly. `f64` values are rounded.
    ///
    /// # Errors
    /// - The file is missing or is no safetensors file.
    /// - Parameters are missing, have another shape, or their values are not floats. The error lists them all.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        self.load_with(path, Load::default()).map(drop)
    }
    /// [`load`](Params::load) with options: files with other names, and files with a part of the parameters. Returns the names
    /// of the parameters that were loaded, and of the tensors and parameters that were not.
    ///
    /// ```
    /// use downhill::{Device, Graph, Load, Trainer, optim::Sgd};
    /// # fn trainer(name: &str) -> downhill::Result<Trainer> {
    /// #     let g = Graph::training();
    /// #     let loss = g.input([1, 2]).linear(&format!("{name}.fc"), 3).linear("head", 1).sum_all();
    /// #     Trainer::new(&Device::cpu(), loss, Sgd::new(0.1))
    /// # }
    /// # let folder = std::env::temp_dir();
    /// # let path = folder.join(format!("downhill-load-with-{}.safetensors", std::process::id()));
    /// let (pretrained, trainer) = (trainer("module.backbone")?, trainer("backbone")?);
    /// pretrained.params().save(&path)?;
    /// let backbone = Load {
    ///     rename: &|name| name.trim_start_matches("module.").to_string(),
    ///     only: &|name| name.starts_with("backbone."),
    ///     ..Load::default()
    /// };
    /// let loaded = trainer.params().load_with(&path, backbone)?;
    /// assert_eq!(loaded.loaded, ["backbone.fc.weight", "backbone.fc.bias"]);
    /// assert_eq!(loaded.unexpected, ["head.bias", "head.weight"]);
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`load`](Params::load), where [`Load::strict`] is true. Two tensors of the file that are renamed to one
    /// name.
    pub fn load_with(&self, path: impl AsRef<Path>, options: Load<'_>) -> Result<Loaded> {
        let path = path.as_ref();
        let bytes = read_bytes(path)?;
        let file = WeightFile::new(path, &bytes)?;
        let mut names: BTreeMap<String, &str> = BTreeMap::new();
        let mut found = file.names();
        found.sort_unstable();
        for name in found {
            if let Some(other) = names.insert((options.rename)(name), name) {
                let why = format!("`{other}` and `{name}` of {} get one name by Load::rename", path.display());
                return Err(Error::argument("load_with", why));
            }
        }
        let (mut values, mut all) = (Vec::new(), Loaded::default());
        let mut wrong = None;
        for p in self.defs.iter().filter(|p| (options.only)(&p.name)) {
            let taken = match names.remove(&p.name) {
                Some(name) => file.take(name, p.shape).inspect_err(|_| all.mismatched.push(p.name.clone())),
                None => {
                    all.missing.push(p.name.clone());
                    Err(Error::Parameter { name: p.name.clone(), why: format!("not in {}", path.display()) })
                }
            };
            match taken {
                Ok(value) => {
                    all.loaded.push(p.name.clone());
                    values.push((p.name.clone(), value));
                }
                // The error of a tensor names the tensor, which may have another name than the parameter.
                Err(Error::Parameter { why, .. }) => wrong = wrong.or(Some((p.name.clone(), why))),
                Err(other) => return Err(other),
            }
        }
        all.unexpected = names.into_keys().collect();
        if let (true, Some((name, mut why))) = (options.strict, wrong) {
            for (names, what) in [(&all.missing, "missing"), (&all.mismatched, "of another shape or type")] {
                if names.len() > usize::from(names.contains(&name)) {
                    why += &format!("; {} are {what}: {}", names.len(), names.join(", "));
                }
            }
            return Err(Error::Parameter { name, why });
        }
        self.set_all(&values)?;
        Ok(all)
    }
}

/// The options of [`Params::load_with`].
pub struct Load<'a> {
    /// Whether a parameter that is missing or does not fit is an error, after which nothing has changed. The default is true.
    /// If false, such a parameter keeps its value.
    pub strict: bool,
    /// Maps the name of a tensor in the file to the name of a parameter. By default the names are the same.
    pub rename: &'a dyn Fn(&str) -> String,
    /// Says by its name whether a parameter is loaded. By default all are loaded.
    pub only: &'a dyn Fn(&str) -> bool,
}

impl Default for Load<'_> {
    fn default() -> Self {
        Load { strict: true, rename: &|name| name.to_string(), only: &|_| true }
    }
}

/// The names of the parameters and tensors that [`Params::load_with`] has met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The parameters that were loaded.
    pub loaded: Vec<String>,
    /// The parameters that the file does not have.
    pub missing: Vec<String>,
    /// The tensors of the file, under their new names, that no parameter asked for.
    pub unexpected: Vec<String>,
    /// The parameters that the file has in another shape, or not as floats.
    pub mismatched: Vec<String>,
}

/// Reads all tensors of a safetensors file. Floats are converted as [`Params::load`] does. Integers and truth values up to 2³²
/// − 1 become `u32`.
///
/// ```
/// use downhill::{Host, weights};
/// let path = std::env::temp_dir().join(format!("downhill-read-{}.safetensors", std::process::id()));
/// let tensors = [("b".to_string(), Host::new([2], vec![0.5, -1.0])), ("a".to_string(), Host::labels([1], vec![7]))];
/// weights::write(&path, &tensors)?;
/// assert_eq!(weights::read(&path)?, tensors);
/// # std::fs::remove_file(path).ok();
/// # Ok::<(), downhill::Error>(())
/// ```
///
/// # Errors
/// The file is missing or is no safetensors file. A tensor has more than 6 axes, or values that are neither floats nor such
/// integers.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<(String, Host<f32>)>> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    let file = WeightFile::new(path, &bytes)?;
    let mut views: Vec<(String, TensorView)> = file.tensors.tensors();
    // The order of the values in the file.
    views.sort_by_key(|(name, view)| (view.data().as_ptr(), name.clone()));
    let one = |(name, view): (String, TensorView)| {
        let error = |why: String| Error::Parameter { name: name.clone(), why: format!("{why} in {}", path.display()) };
        let shape =
            Shape::new(view.shape()).ok_or_else(|| error(format!("{} axes, but at most {MAX_RANK} are possible,", view.shape().len())))?;
        let host = match integers(&view) {
            Some(values) => Host::labels(shape, values.map_err(error)?),
            None => Host::new(shape, floats(&view).map_err(error)?),
        };
        Ok((name, host))
    };
    views.into_iter().map(one).collect()
}

/// Writes tensors to a safetensors file. The file is [replaced](crate::file::replace) whole or not at all. Equal tensors give
/// equal bytes.
///
/// # Errors
/// The file cannot be written. Two tensors have one name, or a name is `__metadata__`.
pub fn write(path: impl AsRef<Path>, tensors: &[(String, Host<f32>)]) -> Result<()> {
    for (i, (name, value)) in tensors.iter().enumerate() {
        let why = if name == "__metadata__" {
            "safetensors files keep this name for themselves; choose another".to_string()
        } else if tensors[..i].iter().any(|(other, _)| other == name) {
            "two tensors have this name".to_string()
        } else if !value.fits(value.shape) {
            format!("{} do not fill the shape {}", value.content(), value.shape)
        } else {
            continue;
        };
        return Err(Error::Parameter { name: name.clone(), why });
    }
    file::write(path.as_ref(), |out| write_to(out, tensors, &BTreeMap::new()))
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
pub(crate) fn split(params: &[ParamDef], ranges: &[crate::params::Range], flat: &[Vec<f32>]) -> Vec<(String, Host<f32>)> {
    let part = |(p, r): (&ParamDef, &crate::params::Range)| (p.name.clone(), Host::new(p.shape, flat[r.piece][r.of()].to_vec()));
    params.iter().zip(ranges).map(part).collect()
}

/// Writes the content of a safetensors file. Tensors are in the given order and the metadata is sorted by name, so equal
/// contents give equal bytes. The crate `safetensors` cannot do this, because it stores the metadata in a `HashMap`.
pub(crate) fn write_to(out: &mut dyn Write, tensors: &[(String, Host<f32>)], info: &BTreeMap<String, String>) -> io::Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    if !info.is_empty() {
        header.insert("__metadata__".into(), json!(info));
    }
    for (name, value) in tensors {
        let start = end;
        end += 4 * value.len();
        let dtype = if let Data::Index(_) = value.data { "U32" } else { "F32" };
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": value.shape.dims(), "data_offsets": [start, end] }));
    }
    let mut header = serde_json::to_vec(&header).expect("names and numbers are JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    // The values are written in chunks, because converting them to the file's byte order makes a copy.
    let mut put = |words: &mut dyn Iterator<Item = u32>| out.write_all(bytemuck::cast_slice(&words.map(u32::to_le).collect::<Vec<u32>>()));
    tensors.iter().try_for_each(|(_, value)| match &value.data {
        Data::Float(v) => v.chunks(1 << 16).try_for_each(|part| put(&mut part.iter().map(|x| x.to_bits()))),
        Data::Index(v) => v.chunks(1 << 16).try_for_each(|part| put(&mut part.iter().copied())),
    })
}

/// A safetensors file in memory.
pub(crate) struct WeightFile<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    /// The metadata.
    pub info: HashMap<String, String>,
}

pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
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
    /// Returns the shape of the tensor `name`.
    pub fn shape(&self, name: &str) -> Result<Shape> {
        let shape = self.tensors.tensor(name).ok().and_then(|view| Shape::new(view.shape()));
        shape.ok_or_else(|| Error::format(self.path, format!("`{name}` has too many axes")))
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

/// Converts integers to `u32`. `None` for other types.
fn integers(view: &TensorView) -> Option<Result<Vec<u32>, String>> {
    fn each<const N: usize>(view: &TensorView, f: impl Fn([u8; N]) -> i128) -> Result<Vec<u32>, String> {
        let word = |bytes: &[u8; N]| u32::try_from(f(*bytes)).map_err(|_| format!("{} is no u32,", f(*bytes)));
        view.data().as_chunks().0.iter().map(word).collect()
    }
    Some(match view.dtype() {
        Dtype::BOOL | Dtype::U8 => each(view, |[b]| b.into()),
        Dtype::I8 => each(view, |b| i8::from_le_bytes(b).into()),
        Dtype::U16 => each(view, |b| u16::from_le_bytes(b).into()),
        Dtype::I16 => each(view, |b| i16::from_le_bytes(b).into()),
        Dtype::U32 => each(view, |b| u32::from_le_bytes(b).into()),
        Dtype::I32 => each(view, |b| i32::from_le_bytes(b).into()),
        Dtype::U64 => each(view, |b| u64::from_le_bytes(b).into()),
        Dtype::I64 => each(view, |b| i64::from_le_bytes(b).into()),
        _ => return None,
    })
}
