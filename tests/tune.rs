//! The choice of kernels by measuring: an op with candidates that are right, wrong, slow, or do not compile; the file that keeps
//! what was found, and what may be wrong with that.

mod common;

use common::{Check, On, Suite, inner};
use downhill::{
    DType, Device, Graph, Host, Shape, Tensor, Trainer,
    gpu::{Choice, Chosen, GpuOptions, Limits, Origin, Verdict},
    host::{Real, View, ViewMut},
    init::Init,
    kernel::{Bind, Caps, Kernel, Pass, Source},
    ops::{self, Case, OpDef, attention::Attention},
    optim::Adam,
    rng::Key,
    testing,
};
use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// `y = 2·x`, by the candidates that it is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Twice(&'static [Way]);

/// How a candidate computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Plain,
    /// Right, after much else: as much for a few elements as for many, hundreds of times what `Plain` takes, so that no noise of the
    /// clock turns the order of the two.
    Slow,
    /// Wrong in one element of a thousand.
    Wrong,
    /// Wrong only in tensors that are larger than the oracle is asked about.
    WrongWhenLarge,
    /// It leaves elements out.
    Hole,
    /// It writes past the end.
    Past,
    /// No WGSL.
    Broken,
}
use Way::*;

impl Way {
    fn name(self) -> &'static str {
        match self {
            Plain => "plain",
            Slow => "slow",
            Wrong => "wrong",
            WrongWhenLarge => "wrong_when_large",
            Hole => "hole",
            Past => "past",
            Broken => "broken",
        }
    }
    fn wgsl(self) -> &'static str {
        macro_rules! body {
            ($body:literal) => {
                concat!(
                    "//!include lib/index\n@compute @workgroup_size(64)\n",
                    "fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, ",
                    "@builtin(local_invocation_index) lane: u32) {\n",
                    "    let i = group_index(id, n) * 64u + lane;\n    if i >= p.units { return; }\n    ",
                    $body,
                    "\n}\n"
                )
            };
        }
        match self {
            Plain => body!("y[i] = 2.0 * x[i];"),
            // As often as the driver cannot know: sums that are not needed.
            Slow => body!(
                "var s = x[i]; for (var k = 0u; k <= 16777216u / p.units; k++) { s = s * 0.5 + x[(i + k) % p.units]; }
                y[i] = select(2.0 * x[i], s, s > 1e30);"
            ),
            Wrong => body!("y[i] = select(2.0 * x[i], 1.999 * x[i], i % 1000u == 7u);"),
            WrongWhenLarge => body!("y[i] = select(2.0 * x[i], 0.0, p.units > 1000000u);"),
            Hole => body!("if i != 3u { y[i] = 2.0 * x[i]; }"),
            Past => body!("y[i] = 2.0 * x[i]; y[i + 1u] = 2.0 * x[min(i + 1u, p.units - 1u)];"),
            Broken => body!("y[i] = twice(x[i]);"),
        }
    }
}

impl OpDef for Twice {
    const NAME: &'static str = "twice";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        Ok(x[0])
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        y.f.iter_mut().zip(x[0].f).for_each(|(y, &x)| *y = x + x);
    }
    fn vjp<'g>(&self, _: &[Tensor<'g>], _: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph().apply(*self, &[dy]))]
    }
    fn kernels(&self, _: &[Shape], y: Shape, _: &Caps) -> Vec<Kernel> {
        let kernel = |way: &Way| {
            let pass = Pass {
                source: Source { name: "twice", text: way.wgsl() },
                entry: "forward",
                consts: Vec::new(),
                params: Vec::new(),
                binds: vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)],
                code: String::new(),
                units: y.elements(),
                per_group: 64,
                step: false,
            };
            Kernel::one(way.name(), pass)
        };
        self.0.iter().map(kernel).collect()
    }
    fn cases() -> Vec<Case> {
        Vec::new()
    }
}

fn main() {
    let mut suite = Suite::new();
    suite.on(On::Gpu, "the fastest of those that are right", fastest);
    suite.on(On::Gpu, "what is wrong is never used", wrong);
    suite.on(On::Gpu, "a time is no fault", slow);
    suite.on(On::Gpu, "no candidate is right", none_right);
    suite.on(On::Gpu, "no time", no_time);
    suite.on(On::Gpu, "kept from run to run", kept);
    suite.on(On::Gpu, "files that are no use", bad_files);
    suite.on(On::Gpu, "folders that are no use", bad_folders);
    suite.on(On::Gpu, "many write at once", many_writers);
    suite.on(On::Gpu, "expected and portable measure nothing", nothing_measured);
    suite.on(On::Gpu, "a network trains as on the CPU", training);
    suite.on(On::Gpu, "the kernels of this crate pass", own_kernels);
    suite.on(On::Gpu, "the kernels of networks pass", networks);
    suite.on(On::Gpu, "where an op has no right kernel", told);
    suite.run()
}

/// The device again, so that it measures and keeps what it finds in a folder.
fn open(device: &Device, folder: &Path) -> Result<Device, downhill::Error> {
    let own = GpuOptions {
        choice: Choice::Measured,
        budget: Duration::from_secs(60),
        cache: Some(folder.to_path_buf()),
        ..inner(device).options().clone()
    };
    Device::open(&own)
}

/// Runs the op on a tensor of some size, and checks every element.
fn run(device: &Device, ways: &'static [Way], dims: [usize; 2]) -> Check {
    let g = Graph::inference();
    let mut f = device.compile(&[g.apply(Twice(ways), &[g.input(dims)])])?;
    let x: Vec<f32> = (0..dims[0] * dims[1]).map(|i| (i % 1000) as f32 - 499.5).collect();
    let y = f.run(&[Host::new(dims, x.clone())])?;
    let bad = x.iter().zip(y[0].f()).position(|(x, y)| *y != 2.0 * x);
    bad.map_or(Ok(()), |i| Err(format!("element {i} is wrong").into()))
}

/// Returns the choice for the only class.
fn only(device: &Device) -> Result<Chosen, String> {
    let report = inner(device).choices();
    match &report.classes[..] {
        [chosen] => Ok(chosen.clone()),
        _ => Err(report.to_string()),
    }
}

/// The verdict on a candidate.
fn verdict<'a>(chosen: &'a Chosen, kernel: &str) -> Result<&'a Verdict, String> {
    let found = chosen.candidates.iter().find(|c| c.kernel == kernel);
    found.map(|c| &c.verdict).ok_or_else(|| format!("no {kernel}: {chosen}"))
}

fn fastest(device: &Device) -> Check {
    // A slow candidate loses, wherever it stands in the list.
    for ways in [&[Plain, Slow], &[Slow, Plain]] as [&'static [Way]; 2] {
        let folder = tempfile::tempdir()?;
        let device = open(device, folder.path())?;
        run(&device, ways, [30, 70])?;
        let chosen = only(&device)?;
        assert_eq!((chosen.kernel.as_str(), chosen.origin), ("plain", Origin::Measured), "{chosen}");
        let class = format!("twice Twice({ways:?}) [32, 64] → [32, 64]: {}, {}", ways[0].name(), ways[1].name());
        assert_eq!(chosen.class, class);
        // A size of the same class takes the same choice, without another measurement; another class has its own.
        let before = inner(&device).choices();
        run(&device, ways, [28, 50])?;
        assert_eq!(inner(&device).choices(), before);
        run(&device, ways, [28, 5])?;
        assert_eq!(inner(&device).choices().classes.len(), 2);
    }
    Ok(())
}

fn wrong(device: &Device) -> Check {
    let table: [(&'static [Way], &str, &str); 5] = [
        (&[Plain, Wrong], "wrong", "times the tolerance"),
        (&[Plain, Hole], "hole", "NaN"),
        (&[Plain, Past], "past", "past the end"),
        (&[Plain, Broken], "broken", "twice"),
        // On a problem that is as large as the clock wants it, the others are the reference.
        (&[WrongWhenLarge, Plain], "wrong_when_large", "times the tolerance"),
    ];
    for (ways, bad, words) in table {
        let folder = tempfile::tempdir()?;
        let device = open(device, folder.path())?;
        run(&device, ways, [1030, 1100])?;
        let chosen = only(&device)?;
        let why = match (bad, verdict(&chosen, bad)?) {
            ("broken", Verdict::DoesNotRun(why)) => why,
            (other, Verdict::Wrong(why)) if other != "broken" => why,
            _ => return Err(format!("{bad} has another verdict: {chosen}").into()),
        };
        assert!(why.contains(words) && chosen.kernel != bad && chosen.is_trusted(), "{chosen}");
        // The report says so, also when the choice comes from the file.
        let again = open_again(&device)?;
        run(&again, ways, [1030, 1100])?;
        let report = inner(&again).choices().to_string();
        assert!(report.contains(words) && report.contains("measured earlier"), "{report}");
    }
    Ok(())
}

fn open_again(device: &Device) -> Result<Device, downhill::Error> {
    Device::open(inner(device).options())
}

/// A candidate that loses by the clock alone is timed anew by the next run of the program: a fault stays, a disturbed clock does not.
fn slow(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let first = open(device, folder.path())?;
    run(&first, &[Slow, Plain], [64, 64])?;
    let chosen = only(&first)?;
    assert!(matches!(verdict(&chosen, "slow")?, Verdict::Slow(_)) && chosen.kernel == "plain" && !chosen.is_complete(), "{chosen}");
    // Slow again: that is its time, and the choice is complete.
    let second = open_again(&first)?;
    run(&second, &[Slow, Plain], [64, 64])?;
    let found = only(&second)?;
    assert!(matches!(verdict(&found, "slow")?, Verdict::Time(_)) && found.kernel == "plain" && found.is_complete(), "{found}");
    assert_eq!(verdict(&found, "plain")?, verdict(&chosen, "plain")?, "a candidate that was timed is not timed again");
    let third = open_again(&first)?;
    run(&third, &[Slow, Plain], [64, 64])?;
    assert_eq!(only(&third)?, Chosen { origin: Origin::Cache, ..found });

    // A run in which another program was in the way of `plain`, and runs in which it had a fault.
    let folder = tempfile::tempdir()?;
    let first = open(device, folder.path())?;
    run(&first, &[Plain, Slow], [64, 64])?;
    let path = kernel_files(folder.path())?.remove(0);
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    for (key, value, kernel, origin) in [
        ("slow_ms", serde_json::json!(1e6), "plain", Origin::Measured),
        ("wrong", "element 3 is 2, not 1".into(), "slow", Origin::Cache),
        ("does_not_run", "no definition in scope".into(), "slow", Origin::Cache),
    ] {
        let class = file["classes"].as_object_mut().and_then(|all| all.values_mut().next()).ok_or("no class")?;
        class["kernel"] = "slow".into();
        class["candidates"][0] = serde_json::json!({ "kernel": "plain", key: value });
        fs::write(&path, file.to_string())?;
        let device = open_again(&first)?;
        run(&device, &[Plain, Slow], [64, 64])?;
        let chosen = only(&device)?;
        assert_eq!((chosen.kernel.as_str(), chosen.origin, chosen.is_complete()), (kernel, origin, true), "{key}: {chosen}");
    }
    Ok(())
}

/// The portable kernel is used, the report says that it is wrong, and nothing is kept.
fn none_right(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let device = open(device, folder.path())?;
    assert!(run(&device, &[Wrong, Hole], [90, 90]).is_err());
    let chosen = only(&device)?;
    assert!(chosen.kernel == "wrong" && !chosen.is_trusted(), "{chosen}");
    assert!(chosen.to_string().contains("NO KERNEL COMPUTES THIS RIGHTLY"), "{chosen}");
    assert_eq!(kernel_files(folder.path())?.len(), 0);
    Ok(())
}

/// Without time the expected candidate is used; the next run measures what this one did not.
fn no_time(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let mut options = inner(&open(device, folder.path())?).options().clone();
    options.budget = Duration::ZERO;
    let hasty = Device::open(&options)?;
    run(&hasty, &[Plain, Slow], [64, 64])?;
    let chosen = only(&hasty)?;
    assert_eq!((chosen.kernel.as_str(), chosen.origin), ("slow", Origin::Expected), "{chosen}");
    assert!(chosen.candidates.iter().all(|c| c.verdict == Verdict::NotMeasured) && kernel_files(folder.path())?.is_empty());
    // It stays as it is while the device is open.
    run(&hasty, &[Plain, Slow], [64, 64])?;
    assert_eq!(only(&hasty)?, chosen);
    // With hardly any, each run measures one candidate more.
    options.budget = Duration::from_nanos(1);
    for known in 1..=2 {
        let device = Device::open(&options)?;
        run(&device, &[Plain, Slow], [64, 64])?;
        let chosen = only(&device)?;
        assert_eq!(chosen.candidates.iter().filter(|c| c.verdict != Verdict::NotMeasured).count(), known, "{chosen}");
        let found = if known == 1 { ("slow", Origin::Expected) } else { ("plain", Origin::Measured) };
        assert_eq!((chosen.kernel.as_str(), chosen.origin), found, "{chosen}");
    }
    Ok(())
}

/// The files of choices in a folder.
fn kernel_files(folder: &Path) -> Result<Vec<std::path::PathBuf>, std::io::Error> {
    let all = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json")).collect())
}

/// Candidates for tests that are not about speed. Only one candidate is right, so the choice does not depend on a clock.
const WAYS: &[Way] = &[Wrong, Plain];

fn kept(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let first = open(device, folder.path())?;
    run(&first, WAYS, [128, 128])?;
    let found = only(&first)?;
    let files = kernel_files(folder.path())?;
    let text = fs::read_to_string(&files[0])?;
    assert!(files.len() == 1 && text.contains(&found.class) && text.contains(&first.name()), "{text}");
    let second = open_again(&first)?;
    run(&second, WAYS, [128, 128])?;
    let chosen = only(&second)?;
    assert_eq!((chosen.origin, &chosen.kernel, &chosen.candidates), (Origin::Cache, &found.kernel, &found.candidates));
    // Nothing new was found, so nothing was written.
    assert_eq!(fs::read_to_string(&files[0])?, text);
    // Another class is added to the file.
    run(&second, WAYS, [5, 128])?;
    let both = fs::read_to_string(&files[0])?;
    assert!(both.contains(&found.class) && both.contains("[5, 128]"), "{both}");
    // A device with other limits has a file of its own.
    let mut options = inner(&first).options().clone();
    options.limits = Some(Limits::default());
    run(&Device::open(&options)?, WAYS, [128, 128])?;
    assert_eq!(kernel_files(folder.path())?.len(), 2);
    Ok(())
}

fn bad_files(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let first = open(device, folder.path())?;
    run(&first, WAYS, [128, 128])?;
    let path = kernel_files(folder.path())?.remove(0);
    let text = fs::read_to_string(&path)?;
    let (name, version) = (first.name(), Device::cpu().driver().replace("downhill ", ""));
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replace(from, to).into_bytes()
    };
    let bad: [(&str, Vec<u8>); 9] = [
        ("empty", Vec::new()),
        ("no JSON", b"\xff\x00 kernels".to_vec()),
        ("half of it", text.as_bytes()[..text.len() / 2].to_vec()),
        ("another document", b"[1, 2, {\"classes\": 3}]".to_vec()),
        ("another adapter", changed(&name, "another")),
        ("another version", changed(&version, "0.0.1")),
        ("a kernel that is none", changed("\"kernel\": \"plain\"", "\"kernel\": \"odd\"")),
        ("other shaders", changed("\"shaders\": \"", "\"shaders\": \"1")),
        ("no times", changed("\"ms\"", "\"mss\"")),
    ];
    for (what, bytes) in bad {
        fs::write(&path, bytes)?;
        let device = open_again(&first)?;
        run(&device, WAYS, [128, 128]).map_err(|e| format!("{what}: {e}"))?;
        let chosen = only(&device)?;
        assert_eq!((chosen.origin, chosen.kernel.as_str()), (Origin::Measured, "plain"), "{what}: {chosen}");
        let again = open_again(&first)?;
        run(&again, WAYS, [128, 128])?;
        assert_eq!(only(&again)?.origin, Origin::Cache, "{what}: it was not written anew");
    }
    // The driver's own pipelines, where there are any.
    for entry in fs::read_dir(folder.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "bin") {
            let own = fs::read(&path)?;
            // `other` names another vendor, in a field that wgpu writes after our hash. `hashed` also has a hash that fits its bytes.
            let mut other = own.clone();
            other[8 + 20] ^= 1;
            let hash = other[8..]
                .iter()
                .chain(&[0xff])
                .fold(0xcbf2_9ce4_8422_2325_u64, |h, &byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            let hashed = [&hash.to_le_bytes(), &other[8..]].concat();
            for bytes in [Vec::new(), vec![7; 3], vec![9; 4000], own[9..].to_vec(), other, hashed] {
                fs::write(&path, bytes)?;
                run(&open_again(&first)?, WAYS, [128, 128])?;
                // The run above compiled the pipelines again and cached them.
                let g = Graph::inference();
                open_again(&first)?.compile(&[g.apply(Twice(&[Wrong, Plain, Hole]), &[g.input([64, 64])])])?;
            }
        }
    }
    // Files that are too large, and what is no file: everything is measured, and what can be replaced is.
    for (in_place, origin) in [(true, Origin::Measured), (false, Origin::Cache)] {
        for path in [path.clone(), folder.path().join("wgpu_pipeline_cache_vulkan_1_2.bin")] {
            fs::remove_file(&path).or_else(|e| if path.exists() { Err(e) } else { Ok(()) })?;
            match in_place {
                true => fs::create_dir(&path)?,
                false => fs::File::create(&path)?.set_len(1 << 40)?,
            }
        }
        let device = open_again(&first)?;
        run(&device, WAYS, [128, 128])?;
        assert_eq!(only(&device)?.origin, Origin::Measured);
        let again = open_again(&first)?;
        run(&again, WAYS, [128, 128])?;
        assert_eq!(only(&again)?.origin, origin);
        if in_place {
            fs::remove_dir(&path)?;
            fs::remove_dir(folder.path().join("wgpu_pipeline_cache_vulkan_1_2.bin"))?;
        }
    }
    fs::remove_file(folder.path().join("wgpu_pipeline_cache_vulkan_1_2.bin"))?;
    let left: Vec<_> = fs::read_dir(folder.path())?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    assert!(left.len() <= 2, "temporary files are left: {left:?}");
    Ok(())
}

fn bad_folders(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    // A file where the folder should be: nothing can be made in it, by nobody.
    let file = folder.path().join("file");
    fs::write(&file, "mine")?;
    for path in [file.clone(), file.join("deeper")] {
        let device = open(device, &path)?;
        run(&device, WAYS, [128, 128])?;
        assert_eq!((only(&device)?.origin, fs::read_to_string(&file)?.as_str()), (Origin::Measured, "mine"));
    }
    // A folder that is not there yet is made.
    let deep = folder.path().join("not/yet");
    run(&open(device, &deep)?, WAYS, [128, 128])?;
    assert_eq!(kernel_files(&deep)?.len(), 1);
    Ok(())
}

fn many_writers(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let device = open(device, folder.path())?;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for k in 0..4 {
            let device = &device;
            threads.push(scope.spawn(move || {
                for j in 0..3 {
                    let own = open_again(device).map_err(|e| e.to_string())?;
                    run(&own, WAYS, [1 + k, 2 + j]).map_err(|e| e.to_string())?;
                }
                Ok::<(), String>(())
            }));
        }
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    let files = kernel_files(folder.path())?;
    let value: serde_json::Value = serde_json::from_slice(&fs::read(&files[0])?)?;
    let classes = value["classes"].as_object().ok_or("no classes")?;
    // One writer may overtake another, but what is there is whole.
    assert!(files.len() == 1 && (1..=12).contains(&classes.len()), "{value:#}");
    let again = open_again(&device)?;
    for k in 0..4 {
        for j in 0..3 {
            run(&again, WAYS, [1 + k, 2 + j])?;
        }
    }
    let value: serde_json::Value = serde_json::from_slice(&fs::read(&files[0])?)?;
    assert_eq!(value["classes"].as_object().map(|all| all.len()), Some(12));
    Ok(())
}

fn nothing_measured(device: &Device) -> Check {
    for (choice, kernel) in [(Choice::Expected, "wrong"), (Choice::Portable, "plain")] {
        let folder = tempfile::tempdir()?;
        let own = GpuOptions { choice, cache: Some(folder.path().to_path_buf()), ..inner(device).options().clone() };
        let device = Device::open(&own)?;
        assert_eq!(run(&device, &[Plain, Wrong], [64, 64]).is_ok(), kernel == "plain");
        assert!(inner(&device).choices().classes.is_empty() && fs::read_dir(folder.path())?.next().is_none());
    }
    Ok(())
}

/// Products and all: whatever was chosen, the losses are the CPU's.
fn training(device: &Device) -> Check {
    let losses = |device: &Device| -> Result<Vec<f32>, downhill::Error> {
        let g = Graph::training();
        let (x, y) = (g.input([70, 90]), g.labels([70]));
        let loss = x.linear("fc1", 80).relu().linear("fc2", 10).cross_entropy(y);
        let mut trainer = Trainer::new(device, loss, Adam::new(1e-3))?;
        let x = Host::new([70, 90], (0..6300).map(|i| ((i * 37) % 101) as f32 / 101.0).collect());
        let y = Host::labels([70], (0..70).map(|i| i % 10).collect());
        (0..4).map(|_| trainer.step(&[x.clone(), y.clone()]).and_then(|()| trainer.loss())).collect()
    };
    let folder = tempfile::tempdir()?;
    let measured = open(device, folder.path())?;
    let (a, want) = (losses(&measured)?, losses(&Device::cpu())?);
    // The second run times again what the first one found slow; then all is known.
    let (second, third) = (open_again(&measured)?, open_again(&measured)?);
    let (b, c) = (losses(&second)?, losses(&third)?);
    assert_eq!(common::bits(&b), common::bits(&c), "a choice from the file is the same choice");
    let (found, kept) = (inner(&second).choices(), inner(&third).choices());
    assert!(found.classes.iter().all(Chosen::is_complete) && kept.classes.iter().all(|c| c.origin == Origin::Cache), "{found}\n{kept}");
    assert!(a.iter().chain(&b).zip(want.iter().cycle()).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs()), "{a:?} {want:?}");
    let report = inner(&measured).choices();
    assert!(report.classes.iter().all(|c| c.is_trusted() && c.origin == Origin::Measured), "{report}");
    Ok(())
}

/// No kernel that passes the tests of its op is refused for its numbers: the gate's small problems are fair.
fn own_kernels(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let device = open(device, folder.path())?;
    let caps = inner(&device).caps();
    let mut tried = 0;
    for (_, cases) in ops::all() {
        // A few of each op: all of them would take longer than their own tests.
        for case in cases.iter().step_by(cases.len().div_ceil(5)) {
            let shapes: Vec<Shape> = case.inputs.iter().map(|input| input.0).collect();
            let y = case.op.shape(&shapes)?;
            if y.elements() < 5_000_000 && !case.op.is_alias() && case.op.kernels(&shapes, y, caps).len() > 1 {
                let g = Graph::training();
                device.compile(&testing::graph(&g, case)[..1]).map_err(|e| format!("{}: {e}", case.name))?;
                tried += 1;
            }
        }
    }
    let classes = all_fair(&device)?;
    assert!(tried > 10 && classes > 5, "{tried} {}", inner(&device).choices());
    Ok(())
}

/// Every candidate is right; how many classes there are.
fn all_fair(device: &Device) -> Result<usize, String> {
    let report = inner(device).choices();
    let fair = |verdict: &Verdict| match verdict {
        Verdict::Time(_) | Verdict::Slow(_) => true,
        Verdict::Wrong(_) | Verdict::DoesNotRun(_) | Verdict::NotMeasured => false,
    };
    let unfair = report.classes.iter().filter(|chosen| !chosen.candidates.iter().all(|c| fair(&c.verdict)));
    let unfair: Vec<String> = unfair.map(|chosen| chosen.to_string()).collect();
    if unfair.is_empty() { Ok(report.classes.len()) } else { Err(unfair.join("\n")) }
}

/// A model: the loss of its inputs.
type Model = for<'g> fn(&'g Graph) -> Tensor<'g>;

/// The gate is fair to what layers put together, whatever the sizes: gradients through many steps, scores of other scales, rows of
/// two elements, functions behind a product that no input is good for.
fn networks(device: &Device) -> Check {
    fn recurrent<'g>(g: &'g Graph, [n, t, features, hidden]: [usize; 4], lstm: bool) -> Tensor<'g> {
        let x = g.input([n, t, features]);
        let y = if lstm { x.lstm("rnn", hidden) } else { x.gru("rnn", hidden) };
        y.slice(1, t - 1, t).reshape([n, hidden]).linear("out", 10).cross_entropy(g.labels([n]))
    }
    fn norms<'g>(g: &'g Graph, [n, c, h, w]: [usize; 4], groups: usize) -> Tensor<'g> {
        let x = g.input([n, c, h, w]);
        let y = x.batch_norm("bn") + x.group_norm("gn", groups) + x.instance_norm("in") + x.layer_norm("ln") + x.rms_norm("rms");
        (y.square().mean_all() + x.variance(&[0, 2], 1, false).sum_all() + x.std(&[-1], 0, false).sum_all()).sqrt()
    }
    fn behind<'g>(g: &'g Graph, [n, k, m]: [usize; 3]) -> Tensor<'g> {
        let (x, image) = (g.input([n, k]), g.input([n, 3, 12, 12]));
        let functions: [fn(Tensor) -> Tensor; 9] = [
            |y| y.ln(),
            |y| y.sin(),
            |y| y.exp(),
            |y| y.reciprocal(),
            |y| y.rsqrt(),
            |y| y.gt(0.0),
            |y| y.pow(y),
            |y| 1.0 / (y - 1.0),
            |y| y.dropout(0.5),
        ];
        let terms = functions.iter().enumerate().map(|(i, f)| {
            let conv = f(image.conv2d(&format!("c{i}"), m, 3));
            f(x.linear(&format!("l{i}"), m)).mean_all() + conv.mean_all() + f(image.conv_transpose2d(&format!("t{i}"), 2, 2)).mean_all()
        });
        terms.fold(g.scalar(0.0), |sum, term| sum + term)
    }
    fn scores<'g>(g: &'g Graph, [n, k]: [usize; 2]) -> Tensor<'g> {
        let x = g.input([n, k]) * g.param("w", [k], Init::Ones);
        let (y, soft) = (g.labels([n]), g.input([n, k]).softmax(-1));
        let smooth = downhill::losses::cross_entropy(x, y).label_smoothing(0.1).mean();
        let table = g.param("table", [k, 3], Init::Ones).gather_rows(y).mean_all();
        let wide = (x * 1e3).softmax(-1).max(&[-1], false).mean_all() + (x * 30.0).softmax(0).square().mean_all();
        let picked = (x.pick(y) + x.correct(y) + x.argmax(-1).to_f32()).mean_all();
        x.cross_entropy(y) + smooth - (x.log_softmax(-1) * soft).mean_all() + x.logsumexp(&[-1], false).mean_all() + table + wide + picked
    }
    fn attention<'g>(g: &'g Graph, [n, t, width, heads]: [usize; 4]) -> Tensor<'g> {
        let x = g.input([n, t, width]).positional_embedding("pos", t);
        let y = x.transformer_encoder_layer("block", heads, 2 * width).linear("qkv", 3 * width);
        let part = |i: usize| y.slice(2, i * width, (i + 1) * width);
        let of = |causal, scale| Attention { causal, scale, ..Attention::default() };
        let all = [of(true, Some(1.0)), of(false, Some(8.0)), of(false, Some(-0.3)), of(false, Some(1e-3)), of(true, None)];
        let terms = all.map(|options| part(0).scaled_dot_product_attention(part(1), part(2), options).square().mean_all());
        terms.into_iter().fold(g.scalar(0.0), |sum, term| sum + term)
    }
    let models: &[(&str, Model)] = &[
        ("the LSTM of the report", |g| recurrent(g, [32, 20, 12, 24], true)),
        ("a long LSTM", |g| recurrent(g, [3, 300, 2, 64], true)),
        ("a GRU", |g| recurrent(g, [32, 20, 12, 24], false)),
        ("a long GRU", |g| recurrent(g, [1, 300, 40, 17], false)),
        ("a wide GRU", |g| recurrent(g, [4, 5, 100, 300], false)),
        ("norms", |g| norms(g, [4, 6, 9, 9], 2)),
        ("norms of few", |g| norms(g, [2, 4, 1, 2], 4)),
        ("norms of two", |g| norms(g, [2, 2, 2, 1], 2)),
        ("norms of many", |g| norms(g, [2, 3, 40, 50], 3)),
        ("norms of long lines", |g| norms(g, [3, 1, 1, 5000], 1)),
        ("behind a product", |g| behind(g, [64, 784, 10])),
        ("behind a small one", |g| behind(g, [3, 2, 5])),
        ("scores", |g| scores(g, [64, 10])),
        ("scores of two", |g| scores(g, [5, 2])),
        ("scores of many", |g| scores(g, [16, 5000])),
        ("attention", |g| attention(g, [4, 17, 32, 4])),
        ("attention of one head", |g| attention(g, [2, 50, 64, 1])),
        ("attention of one feature", |g| attention(g, [2, 9, 4, 4])),
        ("a CNN", |g| {
            let x = g.input([8, 3, 20, 20]).conv2d("c1", 8, 3).batch_norm("b1").relu().max_pool2d(2).conv2d("c2", 16, 3).gelu();
            x.avg_pool2d(2)
                .upsample_by(downhill::ops::resample::Upsample::Nearest, 2)
                .flatten()
                .linear("out", 10)
                .cross_entropy(g.labels([8]))
        }),
        ("an MLP", |g| g.input([100, 784]).linear("a", 128).relu().linear("b", 10).cross_entropy(g.labels([100]))),
    ];
    let folder = tempfile::tempdir()?;
    let device = open(device, folder.path())?;
    for (name, model) in models {
        let g = Graph::training();
        let loss = model(&g);
        g.error().map_or(Ok(()), Err)?;
        Trainer::new(&device, loss, Adam::new(1e-3)).map_err(|e| format!("{name}: {e}"))?;
    }
    assert!(all_fair(&device)? > 60, "{}", inner(&device).choices());
    Ok(())
}

/// The messages of `log` from all tests of this program.
struct Told(Mutex<String>);

impl log::Log for Told {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        if record.target().starts_with("downhill") {
            let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *text += &format!("{}: {}\n", record.level(), record.args());
        }
    }
    fn flush(&self) {}
}

/// The message names the op as users call it, its line, and a way on.
fn told(device: &Device) -> Check {
    static TOLD: Told = Told(Mutex::new(String::new()));
    log::set_logger(&TOLD).map_err(|e| e.to_string())?;
    log::set_max_level(log::LevelFilter::Warn);
    let folder = tempfile::tempdir()?;
    let device = open(device, folder.path())?;
    let g = Graph::inference();
    let line = line!() + 1;
    let y = g.apply(Twice(&[Wrong, Hole]), &[g.input([77, 90])]);
    device.compile(&[y])?;
    let text = TOLD.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let start = format!("ERROR: twice ({}:{line}): none of its kernels agrees with the op's definition on ", file!());
    assert!(text.contains(&start) && text.contains("Device::cpu()") && text.contains("element "), "{text}");
    Ok(())
}
