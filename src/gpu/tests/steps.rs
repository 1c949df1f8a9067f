//! Steps that update a store.

use super::*;

/// `z = sum of x · w` in one invocation, `dw = x`, and an update that adds `h[0] · dw` if the guard allows the update.
fn trained() -> (Plan, Layout) {
    let n = Shape::from([70]);
    let loss = "@compute @workgroup_size(1)
fn forward() {
    var s = 0.0;
    for (var i = 0u; i < p.n; i++) { s += x[i] * w[i] * c[i]; }
    z[0] = s;
}
@compute @workgroup_size(WG)
fn grad_w(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.units { dw[id.x] = f32(x[id.x]) * c[id.x]; }
}
";
    let bind = |name: &str, which, write| Bind { which, write, ..Bind::input(name, 0, DType::F32) };
    let (x, w, c) = (bind("x", Which::In(0), false), bind("w", Which::In(1), false), bind("c", Which::In(2), false));
    let (z, dw) = (bind("z", Which::Out, true), bind("dw", Which::Out, true));
    let mut forward = pass(loss, 1, vec![x.clone(), w, c.clone(), z]);
    forward.params = vec![("n".into(), Word::from(70usize))];
    let mut grad = pass(loss, 70, vec![x, c, dw]);
    grad.entry = "grad_w";

    let places = [(Loc::Input(0), n), (Loc::Param(0), n), (Loc::Constant(0), n)];
    let mut plan = Plan {
        params: vec![ParamDef { name: "w".into(), shape: n, init: Init::Zeros, decay: false, trained: true }],
        inputs: vec![InputDef { shape: n, classes: None }],
        constants: vec![Arc::new(Host::new(n, vec![0.5; 70]))],
        slots: vec![Slot { elements: 1, dtype: DType::F32 }],
        steps: vec![
            step(&places, (Loc::Slot(0), Shape::SCALAR), Kernel::one("plain", forward)),
            step(&places, (Loc::Grad(0), n), Kernel::one("plain", grad)),
        ],
        outputs: vec![(Loc::Slot(0), Shape::SCALAR), (Loc::Grad(0), n)],
        ..Plan::default()
    };

    let update = "@compute @workgroup_size(WG)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= p.units { return; }
    let h = bitcast<f32>(guard[p.hyper + 8u * (2u * step.row + GROUP)]);
    m[id.x] += g[id.x];
    w[id.x] -= h * m[id.x] + 0.0 * part[0];
    if id.x == 0u {
        guard[0] = step.step.x;
        guard[1] = step.seed.y;
        guard[2] = bitcast<u32>(loss[0]);
    }
}
";
    let partial = "@compute @workgroup_size(1)
fn forward() { part[0] = 1.0; }
";
    let binds = vec![
        bind("w", Which::In(0), true),
        bind("g", Which::In(1), false),
        Bind { dtype: DType::U32, ..bind("guard", Which::In(2), true) },
        bind("m", Which::In(3), true),
        bind("loss", Which::In(4), false),
        bind("part", Which::Scratch(0), false),
    ];
    let mut main = pass(update, 128, binds);
    main.step = true;
    main.consts.push(("GROUP", Word::U(1)));
    let layout = Layout::new(&plan.params, &[Status::Trained { group: 1 }], 1 << 20, 1 << 20).unwrap();
    let tables = Control::new(&layout, 2, u64::MAX);
    main.params.push(("hyper".into(), Word::from(tables.hyper)));
    let passes = vec![pass(partial, 1, vec![bind("part", Which::Scratch(0), true)]), main];
    let [piece, words] = [128, tables.words].map(|n| Shape::from([n]));
    let flat = |flat| (Loc::Piece(flat, 0), piece);
    let inputs = [flat(Flat::Weights), flat(Flat::Grads), (Loc::Control, words.u32()), flat(Flat::State(0)), (Loc::Slot(0), Shape::SCALAR)];
    let kernel = Kernel { name: "momentum", passes, scratch: vec![1] };
    let work = Work::Update(Update::Apply, 0);
    let update = Step { phase: Phase::Update, work, scratch: Vec::new(), ..step(&inputs, (Loc::Control, words.u32()), kernel) };
    plan.append(vec![update], 2);
    (plan, layout)
}

#[test]
fn steps_update_the_store_and_fill_the_ring() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let steps = 150u64; // More steps than the table has rows and than the ring has.
    // With `parts`, each run is submitted in parts, between which the host reads the gradient.
    let train = |parts: bool| {
        let (plan, layout) = trained();
        let store = Arc::new(block_on(GpuStore::new(&gpu, layout.with_states(&[], 1), 2)).unwrap());
        let ring = Arc::new(block_on(GpuRing::new(&store, 1, 48, Readouts::default(), 0)).unwrap());
        let options = ExecOptions { ring: Some(&ring), guards: true };
        let mut exec = block_on(GpuExec::new(&gpu, &plan, &store, options)).unwrap();
        exec.fill_slots(NAN).unwrap();
        let start: Vec<f32> = (0..128).map(|i| if i < 70 { i as f32 * 0.5 } else { 0.0 }).collect();
        store.write_params(&[start]).unwrap();
        let before = exec.counters();
        let x = ramp([70]);
        for t in 0..steps {
            let row = StepRow { seed: 7 << 32 | 5, step: t, batch: t, ..StepRow::default() };
            let mut hyper = [[0.0; 8]; 2];
            hyper[1][0] = f64::from(1.0 / 1024.0 / (t + 1) as f32);
            hyper[0][0] = 1e9; // A hyperparameter of another parameter group.
            exec.write(0, &x).unwrap();
            if !parts {
                exec.submit_steps(&[row], &hyper, false).unwrap();
                continue;
            }
            let mut run = exec.begin(&row, &hyper, false, None).unwrap();
            run.submit(1, |_, _| ()).unwrap();
            store.write_grads(&[[[f32::NAN; 70].as_slice(), &[0.0; 58]].concat()]).unwrap();
            run.submit(2, |_, _| ()).unwrap();
            assert_eq!(block_on(store.read_grads()).unwrap()[0][69], 69.25 * 0.5);
            run.end().unwrap();
        }
        exec.finish().unwrap();
        let after = exec.counters();
        let submits = if parts { 3 * steps } else { steps };
        assert_eq!((after.submits, after.steps, after.dispatches, after.reads), (submits, steps, 4 * steps, 0));
        assert_eq!(after.bytes_uploaded - before.bytes_uploaded, steps * (280 + 32 + 64));
        assert_eq!(after.allocations, before.allocations);
        assert!(ring.take().unwrap().is_none());
        assert!(ring.ask(0, 49, 0..0).is_err() && ring.ask(0, 0, 0..0).is_err() && ring.ask(0, 1, 0..1).is_err());
        ring.ask(steps - 48, 48, 0..0).unwrap();
        assert!(ring.ask(0, 1, 0..0).unwrap_err().to_string().contains("under way"));
        let ring = block_on(ring.wait()).unwrap().unwrap();
        assert_eq!((ring.first, ring.guard), (steps - 48, block_on(store.read_guard()).unwrap()));
        let ring = ring.rows;
        assert_eq!(block_on(exec.fences_intact(NAN)).unwrap(), Vec::<String>::new());
        (block_on(store.read_params()).unwrap(), block_on(store.read_state(0)).unwrap(), ring, block_on(store.read_guard()).unwrap())
    };
    let (w, m, ring, guard) = train(false);

    // The same computation by hand. The weights only affect the loss, so they are sums of known numbers.
    let x = ramp([70]);
    let (mut want_w, mut losses): (Vec<f32>, Vec<f64>) = ((0..70).map(|i| i as f32 * 0.5).collect(), Vec::new());
    for t in 0..steps {
        losses.push(want_w.iter().zip(x.f()).map(|(&w, &x)| w as f64 * x as f64 * 0.5).sum());
        let h = 1.0 / 1024.0 / (t + 1) as f32;
        for (w, x) in want_w.iter_mut().zip(x.f()) {
            *w -= h * (x * 0.5 * (t + 1) as f32);
        }
    }
    for (i, (got, want)) in w[0].iter().zip(&want_w).enumerate() {
        // There are 150 subtractions, and each is rounded. The product is rounded too, unless the driver fuses it with the
        // subtraction.
        assert!((got - want).abs() <= 300.0 * f32::EPSILON * 40.0, "weight {i}: {got} is not {want}");
    }
    assert!(w[0][70..].iter().all(|&w| w == 0.0), "the gap after a range stays zero");
    assert_eq!(m[0][69], 69.25 * 0.5 * 150.0);
    assert_eq!(ring.len(), 48);
    for (row, want) in ring.iter().zip(&losses[steps as usize - 48..]) {
        // The sum has 70 terms of both signs. Each is below 69.25 · 40 · 0.5.
        assert!((row[0] as f64 - want).abs() < 70.0 * 70.0 * 1400.0 * f32::EPSILON as f64, "{} is not {want}", row[0]);
    }
    assert_eq!((guard[0], guard[1], guard[2]), (149, 7, ring[47][0].to_bits()));

    for parts in [false, true] {
        let again = train(parts);
        assert!(again == (w.clone(), m.clone(), ring.clone(), guard.clone()), "a second run is equal to the last bit, in parts too");
    }
}
