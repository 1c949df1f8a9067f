//! The CPU side: the `f64` oracle, which interprets the unfused graph op by op, and the `f32` device, which runs plans.

use crate::{
    error::Result,
    graph::Kind,
    host::{self, Host, Real, View, ViewMut},
    ops::Key,
    optim::{Guard, Hyper, MAX_STATES, Optimizer, Sizes, square_sum},
    params::Layout,
    plan::{CPU_INPUTS, Loc, Plan, Step, ir::Ir},
    scratch,
    shape::{DType, Shape},
};
use std::{array, mem};

/// The definition of what a graph computes: every op's reference, one after the other, in memory of its own.
pub fn interpret<T: Real>(ir: &Ir, inputs: &[Host<T>], params: &[Host<T>], key: Key) -> Vec<Host<T>> {
    let mut values: Vec<Host<T>> = Vec::with_capacity(ir.nodes.len());
    for node in &ir.nodes {
        let value = match &node.kind {
            Kind::Input(i) => inputs[*i].clone(),
            Kind::Param(i) => params[*i].clone(),
            Kind::Constant(c) => c.cast(),
            Kind::Op(op) => {
                let mut y = Host::zeros(node.shape);
                let x: Vec<View<T>> = node.inputs.iter().map(|&i| values[i].view()).collect();
                T::reference(op.as_ref(), &x, &mut y.view_mut(), key);
                y
            }
        };
        values.push(value);
    }
    ir.outputs.iter().map(|&o| values[o].clone()).collect()
}

/// Runs `f` on a thread that works for the device: all work in it is shared with the others without waking them for each op.
pub fn work<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// The flat buffers of a model on the CPU device.
#[derive(Debug, Default)]
pub struct Store {
    pub layout: Layout,
    pub params: Vec<Vec<f32>>,
    pub grads: Vec<Vec<f32>>,
    /// By state, by piece of trained parameters.
    pub states: Vec<Vec<Vec<f32>>>,
    /// Σ g² over the gradients of each parameter; of state, over what it becomes.
    pub squares: Vec<f64>,
    pub guard: Guard,
    /// How large weights and states are at most.
    sizes: Sizes,
}

impl Store {
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) without the memory.
    pub fn new(layout: Layout, states: usize) -> Result<Store> {
        let zeros = |what: &str, pieces: usize| -> Result<Vec<Vec<f32>>> {
            layout.pieces[..pieces].iter().enumerate().map(|(i, &n)| host::zeros(&format!("{what} piece {i} [{n}]"), n)).collect()
        };
        let all = layout.pieces.len();
        let states = (0..states).map(|k| zeros(&format!("state {k}"), layout.trained)).collect::<Result<_>>()?;
        let (params, grads) = (zeros("params", all)?, zeros("grads", all)?);
        let squares = vec![0.0; layout.ranges.len()];
        Ok(Store { params, grads, states, squares, guard: Guard::default(), sizes: Sizes::default(), layout })
    }
    /// Sets all gradients, by piece.
    pub fn set_grads(&mut self, pieces: Vec<Vec<f32>>) {
        self.grads = pieces;
        for (square, range) in self.squares.iter_mut().zip(&self.layout.ranges) {
            *square = square_sum(&self.grads[range.piece][range.start..range.start + range.len]);
        }
    }
    /// Checks the step (numbered from 0) and updates the weights, unless it or one before it was not finite. `hyper` has a row for each
    /// group.
    pub fn update(&mut self, optimizer: &Optimizer, hyper: &[Hyper], step: u64, loss: f32) {
        if self.guard.near != 0 {
            // They come from outside.
            self.sizes = Sizes::default();
        }
        self.guard.near = u32::from(self.sizes.are_near());
        let live = self.squares.iter().zip(&self.layout.ranges).filter(|(_, range)| self.layout.is_live(range));
        self.guard.judge(step, loss, live.map(|(square, _)| square).sum(), optimizer.clip());
        if self.guard.halt == 0 {
            let over = self.attempt(optimizer, hyper);
            self.guard.refuse(step, over);
        }
        if self.guard.halt != 0 {
            return;
        }
        for piece in 0..self.layout.trained {
            let (n, ends) = (self.layout.live(piece), &self.layout.ends[piece]);
            let (w, g) = (&mut self.params[piece][..n], &self.grads[piece][..n]);
            let (count, mut states) = (self.states.len(), states(&mut self.states, piece, n));
            optimizer.update(hyper, ends, &self.guard, w, g, &mut states[..count]);
        }
        for (state, value) in self.params.iter_mut().zip(&self.grads).skip(self.layout.trained) {
            state.copy_from_slice(value);
        }
        self.sizes = self.sizes.after(optimizer, self.guard.reach(optimizer.clip()), hyper);
        if self.sizes.are_near() || self.guard.strict != 0 {
            // Only where one cannot tell does one look.
            let pieces = self.params.iter().take(self.layout.trained).enumerate();
            let weights = pieces.map(|(piece, w)| &w[..self.layout.live(piece)]);
            self.sizes = Sizes::of(weights, self.states.iter().map(Vec::as_slice), optimizer);
        }
    }
    /// What the update would make infinite or NaN, in the order of [`Guard::over`].
    fn attempt(&mut self, optimizer: &Optimizer, hyper: &[Hyper]) -> [u32; MAX_STATES + 2] {
        let mut over = 0;
        if self.guard.trial == 2 {
            for piece in 0..self.layout.trained {
                let (n, ends) = (self.layout.live(piece), &self.layout.ends[piece]);
                let (w, g) = (&mut self.params[piece][..n], &self.grads[piece][..n]);
                let (count, mut states) = (self.states.len(), states(&mut self.states, piece, n));
                over |= optimizer.try_update(hyper, ends, &self.guard, w, g, &mut states[..count]);
            }
        }
        let mut over = array::from_fn(|k| over >> k & 1);
        let trained = self.layout.trained;
        for (square, range) in self.squares.iter().zip(&self.layout.ranges).filter(|(_, range)| range.piece >= trained) {
            let of = |flat: &[Vec<f32>], i: usize| flat[range.piece][range.start + i].is_finite();
            // Only then is the number looked for.
            let bad = !square.is_finite() && (0..range.len).any(|i| of(&self.params, i) && !of(&self.grads, i));
            over[MAX_STATES + 1] |= u32::from(bad);
        }
        over
    }
}

/// The first `n` elements of a piece of each state.
fn states(all: &mut [Vec<Vec<f32>>], piece: usize, n: usize) -> [&mut [f32]; MAX_STATES] {
    let mut all = all.iter_mut();
    array::from_fn(|_| all.next().map_or(&mut [][..], |s| &mut s[piece][..n]))
}

/// A plan with its buffers. Nothing is allocated in a step.
pub struct Exec {
    plan: Plan,
    slots: Vec<Host<f32>>,
    inputs: Vec<Host<f32>>,
}

/// The most inputs of an op whose views need no allocation: what fusion makes has no more.
const INPUTS: usize = CPU_INPUTS + 1;

impl Exec {
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) without the memory.
    pub fn new(plan: Plan) -> Result<Exec> {
        scratch::prepare()?;
        let slots = plan.slots.iter().map(|s| Host::try_zeros(Shape::from([s.elements]).of(s.dtype))).collect::<Result<_>>()?;
        let inputs = plan.inputs.iter().map(|i| Host::try_zeros(i.shape)).collect::<Result<_>>()?;
        Ok(Exec { plan, slots, inputs })
    }
    /// Hands over the data of an input; its shape has been checked.
    pub fn write(&mut self, input: usize, data: &Host<f32>) {
        // Into the memory that is there.
        let to = self.inputs[input].view_mut();
        to.f.copy_from_slice(data.f());
        to.u.copy_from_slice(data.u());
    }
    /// Runs the plan. This is to be called by a thread that works for the device: see [`work`].
    pub fn run(&mut self, store: &mut Store, key: Key) {
        self.run_with(store, key, |_| ());
    }
    /// The same; `done` hears the number of each op when it is done.
    pub fn run_with(&mut self, store: &mut Store, key: Key, mut done: impl FnMut(usize)) {
        let plan = mem::take(&mut self.plan);
        for (number, step) in plan.steps.iter().filter(|s| !s.op.is_alias()).enumerate() {
            self.step(&plan, step, store, key);
            done(number);
        }
        self.plan = plan;
    }
    fn step(&mut self, plan: &Plan, step: &Step, store: &mut Store, key: Key) {
        let (loc, shape) = step.output;
        // The planner never lets an op write what it reads, so the output can be taken out meanwhile.
        let mut taken = match loc {
            Loc::Slot(i) => mem::replace(&mut self.slots[i], Host::new([0], Vec::new())),
            Loc::Grad(i) => Host::new([0], mem::take(&mut store.grads[store.layout.ranges[i].piece])),
            _ => unreachable!("ops write slots and gradients"),
        };
        let start = if let Loc::Grad(i) = loc { store.layout.ranges[i].start } else { 0 };
        {
            let whole = taken.view_mut();
            let mut y = match shape.dtype() {
                DType::F32 => ViewMut { shape, f: &mut whole.f[start..start + shape.elements()], u: &mut [] },
                DType::U32 => ViewMut { shape, f: &mut [], u: &mut whole.u[..shape.elements()] },
            };
            let mut views = [View { shape, f: &[][..], u: &[] }; INPUTS];
            match views.get_mut(..step.inputs.len()) {
                Some(x) => {
                    x.iter_mut().zip(&step.inputs).for_each(|(x, &(l, s))| *x = self.view(plan, store, l, s));
                    step.op.cpu(x, &mut y, key);
                }
                None => {
                    let x: Vec<View<f32>> = step.inputs.iter().map(|&(l, s)| self.view(plan, store, l, s)).collect();
                    step.op.cpu(&x, &mut y, key);
                }
            }
            // While the gradient is in cache.
            if let Loc::Grad(i) = loc {
                store.squares[i] = square_sum(y.f);
            }
        }
        match (loc, taken.data) {
            (Loc::Grad(i), crate::host::Data::Float(v)) => store.grads[store.layout.ranges[i].piece] = v,
            (Loc::Slot(i), data) => self.slots[i] = Host { shape: taken.shape, data },
            _ => unreachable!("gradients are floats"),
        }
    }
    fn view<'a>(&'a self, plan: &'a Plan, store: &'a Store, loc: Loc, shape: Shape) -> View<'a, f32> {
        let n = shape.elements();
        let range = |buffers: &'a [Vec<f32>], i: usize| {
            let r = store.layout.ranges[i];
            View { shape, f: &buffers[r.piece][r.start..r.start + n], u: &[] }
        };
        let whole = |h: &'a Host<f32>| match shape.dtype() {
            DType::F32 => View { shape, f: &h.f()[..n], u: &[] },
            DType::U32 => View { shape, f: &[], u: &h.u()[..n] },
        };
        match loc {
            Loc::Slot(i) => whole(&self.slots[i]),
            Loc::Input(i) => whole(&self.inputs[i]),
            Loc::Constant(i) => whole(&plan.constants[i]),
            Loc::Param(i) => range(&store.params, i),
            Loc::Grad(i) => range(&store.grads, i),
        }
    }
    /// How many outputs there are.
    pub fn outputs(&self) -> usize {
        self.plan.outputs.len()
    }
    /// An output of the last run that is one number.
    pub fn number(&self, store: &Store, output: usize) -> f32 {
        let (loc, shape) = self.plan.outputs[output];
        let v = self.view(&self.plan, store, loc, shape);
        v.f.first().copied().unwrap_or_else(|| v.u[0] as f32)
    }
    /// An output of the last run.
    pub fn read(&self, store: &Store, output: usize) -> Result<Host<f32>> {
        let (loc, shape) = self.plan.outputs[output];
        let v = self.view(&self.plan, store, loc, shape);
        Ok(match shape.dtype() {
            DType::F32 => Host::new(shape, host::copy("an output", v.f)?),
            DType::U32 => Host::labels(shape, host::copy("an output", v.u)?),
        })
    }
}
