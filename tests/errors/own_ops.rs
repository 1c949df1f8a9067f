//! Ops of users that contradict themselves: what the graph trusts them in is checked where it is trusted.

use crate::common::Check;
use downhill::{
    DType, Device, Error, Graph, Host, Shape, Tensor, Trainer,
    host::{Real, View, ViewMut},
    init::Init,
    kernel::{Caps, Kernel},
    ops::{
        Case, Op, OpDef,
        map::{Expr, Fun, Inst, Map},
        pad::Pad,
    },
    optim::Sgd,
    rng::Key,
};
use std::sync::Arc;

/// A thing that an op says of itself and that is not so.
#[derive(Clone, Debug, PartialEq)]
pub enum Lie {
    /// Nothing: its gradients are right.
    None,
    TooFew,
    TooMany,
    /// The gradient has the axes of the input in another order.
    Turned,
    /// The gradient is larger than the output.
    Larger,
    Labels,
    OtherGraph,
    AsMap(Map),
    AsPad(Pad),
    Alias,
    /// The op with an epilogue has another shape.
    Epilogue,
}

/// `y = x + w`, of one shape, but for the lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Odd(pub Lie);

impl OpDef for Odd {
    const NAME: &'static str = "odd";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        Ok(x[0])
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let n = x[1].f.len();
        y.f.iter_mut().enumerate().for_each(|(i, y)| *y = x[0].f[i] + x[1].f[i % n]);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        match self.0 {
            Lie::TooFew => vec![Some(dy)],
            Lie::TooMany => vec![Some(dy), None, Some(dy)],
            Lie::Turned => vec![Some(dy), Some(dy.transpose())],
            Lie::Larger => vec![None, Some(dy.broadcast_to([7, 2, 3]))],
            Lie::Labels => vec![None, Some(dy.graph().labels(x[1].shape()))],
            Lie::OtherGraph => vec![Some(dy), Some(Box::leak(Box::new(Graph::training())).full([2, 3], 1.0))],
            _ => vec![Some(dy), Some(dy)],
        }
    }
    fn kernels(&self, _: &[Shape], _: Shape, _: &Caps) -> Vec<Kernel> {
        Vec::new()
    }
    fn cases() -> Vec<Case> {
        Vec::new()
    }
    fn as_map(&self) -> Option<&Map> {
        if let Lie::AsMap(map) = &self.0 { Some(map) } else { None }
    }
    fn as_pad(&self) -> Option<&Pad> {
        if let Lie::AsPad(pad) = &self.0 { Some(pad) } else { None }
    }
    fn is_alias(&self) -> bool {
        self.0 == Lie::Alias
    }
    fn with_epilogue(&self, _: &Map) -> Option<Arc<dyn Op>> {
        (self.0 == Lie::Epilogue).then(|| Arc::new(Map { expr: Expr::constant(7.0), fixed: Some([5].into()) }) as Arc<dyn Op>)
    }
}

fn text(error: Option<Error>, line: u32) -> Result<String, String> {
    let Some(error @ Error::Op { .. }) = error else { return Err(format!("{error:?} instead of a mistake of an op")) };
    let place = format!(" (tests/errors/own_ops.rs:{line})");
    error.to_string().strip_suffix(&place).map(String::from).ok_or_else(|| format!("`{error}` is not of line {line}"))
}

/// Silent zeros, or gradients of something else, before.
pub fn gradients() -> Check {
    let returns = "it must return one gradient for each input, or None for an input without a gradient";
    let floats = "the gradient must be floats of the shape of the input, [2, 3]";
    for (lie, want) in [
        (Lie::TooFew, format!("its vjp returns 1 gradient for 2 inputs: {returns}")),
        (Lie::TooMany, format!("its vjp returns 3 gradients for 2 inputs: {returns}")),
        (Lie::Turned, format!("its vjp returns [3, 2] for input 1: {floats}")),
        (Lie::Larger, format!("its vjp returns [7, 2, 3] for input 1: {floats}")),
        (Lie::Labels, format!("its vjp returns u32 [2, 3] for input 1: {floats}")),
        (Lie::OtherGraph, "its vjp returns a tensor of another graph for input 1".to_string()),
    ] {
        let g = Graph::training();
        let (x, w) = (g.input([2, 3]), g.param("w", [2, 3], Init::Ones));
        let line = line!() + 1;
        let y = g.apply(Odd(lie.clone()), &[x, w]);
        let loss = y.square().sum_all();
        assert!(Device::cpu().compile(&[loss]).is_ok(), "nothing is wrong with the value: {lie:?}");
        let error = Trainer::new(&Device::cpu(), loss, Sgd::new(0.1)).err();
        assert_eq!(text(error, line)?, format!("odd: [2, 3] × w [2, 3]: {want}"), "{lie:?}");
    }
    // Right ones: a gradient as large as the output, for an input that was repeated.
    let g = Graph::training();
    let (x, b) = (g.input([2, 3]), g.param("b", [3], Init::Ones));
    let loss = g.apply(Odd(Lie::None), &[x, b]).square().sum_all();
    let x = Host::new([2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let db = Device::cpu().compile(&loss.grad(&[b]))?.run(&[x])?;
    assert_eq!(db[0].f(), &[2.0 * (1.0 + 4.0), 2.0 * (2.0 + 5.0), 2.0 * (3.0 + 6.0)]);
    Ok(())
}

/// Fusion reads expressions, gradients read paddings, and the plan of memory reads aliases: other shapes were read out of bounds.
pub fn shapes() -> Check {
    let three = Expr::call(Fun::Where, &[Inst::Input(0), Inst::Input(1), Inst::Input(2)]);
    let differs = |what: &str| format!("its OpDef::{what} gives another shape than its OpDef::shape, [2, 3]");
    for (lie, want) in [
        (Lie::AsMap(Map::new(three)), differs("as_map")),
        (Lie::AsMap(Map { expr: Expr::constant(1.0), fixed: Some([5, 2, 3].into()) }), differs("as_map")),
        (Lie::AsPad(Pad { axis: 1, before: 0, after: 1 }), differs("as_pad")),
        (Lie::Alias, "its OpDef::is_alias is true, but [2, 3] is not the memory of one input under another shape".to_string()),
    ] {
        let g = Graph::training();
        let (x, w) = (g.input([2, 3]), g.param("w", [2, 3], Init::Ones));
        let line = line!() + 1;
        let y = g.apply(Odd(lie), &[x, w]);
        assert_eq!(text(y.error(), line)?, format!("odd: [2, 3] × w [2, 3]: {want}"));
        assert_eq!(y.shape().dtype(), DType::F32);
    }
    // An epilogue that does not fit is left out.
    let g = Graph::training();
    let (x, y) = (g.input([2]), g.input([2]));
    let mut f = Device::cpu().compile(&[g.apply(Odd(Lie::Epilogue), &[x, y]).relu()])?;
    assert_eq!(f.run(&[Host::new([2], vec![1.0, -2.0]), Host::new([2], vec![0.5, 1.0])])?[0].f(), &[1.5, 0.0]);
    // An honest expression.
    let g = Graph::training();
    let (x, w) = (g.input([2, 3]), g.param("w", [3], Init::Ones));
    let add = Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]);
    assert!(g.apply(Odd(Lie::AsMap(Map::new(add))), &[x, w]).error().is_none());
    Ok(())
}
