use super::*;
use crate::{Graph, ops::checks};
use map::{Fun, Inst};

fn op(ta: bool, tb: bool) -> MatMul {
    MatMul { transpose_a: ta, transpose_b: tb, epilogue: None }
}

#[test]
fn golden() {
    checks::golden("matmul", |args, x| x[0].matmul_t(x[1], args["transpose_a"] == true, args["transpose_b"] == true));
}

/// Returns numbers that are exact in `f32` and differ from each other.
fn ramp(shape: Shape, seed: usize) -> Host<f64> {
    let n = shape.elements();
    Host::new(shape, (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f64 / 512.0 - 2.0).collect())
}

#[test]
fn wgsl() {
    checks::wgsl::<MatMul>();
}

#[test]
fn an_epilogue_follows_an_epilogue() {
    let call = |f, args: &[usize]| Map::new(Expr::call(f, &args.iter().map(|&i| Inst::Input(i)).collect::<Vec<_>>()));
    // ((a·b) + c) / d − (a·b + c), built in two steps. The result must not depend on the product's position among the arguments.
    let first = OpDef::with_epilogue(&op(false, false), &call(Fun::Add, &[1, 0])).unwrap();
    let fused = first.with_epilogue(&call(Fun::Div, &[0, 1])).unwrap().with_epilogue(&call(Fun::Sub, &[1, 0])).unwrap();
    let x = [[2, 3], [3, 2], [1, 2], [2, 1], [2, 2]].map(|s| ramp(Shape::from(s), s[0]));
    let shapes: Vec<Shape> = x.iter().map(|x| x.shape).collect();
    assert_eq!(fused.shape(&shapes), Ok(Shape::from([2, 2])));
    let run = |op: &dyn Op, x: &[Host<f64>]| {
        let mut y = Host::zeros(Shape::from([2, 2]));
        op.reference_f64(&x.iter().map(Host::view).collect::<Vec<_>>(), &mut y.view_mut(), Key::default());
        y.f().to_vec()
    };
    let product = run(&op(false, false), &x[..2]);
    let got = run(fused.as_ref(), &x);
    for (i, (&p, &got)) in product.iter().zip(&got).enumerate() {
        let want = x[4].f()[i] - (p + x[2].f()[i % 2]) / x[3].f()[i / 2];
        assert!((got - want).abs() < 1e-12, "element {i}: {got}, not {want}");
    }
    assert_eq!(fused.shape(&shapes[..4]), Err("takes 5 inputs, not 4".to_string()));
    let wide = [shapes[0], shapes[1], Shape::from([4, 2, 2]), shapes[3], shapes[4]];
    assert_eq!(fused.shape(&wide), Err("the epilogue's input [4, 2, 2] does not broadcast to [2, 2]".to_string()));
}

#[test]
fn mistakes_say_what_does_not_fit() {
    let message = |a: Shape, b: Shape, ta: bool| {
        let g = Graph::training();
        g.input_of(a).matmul_t(g.input_of(b), ta, false);
        g.error().unwrap().to_string()
    };
    let s = |d: &[usize]| Shape::new(d).unwrap();
    let start = |text: String, want: &str| assert!(text.starts_with(want), "{text}");
    start(message(s(&[64, 784]), s(&[512, 10]), false), "matmul: [64, 784] × [512, 10]: inner dimensions 784 and 512 differ (");
    start(message(s(&[64, 784]), s(&[784, 10]), true), "matmul: [64, 784] × [784, 10]: inner dimensions 64 and 784 differ (");
    start(message(s(&[]), s(&[3, 1]), false), "matmul: [] × [3, 1]: input 0 is not a matrix");
    start(message(s(&[3, 1]).u32(), s(&[1, 1]), false), "matmul: u32 [3, 1] × [1, 1]: input 0 holds labels");
    start(message(s(&[2, 3, 4]), s(&[5, 4, 3]), false), "matmul: [2, 3, 4] × [5, 4, 3]: batch axes [2] and [5] do not broadcast");
}

/// The candidates of a product, and their numbers of parts. The portable one comes first. The one that is expected to be the
/// fastest comes last.
#[test]
fn candidates() {
    let hardware =
        Caps { max_binding_bytes: 1 << 31, max_workgroup_bytes: 48 << 10, max_invocations: 1024, subgroups: Some(32), ..Caps::default() };
    let software = Caps { software: true, subgroups: Some(8), ..Caps::default() };
    let list = |[m, k, n]: [usize; 3], ta: bool, tb: bool, caps: &Caps| -> String {
        let side = |r, c, t: bool| Shape::from(if t { [c, r] } else { [r, c] });
        let x = [side(m, k, ta), side(k, n, tb)];
        let kernels = OpDef::kernels(&op(ta, tb), &x, Shape::from([m, n]), caps);
        let read = x[0].elements() + x[1].elements();
        assert!(kernels.iter().all(|k| k.scratch.iter().sum::<usize>() <= read), "more scratch than what is read");
        assert!(kernels.iter().flat_map(|k| &k.scratch).all(|&n| n as u64 * 4 <= caps.max_binding_bytes));
        let parts = |k: &Kernel| k.scratch.first().map_or(String::new(), |&all| format!("/{}", all / (m * n)));
        let names: std::collections::HashSet<_> = kernels.iter().map(|k| k.name).collect();
        assert_eq!(names.len(), kernels.len(), "two candidates of one name");
        kernels.iter().map(|k| format!("{}{}", k.name, parts(k))).collect::<Vec<_>>().join(" ")
    };
    // Layers of a perceptron: forward, dW and the last layer.
    assert_eq!(list([1024, 784, 512], false, true, &hardware), "naive tiles_128_parts/2 tiles_32 tiles_128x64_parts/2 tiles_64");
    assert_eq!(
        list([512, 1024, 784], true, false, &hardware),
        "naive tiles_64_parts/2 tiles_128_parts/3 tiles_128x64 tiles_128x64_parts/3"
    );
    assert_eq!(list([512, 65_536, 784], true, false, &hardware), "naive tiles_64_parts/2 tiles_128x64_parts/3 tiles_128 tiles_128_parts/5");
    assert_eq!(list([4096, 4096, 4096], false, false, &hardware), "naive tiles_32 tiles_64 tiles_128x64 tiles_128");
    assert_eq!(list([1024, 256, 10], false, true, &hardware), "naive dot dot_subgroup");
    assert_eq!(list([10, 1024, 256], true, false, &hardware), "naive thin/16");
    assert_eq!(list([1, 784, 512], false, true, &hardware), "naive thin/7 dot dot_subgroup");
    assert_eq!(list([1, 784, 512], false, false, &hardware), "naive thin/7");
    assert_eq!(list([1024, 784, 512], false, true, &software), "naive rows rows_wide");
    assert_eq!(list([512, 65_536, 784], true, false, &software), "naive/2 rows/64 rows_wide/64");
}
