//! Parameters and checkpoints: names, values and files.

use crate::{
    common::{Check, weights},
    expect,
};
use downhill::{
    Device, Graph, Host, Trainer,
    init::Init,
    optim::{Adam, Optimizer, Sgd},
};

/// Any text is a name, as long as a file can keep it.
pub fn parameter_names(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("w.safetensors");
    for name in ["", " ", "a\0b", "w\n\"{}", "ß∂🦀", "//!include lib/map", "}", "optimizer", &"long".repeat(1000)] {
        let g = Graph::training();
        let (w, x) = (g.param(name, [4], Init::Ones), g.input([4]));
        let mut trainer = Trainer::new(device, (w * x).sum_all(), Adam::new(0.5))?;
        trainer.step(&[Host::new([4], vec![1.0; 4])])?;
        let value = trainer.params().get(name)?;
        assert!(value.f().iter().all(|w| (w - 0.5).abs() < 1e-3), "{name:?}: {value:?}");
        trainer.params().save(&path)?;
        trainer.params().set(name, &Host::new([4], vec![7.0; 4]))?;
        trainer.params().load(&path)?;
        assert_eq!(trainer.params().get(name)?, value, "{name:?}");
        trainer.save(&path)?;
        trainer.load(&path)?;
    }
    // Files reserve a few names.
    for name in ["__metadata__", "optimizer.m.w"] {
        let g = Graph::training();
        let error = Trainer::new(device, g.param(name, [1], Init::Ones).sum_all(), Sgd::new(0.1)).err();
        expect(name, error, &["param: [1]: ", name, "choose another", "(tests/errors/params.rs:"])?;
    }
    Ok(())
}

pub fn parameters(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let make = |width: usize| {
        let g = Graph::training();
        Trainer::new(device, g.input([2, 3]).linear("fc", width).sum_all(), Sgd::new(0.1))
    };
    let trainer = make(4)?;
    let before = weights(&trainer)?;
    let params = trainer.params();
    expect(
        "get",
        params.get("fc.weigth").err(),
        &["parameter fc.weigth: the model has no parameter of this name; it has fc.weight, fc.bias"],
    )?;
    expect("gradient", trainer.gradient("nope").err(), &["parameter nope: the model has no parameter of this name"])?;
    expect("set name", params.set("w", &Host::new([1], vec![1.0])).err(), &["parameter w: the model has no parameter of this name"])?;
    expect(
        "set shape",
        params.set("fc.weight", &Host::new([3, 4], vec![1.0; 12])).err(),
        &["parameter fc.weight: got [3, 4] with 12 values, but the model has [4, 3]"],
    )?;
    expect("set length", params.set("fc.bias", &Host::new([4], vec![1.0; 3])).err(), &["parameter fc.bias: got [4] with 3 values"])?;
    expect("set labels", params.set("fc.bias", &Host::labels([4], vec![1; 4])).err(), &["parameter fc.bias: got u32 [4]"])?;
    // All or nothing.
    let some = [("fc.bias".to_string(), Host::new([4], vec![9.0; 4])), ("fc.weight".to_string(), Host::new([1], vec![9.0]))];
    expect("set_all", params.set_all(&some).err(), &["parameter fc.weight: "])?;

    expect("no file", params.load(at("none")).err(), &[at("none").to_str().expect("a path of ours"), "No such file"])?;
    std::fs::write(at("garbage"), b"this is no safetensors file at all")?;
    expect("garbage", params.load(at("garbage")).err(), &["", "garbage: not a safetensors file"])?;
    std::fs::write(at("empty"), b"")?;
    expect("empty", params.load(at("empty")).err(), &["", "empty: not a safetensors file"])?;
    expect("a folder", params.load(folder.path()).err(), &[""])?;
    params.save(at("good"))?;
    let good = std::fs::read(at("good"))?;
    for cut in [1, 8, 20, good.len() - 1] {
        std::fs::write(at("cut"), &good[..cut])?;
        expect("cut", params.load(at("cut")).err(), &["", "cut: not a safetensors file"])?;
    }
    // A header that says it is larger than memory.
    let mut long = good.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(at("long"), long)?;
    expect("long", params.load(at("long")).err(), &["", "long: not a safetensors file"])?;
    make(5)?.params().save(at("wide"))?;
    expect("another model", params.load(at("wide")).err(), &["parameter fc.weight: got [5, 3] with 15 values, but the model has [4, 3]"])?;
    let tensor = |dtype, shape: Vec<usize>, bytes: &[u8]| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let view = safetensors::tensor::TensorView::new(dtype, shape, bytes)?;
        Ok(safetensors::serialize([("fc.weight", view)], None)?)
    };
    std::fs::write(at("whole"), tensor(safetensors::Dtype::I32, vec![4, 3], &[0; 48])?)?;
    expect("whole numbers", params.load(at("whole")).err(), &["parameter fc.weight: I32 instead of floats", "whole"])?;
    std::fs::write(at("missing"), tensor(safetensors::Dtype::F32, vec![4, 3], &[0; 48])?)?;
    expect("missing", params.load(at("missing")).err(), &["parameter fc.bias: not in "])?;
    // All names that are missing, not only the first one.
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4])?;
    std::fs::write(at("others"), safetensors::serialize([("layer.weight", view)], None)?)?;
    expect("others", params.load(at("others")).err(), &["parameter fc.weight: not in ", "; 2 are missing: fc.weight, fc.bias"])?;
    std::fs::write(at("axes"), tensor(safetensors::Dtype::F32, vec![1; 9], &[0; 4])?)?;
    expect(
        "axes",
        params.load(at("axes")).err(),
        &["parameter fc.weight: got [1, 1, 1, 1, 1, 1, 1, 1, 1] with 1 values, but the model has [4, 3]"],
    )?;
    for path in [at("no/such/folder"), folder.path().to_path_buf(), std::path::PathBuf::new()] {
        expect("save", params.save(&path).err(), &[path.to_str().expect("a path of ours")])?;
        expect("save", trainer.save(&path).err(), &[path.to_str().expect("a path of ours")])?;
    }
    assert_eq!(weights(&trainer)?, before);
    Ok(())
}

pub fn checkpoints(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let make = |width: usize, optimizer: Optimizer| {
        let g = Graph::training();
        Trainer::new(device, g.input([2, 3]).linear("fc", width).sum_all(), optimizer)
    };
    let mut trainer = make(4, Adam::new(0.1).into())?;
    trainer.step(&[Host::new([2, 3], vec![1.0; 6])])?;
    let before = weights(&trainer)?;
    make(4, Sgd::new(0.1).into())?.save(at("sgd"))?;
    expect(
        "another optimizer",
        trainer.load(at("sgd")).err(),
        &["", "a checkpoint of Sgd, but this trainer uses Adam; Params::load takes the weights alone"],
    )?;
    make(5, Adam::new(0.1).into())?.save(at("wide"))?;
    expect("another model", trainer.load(at("wide")).err(), &["parameter fc.weight: got [5, 3]"])?;
    make(4, Adam::new(0.1).into())?.params().save(at("weights"))?;
    expect("weights alone", trainer.load(at("weights")).err(), &["", "weights: no checkpoint, but this trainer uses Adam"])?;
    expect("no file", trainer.load(at("none")).err(), &["", "No such file"])?;
    // Another option has another state.
    make(4, Adam::new(0.1).amsgrad(false).into())?.save(at("plain"))?;
    let mut amsgrad = make(4, Adam::new(0.1).amsgrad(true).into())?;
    expect("a state that is not there", amsgrad.load(at("plain")).err(), &["parameter optimizer.", "not in "])?;
    // A weights file takes the weights of a checkpoint, too.
    trainer.save(at("good"))?;
    make(4, Sgd::new(0.1).into())?.params().load(at("good"))?;
    assert_eq!((weights(&trainer)?, trainer.steps()), (before, 1));
    trainer.load(at("good"))?;
    // Numbers that are none.
    let bytes = std::fs::read(at("good"))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let from = text.find("\"step\":\"1\"").expect("the file says how many steps");
    let mut wrong = bytes;
    wrong[from + 8] = b'x';
    std::fs::write(at("wrong"), wrong)?;
    expect("steps", trainer.load(at("wrong")).err(), &["", "`step` is `x`, not a number"])
}
