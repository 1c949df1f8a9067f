//! The kernels that are compiled: every candidate of every op of four networks, forward and backward, then optimizers and feed.

use downhill::{
    Graph, Shape, Tensor,
    gpu::{FlipShift, feed_pass, shader::assemble},
    graph::ParamDef,
    init::Init,
    kernel::{Bind, Caps, Kernel, Pass, Source},
    layers::{AttentionMask, MultiHeadAttention},
    optim::{self, Adam, Muon, Optimizer, Readouts},
    params::Layout,
    plan::{Loc, Plan, PlanOptions},
    shape::DType,
    testing,
};
use std::collections::HashMap;

/// A pass of a candidate.
pub struct Item {
    /// The network, or the part of a step.
    pub of: String,
    /// The op with its shapes, and with a number where there are several of that label.
    label: String,
    pub op: String,
    pub candidate: String,
    /// The number of the pass in its kernel.
    pub number: usize,
    pub pass: Pass,
    /// The number of the first item with the same shader.
    pub same: Option<usize>,
    /// Whether hardware is expected to use the candidate.
    pub expected: bool,
    /// The operations of the whole op, and the bytes that it must read and write.
    pub flops: u64,
    pub bytes: u64,
}

type Model = for<'g> fn(&'g Graph) -> Tensor<'g>;

const MODELS: [(&str, Model); 6] = [
    ("mlp", mlp),
    ("mlp, small", mlp_small),
    ("cnn", cnn),
    ("transformer", transformer),
    ("attention with options", attention),
    ("lstm", lstm),
];

fn mlp(g: &Graph) -> Tensor<'_> {
    let y = g.input([4096, 784]).linear("fc1", 512).relu().linear("fc2", 256).relu().linear("fc3", 10);
    y.cross_entropy(g.labels([4096]))
}

fn mlp_small(g: &Graph) -> Tensor<'_> {
    let y = g.input([64, 50]).linear("fc1", 33).tanh().dropout(0.2).linear("fc2", 10);
    y.cross_entropy(g.labels([64]))
}

fn cnn(g: &Graph) -> Tensor<'_> {
    let x = g.input([128, 3, 32, 32]).conv2d("conv1", 32, 3).batch_norm("bn1").relu().max_pool2d(2);
    let x = x.conv2d("conv2", 64, 3).batch_norm("bn2").relu().conv2d("conv3", 128, 3).relu().max_pool2d(2);
    x.flatten().dropout(0.25).linear("fc", 10).cross_entropy(g.labels([128]))
}

fn transformer(g: &Graph) -> Tensor<'_> {
    let x = g.labels([16, 128]).embedding("embedding", 1000, 256).positional_embedding("place", 128);
    let x = x.transformer_encoder_layer("layer", 4, 1024);
    x.layer_norm("norm").linear("head", 1000).cross_entropy(g.labels([16, 128]))
}

/// Every option of attention at once: shared heads, a window, slopes, dropout.
fn attention(g: &Graph) -> Tensor<'_> {
    let options = MultiHeadAttention {
        causal: true,
        kv_heads: Some(2),
        local_window_size: Some([100, 0]),
        alibi: true,
        dropout: 0.1,
        mask: AttentionMask::lengths(g.labels([16])),
        ..MultiHeadAttention::default()
    };
    let x = g.input([16, 128, 256]).multi_head_attention_with("attention", 4, options);
    x.mean(&[1], false).cross_entropy(g.labels([16]))
}

fn lstm(g: &Graph) -> Tensor<'_> {
    let y = g.input([64, 16, 96]).lstm("lstm", 128).mean(&[1], false).linear("out", 10);
    y.cross_entropy(g.labels([64]))
}

/// A kernel that needs scratch memory. It proves that the compiler's numbers are read.
pub const CONTROL: &str = "control";

fn control() -> Kernel {
    let text = "@compute @workgroup_size(64) fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
            var kept: array<f32, 400>;
            for (var i = 0u; i < p.units; i++) { kept[i] = y[i + id.x]; }
            for (var i = 0u; i < p.units; i++) { y[i * 64u + id.x] = kept[p.units - i] + kept[(i * i) % 400u]; }
        }";
    let binds = vec![Bind::output("y", DType::F32)];
    let source = Source { name: CONTROL, text };
    let pass = Pass {
        source,
        entry: "forward",
        consts: vec![],
        params: vec![],
        binds,
        code: String::new(),
        units: 400,
        per_group: 1,
        step: false,
    };
    Kernel::one("array", pass)
}

/// Returns all kernels for a device of these abilities.
pub fn all(caps: &Caps) -> downhill::Result<Vec<Item>> {
    let mut items = Items::default();
    for (name, model) in MODELS {
        let g = Graph::training();
        let loss = model(&g);
        let grads = loss.grad(&g.param_tensors());
        let plan = |candidate| Plan::new(&[loss], &grads, &PlanOptions { candidate, ..PlanOptions::new(Some(*caps)) });
        let expected = plan(None)?;
        let plans: Vec<Plan> = (0..8).map(|k| plan(Some(k))).collect::<downhill::Result<_>>()?;
        for (i, step) in expected.steps.iter().enumerate().filter(|(_, step)| step.kernel.is_some()) {
            let mut seen: Vec<&Kernel> = Vec::new();
            for kernel in plans.iter().filter_map(|plan| plan.steps[i].kernel.as_ref()) {
                if !seen.contains(&kernel) {
                    seen.push(kernel);
                    let op = step.label.rsplit_once(" (").map_or(&step.label[..], |(op, _)| op);
                    items.kernel(name, op, kernel, step.kernel.as_ref() == Some(kernel), [step.flops(), step.bytes()])?;
                }
            }
        }
        for optimizer in [Adam::new(1e-3).into(), Muon::new(1e-3).rest(Adam::new(1e-3)).ema(0.9)] {
            let training = testing::training_plan(loss, &optimizer, caps)?;
            for step in training.steps.iter().filter(|step| step.op().is_none()) {
                items.kernel(name, &step.label, step.kernel.as_ref().expect("a GPU's step has a kernel"), true, [0, step.bytes()])?;
            }
        }
    }
    for optimizer in optim::all() {
        items.optimizer(&optimizer, caps)?;
        items.optimizer(&optimizer.clone().clip_norm(1.0), caps)?;
    }
    let (piece, flips) = ([("start", 0), ("rows", 1000), ("len", 1000)], FlipShift { horizontal: 1 << 23, vertical: 0, shift: 2 });
    for (bytes, each, augment) in [(false, 1, None), (true, 4, None), (true, 1, Some(&flips)), (false, 1, Some(&flips))] {
        let shape = Shape::from([128, 3, 32, 32]);
        let pass = feed_pass(bytes, each, &piece, shape, augment, caps);
        let op = format!("feed{}{}", if bytes { " bytes" } else { "" }, if augment.is_some() { ", augmented" } else { "" });
        items.kernel("feed", &op, &Kernel::one("feed", pass), true, [0, 2 * shape.bytes()])?;
    }
    items.kernel(CONTROL, "an array", &control(), false, [0, 0])?;
    Ok(items.all)
}

#[derive(Default)]
struct Items {
    all: Vec<Item>,
    known: HashMap<(String, &'static str), usize>,
}

impl Items {
    fn kernel(&mut self, of: &str, op: &str, kernel: &Kernel, expected: bool, [flops, bytes]: [u64; 2]) -> downhill::Result<()> {
        for (number, pass) in kernel.passes.iter().enumerate() {
            let at = self.all.len();
            let first = *self.known.entry((assemble(pass)?, pass.entry)).or_insert(at);
            let same = (first < at).then_some(first);
            // Options of an optimizer are not in its label.
            let candidate = if kernel.passes.len() > 1 { format!("{} in parts", kernel.name) } else { kernel.name.to_string() };
            let alike = |item: &&Item| {
                let name = (&item.of[..], &item.label[..], &item.candidate, item.number);
                item.same.is_none() && name == (of, op, &candidate, number)
            };
            let label = op.to_string();
            let op = match self.all.iter().filter(alike).count() {
                n if n > 0 && same.is_none() => format!("{op}, variant {}", n + 1),
                _ => op.to_string(),
            };
            let (of, pass) = (of.to_string(), pass.clone());
            self.all.push(Item { of, label, op, candidate, number, pass, same, expected, flops, bytes });
        }
        Ok(())
    }
    fn optimizer(&mut self, optimizer: &Optimizer, caps: &Caps) -> downhill::Result<()> {
        let param = |k: usize| ParamDef {
            name: format!("w{k}"),
            shape: Shape::from([300, 100 + k]),
            init: Init::Zeros,
            decay: true,
            trained: true,
        };
        let params: Vec<ParamDef> = (0..4).map(param).collect();
        let groups = optimizer.groups(&params)?;
        let layout = Layout::new(&params, &groups.statuses, 1 << 20, 1 << 20)?;
        let mut steps =
            optimizer.steps(&layout, optimizer.rows(groups.settings.len()), false, Loc::Slot(0), Some(Loc::Slot(1)), Some(caps));
        let readouts = Readouts { noise_scale: true, norms: Some(1) };
        optimizer.read_out(&mut steps, readouts, &layout, optimizer.rows(groups.settings.len()), Some(caps));
        for step in steps {
            self.kernel("optimizers", &step.label, step.kernel.as_ref().expect("a GPU's step has a kernel"), true, [0, step.bytes()])?;
        }
        Ok(())
    }
}
