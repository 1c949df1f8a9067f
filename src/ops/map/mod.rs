//! Elementwise ops with broadcasting. There is one op for all expressions.
//!
//! `y[i] = f(x0[i], x1[i], …)`. Every `x` is broadcast to the shape of `y`. A node of the graph holds one function. The planner
//! composes neighbouring nodes into one expression, which becomes one kernel.

mod code;
mod cpu;
pub(crate) mod epilogue;
mod expr;
mod fun;
mod tensor;

pub use code::Code;
pub use expr::{Expr, Inst, Sub};
pub use fun::Fun;
pub(in crate::ops) use fun::sigmoid;

use super::*;
use crate::{
    kernel::{Bind, Pass, source},
    threads::{TASK, chunks},
};

/// The elementwise op.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Map {
    /// The expression that is computed for each element.
    pub expr: Expr,
    /// The shape of the output if it does not follow from the inputs, as for random numbers.
    pub fixed: Option<Shape>,
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}{}", self.expr, self.fixed.map_or(String::new(), |s| s.to_string()))
    }
}

impl Map {
    /// Makes the op of an expression. The output's shape follows from the inputs.
    pub fn new(expr: Expr) -> Map {
        Map { expr, fixed: None }
    }
}

impl OpDef for Map {
    const NAME: &'static str = "map";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let need = self.expr.arity();
        if x.len() < need {
            return Err(format!("takes {need} inputs"));
        }
        let mut out = self.fixed.unwrap_or(Shape::SCALAR);
        for (i, s) in x.iter().enumerate() {
            out = out.broadcast(*s).ok_or_else(|| format!("shape {s} (input {i}) does not broadcast with {out}"))?;
        }
        Ok(out.of(DType::F32))
    }
    fn called(&self) -> &'static str {
        match self.expr.insts().last() {
            Some(Inst::Call(Fun::Identity, _)) if self.fixed.is_some() => "broadcast_to",
            Some(Inst::Call(fun, _)) => fun.name(),
            Some(Inst::Random(_)) => "uniform",
            Some(Inst::Const(_)) => "full",
            _ => Self::NAME,
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        self.expr.reference(x, false, y, key);
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        let shape = y.shape;
        chunks(y.f, TASK, |k, y| self.expr.eval(x, false, shape, k * TASK, y, key));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // A graph is differentiated before it is fused. So the expression is nearly always one call with inputs and constants. A
        // larger expression is written out with one node for each value, and differentiated backwards.
        let (insts, graph) = (self.expr.insts(), y.graph);
        let apply = |expr, fixed, x: &[Tensor<'g>]| graph.apply(Map { expr, fixed }, x);
        let mut values: Vec<Tensor> = Vec::with_capacity(insts.len());
        for (k, inst) in insts.iter().enumerate() {
            values.push(match *inst {
                _ if k + 1 == insts.len() => y,
                Inst::Input(i) => x[i],
                Inst::Const(bits) => graph.scalar(f32::from_bits(bits)),
                Inst::Random(stream) => apply(Expr::random(stream), Some(y.shape()), &[]),
                Inst::Call(f, at) => {
                    let args: Vec<Tensor> = at[..f.arity()].iter().map(|&a| values[a]).collect();
                    apply(Expr::call(f, &(0..f.arity()).map(Inst::Input).collect::<Vec<_>>()), None, &args)
                }
            });
        }
        let (mut grads, mut inner) = (vec![None; x.len()], vec![None; insts.len()]);
        let add = |to: &mut Option<Tensor<'g>>, d: Tensor<'g>| *to = Some(to.map_or(d, |g| g + d));
        inner[insts.len() - 1] = Some(dy);
        for (k, inst) in insts.iter().enumerate().rev() {
            match (inner[k], *inst) {
                (Some(d), Inst::Input(i)) => add(&mut grads[i], d),
                (Some(d), Inst::Call(f, at)) => {
                    let args: Vec<Tensor> = at[..f.arity()].iter().map(|&a| values[a]).collect();
                    for (&a, d) in at[..f.arity()].iter().zip(f.vjp(&args, values[k], d)) {
                        // Constants and random numbers have no gradient.
                        if let (Some(d), Inst::Input(_) | Inst::Call(..)) = (d, insts[a]) {
                            add(&mut inner[a], d);
                        }
                    }
                }
                _ => {}
            }
        }
        grads
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let wg = caps.workgroup(256);
        let kernel = |name, entry, code: Code, to: Bind, units: usize| {
            let binds = code.binds.into_iter().chain([to]).collect();
            let (consts, params) = (vec![("WG", wg.into())], code.params);
            let pass =
                Pass { source: source!("map"), entry, consts, params, binds, code: code.text, units, per_group: wg, step: code.step };
            Kernel::one(name, pass)
        };
        let to = Bind::output("y", DType::F32);
        let flat = Code::new(&self.expr, 0, 0, x, y, "p.first");
        let mut kernels = vec![kernel("flat", "forward", flat, to.clone().per_unit(1), y.elements())];
        if let Some(code) = Code::fours(&self.expr, x, y) {
            kernels.push(kernel("fours", "forward_fours", code, to.per_unit(4).vec4(), y.elements() / 4));
        }
        kernels
    }
    fn flops(&self, _x: &[Shape], y: Shape) -> u64 {
        (self.expr.calls() * y.elements()) as u64
    }
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        (String::new(), x)
    }
    fn as_map(&self) -> Option<&Map> {
        Some(self)
    }
    fn plain(&self, x: &[Shape]) -> Option<Arc<dyn Op>> {
        // The sum of the inputs.
        let add = Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]);
        let one = Expr::call(Fun::Identity, &[Inst::Input(0)]);
        let more = |sum: Expr, i: usize| add.compose(&[Sub::Expr(&sum, &(0..i).collect::<Vec<_>>()), Sub::Input(i)]);
        (!x.is_empty()).then(|| Arc::new(Map { expr: (1..x.len()).fold(one, more), fixed: self.fixed }) as Arc<dyn Op>)
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        // The range goes beyond the kinks at ±1.
        let wide = |fill| if let Fill::Range(..) = fill { Fill::Range(-2.0, 2.0) } else { fill };
        Fill::plain(x).into_iter().map(wide).collect()
    }
    fn cases() -> Vec<Case> {
        tensor::cases()
    }
}
