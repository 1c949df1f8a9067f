//! Checkpoints that continue exactly, and files of parameters.

use crate::{
    classifier,
    common::{Check, bits, weights},
    digits,
};
use downhill::{
    Device, Fit,
    optim::{Adam, AdamW, Optimizer, Sgd},
};

pub fn checkpoint(device: &Device) -> Check {
    let (data, folder) = (digits(70), tempfile::tempdir()?);
    let path = folder.path().join("at.safetensors");
    let adam: Optimizer = Adam::new(0.01).amsgrad(true).into();
    let sgd: Optimizer = Sgd::new(0.05).momentum(0.9).into();
    let plain: Optimizer = Sgd::new(0.05).into();
    for optimizer in [adam, sgd, plain] {
        let fit = || Fit::new().epochs(2).batch_size(16);
        let mut whole = classifier(device, optimizer.clone()).seed(5)?;
        whole.fit(&data, fit())?;
        whole.save(&path)?;
        let history = whole.fit(&data, fit())?;
        // Another seed, and fewer steps and epochs: all of it must be replaced.
        let mut resumed = classifier(device, optimizer.clone()).seed(6)?;
        resumed.fit(&data, fit().epochs(1))?;
        resumed.load(&path)?;
        assert_eq!(resumed.steps(), 10);
        let again = resumed.fit(&data, fit())?;
        assert!(weights(&whole)? == weights(&resumed)?, "{optimizer:?}: other weights");
        let losses = |h: &downhill::History| h.epochs.iter().map(|e| bits(&e.losses)).collect::<Vec<_>>();
        assert_eq!(losses(&history), losses(&again), "{optimizer:?}");
        assert_eq!((whole.steps(), whole.lr()), (resumed.steps(), resumed.lr()));
    }
    Ok(())
}

pub fn checkpoint_elsewhere(device: &Device) -> Check {
    let (data, folder) = (digits(70), tempfile::tempdir()?);
    let path = folder.path().join("at.safetensors");
    for (from, to) in [(device, &Device::cpu()), (&Device::cpu(), device)] {
        let mut a = classifier(from, AdamW::new(0.01)).seed(5)?;
        a.fit(&data, Fit::new().batch_size(16))?;
        a.save(&path)?;
        let mut b = classifier(to, AdamW::new(0.01));
        b.load(&path)?;
        assert!(weights(&a)? == weights(&b)?);
        let [a, b] = [&mut a, &mut b].map(|t| t.fit(&data, Fit::new().batch_size(16)).map(|h| h.epochs[0].loss));
        let (a, b) = (a?, b?);
        assert!((a - b).abs() < 1e-4 * a, "{a} and {b}");
    }
    Ok(())
}

pub fn params_round_trip(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("w.safetensors");
    let mut a = classifier(device, Sgd::new(0.1)).seed(1)?;
    a.fit(&digits(40), Fit::new())?;
    // Awkward values: the smallest normal number, a negative zero, infinity.
    let mut bias = a.params().get("fc2.bias")?;
    bias.view_mut().f[..3].copy_from_slice(&[f32::MIN_POSITIVE, -0.0, f32::INFINITY]);
    a.params().set("fc2.bias", &bias)?;
    a.params().save(&path)?;
    let b = classifier(device, Sgd::new(0.1)).seed(2)?;
    assert!(weights(&a)? != weights(&b)?);
    b.params().load(&path)?;
    assert!(weights(&a)? == weights(&b)?);
    assert_eq!(bits(b.params().get("fc2.bias")?.f()), bits(bias.f()));
    assert_eq!(b.params().names().collect::<Vec<_>>(), ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
    // Other libraries read it: a safetensors file of f32 tensors by these names, and nothing else.
    let bytes = std::fs::read(&path)?;
    let file = safetensors::SafeTensors::deserialize(&bytes)?;
    let mut names = file.names();
    names.sort_unstable();
    assert_eq!(names, ["fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight"]);
    assert_eq!(file.tensor("fc1.weight")?.shape(), [24, 64]);
    Ok(())
}
