//! A data set on the device, and the dispatches that fetch a step's batch from it.

use crate::{
    error::{Error, Result},
    gpu::device::Gpu,
    graph::InputDef,
    kernel::{Bind, Caps, Kernel, Pass, Word, source},
    plan::{self, Loc, Phase, Step},
    shape::{DType, Shape},
    threads::lock,
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Random changes to the images of a batch. The fields are the numbers that `shaders/feed.wgsl` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlipShift {
    /// The threshold for mirroring an image left to right. An image is mirrored if 24 random bits are below the threshold.
    pub horizontal: u32,
    /// The threshold for mirroring an image top to bottom.
    pub vertical: u32,
    /// The largest shift of an image in pixels along each axis.
    pub shift: u32,
}

/// The samples or the targets of a data set. A sample is a row of `width` numbers.
#[derive(Clone, Copy, Debug)]
pub enum FeedColumn<'a> {
    /// Floating-point numbers.
    Float(&'a [f32]),
    /// Labels or tokens.
    Index(&'a [u32]),
    /// Bytes. A table gives the number that each byte stands for.
    Bytes {
        /// The data, one byte for each number.
        data: &'a [u8],
        /// The number for each of the 256 bytes.
        means: &'a [f32; 256],
    },
}

impl FeedColumn<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            FeedColumn::Float(v) => bytemuck::cast_slice(v),
            FeedColumn::Index(v) => bytemuck::cast_slice(v),
            FeedColumn::Bytes { data, .. } => data,
        }
    }
    /// Returns the table at the start of each piece.
    fn table(&self) -> &[u8] {
        match self {
            FeedColumn::Bytes { means, .. } => bytemuck::cast_slice(*means),
            _ => &[],
        }
    }
    fn dtype(&self) -> DType {
        if let FeedColumn::Index(_) = self { DType::U32 } else { DType::F32 }
    }
}

/// The number of bytes in one staged upload.
const STRIDE: usize = 32 << 20;

/// A data set on the device. Bytes stay bytes there. A column that is larger than a binding is divided into pieces between
/// samples.
pub struct Resident {
    gpu: Arc<Gpu>,
    columns: Vec<Stored>,
    order: wgpu::Buffer,
    len: usize,
    /// Memory for the words of the order. It is reused for each upload.
    words: Mutex<Vec<u32>>,
    uploaded: AtomicU64,
    allocations: u64,
}

struct Stored {
    /// The numbers in a row.
    width: usize,
    dtype: DType,
    bytes: bool,
    /// The rows in each piece. The last piece may have fewer.
    rows: usize,
    pieces: Vec<wgpu::Buffer>,
}

impl Resident {
    /// Uploads `len` samples to the device. Each column comes with the number of values in a row. The columns have the order
    /// of the plan's inputs. Returns `None` if the data would take more than `most` bytes, or if a sample or the order is
    /// larger than a binding.
    ///
    /// # Errors
    /// [`Error::Device`] if there is not enough memory.
    pub async fn new(gpu: &Arc<Gpu>, columns: &[(FeedColumn<'_>, usize)], len: usize, most: u64) -> Result<Option<Resident>> {
        let limit = gpu.caps().max_binding_bytes;
        let order_bytes = len as u64 * 4;
        let all: u64 = columns.iter().map(|(column, _)| column.bytes().len() as u64).sum();
        if all + order_bytes > most || order_bytes > limit {
            return Ok(None);
        }
        let mut wanted = vec![(format!("order of {len} samples"), order_bytes)];
        let mut stored = Vec::new();
        for (i, (column, width)) in columns.iter().enumerate() {
            let (row, table) = ((column.bytes().len() / len) as u64, column.table().len() as u64);
            let rows = (limit.saturating_sub(table + 3) / row).min(len as u64) as usize;
            if rows == 0 {
                return Ok(None);
            }
            for (k, piece) in column.bytes().chunks(rows * row as usize).enumerate() {
                wanted.push((format!("data {i} piece {k}"), table + (piece.len() as u64).next_multiple_of(4)));
            }
            let bytes = matches!(column, FeedColumn::Bytes { .. });
            stored.push(Stored { width: *width, dtype: column.dtype(), bytes, rows, pieces: Vec::new() });
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let mut made = gpu.buffers(&wanted, usage).await?.into_iter();
        let order = made.next().expect("the order is the first of the buffers made");
        for (stored, (column, _)) in stored.iter_mut().zip(columns) {
            let bytes = column.bytes();
            for (piece, buffer) in bytes.chunks(stored.rows * (bytes.len() / len)).zip(&mut made) {
                gpu.queue.write_buffer(&buffer, 0, column.table());
                for (k, part) in piece.chunks(STRIDE).enumerate() {
                    let at = (column.table().len() + k * STRIDE) as u64;
                    let whole = part.len() / 4 * 4;
                    gpu.queue.write_buffer(&buffer, at, &part[..whole]);
                    if whole < part.len() {
                        let mut last = [0; 4];
                        last[..part.len() - whole].copy_from_slice(&part[whole..]);
                        gpu.queue.write_buffer(&buffer, at + whole as u64, &last);
                    }
                    // A submit frees the staging memory of the upload.
                    gpu.queue.submit([]);
                }
                stored.pieces.push(buffer);
            }
        }
        gpu.check()?;
        let uploaded = AtomicU64::new(wanted[1..].iter().map(|(_, bytes)| bytes).sum());
        let (allocations, words) = (wanted.len() as u64, Mutex::default());
        Ok(Some(Resident { gpu: gpu.clone(), columns: stored, order, len, words, uploaded, allocations }))
    }

    /// Sets the order of the samples in an epoch. A step names the place of its first sample in this order.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are more samples than the data set has, or a sample does not exist. Also an error if the
    /// device fails.
    pub fn set_order(&self, samples: &[usize]) -> Result<()> {
        if samples.len() > self.len || samples.iter().any(|&s| s >= self.len) {
            return Err(Error::argument("order", format!("it names samples beyond the {} samples on the device", self.len)));
        }
        let mut words = lock(&self.words);
        words.clear();
        words.extend(samples.iter().map(|&s| s as u32));
        self.gpu.queue.write_buffer(&self.order, 0, bytemuck::cast_slice(&words));
        self.uploaded.fetch_add(words.len() as u64 * 4, Relaxed);
        self.gpu.check()
    }
    pub(super) fn order(&self) -> &wgpu::Buffer {
        &self.order
    }
    pub(super) fn piece(&self, column: usize, piece: usize) -> Option<&wgpu::Buffer> {
        self.columns.get(column)?.pieces.get(piece)
    }

    /// Returns the size of the data set on the device in bytes.
    pub fn bytes(&self) -> u64 {
        let pieces = self.columns.iter().flat_map(|stored| &stored.pieces);
        pieces.chain([&self.order]).map(|buffer| buffer.size()).sum()
    }
    /// Returns the number of uploaded bytes and the number of buffers.
    pub(crate) fn counts(&self) -> [u64; 2] {
        [self.uploaded.load(Relaxed), self.allocations]
    }

    /// Returns the steps that fill these inputs of a plan, one step for each piece of the data. `augment` changes the first
    /// input.
    ///
    /// # Errors
    /// [`Error::Input`] if the samples do not fit the inputs.
    pub(crate) fn steps(&self, inputs: &[InputDef], augment: Option<FlipShift>, caps: &Caps) -> Result<Vec<Step>> {
        if inputs.len() > self.columns.len() {
            let want = format!("{} tensors", inputs.len());
            return Err(Error::Input { what: "data on the device".into(), got: format!("{}", self.columns.len()), want });
        }
        let words = |loc, buffer: &wgpu::Buffer| (loc, Shape::from([(buffer.size() / 4) as usize]).of(DType::U32));
        let mut steps = Vec::new();
        for (i, (&InputDef { shape, .. }, stored)) in inputs.iter().zip(&self.columns).enumerate() {
            if shape.sample().elements() != stored.width || shape.rank() == 0 || shape.dtype() != stored.dtype {
                let (what, got) = (format!("data {i}"), format!("{} numbers of a sample", stored.width));
                return Err(Error::Input { what, got, want: shape.to_string() });
            }
            let augment = augment.filter(|_| i == 0);
            steps.extend(stored.pieces.iter().enumerate().map(|(k, piece)| Step {
                phase: Phase::Fetch,
                label: format!("feed input {i} {shape} from piece {k}"),
                layer: String::new(),
                work: plan::Work::Fetch,
                inputs: vec![words(Loc::Data(i, k), piece), words(Loc::Order, &self.order)],
                output: (Loc::Input(i), shape),
                scratch: Vec::new(),
                kernel: Some(Kernel::one("feed", stored.pass(k, shape, self.len, augment.as_ref(), caps))),
                unchecked: true,
            }));
        }
        Ok(steps)
    }
}

impl Stored {
    fn pass(&self, piece: usize, input: Shape, len: usize, augment: Option<&FlipShift>, caps: &Caps) -> Pass {
        let start = piece * self.rows;
        let line = augment.map_or(self.width, |_| input.last());
        let each = if line.is_multiple_of(4) { 4 } else { 1 };
        feed_pass(self.bytes, each, &[("start", start), ("rows", self.rows.min(len - start)), ("len", len)], input, augment, caps)
    }
}

/// Returns a pass of `shaders/feed.wgsl` that fills an input `[batch, …]` from a piece of a data set. `bytes` says whether the
/// piece holds bytes. `each` is the number of values for each invocation. `piece` gives `start`, `rows` and `len` (of the
/// whole set).
pub fn feed_pass(bytes: bool, each: usize, piece: &[(&str, usize)], input: Shape, augment: Option<&FlipShift>, caps: &Caps) -> Pass {
    let wg = caps.workgroup(256);
    let mut params: Vec<(String, Word)> = piece.iter().map(|&(name, n)| (name.to_string(), n.into())).collect();
    params.push(("width".into(), input.sample().elements().into()));
    if let Some(augment) = augment {
        let image = [("height", input.dims()[2] as u32), ("across", input.dims()[3] as u32), ("pad", augment.shift)];
        let all = image.into_iter().chain([("horizontal", augment.horizontal), ("vertical", augment.vertical)]);
        params.extend(all.map(|(name, n)| (name.to_string(), n.into())));
    }
    Pass {
        source: source!("feed"),
        entry: if augment.is_some() { "augmented" } else { "forward" },
        consts: vec![("WG", wg.into()), ("EACH", each.into()), ("BYTES", Word::U(bytes.into()))],
        params,
        // Floats are copied as 32-bit words.
        binds: vec![Bind::input("data", 0, DType::U32), Bind::input("order", 1, DType::U32), Bind::output("y", DType::U32).per_unit(each)],
        code: String::new(),
        units: input.elements() / each,
        per_group: wg,
        step: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{self, Augment, Dataset, Features, Target},
        gpu::{Choice, ExecOptions, GpuExec, GpuOptions, GpuStore, Limits, StepRow, open},
        graph::InputDef,
        host::{Data, Host},
        params::Layout,
        plan::{Loc, Plan},
    };
    use pollster::block_on;

    /// A plan that only passes its inputs on.
    fn plan(inputs: &[Shape]) -> Plan {
        Plan {
            inputs: inputs.iter().map(|&shape| InputDef { shape, classes: None }).collect(),
            outputs: inputs.iter().enumerate().map(|(i, &shape)| (Loc::Input(i), shape)).collect(),
            ..Plan::default()
        }
    }

    fn words(host: &Host<f32>) -> Vec<u32> {
        match &host.data {
            Data::Float(v) => v.iter().map(|x| x.to_bits()).collect(),
            Data::Index(v) => v.clone(),
        }
    }

    fn flip_shift(augment: &Augment) -> FlipShift {
        let [horizontal, vertical] = augment.thresholds();
        FlipShift { horizontal, vertical, shift: augment.crop_padding as u32 }
    }

    /// Compares every batch that the device fetches with the host's batch, bit by bit.
    fn same(gpu: &Arc<Gpu>, data: &Dataset, augment: Option<Augment>, pieces: usize) {
        const NAN: u32 = 0x7fc0_dead;
        let mut batch: [Host<f32>; 2] = data.batch(&[0, 1, 2, 3, 4, 5, 6]).unwrap().into();
        let plan = plan(&[batch[0].shape, batch[1].shape]);
        let store = Arc::new(block_on(GpuStore::new(gpu, Layout::default(), 0)).unwrap());
        let mut exec = block_on(GpuExec::new(gpu, &plan, &store, ExecOptions { guards: true, ..ExecOptions::default() })).unwrap();
        let means = data.fields()[0].means();
        let width = data.sample_shape().elements();
        let column = match data.features() {
            Features::Float(v) => FeedColumn::Float(v),
            Features::Tokens { data, .. } => FeedColumn::Index(data),
            Features::Bytes { data, .. } => FeedColumn::Bytes { data, means: &means },
            Features::Source(_) => unreachable!("these sets are in memory"),
        };
        let y = &data.fields()[1];
        let targets = match y.data() {
            Features::Tokens { data, .. } => (FeedColumn::Index(data), y.width()),
            Features::Float(data) => (FeedColumn::Float(data), y.width()),
            Features::Bytes { .. } | Features::Source(_) => unreachable!("these sets have other targets"),
        };
        let columns = [(column, width), targets];
        let resident = Arc::new(block_on(Resident::new(gpu, &columns, data.len(), 1 << 30)).unwrap().expect("it fits"));
        assert_eq!(resident.columns[0].pieces.len(), pieces, "{data:?}");
        // Data that need more than the allowed bytes are not uploaded.
        assert!(block_on(Resident::new(gpu, &columns, data.len(), 1000)).unwrap().is_none());
        exec.fill_slots(NAN).unwrap();
        assert!(exec.submit_steps(&[StepRow::default()], &[], true).unwrap_err().to_string().contains("fed from nowhere"));
        block_on(exec.feed(&resident, augment.map(|a| flip_shift(&a)))).unwrap();
        // The epoch starts at a step whose number is near the end of 32 bits.
        let (seed, first) = (3 << 40 | 5, (1u64 << 32) - 3);
        let order = data::shuffled(data.len(), 1, 0);
        resident.set_order(&order).unwrap();
        assert!(resident.set_order(&[data.len()]).is_err());
        for (step, count) in [(0, 1), (1, 1), (2, 3), (5, 2)] {
            let rows: Vec<StepRow> =
                (step..step + count).map(|k| StepRow { seed, step: first + k, sample: k as u32 * 7, ..StepRow::default() }).collect();
            exec.submit_steps(&rows, &[], true).unwrap();
            let last = step + count - 1;
            let samples = &order[last as usize * 7..][..7];
            data.gather_into(&[0, 1], samples, augment.as_ref().map(|a| (a, seed, first + last)), &mut batch).unwrap();
            for (i, want) in batch.iter().enumerate() {
                let got = block_on(exec.read(i)).unwrap();
                assert_eq!(words(&got), words(want), "{data:?}, {augment:?}, step {last}, input {i}");
            }
        }
        assert_eq!(block_on(exec.fences_intact(NAN)).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_batch_is_the_hosts_to_the_bit() {
        let small = Limits { max_binding_bytes: 64 << 10, max_workgroups: 4, ..Limits::default() };
        for options in [
            GpuOptions::default(),
            GpuOptions { checked: true, ..Default::default() },
            GpuOptions { limits: Some(small), ..Default::default() },
        ] {
            let cut = options.limits.is_some();
            let gpu = match block_on(open(&GpuOptions { software: true, choice: Choice::Expected, ..options })) {
                Ok(gpu) => gpu,
                Err(none) if std::env::var("CI").as_deref() != Ok("true") => return eprintln!("not tested: {none}"),
                Err(error) => panic!("{error}"),
            };
            let digits = data::digits().reshape([1, 8, 8]).unwrap();
            let mut normal = digits.clone();
            data::Normalise::overall(&digits).apply(&mut normal).unwrap();
            let floats: Vec<f32> = (0..900 * 3 * 5 * 7).map(|i| (i as f32 * 0.37).sin()).collect();
            let values: Vec<f32> = (0..1800).map(|i| i as f32 * 0.1 - 7.0).collect();
            let odd = Dataset::new(floats, [3, 5, 7], Target::values([2], values)).unwrap();
            let bytes: Vec<u8> = (0..901 * 5 * 17).map(|i| (i * 31 % 256) as u8).collect();
            let odd_bytes = Dataset::bytes(bytes, [1, 5, 17], 1.0 / 255.0, Target::labels((0..901).map(|i| i % 3).collect(), 3)).unwrap();
            let tokens: Vec<u32> = (0..1000 * 9).map(|i| i * 7 % 50).collect();
            let tokens = Dataset::tokens(tokens.clone(), [9], 50, Target::labels_per([9], tokens, 50)).unwrap();
            let whole = Augment { horizontal_flip: 0.5, vertical_flip: 0.25, crop_padding: 2 };
            // The digits have 115,008 bytes, the floats 378,000, and the odd bytes 76,585.
            for (data, pieces) in [(&digits, 2), (&normal, 2), (&odd, 6), (&odd_bytes, 2), (&tokens, 1)] {
                let pieces = if cut { pieces } else { 1 };
                same(&gpu, data, None, pieces);
                if data.sample_shape().rank() == 3 {
                    same(&gpu, data, Some(whole), pieces);
                    same(&gpu, data, Some(Augment { horizontal_flip: 1.0, ..Augment::default() }), pieces);
                }
            }
        }
    }
}
