//! Kernels with mistakes.

use super::*;

#[test]
fn a_write_past_the_end_is_found() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let text = "@compute @workgroup_size(WG)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = 1.0; }
";
    // There are 100 elements and two workgroups of 64. The shader does not compare with p.units, so it makes 28 writes too
    // many.
    let n = Shape::from([100]);
    let plan = one(&[n], n, pass(text, 100, vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)]));
    let mut exec = load(&gpu, &plan, ExecOptions { guards: true, ..ExecOptions::default() }).unwrap();
    exec.fill_slots(NAN).unwrap();
    exec.submit(&StepRow::default()).unwrap();
    let found = block_on(exec.fences_intact(NAN)).unwrap();
    assert_eq!(found, vec!["probe [100] → [100] (slot 0 [100]): element 0 past its end became 0x3f800000"]);
}

#[test]
fn a_kernel_that_is_wrong_is_an_error_not_a_panic() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let n = Shape::from([4]);
    let refused = |plan: &Plan| load(&gpu, plan, ExecOptions::default()).err().expect("an error").to_string();
    let binds = || vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)];
    let error = refused(&one(&[n], n, pass("@compute @workgroup_size(WG)\nfn forward() { y[0] = q; }\n", 4, binds())));
    assert!(error.contains("probe plain forward") && error.contains("no definition in scope for identifier: `q`"), "{error}");

    let mut both = one(&[n], n, pass(DOUBLE, 4, binds()));
    both.steps[0].inputs[0].0 = Loc::Slot(0);
    let error = refused(&both);
    assert!(error.contains("reads `x` and writes `y`, which are in one buffer"), "{error}");

    let error = refused(&one(&[n], n, pass(DOUBLE, 4, vec![Bind::input("x", 3, DType::F32), Bind::output("y", DType::F32)])));
    assert!(error.contains("binds In(3) as `x`"), "{error}");

    let mut cpu = double(4);
    cpu.steps[0].kernel = None;
    assert!(refused(&cpu).contains("planned for the CPU"));

    // The device still works.
    assert_eq!(run(&gpu, &double(2), &[ramp([2])]).0.f(), &[0.5, 2.5]);
}

#[test]
fn checked_shaders_drop_what_is_out_of_bounds() {
    let Some(gpu) = open_with(GpuOptions { checked: true, choice: Choice::Portable, features: false, ..GpuOptions::default() }) else {
        return;
    };
    assert_eq!(gpu.caps().subgroups, None);
    let x = ramp([1000]);
    assert!(run(&gpu, &double(1000), std::slice::from_ref(&x)).0.f().iter().zip(x.f()).all(|(y, x)| *y == 2.0 * x));
    assert_eq!(gpu.pipeline_count(), 1);
    run(&gpu, &double(77), &[ramp([77])]);
    assert_eq!(gpu.pipeline_count(), 1, "shapes are in the uniform, so another size compiles nothing");
}

/// WGSL from outside this crate has defined results where unchecked WGSL has none. Its pipelines differ from the pipelines of
/// trusted WGSL.
#[test]
fn what_is_not_trusted_is_checked() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let text = "var<workgroup> shared_words: array<u32, 64>;
@compute @workgroup_size(WG)
fn forward(@builtin(local_invocation_index) lane: u32) {
    var a = array<u32, 4>(1u, 2u, 3u, 4u);
    if lane == 0u {
        y[0] = x[0] / x[1];
        y[1] = a[x[0]];
        y[2] = shared_words[x[2]];
        y[100000u + x[0]] = 9u;
    }
    // An index that is known when it is compiled would be an error; this one leaves the array, and nothing else.
    a[x[0] + lane] = 5u;
    shared_words[x[0] * 100u + lane] = a[lane & 3u];
}
";
    let (x, y) = (Shape::from([3]).u32(), Shape::from([4]).u32());
    let mut plan = one(&[x], y, pass(text, 1, vec![Bind::input("x", 0, DType::U32), Bind::output("y", DType::U32)]));
    plan.steps[0].unchecked = false;
    let got = run(&gpu, &plan, &[Host::labels([3], vec![700, 0, 17])]).0;
    // WGSL defines x / 0 as x. The checks clamp each index into its array.
    assert_eq!(got.u()[..3], [700, 4, 0]);

    let double = double(100);
    let mut outside = double.clone();
    outside.steps[0].unchecked = false;
    let unchecked = || gpu.pipelines.known.lock().unwrap().keys().filter(|key| key.2).count();
    let before = gpu.pipeline_count();
    for (plan, count, of_these) in [(&outside, 1, 0), (&double, 2, 1), (&outside, 2, 1), (&double, 2, 1)] {
        assert_eq!(run(&gpu, plan, &[ramp([100])]).0.f()[99], 198.5);
        assert_eq!((gpu.pipeline_count() - before, unchecked()), (count, of_these));
    }
    assert_eq!([true, false].map(|trusted| gpu.checks(trusted).bounds_checks), [false, true]);
    assert!(gpu.checks(false).force_loop_bounding && gpu.checks(false).int_div_checks);
    let Some(careful) = open_with(GpuOptions { checked: true, ..GpuOptions::default() }) else { return };
    assert!(careful.checks(true).bounds_checks);
}

#[test]
fn a_pass_that_divides_its_work_by_zero_is_an_error() {
    let lines = |chunks, chunk| Span::Lines { line: 9, chunks, chunk };
    let blocks = |units, elements| Span::Blocks { units, elements };
    let all = [
        (0, Span::Whole, "`per_group`"),
        (WG, Span::PerUnit(0), "the elements of a unit of `y`"),
        (WG, blocks(0, 2), "the units of a block or line of `y`"),
        (WG, blocks(2, 0), "the elements of a block or unit of `y`"),
        (WG, lines(0, 2), "the units of a block or line of `y`"),
        (WG, lines(2, 0), "the elements of a block or unit of `y`"),
    ];
    let gpu = open_with(GpuOptions::default());
    for (per_group, span, name) in all {
        let binds = vec![Bind::input("x", 0, DType::F32), Bind { span, ..Bind::output("y", DType::F32) }];
        let p = Pass { per_group, ..pass(DOUBLE, 100, binds) };
        let why = format!("kernel probe divides its work by {name}, which is 0: it must be at least 1");
        for binding in [64, u64::MAX] {
            let error = Reach { binding, groups: 65_535 }.windows("test", &p, &[100, 100]).unwrap_err();
            assert_eq!(error.to_string(), format!("test: {why}"));
        }
        let Some(gpu) = &gpu else { continue };
        let plan = one(&[Shape::from([100])], Shape::from([100]), p);
        let loaded = load(gpu, &plan, ExecOptions::default()).map(|_| ()).unwrap_err();
        let needed = super::needs(gpu, &plan, &[]).unwrap_err();
        for error in [loaded, needed] {
            assert!(matches!(&error, Error::Argument { .. }) && error.to_string().ends_with(&why), "{error}");
        }
    }
}
