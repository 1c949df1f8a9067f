//! If memory is short, the CPU device returns an error with the number of bytes, and the process continues. Each case runs in its
//! own process, and the shell limits the address space of the process. The tests run on Linux only, because the limit works there.

mod common;

use common::{Check, Suite};
use downhill::{
    Device, Error, Graph, Host, Shape, Trainer,
    init::Init,
    optim::{Adam, Sgd},
};
use std::process::Command;

/// Bytes of address space of a case.
const LIMIT: usize = 4 << 30;
/// Elements of a quarter of it.
const QUARTER: usize = LIMIT / 16;

/// Something that takes more than there is.
type Case = (&'static str, fn(&Device) -> Result<(), Error>);

const CASES: [Case; 11] = [
    ("a parameter of the most elements", |d| sgd(d, u32::MAX as usize, Init::Zeros)),
    ("a parameter with all values", |d| sgd(d, u32::MAX as usize, Init::Normal { mean: 0.0, std: 1.0 })),
    ("gradients beside weights", |d| sgd(d, 3 * QUARTER, Init::Zeros)),
    ("initial values beside both", |d| sgd(d, QUARTER + QUARTER / 4, Init::Ones)),
    ("orthogonal values", |d| {
        let g = Graph::training();
        let w = g.param("w", [2, QUARTER / 2], Init::Orthogonal { gain: 1.0 });
        Trainer::new(d, w.square().sum_all(), Sgd::new(0.1)).map(drop)
    }),
    ("states of an optimizer", |d| {
        let g = Graph::training();
        let loss = g.param("w", [QUARTER + QUARTER / 8], Init::Zeros).square().sum_all();
        Trainer::new(d, loss, Adam::new(0.1)).map(drop)
    }),
    ("activations", |d| {
        let g = Graph::inference();
        let x = g.input([1, QUARTER / 2]);
        // Products of matrices, which nothing fuses.
        let y = g.input([6, 1]).matmul(x);
        d.compile(&[y, y.softmax(1)]).map(drop)
    }),
    ("an input", |d| {
        let g = Graph::inference();
        d.compile(&[g.input([6 * QUARTER]).sum_all()]).map(drop)
    }),
    ("labels", |d| {
        let g = Graph::inference();
        d.compile(&[g.labels([6 * QUARTER]).to_f32().sum_all()]).map(drop)
    }),
    ("an output", |d| {
        let g = Graph::inference();
        let mut f = d.compile(&[g.input([1]).broadcast_to([2 * QUARTER + QUARTER / 2])])?;
        f.run(&[Host::new([1], vec![2.5])]).map(drop)
    }),
    ("a tensor of the host", |_| {
        let none: Host = Host::zeros(Shape::from([8 * QUARTER]));
        assert!(none.is_empty() && !none.fits(none.shape));
        Host::<f32>::try_zeros(Shape::from([8 * QUARTER])).map(drop)
    }),
];

fn sgd(device: &Device, n: usize, init: Init) -> Result<(), Error> {
    let g = Graph::training();
    Trainer::new(device, g.param("w", [n], init).square().sum_all(), Sgd::new(0.1)).map(drop)
}

/// In the child: the error, and then proof that the process is alive and the device of use.
fn child(number: usize) -> Check {
    let device = Device::cpu();
    let error = (CASES[number].1)(&device).expect_err("there is not so much memory");
    assert!(matches!(error, Error::Device { .. } | Error::Limit { .. }), "{error:?}");
    let digits = error.to_string().split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<usize>().ok()).max();
    assert!(digits.is_some_and(|bytes| bytes >= LIMIT / 8), "{error}: how many bytes?");
    let g = Graph::training();
    let w = g.param("w", [3], Init::Ones);
    let mut trainer = Trainer::new(&device, w.square().sum_all(), Sgd::new(0.25))?;
    trainer.step(&[])?;
    assert_eq!(trainer.params().get("w")?.f(), &[0.5; 3]);
    println!("{error}");
    Ok(())
}

fn parent(number: usize) -> Check {
    let kib = LIMIT >> 10;
    let shell = format!("ulimit -v {kib} && exec \"$0\" child {number}");
    // Threads take address space as well; two are enough.
    let child = Command::new("sh").arg("-c").arg(shell).arg(std::env::current_exe()?).env("RAYON_NUM_THREADS", "2").output()?;
    let text = [child.stdout, child.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if child.status.success() { Ok(()) } else { Err(format!("{}: {text}", child.status).into()) }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    if let (Some("child"), Some(number)) = (arguments.next().as_deref(), arguments.next()) {
        if let Err(error) = child(number.parse().expect("the number of a case")) {
            eprintln!("{error}");
            std::process::exit(1);
        }
        return;
    }
    let mut suite = Suite::new();
    for (number, (name, _)) in CASES.iter().enumerate().filter(|_| cfg!(target_os = "linux")) {
        suite.test(name, move || parent(number));
    }
    suite.test("more elements than can be counted", || {
        let shape = Shape::from([usize::MAX, 2]).u32();
        assert!(Host::<f32>::zeros(shape).is_empty());
        let error = Host::<f64>::try_zeros(shape).expect_err("there is not so much memory").to_string();
        if error.contains("host memory") { Ok(()) } else { Err(error.into()) }
    });
    suite.run()
}
