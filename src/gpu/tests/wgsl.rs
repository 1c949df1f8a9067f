//! WGSL that is put together.

use super::*;

/// Parses WGSL with naga and returns the name and value of each of its constants.
fn constants(text: &str) -> Vec<(String, naga::Literal)> {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let (flags, caps) = (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
    naga::valid::Validator::new(flags, caps).validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let value = |c: &naga::Constant| match module.global_expressions[c.init] {
        naga::Expression::Literal(l) => (c.name.clone().unwrap(), l),
        ref other => panic!("{other:?}"),
    };
    module.constants.iter().map(|(_, c)| value(c)).collect()
}

#[test]
fn assembled_wgsl_is_valid_and_its_constants_exact() {
    let mut all = pass(
        "//!include lib/index
//!include lib/index
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
    let i = group_index(id, n);
    y[i] = twice(x[i]) + A + p.scale + f32(step.row) + f32(step.seed.x + k[0] + p.rows);
}
",
        1,
        vec![Bind::input("x", 0, DType::F32), Bind::input("k", 1, DType::U32), Bind::output("y", DType::F32)],
    );
    all.code = "fn twice(x: f32) -> f32 { return 2.0 * x; }".into();
    all.params = vec![("scale".into(), Word::F(1.0)), ("rows".into(), Word::U(3))];
    all.step = true;
    let exact = [("A", 0.1f32), ("B", f32::MAX), ("C", f32::MIN_POSITIVE), ("D", -1.0e-45), ("E", -16_777_217.5), ("F", 1.0), ("G", -0.0)];
    all.consts.extend(exact.map(|(name, x)| (name, Word::F(x))));
    all.consts.push(("H", Word::U(u32::MAX)));
    let text = assemble(&all).unwrap();
    assert_eq!(text.matches("fn group_index").count(), 1);
    let found = constants(&text);
    for (name, x) in exact {
        let bits = found.iter().find(|c| c.0 == name).map(|c| match c.1 {
            naga::Literal::F32(y) => y.to_bits(),
            other => panic!("{other:?}"),
        });
        assert_eq!(bits, Some(x.to_bits()), "{name} = {x:e}");
    }
    assert!(found.contains(&("H".into(), naga::Literal::U32(u32::MAX))));

    all.code = "//!include lib/nothing".into();
    let error = assemble(&all).unwrap_err().to_string();
    assert!(error.starts_with("shader probe: cannot include `lib/nothing`; there are lib/"), "{error}");
}
