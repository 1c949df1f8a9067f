//! The golden values of PyTorch in `tests/golden/ops.json`, for the tests of single ops.

use super::*;
use serde_json::Value;

/// One row of the file, with its tensors in `f64`.
pub(crate) struct Golden {
    pub case: String,
    pub args: Value,
    pub inputs: Vec<Host<f64>>,
    pub output: Host<f64>,
}

/// The rows of one op. That there are any is part of the test.
pub(crate) fn rows(op: &str) -> Vec<Golden> {
    let file: Value = serde_json::from_str(include_str!("../../tests/golden/ops.json")).expect("the golden file is JSON");
    let rows: Vec<Golden> = file["cases"]
        .as_array()
        .expect("`cases` is a list")
        .iter()
        .filter(|c| c["op"] == op)
        .map(|c| Golden {
            case: c["case"].to_string(),
            args: c["args"].clone(),
            inputs: c["inputs"].as_array().expect("`inputs` is a list").iter().map(tensor).collect(),
            output: tensor(&c["output"]),
        })
        .collect();
    assert!(!rows.is_empty(), "no golden values of {op}");
    rows
}

/// Numbers of a list.
pub(crate) fn numbers(list: &Value) -> Vec<usize> {
    list.as_array().expect("a list").iter().map(|n| n.as_u64().expect("a whole number") as usize).collect()
}

/// `[2, 3]`, or a tensor's `{"shape": [2, 3]}`.
pub(crate) fn shape(v: &Value) -> Shape {
    Shape::new(&numbers(v.get("shape").unwrap_or(v))).expect("at most six axes")
}

fn tensor(v: &Value) -> Host<f64> {
    let data: Vec<f64> = v["data"].as_array().expect("`data` is a list").iter().map(|x| x.as_f64().expect("a number")).collect();
    match v["dtype"] == "u32" {
        true => Host::labels(shape(v), data.iter().map(|&x| x as u32).collect()),
        false => Host::new(shape(v), data),
    }
}

/// Shape rule and `f64` reference of every row of `name`, whose op `make` builds from the row's arguments and inputs.
/// PyTorch computed in `f64` from inputs that are `f32`s; sums of a few terms near 1 differ by a few units of 2⁻⁵³.
pub(crate) fn check<O: OpDef>(name: &str, make: impl Fn(&Value, &[Host<f64>]) -> O) {
    for row in rows(name) {
        let op = make(&row.args, &row.inputs);
        let views: Vec<View<f64>> = row.inputs.iter().map(Host::view).collect();
        let shapes: Vec<Shape> = row.inputs.iter().map(|x| x.shape).collect();
        assert_eq!(OpDef::shape(&op, &shapes), Ok(row.output.shape), "{name} {}", row.case);
        let mut y = Host::zeros(row.output.shape);
        y.view_mut().f.fill(f64::NAN);
        op.reference(&views, &mut y.view_mut(), Key::default());
        for (i, (y, want)) in y.to_f64().into_iter().zip(row.output.to_f64()).enumerate() {
            assert!((y - want).abs() <= 1e-13 * (1.0 + want.abs()), "{name} {}: element {i} is {y}, not {want}", row.case);
        }
    }
}

/// `cpu` against the definition in `f32`, for ops that only move elements: equal to the last bit, labels too.
pub(crate) fn same_on_cpu(cases: Vec<Case>) {
    for case in cases {
        let x = case.inputs[0].0;
        let data: Vec<u32> = (0..x.elements() as u32).collect();
        let floats = Host::new(x, data.iter().map(|&i| i as f32).collect());
        for x in [floats, Host::labels(x, data)] {
            let shape = case.op.shape(&[x.shape]).expect("a case fits its op");
            let (mut want, mut y) = (Host::zeros(shape), Host::zeros(shape));
            case.op.reference_f32(&[x.view()], &mut want.view_mut(), Key::default());
            case.op.cpu(&[x.view()], &mut y.view_mut(), Key::default());
            assert_eq!(y, want, "{}", case.name);
        }
    }
}
