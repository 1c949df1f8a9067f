/// Makes n steps, on a batch that is uploaded each time or on the one that is there, and waits for the last loss.
fn steps(trainer: &mut Trainer, n: usize, batch: Option<&[Host<f32>]>) -> Result<(), Error> {
    for _ in 0..n {
        match batch {
            Some(batch) => trainer.step(batch)?,
            None => trainer.step_again()?,
        }
    }
    let loss = trainer.loss()?;
    assert!(loss.is_finite(), "a step that diverged was timed");
    trainer.take_reports()?;
    Ok(())
}

fn mlp(device: &Device, batch: usize) -> Result<(Trainer, [Host<f32>; 2]), Error> {
    let g = Graph::training();
    let (x, labels) = (g.input([batch, 784]), g.labels([batch]));
    let mut y = x;
    for (i, (name, _, outputs)) in MLP.into_iter().enumerate() {
        y = if i == 0 { y } else { y.relu() }.linear(name, outputs);
    }
    let trainer = Trainer::new(device, y.cross_entropy(labels), Adam::new(1e-3))?;
    let labels = testing::fill(Shape::from([batch]).of(DType::U32), &Fill::Labels(10), 5);
    Ok((trainer, [uniform([batch, 784], 4), labels]))
}

fn training(table: &mut Table, on: &On) {
    table.open("training", "a step of the MLP 784-512-256-10, ReLU, cross-entropy, Adam; upload of the batch included");
    for batch in [128, 1024, 4096] {
        let row = format!("batch {batch}");
        if batch == 4096 && on.quick {
            table.skip(&row, "left out by --quick");
            continue;
        }
        let rate = Rate::Samples(batch as f64);
        match mlp(&on.device, batch) {
            Ok((mut trainer, data)) => table.repeated(&row, rate, |n| steps(&mut trainer, n, Some(&data))),
            Err(error) => table.repeated(&row, rate, |_| Err(Error::clone(&error))),
        }
    }
    table.close();
}

/// What the host itself does; the device's work is waited for between the timed parts.
fn host(table: &mut Table, on: &On) {
    if on.device.as_gpu().is_none() {
        return;
    }
    table.open("host", "the host's time to encode and submit, without waiting");
    const CHAIN: u32 = 512;
    let chain = (|| {
        let g = Graph::inference();
        let x = g.input([64]);
        let y = (0..CHAIN).fold(x, |y, _| y + 1.0);
        let plan = plan::Options { fuse: false, ..on.device.plan_options() };
        let mut f = Compiled::new(&on.device, &[y], &plan, 0)?;
        f.load(&[uniform([64], 1)])?;
        Ok(f)
    })();
    let row = format!("a dispatch (one of {CHAIN})");
    match chain {
        Ok(mut f) => table.timed(&row, json!({}), || {
            let started = Instant::now();
            f.launch()?;
            let took = started.elapsed() / CHAIN;
            f.wait()?;
            Ok(took)
        }),
        Err(error) => table.timed(&row, json!({}), || Err(Error::clone(&error))),
    };
    let made = mlp(&on.device, 128).and_then(|(mut trainer, data)| {
        steps(&mut trainer, 1, Some(&data))?;
        let before = trainer.counters().unwrap_or_default();
        steps(&mut trainer, 10, Some(&data))?;
        let after = trainer.counters().unwrap_or_default();
        Ok((trainer, data, (after.submits - before.submits) as f64 / 10.0, (after.dispatches - before.dispatches) / 10))
    });
    let (mut trainer, data, submits, dispatches) = match made {
        Ok(made) => made,
        Err(error) => {
            table.timed("a step of the MLP", json!({}), || Err(Error::clone(&error)));
            return table.close();
        }
    };
    let more = json!({ "submits_per_step": submits, "dispatches_per_step": dispatches });
    let mut time = |row: &str, batch: Option<&[Host<f32>]>| {
        table.timed(row, more.clone(), || {
            let started = Instant::now();
            match batch {
                Some(batch) => trainer.step(batch)?,
                None => trainer.step_again()?,
            }
            let took = started.elapsed();
            trainer.take_reports()?;
            Ok(took)
        })
    };
    let median = time("a step of the MLP", None);
    time("the same, checking and uploading a batch of 128", Some(&data));
    let verdict = median.map_or("", |s| if s < 1e-3 { ", under 1 ms" } else { ", NOT under 1 ms" });
    table.note(&format!("submits a step: {submits}; dispatches a step: {dispatches}{verdict}"));
    table.close();
}
