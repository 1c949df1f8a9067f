//! WGSL from outside of the crate: promised to stay inside of its tensors, and leaving them.

use crate::{RIGHT, RunningSumOf, common::Check};
use downhill::{
    DType, Device, Error, Graph, Host, Shape, Tensor, Trainer,
    host::{Real, View, ViewMut},
    init::Init,
    kernel::{Bind, Caps, Checks, Kernel, Pass, Source},
    ops::{Case, OpDef},
    optim::Sgd,
    rng::Key,
    testing,
};

/// [`RunningSum`] whose author promises that its kernel stays inside its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Proved;

impl OpDef for Proved {
    const NAME: &'static str = "proved_sum";
    // SAFETY: a row is below `p.units`, so that each index is inside of `x` and `y`; the one loop ends, and nothing is divided.
    const CHECKS: Checks<Proved> = unsafe { Checks::off() };

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        RIGHT.shape(x)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        RIGHT.reference(x, y, key);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        RIGHT.vjp(x, y, dy)
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        RIGHT.kernels(x, y, caps)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        RIGHT.terms(x)
    }
    fn cases() -> Vec<Case> {
        vec![Case::new("[3, 5]", Proved, &[Shape::from([3, 5])])]
    }
}

/// The same WGSL is compiled with checks for the one op and without for the other: two pipelines, each made once.
pub fn promises(device: &Device) -> Check {
    let device = Device::open(crate::common::inner(device).options())?;
    let run = |proved: bool| -> Result<usize, Error> {
        let g = Graph::inference();
        let x = g.input([1, 4]);
        let y = if proved { g.apply(Proved, &[x]) } else { x.running_sum() };
        let y = device.compile(&[y])?.run(&[Host::new([1, 4], vec![1.0, 2.0, 3.0, 4.0])])?;
        assert_eq!(y[0].f(), [1.0, 3.0, 6.0, 10.0]);
        Ok(crate::common::inner(&device).pipeline_count())
    };
    let counts = [run(false)?, run(true)?, run(false)?, run(true)?];
    assert_eq!(counts, [1, 2, 2, 2]);
    Ok(testing::check::<Proved>(&device)?)
}

/// `y = x` and zeros behind it, by WGSL that leaves its tensors and arrays wherever it can.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reckless;

const RECKLESS: &str = "
var<workgroup> lanes: array<f32, WG>;

@compute @workgroup_size(WG)
fn forward(@builtin(local_invocation_index) lane: u32) {
    var own = array<f32, 4>(1.0, 2.0, 3.0, 4.0);
    let far = p.n + lane;
    let start = lanes[lane];
    workgroupBarrier();
    lanes[far] = 5.0;
    if lane < p.n {
        // 0 from memory that nothing was written to, 7 of a division by 0, 4 from behind the end of an array.
        y[lane] = x[lane] + start + f32(7u / (p.n - 64u) - 7u) + own[far] - 4.0;
    }
    own[far * 1000u] = 6.0;
    // Behind the end: the gradients and the weights of others.
    y[far + 1u] = x[far + 1u] + own[lane & 3u];
    y[lane - 64u] = 9.0;
}
";

impl OpDef for Reckless {
    const NAME: &'static str = "reckless";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        Ok(x[0])
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _key: Key) {
        y.f.copy_from_slice(x[0].f);
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph().apply(Reckless, &[dy]))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, _caps: &Caps) -> Vec<Kernel> {
        let pass = Pass {
            source: Source { name: "reckless", text: RECKLESS },
            entry: "forward",
            consts: vec![("WG", 64usize.into())],
            params: vec![("n".to_string(), x[0].elements().into())],
            binds: vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)],
            code: String::new(),
            units: 1,
            per_group: 1,
            step: false,
        };
        vec![Kernel::one("reckless", pass)]
    }
    fn cases() -> Vec<Case> {
        Vec::new()
    }
}

/// Its gradient is computed between those of two other parameters, from a weight between theirs, and changes neither.
pub fn reckless(device: &Device) -> Check {
    let g = Graph::training();
    let [before, w, after] = ["before", "w", "after"].map(|name| g.param(name, [64], Init::Ones));
    let factors = g.constant(Host::new([64], (0..64).map(|i| i as f32).collect()));
    let loss = (g.apply(Reckless, &[w]) * factors).sum_all() + (before * factors).sum_all() + (after * factors).sum_all();
    let mut trainer = Trainer::new(device, loss, Sgd::new(0.25))?;
    trainer.step(&[])?;
    for name in ["before", "w", "after"] {
        let (gradient, weight) = (trainer.gradient(name)?, trainer.params().get(name)?);
        // The last element is where writes behind the end may go.
        let end = if name == "w" { 63 } else { 64 };
        for (i, (g, w)) in gradient.f().iter().zip(weight.f()).enumerate().take(end) {
            if (*g, *w) != (i as f32, 1.0 - 0.25 * i as f32) {
                return Err(format!("{name}: element {i} has the gradient {g} and becomes {w}").into());
            }
        }
    }
    Ok(())
}
