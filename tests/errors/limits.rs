//! Limits of a device.

use crate::{common::Check, expect};
use downhill::{
    Device, Error, Fit, Graph, Host, Tensor, Trainer,
    data::{Dataset, Target},
    init::Init,
    optim::{Adam, Sgd},
};

/// Operands over a binding's limit, more bindings than a shader has, buffers over the limit: need and limit are named.
pub fn limits(device: &Device) -> Check {
    let limit = crate::common::inner(device).caps().max_binding_bytes;
    let over = |make: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>| {
        let g = Graph::training();
        let error = device.compile(&[make(&g)]).err();
        assert!(matches!(error, None | Some(Error::Limit { .. })), "{error:?}");
        error
    };
    let bound = format!("but this device's limit is {limit}: ");
    // Rows of the left side and of the result are split, but each of them meets all of the right side.
    let matmul = over(&|g| g.input([200, 200]).matmul_t(g.input([200, 200]), false, true));
    expect(
        "matmul",
        matmul,
        &["matmul [200, 200] × [200, 200] → [200, 200] (tests/errors/limits.rs:", "(`b`, bound whole): needs 160000, ", &bound],
    )?;
    let gather = over(&|g| g.param("table", [20_000, 2], Init::Zeros).gather_rows(g.labels([3])));
    expect("gather_rows", gather, &["gather_rows table [20000, 2] × u32 [3] → [3, 2] (tests/errors/limits.rs:", "needs 160000, ", &bound])?;
    // A tensor that can be split is no error: see tests/ops.rs. But no buffer can hold this tensor.
    let most = crate::common::inner(device).max_buffer_bytes();
    let large = format!("needs 20000000, but this device's limit is {most}: ");
    let here = |text: &str, line: u32| format!("{text} (tests/errors/limits.rs:{line})");
    let input = over(&|g| g.input([5_000_000]).sum_all());
    expect("input", input, &[&here("input 0 [5000000] of reduce [5000000] → []", line!() - 1), &large])?;
    let constant = over(&|g| g.constant(Host::new([5_000_000], vec![1.0; 5_000_000])).sum_all());
    expect("constant", constant, &[&here("constant 0 [5000000] of reduce [5000000] → []", line!() - 1), &large])?;
    // A slot is the result of an op, in a layer: the place is that op's.
    let line = line!() + 1;
    let slot = over(&|g| g.input([1000, 1]).linear("wide", 5000));
    let op = "matmul [1000, 1] × wide.weight [5000, 1] × wide.bias [5000] → [1000, 5000]";
    expect("slot", slot, &[&format!("{}, layer wide (slot 0 [5000000]): {large}", here(op, line))])?;
    let g = Graph::training();
    let big = Trainer::new(device, g.param("w", [5_000_000], Init::Zeros).sum_all(), Sgd::new(0.1)).err();
    expect("parameter", big, &["parameter w [5000000]: needs 20000", &format!("but this device's limit is {most}: ")])?;
    // Adam binds weights, gradients, the guard and two states; this device has four.
    let g = Graph::training();
    let adam = Trainer::new(device, g.param("w", [5], Init::Zeros).sum_all(), Adam::new(0.1)).err();
    assert!(matches!(adam, Some(Error::Limit { .. })), "{adam:?}");
    expect("Adam", adam, &["", "Adam", "storage buffers bound at once", "needs 5, but this device's limit is 4: "])?;
    // An adapter that cannot do what is asked of it.
    let mut options = crate::common::inner(device).options().clone();
    let mut asked = crate::common::small_limits(4);
    asked.max_bindings = 1_000_000;
    options.limits = Some(asked);
    assert!(Device::open(&options).is_ok(), "limits above the adapter's are cut down to them");
    Ok(())
}

/// In training, too: the first plan that does not fit is an error of the call that needs it, and others still work.
pub fn training_limits(device: &Device) -> Check {
    let data = Dataset::new(vec![0.5; 300 * 200], [200], Target::labels((0..300).map(|i| i % 10).collect(), 10))?;
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x.transpose().transpose().linear("fc", 10)
    }
    let mut trainer = Trainer::for_data(device, &data, model, |x, y| x.cross_entropy(y), Adam::new(0.1))?;
    let error = trainer.fit(&data, Fit::new().batch_size(100)).err();
    assert!(matches!(error, Some(Error::Limit { .. })), "{error:?}");
    expect(
        "fit",
        error,
        &["permute [100, 200] → ", "(tests/errors/limits.rs:", "needs 80000, but this device's limit is 65536: use a smaller batch"],
    )?;
    assert_eq!(trainer.steps(), 0);
    trainer.fit(&data, Fit::new().batch_size(50))?;
    assert_eq!(trainer.steps(), 6);
    Ok(())
}
