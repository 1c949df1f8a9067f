//! Expressions as WGSL: a function `map` that kernels call, with the bindings and sizes that it needs.

use super::{expr::Expr, expr::Inst};
use crate::{
    kernel::{Bind, Word},
    shape::Shape,
};
use std::fmt::Write;

/// A generated function `fn map(i: u32, x0: f32, …) -> f32`. It returns the value of element `i` of a dispatch.
#[derive(Debug)]
pub struct Code {
    /// The text of the function, and the includes that it needs.
    pub text: String,
    /// The fields of `p` that the function reads.
    pub params: Vec<(String, Word)>,
    /// The tensors that the function reads: `e0`, `e1`, …
    pub binds: Vec<Bind>,
    /// Whether the function reads `step`, for random numbers.
    pub step: bool,
}

impl Code {
    /// Generates the function of `expr`.
    ///
    /// The first `given` inputs of `expr` are arguments of the function. The others are read from bindings. These bindings are the
    /// op's inputs from number `first` on, and their shapes are `x`. `out` is the shape of the result.
    ///
    /// A dispatch sees a window of the output. `i` is the number of an element in this window. `origin` is the WGSL for the number
    /// of the window's first element in the whole output. With `given` = 0, a unit of the pass is an element. Otherwise `map` is an
    /// epilogue, and inputs of the output's size are bound whole. If the pass can be split, its author must bind them as the output
    /// is bound.
    pub fn new(expr: &Expr, given: usize, first: usize, x: &[Shape], out: Shape, origin: &str) -> Code {
        let mut code = Code { text: String::new(), params: Vec::new(), binds: Vec::new(), step: expr.is_random() };
        let axes = Axes::new(x, out);
        for (size, &d) in axes.dims.iter().enumerate().skip(1) {
            code.params.push((format!("e_dim{size}"), d.into()));
        }
        let mut loads = vec![String::new(); given];
        for (k, &shape) in x.iter().enumerate() {
            let (name, bind) = (format!("e{k}"), Bind::input(format!("e{k}"), first + k, shape.dtype()));
            let (index, bind) = match shape.elements() {
                n if n == out.elements() => ("i".to_string(), if given == 0 { bind.per_unit(1) } else { bind }),
                1 => ("0".to_string(), bind),
                _ => (axes.index(k, &mut code.params), bind),
            };
            code.binds.push(bind);
            loads.push(format!("f32({name}[{index}])"));
        }
        let args: String = (0..given).map(|k| format!(", x{k}: f32")).collect();
        let whole = !axes.dims.is_empty() || code.step;
        let t = &mut code.text;
        if code.step {
            t.push_str("//!include lib/philox\n");
        }
        let _ = writeln!(t, "//!include lib/map\nfn map(i: u32{args}) -> f32 {{");
        if whole {
            let _ = writeln!(t, "    let g = {origin} + i;");
        }
        axes.coordinates(t);
        values(t, expr, &|k| if k < given { format!("x{k}") } else { loads[k].clone() });
        code
    }

    /// Generates `fn map4(i: u32) -> vec4<f32>`, which returns the values of the elements 4·i to 4·i + 3. A unit of the pass is
    /// four elements. Returns `None` if one load of some input does not give its four values.
    pub fn fours(expr: &Expr, x: &[Shape], out: Shape) -> Option<Code> {
        let mut code = Code { text: String::new(), params: Vec::new(), binds: Vec::new(), step: expr.is_random() };
        let axes = Axes::new(x, out);
        let whole = axes.dims.last().is_none_or(|d| d.is_multiple_of(4)) && axes.strides.iter().all(|s| s.last().is_none_or(|&s| s < 2));
        if !whole || !out.elements().is_multiple_of(4) {
            return None;
        }
        for (size, &d) in axes.dims.iter().enumerate().skip(1) {
            code.params.push((format!("e_dim{size}"), d.into()));
        }
        let mut loads = String::new();
        for (k, &shape) in x.iter().enumerate() {
            let bind = Bind::input(format!("e{k}"), k, shape.dtype());
            let (index, bind) = match (shape.elements(), axes.strides[k].last()) {
                (n, _) if n == out.elements() => ("i".to_string(), bind.per_unit(4).vec4()),
                (1, _) => ("0".to_string(), bind),
                (_, Some(1)) => (format!("({}) / 4u", axes.index(k, &mut code.params)), bind.vec4()),
                _ => (axes.index(k, &mut code.params), bind),
            };
            // A vector is converted to floats. A single number is repeated.
            let load = format!("e{k}[{index}]");
            let _ = match bind.vec4 {
                true => writeln!(loads, "    let x{k} = vec4<f32>({load});"),
                false => writeln!(loads, "    let x{k} = vec4<f32>(f32({load}));"),
            };
            code.binds.push(bind);
        }
        let t = &mut code.text;
        if code.step {
            t.push_str("//!include lib/philox\n");
        }
        let args: String = (0..x.len()).map(|k| format!(", x{k}: f32")).collect();
        let _ = writeln!(t, "//!include lib/map\nfn map(g: u32{args}) -> f32 {{");
        values(t, expr, &|k| format!("x{k}"));
        let _ = writeln!(t, "fn map4(i: u32) -> vec4<f32> {{\n    let g = 4u * (p.first + i);");
        axes.coordinates(t);
        t.push_str(&loads);
        let call = |c: &str| {
            format!("map(g + {}u{})", "xyzw".find(c).unwrap_or(0), (0..x.len()).map(|k| format!(", x{k}.{c}")).collect::<String>())
        };
        let _ = writeln!(t, "    return vec4<f32>({});\n}}", ["x", "y", "z", "w"].map(call).join(", "));
        Some(code)
    }
}

/// Writes the body of a function that computes `expr`, one value after the other.
fn values(t: &mut String, expr: &Expr, input: &dyn Fn(usize) -> String) {
    for (v, inst) in expr.insts().iter().enumerate() {
        let value = match *inst {
            Inst::Input(k) => input(k),
            Inst::Const(bits) => constant(bits),
            Inst::Random(stream) => format!("uniform01(step.seed, step.step, {stream}u, g)"),
            Inst::Call(f, a) => {
                let args: Vec<String> = a[..f.arity()].iter().map(|k| format!("v{k}")).collect();
                format!("f_{}({})", f.name(), args.join(", "))
            }
        };
        let _ = writeln!(t, "    let v{v} = {value};");
    }
    let _ = writeln!(t, "    return v{};\n}}", expr.insts().len() - 1);
}

/// Returns a literal with exactly these bits. WGSL forbids infinities and NaN as constants, so they are made at run time.
fn constant(bits: u32) -> String {
    let x = f32::from_bits(bits);
    match x.is_finite() {
        true => format!("{x:?}f"),
        false => format!("bitcast<f32>({bits}u | (p.units & 0u))"),
    }
}

/// The axes of an output, as few as the broadcast inputs allow.
struct Axes {
    dims: Vec<usize>,
    /// The strides by input and axis. They are empty if the input needs no coordinates.
    strides: Vec<Vec<usize>>,
}

impl Axes {
    fn new(x: &[Shape], out: Shape) -> Axes {
        let needs = |s: &Shape| s.elements() != 1 && s.elements() != out.elements();
        let full: Vec<Vec<usize>> =
            x.iter().map(|s| if needs(s) { s.strides_in(out)[..out.rank()].to_vec() } else { Vec::new() }).collect();
        let mut axes = Axes { dims: Vec::new(), strides: vec![Vec::new(); x.len()] };
        if !x.iter().any(needs) {
            return axes;
        }
        for (axis, &d) in out.dims().iter().enumerate().filter(|&(_, &d)| d != 1) {
            let merges =
                !axes.dims.is_empty() && full.iter().zip(&axes.strides).all(|(f, s)| f.is_empty() || s[s.len() - 1] == f[axis] * d);
            if merges {
                let end = axes.dims.len() - 1;
                axes.dims[end] *= d;
                full.iter().zip(&mut axes.strides).filter(|(f, _)| !f.is_empty()).for_each(|(f, s)| s[end] = f[axis]);
            } else {
                axes.dims.push(d);
                full.iter().zip(&mut axes.strides).filter(|(f, _)| !f.is_empty()).for_each(|(f, s)| s.push(f[axis]));
            }
        }
        axes
    }
    /// Writes WGSL for the coordinates of element g along the axes, the last axis first.
    fn coordinates(&self, t: &mut String) {
        let last = self.dims.len().saturating_sub(1);
        for axis in (0..self.dims.len()).rev() {
            let rest = if axis == last { "g".to_string() } else { format!("r{}", axis + 1) };
            let _ = match axis {
                0 => writeln!(t, "    let c0 = {rest};"),
                _ => writeln!(t, "    let c{axis} = {rest} % p.e_dim{axis};\n    let r{axis} = {rest} / p.e_dim{axis};"),
            };
        }
    }
    fn index(&self, input: usize, params: &mut Vec<(String, Word)>) -> String {
        let mut terms = Vec::new();
        for (axis, &stride) in self.strides[input].iter().enumerate() {
            match stride {
                0 => {}
                1 => terms.push(format!("c{axis}")),
                _ => {
                    params.push((format!("e{input}_stride{axis}"), stride.into()));
                    terms.push(format!("c{axis} * p.e{input}_stride{axis}"));
                }
            }
        }
        terms.join(" + ")
    }
}
