//! Files that are written: whole, whoever else writes, and whenever the process dies. And what is in them: the same bytes for the same
//! state, the optimizer's options; floats of other sizes are read.

use crate::common::{BOTH, Check, On, Suite, bits, weights};
use downhill::{
    Device, Error, Graph, Host, Tensor, Trainer, file,
    init::Init,
    optim::{Adagrad, Adam, GroupOptions, Optimizer, RmsProp, Schedule, Sgd},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    collections::{BTreeSet, HashMap},
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Mutex, Once,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

pub fn trials(suite: &mut Suite) {
    for (name, check) in [
        ("a process that is killed while it saves", killed as fn() -> Check),
        ("threads that save at once", threads),
        ("processes that save at once", processes),
        ("files beside the one that is saved", neighbours),
        ("what killed processes left", leftovers),
        ("paths that are saved to", paths),
    ] {
        suite.test(name, check);
    }
    #[cfg(unix)]
    for (name, check) in [("permissions", permissions as fn() -> Check), ("symbolic links", links), ("saves that fail", failures)] {
        suite.test(name, check);
    }
    suite.each(&BOTH, "one state is the same bytes", same_bytes);
    suite.each(&BOTH, "a checkpoint under other options", other_options);
    suite.each(&BOTH, "checkpoints of old versions", old_checkpoints);
    suite.each(&BOTH, "floats of other sizes", floats);
    suite.each(&[On::Cpu], "tensors that nobody asked for", strangers);
}

/// The environment variable with the task of a child process, and its folder.
const JOB: &str = "DOWNHILL_TEST_JOB";

/// Does what the parent wants, where this process is a child of one of the tests.
pub fn child() -> Option<ExitCode> {
    let job = env::var(JOB).ok()?;
    let (what, path) = job.split_once(' ').expect("a job and a path");
    let path = Path::new(path);
    let done: Check = match what {
        "train" => train(path),
        "fail" => match trainer(1.0).and_then(|t| t.save(path)) {
            Err(Error::File { .. }) => Ok(()),
            other => Err(format!("{other:?} instead of an error").into()),
        },
        value => (|| {
            let trainer = trainer(value.parse()?)?;
            (0..100).try_for_each(|_| Ok(trainer.save(path)?))
        })(),
    };
    Some(done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    ))
}

fn spawn(job: &str, path: &Path) -> Result<Child, std::io::Error> {
    Command::new(env::current_exe()?).env(JOB, format!("{job} {}", path.display())).stdout(Stdio::piped()).spawn()
}

/// A model with a checkpoint of a megabyte, which takes a while to write. Its steps depend on their number, by dropout.
fn learner() -> Result<Trainer, Error> {
    let g = Graph::training();
    let y = g.input([4, 8]).linear("fc", 512).tanh().dropout(0.1).linear("out", 256);
    Trainer::new(&Device::cpu(), y.square().mean_all(), Sgd::new(0.01).momentum(0.9))
}

fn step(trainer: &mut Trainer) -> Result<(), Error> {
    trainer.step(&[Host::new([4, 8], (0..32).map(|i| (i as f32 * 0.7).sin()).collect())])
}

/// Goes on from where the last process was killed, and saves after each step until it is killed itself.
fn train(path: &Path) -> Check {
    let mut trainer = learner()?;
    if path.exists() {
        trainer.load(path)?;
    }
    println!("ready");
    std::io::stdout().flush()?;
    // Not for ever, should the parent be gone.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        step(&mut trainer)?;
        trainer.save(path)?;
    }
    Ok(())
}

/// Temporary files of ours.
fn parts(folder: &Path) -> Result<Vec<PathBuf>, std::io::Error> {
    let all = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".downhill-"))).collect())
}

fn killed() -> Check {
    let folder = tempfile::tempdir()?;
    let (path, again) = (folder.path().join("model.safetensors"), folder.path().join("again"));
    // The results of a process that is not killed.
    let (mut whole, mut probe) = (learner()?, learner()?);
    let kills: u32 = env::var("DOWNHILL_KILLS").map_or(Ok(30), |text| text.parse())?;
    for k in 0..kills {
        let mut child = spawn("train", &path)?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        assert_eq!(line, "ready\n", "kill {k}: the file of the last one must be whole");
        // At moments that nobody chose: up to some saves later, and later each time until a disk that is slow has saved once.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let most = if path.exists() { 40_000 } else { 40_000 * u64::from(k + 1) };
        thread::sleep(Duration::from_micros(u64::from(now.subsec_nanos() / 7) % most));
        child.kill()?;
        child.wait()?;
        if !path.exists() {
            continue;
        }
        probe.load(&path)?;
        while whole.steps() < probe.steps() {
            step(&mut whole)?;
        }
        // One of the states that were saved, to the last bit: weights, momentum, steps.
        whole.save(&again)?;
        assert!(fs::read(&path)? == fs::read(&again)?, "kill {k}: not the state after {} steps", probe.steps());
    }
    assert!(probe.steps() > 0, "nothing was ever saved");
    assert!(parts(folder.path())?.len() <= kills as usize);
    Ok(())
}

/// A trainer whose weights are all this.
fn trainer(value: f32) -> Result<Trainer, Error> {
    let g = Graph::training();
    let w = g.param("w", [40_000], Init::Constant(value));
    Trainer::new(&Device::cpu(), w.sum_all(), Sgd::new(0.01))
}

/// Returns the value in a file that other processes save to. The file must be whole, from one save. `None` before the first save.
fn look(probe: &Trainer, path: &Path) -> Result<Option<f32>, Box<dyn std::error::Error>> {
    // It never goes away again.
    if !path.exists() {
        return Ok(None);
    }
    probe.params().load(path)?;
    let w = probe.params().get("w")?;
    let first = w.f()[0];
    assert!(w.f().iter().all(|w| *w == first), "{}: parts of several saves", path.display());
    Ok(Some(first))
}

fn threads() -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let names = ["model.best", "model.last", "loss-0.91", "loss-0.95"];
    let busy = AtomicUsize::new(names.len());
    let write = |k: usize| -> Result<(), Error> {
        let trainer = trainer(k as f32 + 1.0)?;
        let saved = (0..60).try_for_each(|_| trainer.save(at(names[k])).and_then(|()| trainer.params().save(at("shared"))));
        busy.fetch_sub(1, SeqCst);
        saved
    };
    let probe = trainer(0.0)?;
    let mut looks = 0;
    thread::scope(|scope| -> Check {
        let writers: Vec<_> = (0..names.len()).map(|k| scope.spawn(move || write(k))).collect();
        while busy.load(SeqCst) > 0 {
            for (k, name) in names.iter().enumerate() {
                let found = look(&probe, &at(name))?;
                assert!(found.is_none_or(|w| w == k as f32 + 1.0), "{name} has the weights {found:?}, those of another one");
                looks += usize::from(found.is_some());
            }
            let shared = look(&probe, &at("shared"))?;
            assert!(shared.is_none_or(|w| [1.0, 2.0, 3.0, 4.0].contains(&w)), "{shared:?}");
        }
        writers.into_iter().try_for_each(|writer| Ok(writer.join().expect("no panic")?))
    })?;
    assert!(looks > 0);
    assert_eq!(parts(folder.path())?, Vec::<PathBuf>::new());
    Ok(())
}

fn processes() -> Check {
    let folder = tempfile::tempdir()?;
    let [best, last, shared] = ["model.best", "model.last", "model"].map(|name| folder.path().join(name));
    let probe = trainer(0.0)?;
    let mut children = Vec::new();
    for (value, path) in [("1", &best), ("2", &last), ("3", &shared), ("4", &shared)] {
        children.push(spawn(value, path)?);
    }
    let mut running = true;
    while running {
        running = false;
        for child in &mut children {
            running |= child.try_wait()?.is_none();
        }
        for (path, may) in [(&best, [1.0, 1.0]), (&last, [2.0, 2.0]), (&shared, [3.0, 4.0])] {
            let found = look(&probe, path)?;
            assert!(found.is_none_or(|w| may.contains(&w)), "{} has the weights {found:?}", path.display());
        }
    }
    for mut child in children {
        assert!(child.wait()?.success());
    }
    assert_eq!(parts(folder.path())?, Vec::<PathBuf>::new());
    Ok(())
}

fn neighbours() -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    for name in ["notes.part", "notes", "notes.tmp", ".downhill-mine", "part"] {
        fs::write(at(name), "mine")?;
    }
    let trainer = trainer(1.0)?;
    trainer.save(at("notes.safetensors"))?;
    trainer.params().save(at("notes.best"))?;
    for name in ["notes.part", "notes", "notes.tmp", ".downhill-mine", "part"] {
        assert_eq!(fs::read(at(name))?, b"mine", "{name}");
    }
    // A name like any other: it is not written in place.
    fs::write(at("notes.part"), "mine")?;
    let mut old = File::open(at("notes.part"))?;
    trainer.save(at("notes.part"))?;
    assert_eq!(std::io::read_to_string(&mut old)?, "mine");
    assert_eq!(look(&trainer, &at("notes.part"))?, Some(1.0));
    let names: BTreeSet<String> =
        fs::read_dir(folder.path())?.map(|e| Ok(e?.file_name().to_string_lossy().into())).collect::<Result<_, std::io::Error>>()?;
    let want = [".downhill-mine", "notes", "notes.best", "notes.part", "notes.safetensors", "notes.tmp", "part"];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), want);
    Ok(())
}

fn leftovers() -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let old = SystemTime::now() - Duration::from_secs(7200);
    let make = |name: &str, age: bool| -> Result<File, std::io::Error> {
        let file = File::create(at(name))?;
        if age {
            file.set_modified(old)?;
        }
        Ok(file)
    };
    make(".downhill-killed.tmp", true)?;
    make(".downhill-young.tmp", false)?;
    make("other.tmp", true)?;
    fs::create_dir(at(".downhill-folder.tmp"))?;
    let busy = make(".downhill-busy.tmp", true)?;
    busy.lock()?;
    file::replace(at("some"), b"text")?;
    let left = |name: &str| at(name).exists();
    assert!(!left(".downhill-killed.tmp"));
    assert!(left(".downhill-young.tmp") && left("other.tmp") && left(".downhill-folder.tmp") && left(".downhill-busy.tmp"));
    Ok(())
}

fn paths() -> Check {
    let folder = tempfile::tempdir()?;
    // As long as a name can be; of characters that some take for others; of nothing but an extension.
    for name in [&"n".repeat(255)[..], "a b.c.d", ".safetensors", "ß→🦀"] {
        for text in ["one", "two"] {
            file::replace(folder.path().join(name), text.as_bytes())?;
            assert_eq!(fs::read(folder.path().join(name))?, text.as_bytes(), "{name}");
        }
    }
    for path in
        [folder.path().join("no/such/folder"), folder.path().join("x/"), folder.path().into(), PathBuf::new(), "/".into(), "..".into()]
    {
        match file::replace(&path, b"") {
            Err(Error::File { path: named, .. }) if named == path => {}
            other => return Err(format!("{}: {other:?}", path.display()).into()),
        }
    }
    assert_eq!(parts(folder.path())?, Vec::<PathBuf>::new());
    Ok(())
}

#[cfg(unix)]
fn permissions() -> Check {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let mode = |name: &str| -> Result<u32, std::io::Error> { Ok(fs::metadata(at(name))?.mode() & 0o7777) };
    fs::write(at("plain"), "")?;
    let trainer = trainer(1.0)?;
    trainer.save(at("new"))?;
    assert_eq!(mode("new")?, mode("plain")?, "those that the umask gives");
    for bits in [0o600, 0o640, 0o664, 0o444] {
        fs::set_permissions(at("new"), fs::Permissions::from_mode(bits))?;
        let before = fs::metadata(at("new"))?;
        trainer.save(at("new"))?;
        let after = fs::metadata(at("new"))?;
        assert_eq!((mode("new")?, after.uid(), after.gid()), (bits, before.uid(), before.gid()));
        assert_ne!(after.ino(), before.ino(), "another file was renamed to it");
    }
    Ok(())
}

#[cfg(unix)]
fn links() -> Check {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("runs/1"))?;
    fs::write(at("runs/1/model"), "old")?;
    symlink("1/model", at("runs/last"))?;
    symlink(at("runs/last"), at("best"))?;
    symlink("runs/1/new", at("dangling"))?;
    symlink("loop", at("loop"))?;
    for (link, target) in [("best", "runs/1/model"), ("runs/last", "runs/1/model"), ("dangling", "runs/1/new")] {
        let to = fs::read_link(at(link))?;
        file::replace(at(link), link.as_bytes())?;
        assert_eq!((fs::read_link(at(link))?, fs::read(at(target))?), (to, link.as_bytes().to_vec()));
        assert!(!fs::symlink_metadata(at(target))?.is_symlink());
    }
    assert!(matches!(file::replace(at("loop"), b""), Err(Error::File { .. })));
    Ok(())
}

#[cfg(unix)]
fn failures() -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model");
    trainer(2.0)?.save(&path)?;
    let good = fs::read(&path)?;
    // Half of it fits, as on a disk that is full.
    let exe = env::current_exe()?;
    let job = format!("fail {}", path.display());
    let done = Command::new("sh").args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\""]).arg(exe).env(JOB, job).status()?;
    assert!(done.success(), "a save beyond the limit must be an error");
    assert!(fs::read(&path)? == good && parts(folder.path())?.is_empty());
    // A pipe stays one: whoever reads it gets the bytes. (One of our own: a mistake here must not replace a device of the system.)
    use std::os::unix::fs::FileTypeExt;
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe)
    });
    file::replace(&pipe, b"text")?;
    assert_eq!(reader.join().expect("no panic")?, b"text");
    assert!(fs::metadata(&pipe)?.file_type().is_fifo());
    Ok(())
}

/// A model with two layers, and state.
fn model(device: &Device, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    let g = Graph::training();
    let y = g.input([4, 3]).linear("fc", 5).batch_norm("bn").tanh().linear("out", 2);
    Trainer::new(device, y.square().mean_all(), optimizer)
}

fn batch() -> Host<f32> {
    Host::new([4, 3], (0..12).map(|i| (i as f32 * 1.3).cos()).collect())
}

fn same_bytes(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let mut trainer = model(device, Adam::new(0.1))?;
    trainer.step(&[batch()])?;
    trainer.save(at("first"))?;
    trainer.params().save(at("weights"))?;
    let (first, alone) = (fs::read(at("first"))?, fs::read(at("weights"))?);
    for _ in 0..10 {
        trainer.save(at("again"))?;
        trainer.params().save(at("alone"))?;
        assert!(fs::read(at("again"))? == first && fs::read(at("alone"))? == alone);
    }
    // Another trainer that loads it has that state.
    let mut other = model(device, Adam::new(0.1))?;
    other.load(at("first"))?;
    other.save(at("again"))?;
    assert!(fs::read(at("again"))? == first);
    // The format's own library reads it, and what is beside the tensors.
    let (_, header) = SafeTensors::read_metadata(&first)?;
    let info = header.metadata().clone().unwrap_or_default();
    let want = [
        ("step", "1"),
        ("optimizer", "Adam"),
        ("optimizer.lr", "0.1"),
        ("optimizer.betas", "(0.9, 0.999)"),
        ("optimizer.clip_norm", "none"),
    ];
    assert!(want.iter().all(|(name, value)| info.get(*name).is_some_and(|v| v == value)), "{info:?}");
    let tensors = SafeTensors::deserialize(&first)?;
    assert_eq!(tensors.tensor("optimizer.mean.fc.weight")?.shape(), [5, 3]);
    let bias: Vec<f32> = tensors.tensor("out.bias")?.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(bits(&bias), bits(trainer.params().get("out.bias")?.f()));
    Ok(())
}

/// Keeps what is told through the crate `log`.
struct Told(Mutex<Vec<String>>);

static TOLD: Told = Told(Mutex::new(Vec::new()));

impl log::Log for Told {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        if record.level() <= log::Level::Warn {
            self.0.lock().expect("no panic").push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

/// Returns the messages about a file.
fn told(path: &Path) -> Vec<String> {
    let of = path.display().to_string();
    let mut all = TOLD.0.lock().expect("no panic");
    let (found, rest) = all.drain(..).partition(|text| text.contains(&of));
    *all = rest;
    found
}

fn other_options(device: &Device) -> Check {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        log::set_logger(&TOLD).expect("the first logger");
        log::set_max_level(log::LevelFilter::Warn);
    });
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model");
    let decay = |weight_decay| GroupOptions { weight_decay, ..GroupOptions::default() };
    let sgd = Sgd::new(0.1).momentum(0.9);
    let adam = Adam::new(0.1);
    let silent = "";
    let cases: Vec<(&str, Optimizer, Optimizer)> = vec![
        // A lower rate is how people go on.
        (silent, sgd.into(), Sgd::new(0.01).momentum(0.9).into()),
        (silent, sgd.into(), sgd.schedule(Schedule::cosine(100))),
        // A frozen parameter has no state.
        ("error: it contains `optimizer.momentum.fc.bias`, which has no place in this trainer", sgd.into(), sgd.freeze(["fc.bias"])),
        ("momentum was 0.9 and is 0.5 now", sgd.into(), sgd.momentum(0.5).into()),
        ("dampening was 0.0 and is 0.1 now", sgd.into(), sgd.dampening(0.1).into()),
        ("nesterov was false and is true now", sgd.into(), sgd.nesterov(true).into()),
        ("weight_decay was 0.0 and is 0.01 now", sgd.into(), sgd.weight_decay(0.01).into()),
        ("decay_all was false and is true now", sgd.into(), sgd.decay_all()),
        ("clip_norm was none and is 1.0 now", sgd.into(), sgd.clip_norm(1.0)),
        ("clip_norm was 2.0 and is none now", sgd.clip_norm(2.0), sgd.into()),
        ("clip_value was none and is 0.5 now", sgd.into(), sgd.clip_value(0.5)),
        ("clip_value was 0.25 and is 1.0 now", sgd.clip_value(0.25), sgd.clip_value(1.0)),
        (silent, sgd.clip_norm(2.0).clip_value(0.25), sgd.clip_value(0.25).clip_norm(2.0)),
        // Without a state nothing is lost.
        ("frozen was none and is fc.bias now", Sgd::new(0.1).into(), Sgd::new(0.1).freeze(["fc.bias"])),
        ("frozen was fc.bias and is none now", Sgd::new(0.1).freeze(["fc.bias"]), Sgd::new(0.1).into()),
        (silent, sgd.freeze(["fc.bias"]), sgd.group(|name| name == "fc.bias", GroupOptions { lr_scale: 0.0, ..Default::default() })),
        ("error: frozen was fc.bias and is none now", sgd.freeze(["fc.bias"]), sgd.into()),
        ("group_weight_decay was [] and is [0.1] now", sgd.into(), sgd.group(|name| name.starts_with("fc"), decay(Some(0.1)))),
        ("betas was (0.9, 0.999) and is (0.5, 0.999) now", adam.into(), adam.betas(0.5, 0.999).into()),
        ("eps was 1e-8 and is 0.001 now", adam.into(), adam.eps(1e-3).into()),
        ("alpha was 0.99 and is 0.9 now", RmsProp::new(0.1).into(), RmsProp::new(0.1).alpha(0.9).into()),
        ("lr_decay was 0.0 and is 0.1 now", Adagrad::new(0.1).into(), Adagrad::new(0.1).lr_decay(0.1).into()),
        // A change that would lose a state is an error, not a warning.
        ("error: momentum was 0.9 and is 0.0 now", sgd.into(), Sgd::new(0.1).into()),
        ("error: amsgrad was true and is false now", adam.amsgrad(true).into(), adam.into()),
        ("error: centered was true and is false now", RmsProp::new(0.1).centered(true).into(), RmsProp::new(0.1).into()),
        ("error: optimizer.momentum.fc.weight: not in ", Sgd::new(0.1).into(), sgd.into()),
        // All names that are missing, not only the first.
        (
            "error: 6 are missing: optimizer.momentum.fc.weight, optimizer.momentum.fc.bias, optimizer.momentum.bn.weight, ",
            Sgd::new(0.1).into(),
            sgd.into(),
        ),
        (
            "error: 6 are missing: optimizer.average.fc.weight, optimizer.average.fc.bias, optimizer.average.bn.weight, ",
            sgd.into(),
            sgd.ema(0.9),
        ),
        ("error: it contains `optimizer.average.bn.bias`", sgd.ema(0.9), sgd.into()),
        ("average was Ema { decay: 0.9 } and is Ema { decay: 0.5 } now", sgd.ema(0.9), sgd.ema(0.5)),
    ];
    for (want, saved, now) in cases {
        let mut from = model(device, saved)?;
        from.step(&[batch()])?;
        from.save(&path)?;
        let mut to = model(device, now)?;
        let before = weights(&to)?;
        let loaded = to.load(&path);
        let told = told(&path);
        match want.strip_prefix("error: ") {
            Some(want) => {
                let error = loaded.err().map_or(String::new(), |e| e.to_string());
                assert!(error.contains(want), "`{error}` instead of `{want}`");
                assert_eq!((to.steps(), weights(&to)?), (0, before), "{want}: nothing is changed");
            }
            None => {
                loaded?;
                assert!(
                    if want.is_empty() { told.is_empty() } else { told.len() == 1 && told[0].contains(want) },
                    "{told:?} instead of `{want}`"
                );
                assert_eq!((to.steps(), weights(&to)?), (1, weights(&from)?));
            }
        }
    }
    // A layer more than the model has.
    let mut trainer = trainer_of(device, |x| x.linear("fc", 5).linear("more", 2))?;
    trainer.step(&[batch()])?;
    trainer.save(&path)?;
    let mut less = trainer_of(device, |x| x.linear("fc", 5))?;
    let error = less.load(&path).err().map_or(String::new(), |e| e.to_string());
    assert!(
        error
            .contains("it contains `more.bias`, which has no place in this trainer; 2 have no place: more.bias, more.weight; Params::load"),
        "{error}"
    );
    less.params().load(&path)?;
    Ok(())
}

fn trainer_of(device: &Device, model: impl for<'g> Fn(Tensor<'g>) -> Tensor<'g>) -> Result<Trainer, Error> {
    let g = Graph::training();
    Trainer::new(device, model(g.input([4, 3])).square().mean_all(), Sgd::new(0.1))
}

/// A file by the format's own library, in whatever order it has.
fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)], info: Option<HashMap<String, String>>) -> Check {
    let views = tensors.iter().map(|(name, dtype, shape, data)| Ok((*name, TensorView::new(*dtype, shape.to_vec(), data)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(fs::write(path, safetensors::serialize(views, info)?)?)
}

fn old_checkpoints(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let make = || model(device, Sgd::new(0.1).momentum(0.9));
    let mut trainer = make()?;
    for _ in 0..3 {
        trainer.step(&[batch()])?;
    }
    trainer.save(at("new"))?;
    // As they were: by the library, without options.
    let new = fs::read(at("new"))?;
    let tensors = SafeTensors::deserialize(&new)?;
    let all: Vec<_> = tensors.iter().map(|(name, view)| (name.to_string(), view.shape().to_vec(), view.data().to_vec())).collect();
    let all: Vec<_> = all.iter().map(|(name, shape, data)| (name.as_str(), Dtype::F32, shape.as_slice(), data.clone())).collect();
    let info = [("step", "3"), ("epoch", "0"), ("seed", "0"), ("optimizer", "Sgd")].map(|(k, v)| (k.to_string(), v.to_string()));
    write(&at("old"), &all, Some(info.into()))?;
    let mut other = make()?;
    other.load(at("old"))?;
    trainer.step(&[batch()])?;
    other.step(&[batch()])?;
    assert_eq!((other.steps(), weights(&other)?), (4, weights(&trainer)?));
    // A momentum that would be lost is an error here as well.
    let error = model(device, Sgd::new(0.1))?.load(at("old")).err().map_or(String::new(), |e| e.to_string());
    assert!(error.contains("`optimizer.momentum."), "{error}");
    Ok(())
}

fn floats(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model");
    let g = Graph::training();
    let trainer = Trainer::new(device, g.param("w", [2, 3], Init::Zeros).sum_all(), Sgd::new(0.1))?;
    let load = |dtype: Dtype, data: Vec<u8>| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        write(&path, &[("w", dtype, &[2, 3], data)], None)?;
        trainer.params().load(&path)?;
        Ok(trainer.params().get("w")?.f().to_vec())
    };
    let bytes = |words: [u16; 6]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    // IEEE 754 binary16: 1, −1365/4096 · … are exact in f32; the smallest subnormal is 2⁻²⁴, the largest number 65504.
    let half = load(Dtype::F16, bytes([0x3c00, 0xb555, 0x0001, 0x7bff, 0x8000, 0xfc00]))?;
    assert_eq!(bits(&half), bits(&[1.0, -0.333_251_95, 2f32.powi(-24), 65504.0, -0.0, f32::NEG_INFINITY]));
    // bfloat16 is the upper half of an f32.
    let brain = [0x3f80u16, 0xbeab, 0x0001, 0x7f7f, 0x8000, 0x7f80];
    assert_eq!(bits(&load(Dtype::BF16, bytes(brain))?), brain.map(|w| u32::from(w) << 16));
    let wide = [1.0, -1.0 / 3.0, 1e-45, 3.402_823_5e38, -0.0, f64::INFINITY];
    let got = load(Dtype::F64, wide.iter().flat_map(|x: &f64| x.to_le_bytes()).collect())?;
    assert_eq!(bits(&got), bits(&wide.map(|x| x as f32)));
    assert!(load(Dtype::F16, bytes([0x7e00; 6]))?.iter().all(|x| x.is_nan()));
    let before = weights(&trainer)?;
    for (dtype, data, why) in [
        (Dtype::F64, [1e39f64; 6].iter().flat_map(|x| x.to_le_bytes()).collect(), "parameter w: 1e39 is too large for an f32, in "),
        (Dtype::I32, vec![0; 24], "parameter w: I32 instead of floats (F32, F16, BF16 or F64) in "),
        (Dtype::U8, vec![0; 6], "parameter w: U8 instead of floats"),
    ] {
        let error = load(dtype, data).err().map_or(String::new(), |e| e.to_string());
        assert!(error.contains(why), "`{error}` instead of `{why}`");
    }
    assert_eq!(weights(&trainer)?, before);
    Ok(())
}

fn strangers(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model");
    let g = Graph::training();
    let trainer = Trainer::new(device, g.param("w", [2], Init::Zeros).sum_all(), Sgd::new(0.1))?;
    let w = [1.0f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let seven: &[usize] = &[1, 2, 1, 2, 1, 1, 1];
    let others: &[(&str, Dtype, &[usize], Vec<u8>)] = &[
        ("seven", Dtype::F32, seven, vec![0; 16]),
        ("none", Dtype::F32, &[0, 3], Vec::new()),
        ("count", Dtype::I64, &[], vec![1; 8]),
        ("mask", Dtype::BOOL, &[3], vec![1; 3]),
    ];
    let with = |name| [others, &[(name, Dtype::F32, &[2], w.clone())]].concat();
    write(&path, &with("w"), None)?;
    trainer.params().load(&path)?;
    assert_eq!(trainer.params().get("w")?.f(), [1.0, -2.0]);
    // Seven axes where the model has one.
    write(&path, &[("w", Dtype::F32, seven, vec![0; 16])], None)?;
    let error = trainer.params().load(&path).err().map_or(String::new(), |e| e.to_string());
    assert_eq!(error, "parameter w: got [1, 2, 1, 2, 1, 1, 1] with 4 values, but the model has [2]");
    Ok(())
}
