//! Training by processes that `mpirun` starts: the same bits as accumulation in one process, and ranks that die, stop or are slow.
//! `scripts/mpi.sh` installs MPI. `MPIRUN` is the launcher, with its options.

#[path = "../common/mod.rs"]
mod common;

use common::{Check, On, Suite, gpu, weights};
use downhill::{
    Checkpoints, Device, Fit, Host, Shard, Trainer, World,
    data::{self, Dataset},
    optim::{Adam, Lamb, Optimizer, Sgd},
    world::Wire,
};
use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    if let [_, first, job, folder] = &args[..]
        && first == "rank"
    {
        return match rank(job, Path::new(folder)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // At once, because other ranks write to the same place.
                let _ = std::io::stderr().write_all(format!("ended with: {error}\n").as_bytes());
                ExitCode::FAILURE
            }
        };
    }
    let mut suite = Suite::new();
    suite.test("the bits of accumulation", bits_of_accumulation);
    suite.on(On::Gpu, "the bits of accumulation", on_gpu);
    suite.test("gradients in 16 bits", wires);
    suite.test("4 ranks, and 2 that go on", resumed);
    suite.test("batch norm over ranks", synced);
    suite.test("shards of the optimizer's states", shards);
    suite.test("without mpirun", alone);
    suite.test("a rank that is slow", slow);
    suite.test("ranks that differ", differ);
    suite.test("a rank that panics", panics);
    suite.test("a rank that is killed, by the launcher's rules", killed);
    // MPICH has no option that lets the others live.
    if is_open_mpi() {
        suite.test("a rank that is killed, while the others live on", killed_alone);
    }
    suite.test("a rank that is stopped", stopped);
    suite.run()
}

fn digits() -> Dataset {
    data::digits().subset(0..150).expect("there are that many").reshape([1, 8, 8]).expect("64 pixels")
}

fn trainer(optimizer: impl Into<Optimizer>) -> downhill::Result<Trainer> {
    trainer_on(&Device::cpu(), optimizer)
}

/// A network with dropout and batch norm.
fn trainer_on(device: &Device, optimizer: impl Into<Optimizer>) -> downhill::Result<Trainer> {
    let data = digits();
    Trainer::for_data(
        device,
        &data,
        |x| x.conv2d("conv", 4, [3, 3]).batch_norm("norm").relu().flatten().dropout(0.2).linear("fc", 10),
        |y, t| y.cross_entropy(t),
        optimizer,
    )?
    .seed(3)
}

fn optimizer(name: &str) -> Optimizer {
    match name {
        "sgd" => Sgd::new(0.05).momentum(0.9).into(),
        "lamb" => Lamb::new(0.01).into(),
        _ => Adam::new(0.01).into(),
    }
}

/// Two epochs of steps of 48 samples, for as many ranks or micro-batches as divide them. The last step has 6 samples.
fn fit(parts: usize) -> Fit<'static> {
    Fit::new().epochs(2).batch_size(48 / parts)
}

/// The trained weights as text, bit by bit. Running averages follow another rule over ranks.
fn text(trainer: &Trainer) -> downhill::Result<String> {
    let all = weights(trainer)?.into_iter().filter(|(name, _)| !name.contains("running"));
    Ok(all.map(|(name, bits)| format!("{name} {bits:x?}\n")).collect())
}

/// The program of a rank.
fn rank(job: &str, folder: &Path) -> Check {
    let world = World::mpi()?.timeout(Duration::from_secs(60));
    let me = world.rank();
    let save = |trainer: &Trainer| -> Check { Ok(fs::write(folder.join(format!("{job}-{me}")), text(trainer)?)?) };
    match job {
        "sgd" | "adam" | "lamb" => {
            let mut trainer = trainer(optimizer(job))?.distributed(&world)?;
            trainer.fit(&digits(), fit(world.size()))?;
            save(&trainer)
        }
        "gpu" => {
            let mut trainer = trainer_on(&gpu()?, optimizer("adam"))?.distributed(&world)?;
            trainer.fit(&digits(), fit(world.size()))?;
            save(&trainer)
        }
        "bf16" | "f16" => {
            let world = world.wire(if job == "bf16" { Wire::Bf16 } else { Wire::F16 });
            let mut trainer = trainer(optimizer("sgd"))?.distributed(&world)?;
            trainer.fit(&digits(), fit(world.size()).check_weights(1))?;
            save(&trainer)
        }
        "synced" => {
            let mut trainer = trainer(optimizer("adam"))?.sync_batch_norm(true)?.distributed(&world)?;
            trainer.fit(&digits(), fit(world.size()))?;
            Ok(fs::write(folder.join(format!("{job}-{me}")), format!("{:?}", weights(&trainer)?))?)
        }
        "shards" => {
            let mut trainer = trainer(optimizer("adam"))?.distributed(&world)?.shard(Shard::State)?;
            trainer.fit(&digits(), fit(world.size()).check_weights(1))?;
            trainer.save(folder.join("end.safetensors"))?;
            save(&trainer)
        }
        "first" | "second" | "first shards" | "second shards" => {
            let checkpoints = Checkpoints::new(folder.join("checkpoints")).every_steps(3);
            let shard = if job.ends_with("shards") { Shard::State } else { Shard::None };
            let mut trainer = trainer(optimizer("adam"))?.distributed(&world)?.shard(shard)?;
            let fit = fit(4).checkpoints(checkpoints).resume(folder.join("checkpoints"));
            trainer.fit(&digits(), if job.starts_with("second") { fit.epochs(4) } else { fit })?;
            save(&trainer)
        }
        "alone" => {
            assert_eq!((world.size(), world.local_size()), (1, 1));
            let again = World::mpi().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(again.contains("already been started"), "{again}");
            let mut trainer = trainer(optimizer("adam"))?.distributed(&world)?;
            trainer.fit(&digits(), fit(1))?;
            save(&trainer)
        }
        "differ" => {
            let lr = if me == 1 { 0.02 } else { 0.01 };
            trainer(Adam::new(lr))?.distributed(&world).map(|_| ()).map_err(Into::into)
        }
        "slow" | "panic" | "endless" => {
            let mut trainer = trainer(optimizer("adam"))?.distributed(&world)?;
            let epochs = if job == "slow" { 2 } else { 100_000 };
            let mut steps = 0;
            let checkpoints = Checkpoints::new(folder.join("checkpoints")).every_steps(5).keep(2);
            println!("pid {me} {}", std::process::id());
            let fit = Fit::new().epochs(epochs).batch_size(8).checkpoints(checkpoints).resume(folder.join("checkpoints"));
            trainer.fit(
                &digits(),
                fit.callback(|_| {
                    steps += 1;
                    match (job, me, steps) {
                        ("slow", 1, 2 | 5) => thread::sleep(Duration::from_millis(1500)),
                        ("panic", 1, 3) => std::panic::resume_unwind(Box::new("on purpose")),
                        _ => {}
                    }
                    ControlFlow::Continue(())
                }),
            )?;
            save(&trainer)
        }
        other => Err(format!("there is no job {other}").into()),
    }
}

fn launcher() -> String {
    env::var("MPIRUN").unwrap_or_else(|_| "mpirun --allow-run-as-root --oversubscribe".into())
}

fn is_open_mpi() -> bool {
    let version = Command::new(launcher().split_whitespace().next().unwrap_or("mpirun")).arg("--version").output();
    version.is_ok_and(|version| ["Open MPI", "OpenRTE"].iter().any(|name| String::from_utf8_lossy(&version.stdout).contains(name)))
}

/// Starts `n` ranks of a job.
fn start(n: usize, job: &str, folder: &Path, options: &[&str]) -> Result<Child, std::io::Error> {
    let launcher = launcher();
    let mut words = launcher.split_whitespace();
    Command::new(words.next().unwrap_or("mpirun"))
        .args(words)
        .args(options)
        .args(["-n", &n.to_string()])
        .arg(env::current_exe()?)
        .args(["rank", job])
        .arg(folder)
        .env("RAYON_NUM_THREADS", "1")
        .env("TMPDIR", own(folder)?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// A folder for the launcher's own files. Launchers of Open MPI share one folder of the user, and the end of one removes the folder
/// while another starts in it.
fn own(folder: &Path) -> Result<PathBuf, std::io::Error> {
    let own = folder.join("mpi");
    fs::create_dir_all(&own)?;
    Ok(own)
}

/// Waits until all ranks have ended. Returns whether all succeeded, and what they wrote.
fn end(mut child: Child, limit: Duration) -> Result<(bool, String), Box<dyn std::error::Error>> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let read = thread::spawn(move || {
        let mut text = String::new();
        if let Some(err) = &mut err {
            // What is no text is not looked at.
            let _ = err.read_to_string(&mut text);
        }
        text
    });
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if since.elapsed() > limit {
            child.kill()?;
            return Err(format!("the ranks have not ended within {limit:?}").into());
        }
        thread::sleep(Duration::from_millis(20));
    };
    let mut text = String::new();
    if let Some(out) = &mut out {
        let _ = out.read_to_string(&mut text);
    }
    let errors = read.join().map_err(|_| "the standard error could not be read")?;
    Ok((status.success(), text + &errors))
}

fn run(n: usize, job: &str, folder: &Path) -> Check {
    match end(start(n, job, folder, &[])?, Duration::from_secs(120))? {
        (true, _) => Ok(()),
        (false, text) => Err(format!("{job} on {n} ranks failed: {text}").into()),
    }
}

/// The weights that rank `rank` has written.
fn got(folder: &Path, job: &str, rank: usize) -> Result<String, std::io::Error> {
    fs::read_to_string(folder.join(format!("{job}-{rank}")))
}

fn bits_of_accumulation() -> Check {
    for job in ["sgd", "adam", "lamb"] {
        for n in 1..=4 {
            let folder = tempfile::tempdir()?;
            run(n, job, folder.path())?;
            let mut one = trainer(optimizer(job))?;
            one.fit(&digits(), fit(n).accumulate(n))?;
            for rank in 0..n {
                assert!(got(folder.path(), job, rank)? == text(&one)?, "{job}: rank {rank} of {n} has other bits");
            }
        }
    }
    Ok(())
}

fn on_gpu(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    run(2, "gpu", folder.path())?;
    let mut one = trainer_on(device, optimizer("adam"))?;
    one.fit(&digits(), fit(2).accumulate(2))?;
    for rank in 0..2 {
        assert!(got(folder.path(), "gpu", rank)? == text(&one)?, "rank {rank} has other bits");
    }
    Ok(())
}

/// Rounded gradients: all ranks have the same weights, which are not those of exact gradients.
fn wires() -> Check {
    let mut one = trainer(optimizer("sgd"))?;
    one.fit(&digits(), fit(3).accumulate(3))?;
    let mut seen = vec![text(&one)?];
    for job in ["bf16", "f16"] {
        let folder = tempfile::tempdir()?;
        run(3, job, folder.path())?;
        let all = (0..3).map(|rank| got(folder.path(), job, rank)).collect::<Result<Vec<_>, _>>()?;
        assert!(all[0] == all[1] && all[0] == all[2], "{job}: the ranks differ");
        assert!(!seen.contains(&all[0]), "{job} has the bits of another format");
        seen.extend(all);
    }
    Ok(())
}

/// Processes have the bits of threads, running averages too. The last step has 6 samples, so that two of four ranks have none.
fn synced() -> Check {
    for n in [2, 4] {
        let folder = tempfile::tempdir()?;
        run(n, "synced", folder.path())?;
        let want: Vec<String> = thread::scope(|scope| {
            let rank = |world: World| -> downhill::Result<String> {
                let mut trainer = trainer(optimizer("adam"))?.sync_batch_norm(true)?.distributed(&world)?;
                trainer.fit(&digits(), fit(n))?;
                Ok(format!("{:?}", weights(&trainer)?))
            };
            let all: Vec<_> = World::threads(n).into_iter().map(|world| scope.spawn(move || rank(world))).collect();
            all.into_iter().map(|one| one.join().expect("a rank does not panic")).collect::<downhill::Result<_>>()
        })?;
        for (rank, want) in want.iter().enumerate() {
            assert!(got(folder.path(), "synced", rank)? == *want, "rank {rank} of {n} has other bits");
        }
    }
    Ok(())
}

/// Each rank has the weights of one rank that accumulates, and rank 0 writes the file of that rank.
fn shards() -> Check {
    for n in [1, 2, 3] {
        let folder = tempfile::tempdir()?;
        run(n, "shards", folder.path())?;
        let mut one = trainer(optimizer("adam"))?;
        one.fit(&digits(), fit(n).accumulate(n))?;
        for rank in 0..n {
            assert!(got(folder.path(), "shards", rank)? == text(&one)?, "rank {rank} of {n} has other bits");
        }
        one.save(folder.path().join("one.safetensors"))?;
        let [shared, whole] = ["end", "one"].map(|name| downhill::weights::read(folder.path().join(format!("{name}.safetensors"))));
        let trained = |all: Vec<(String, Host<f32>)>| all.into_iter().filter(|(name, _)| !name.contains("running")).collect::<Vec<_>>();
        assert!(trained(shared?) == trained(whole?), "the file of {n} ranks");
    }
    Ok(())
}

fn resumed() -> Check {
    for (first, second) in [("first", "second"), ("first shards", "second shards"), ("first shards", "second")] {
        resumed_as(first, second)?;
    }
    Ok(())
}

fn resumed_as(first: &str, second: &str) -> Check {
    let folder = tempfile::tempdir()?;
    run(4, first, folder.path())?;
    run(2, second, folder.path())?;
    // The same on one rank: two epochs with steps of four batches, and two with steps of two.
    let mut one = trainer(optimizer("adam"))?;
    one.fit(&digits(), fit(4).accumulate(4))?;
    one.fit(&digits(), fit(4).accumulate(2).append(true))?;
    assert!(got(folder.path(), second, 0)? == text(&one)? && got(folder.path(), second, 1)? == text(&one)?);
    Ok(())
}

fn alone() -> Check {
    let folder = tempfile::tempdir()?;
    let mut child = Command::new(env::current_exe()?);
    child.args(["rank", "alone"]).arg(folder.path()).env("TMPDIR", own(folder.path())?).stderr(Stdio::piped()).stdout(Stdio::piped());
    let (ok, text_of) = end(child.spawn()?, Duration::from_secs(60))?;
    assert!(ok, "{text_of}");
    let mut one = trainer(optimizer("adam"))?;
    one.fit(&digits(), fit(1))?;
    assert!(got(folder.path(), "alone", 0)? == text(&one)?);
    Ok(())
}

fn slow() -> Check {
    let folder = tempfile::tempdir()?;
    run(3, "slow", folder.path())?;
    assert_eq!(got(folder.path(), "slow", 0)?, got(folder.path(), "slow", 2)?);
    Ok(())
}

fn differ() -> Check {
    let folder = tempfile::tempdir()?;
    let (ok, text) = end(start(3, "differ", folder.path(), &[])?, Duration::from_secs(60))?;
    assert!(!ok && text.contains("ended with: rank 1: it has the learning rate 0.02, but rank 0 has the learning rate 0.01"), "{text}");
    Ok(())
}

fn panics() -> Check {
    let folder = tempfile::tempdir()?;
    let (ok, text) = end(start(3, "panic", folder.path(), &[])?, Duration::from_secs(60))?;
    assert!(!ok && text.contains("ended with: rank 1: it panicked"), "{text}");
    Ok(())
}

/// Starts an endless training and returns the processes of its ranks.
fn endless(n: usize, folder: &Path, options: &[&str]) -> Result<(Child, Vec<u32>), Box<dyn std::error::Error>> {
    let mut child = start(n, "endless", folder, options)?;
    let mut out = BufReader::new(child.stdout.take().ok_or("the output is a pipe")?);
    let mut pids = vec![0; n];
    while pids.contains(&0) {
        let mut line = String::new();
        if out.read_line(&mut line)? == 0 {
            let (_, text) = end(child, Duration::from_secs(10))?;
            return Err(format!("the ranks ended at once: {text}").into());
        }
        if let ["pid", rank, pid] = line.split_whitespace().collect::<Vec<_>>()[..] {
            pids[rank.parse::<usize>()?] = pid.parse()?;
        }
    }
    // Nobody may block because the pipe is full.
    thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    Ok((child, pids))
}

fn signal(name: &str, pid: u32) -> Check {
    let done = Command::new("kill").args([name, &pid.to_string()]).status()?;
    if done.success() { Ok(()) } else { Err(format!("kill {name} {pid} failed").into()) }
}

/// Whether a process is there. A process that has ended and was not waited for does not count.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

/// A checkpoint that is there can be read.
fn whole(folder: &Path) -> Check {
    let mut one = trainer(optimizer("adam"))?;
    one.fit(&digits(), Fit::new().epochs(1).batch_size(8).accumulate(3).resume(folder.join("checkpoints"))).map(|_| ()).map_err(Into::into)
}

/// Numbers that seem random.
fn random(k: u64) -> u64 {
    (k + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33
}

fn killed() -> Check {
    for k in 0..20 {
        let folder = tempfile::tempdir()?;
        let (child, pids) = endless(3, folder.path(), &[])?;
        thread::sleep(Duration::from_millis(random(k) % 400));
        signal("-KILL", pids[random(k + 100) as usize % 3])?;
        let (ok, text) = end(child, Duration::from_secs(60))?;
        assert!(!ok, "{text}");
        assert!(!pids.iter().any(|&pid| lives(pid)), "a rank is left");
        whole(folder.path())?;
    }
    Ok(())
}

/// The number of kills among living ranks. Each takes more than 10 seconds, the time of silence.
fn kills() -> Result<u64, std::num::ParseIntError> {
    env::var("DOWNHILL_KILLS").map_or(Ok(2), |text| text.parse())
}

/// The number of such kills at the same time.
const AT_ONCE: usize = 5;

fn killed_alone() -> Check {
    let kills: Vec<u64> = (0..kills()?).collect();
    for group in kills.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let all: Vec<_> =
                group.iter().map(|&k| scope.spawn(move || kill_one(k).map_err(|error| format!("kill {k}: {error}")))).collect();
            all.into_iter().try_for_each(|one| one.join().map_err(|_| "a check failed, see above")?)
        })?;
    }
    Ok(())
}

/// Kills one of three ranks at a random moment. Both others say who is gone.
fn kill_one(k: u64) -> Check {
    let folder = tempfile::tempdir()?;
    let (child, pids) = endless(3, folder.path(), &["--enable-recovery"])?;
    thread::sleep(Duration::from_millis(random(k) % 400));
    let victim = random(k + 100) as usize % 3;
    signal("-KILL", pids[victim])?;
    let (_, text) = end(child, Duration::from_secs(90))?;
    let named = text.matches(&format!("ended with: rank {victim}: it has been silent for 10 s")).count();
    if named != 2 || pids.iter().any(|&pid| lives(pid)) {
        return Err(format!("{named} ranks of 2 have said that rank {victim} is gone: {text}").into());
    }
    whole(folder.path())
}

fn stopped() -> Check {
    let folder = tempfile::tempdir()?;
    let (child, pids) = endless(3, folder.path(), &[])?;
    thread::sleep(Duration::from_millis(300));
    signal("-STOP", pids[1])?;
    let ended = end(child, Duration::from_secs(60));
    let _ = signal("-KILL", pids[1]);
    let (ok, text) = ended?;
    assert!(!ok && text.contains("ended with: rank 1: it has been silent for 10 s"), "{text}");
    Ok(())
}
