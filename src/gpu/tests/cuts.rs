//! Work that is folded, or cut into several dispatches.

use super::*;

#[test]
fn folds_more_groups_than_a_dimension_holds() {
    let n = 65_600 * WG + 7; // 65,601 workgroups: more than one dimension allows.
    let Some(gpu) = with_limits(|l| l.max_workgroups = 64) else { return };
    let x = ramp([n]);
    let (y, dispatches) = run(&gpu, &double(n), std::slice::from_ref(&x));
    assert_eq!(dispatches, 1);
    assert!(y.f().iter().zip(x.f()).all(|(y, x)| *y == 2.0 * x));
}

#[test]
fn splits_what_cannot_be_folded_or_bound() {
    // y[u] = x[u, 0] + x[u, 1] + x[u, 2] + b[u]. The tensor b fits the binding limit and is bound whole.
    let text = "//!include lib/index
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    if i < p.units { y[i] = p.scale * (x[3u * i] + x[3u * i + 1u] + x[3u * i + 2u]) + b[p.first + i]; }
}
";
    let n = 5000;
    let binds =
        vec![Bind::input("x", 0, DType::F32).per_unit(3), Bind::input("b", 1, DType::F32), Bind::output("y", DType::F32).per_unit(1)];
    let mut sum = pass(text, n, binds);
    sum.params = vec![("scale".into(), Word::F(0.5))];
    let plan = one(&[Shape::from([n, 3]), Shape::from([n])], Shape::from([n]), sum);
    let (x, b) = (ramp([n, 3]), ramp([n]));
    let want: Vec<f32> = x.f().chunks(3).zip(b.f()).map(|(x, b)| 0.5 * (x[0] + x[1] + x[2]) + b).collect();

    // 20,480 bytes bind 1,706 units of x. The next smaller multiple of 64 is 1,664 (26 · 64). So there are four windows.
    let Some(gpu) = with_limits(|l| l.max_binding_bytes = 20_480) else { return };
    let (y, dispatches) = run(&gpu, &plan, &[x.clone(), b.clone()]);
    assert_eq!((y.f(), dispatches), (&want[..], 4));

    // 3³ workgroups of 64 compute 1,728 units. So there are three windows.
    let Some(gpu) = with_limits(|l| l.max_workgroups = 3) else { return };
    let (y, dispatches) = run(&gpu, &plan, &[x, b]);
    assert_eq!((y.f(), dispatches), (&want[..], 3));
}

#[test]
fn limits_are_typed_errors() {
    let Some(gpu) = with_limits(|l| {
        l.max_binding_bytes = 4096;
        l.max_buffer_bytes = 65_536;
        l.max_workgroups = 2;
        l.max_bindings = 2;
    }) else {
        return;
    };
    let refused = |plan: &Plan| match load(&gpu, plan, ExecOptions::default()) {
        Err(Error::Limit { what, need, limit, .. }) => (what, need, limit),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("no limit was found"),
    };
    let whole = |n: usize, more: usize| {
        let mut binds = vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)];
        binds.extend((0..more).map(|i| Bind::input(format!("z{i}"), 0, DType::F32)));
        one(&[Shape::from([n])], Shape::from([n]), pass(DOUBLE, n, binds))
    };
    assert_eq!(refused(&whole(2000, 0)), ("probe [2000] → [2000] (`x`, bound whole)".into(), 8000, 4096));
    assert_eq!(refused(&whole(20_000, 0)), ("probe [20000] → [20000] (slot 0 [20000])".into(), 80_000, 65_536));
    assert_eq!(refused(&whole(1000, 0)), ("probe [1000] → [1000] (workgroups)".into(), 16, 8));
    assert_eq!(refused(&whole(100, 1)), ("probe [100] → [100]: probe plain (storage buffers bound at once)".into(), 3, 2));
    // Sizes just inside the limits work.
    assert_eq!(run(&gpu, &double(1024), &[ramp([1024])]).0.f()[1023], 2.0 * 1023.25);
    let error = block_on(GpuStore::new(&gpu, Layout { pieces: vec![64, 32_768], ..Layout::default() }, 0)).err().unwrap();
    assert!(error.to_string().starts_with("params piece 1 [32768]: needs 131072, but this device's limit is 65536"), "{error}");
}

#[test]
fn folding_covers_every_group_with_few_to_spare() {
    let one = |units| Window { first: 0, units };
    let p = pass("", 0, Vec::new());
    for most in [1, 2, 7, 16] {
        let reach = Reach { binding: u64::MAX, groups: most };
        for groups in 1..=(most as usize).pow(3) {
            let [x, y, z] = reach.fold(&p, one(groups * WG));
            assert!(x <= most && y <= most && z <= most, "{groups} as {x}, {y}, {z} of {most}");
            let made = (x * y * z) as usize;
            assert!(made >= groups && made < groups + (y * z) as usize + z as usize, "{groups} as {x}, {y}, {z} of {most}");
        }
    }
    let reach = Reach { binding: u64::MAX, groups: 65_535 };
    assert_eq!(reach.fold(&p, one(65_535 * WG)), [65_535, 1, 1]);
    assert_eq!(reach.fold(&p, one(65_535 * WG + 1)), [32_768, 2, 1]);
}

#[test]
fn windows_cover_every_unit_once_and_start_aligned() {
    let binds = |n| vec![Bind::output("y", DType::F32).per_unit(n)];
    for (units, n, limit) in [(1000, 1, 1024), (64, 3, 768), (129, 16, 4096), (4097, 2, 4095)] {
        let p = pass("", units, binds(n));
        let reach = Reach { binding: limit, groups: 65_535 };
        let windows = reach.windows("test", &p, &[units * n]).unwrap();
        let mut seen = HashSet::new();
        for w in &windows {
            let (first, count) = part(p.binds[0].span, windows.len() > 1, *w, units * n);
            assert!(count as u64 * 4 <= limit && first * 4 % 256 == 0, "{w:?}");
            assert_eq!((first, count), (w.first * n, w.units * n));
            assert!((w.first..w.first + w.units).all(|u| seen.insert(u)), "{w:?} overlaps");
        }
        assert_eq!(seen.len(), units);
    }
    // Lines are divided into chunks of any length. A window starts at most 63 elements before its first unit and ends after
    // its last.
    for (outer, line, chunk, limit) in [(3, 1009usize, 100usize, 4096), (1, 5000, 7, 512), (70, 13, 13, 1024)] {
        let chunks = line.div_ceil(chunk);
        let span = Span::Lines { line, chunks, chunk };
        let p = pass("", outer * chunks, vec![Bind { span, ..Bind::output("y", DType::F32) }]);
        let windows = Reach { binding: limit, groups: 65_535 }.windows("test", &p, &[outer * line]).unwrap();
        let mut next = 0;
        for w in &windows {
            let (first, count) = part(span, true, *w, outer * line);
            assert!(w.first == next && count as u64 * 4 <= limit && first % 64 == 0, "{w:?}");
            let ends = (w.first + w.units) / chunks * line + (w.first + w.units) % chunks * chunk;
            assert!(first <= span.start(w.first) && first + 64 > span.start(w.first) && first + count >= ends, "{w:?}");
            next += w.units;
        }
        assert!(windows.len() > 1 && next == p.units);
    }
    // A window cannot divide a single unit that is too large, or a tensor that is written whole.
    let reach = Reach { binding: 4096, groups: 65_535 };
    assert!(reach.windows("test", &pass("", 100, binds(17)), &[1700]).is_err());
    let p = pass("", 2000, vec![Bind::input("x", 0, DType::F32).per_unit(1), Bind::output("y", DType::F32)]);
    let error = reach.windows("test", &p, &[2000, 10]).unwrap_err().to_string();
    assert!(error.starts_with("test (`x`): needs 8000, but this device's limit is 4096"), "{error}");
}
