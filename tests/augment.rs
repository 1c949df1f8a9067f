//! Random changes of images and labels that are a part of the model: the same on every device, of the distribution that they promise, and
//! none in inference.

mod common;

use common::{BOTH, Check, On, Suite};
use downhill::{
    Device, Fit, Graph, Host, Outputs, Tensor, Trainer,
    data::{self, Dataset, Field},
    layers::RandomAffine,
    losses,
    optim::Adam,
};

fn main() {
    let mut suite = Suite::new();
    suite.each(&[On::Gpu, On::Webgpu, On::Small], "the CPU's numbers", same_numbers);
    suite.each(&BOTH, "a turn, a scale and a shift", turned);
    suite.each(&BOTH, "brightness and contrast", shades);
    suite.each(&BOTH, "cutout", cutout);
    suite.each(&BOTH, "mixup", mixup);
    suite.each(&BOTH, "training", training);
    suite.test("mistakes", mistakes);
    suite.run()
}

type Change = for<'g> fn(Tensor<'g>) -> Tensor<'g>;

/// The images that `change` makes of `x` in a run of a training graph.
fn run(device: &Device, x: &Host<f32>, change: impl for<'g> Fn(Tensor<'g>) -> Tensor<'g>) -> Result<Vec<f32>, downhill::Error> {
    let g = Graph::training();
    let y = change(g.input_of(x.shape));
    Ok(device.compile(&[y])?.run(std::slice::from_ref(x))?[0].f().to_vec())
}

fn images(dims: [usize; 4]) -> Host<f32> {
    Host::new(dims, (0..dims.iter().product()).map(|i| (i as f32 * 0.37).sin()).collect())
}

fn whole<'g>(x: Tensor<'g>) -> Tensor<'g> {
    x.random_affine(RandomAffine { degrees: 30.0, scale: [0.7, 1.4], translate: [0.2, 0.1] })
}

fn same_numbers(device: &Device) -> Check {
    let x = images([5, 3, 12, 10]);
    let all: [(&str, Change); 5] = [
        ("affine", whole),
        ("brightness", |x| x.random_brightness(0.3)),
        ("contrast", |x| x.random_contrast(0.5)),
        ("cutout", |x| x.cutout(5)),
        ("all", |x| whole(x).random_brightness(0.2).random_contrast(0.3).cutout(4)),
    ];
    for (name, change) in all {
        let (a, b) = (run(&Device::cpu(), &x, change)?, run(device, &x, change)?);
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!((a - b).abs() < 1e-5, "{name}, element {i}: {a} and {b}");
        }
        assert!(a.iter().zip(x.f()).any(|(a, x)| a != x), "{name} changes nothing");
        // No change in inference.
        let g = Graph::inference();
        let y = change(g.input_of(x.shape));
        assert_eq!(device.compile(&[y])?.run(std::slice::from_ref(&x))?[0], x);
    }
    Ok(())
}

/// One blob beside the centre: it stays at its distance from the centre, times the scale, and its angle changes by the angles asked for.
fn turned(device: &Device) -> Check {
    let (n, size) = (400, 33);
    let blob: Vec<f32> = (0..size * size)
        .map(|k| {
            let (row, column) = ((k / size) as f32 - 16.0, (k % size) as f32 - 16.0);
            (-((row - 3.0).powi(2) + (column - 7.0).powi(2)) / 4.0).exp()
        })
        .collect();
    let x = Host::new([n, 1, size, size], blob.repeat(n));
    // The centre of mass of each image, from the image's centre: column and row.
    let centres = |y: &[f32]| -> Vec<[f64; 2]> {
        let one = |y: &[f32]| {
            let sum: f64 = y.iter().map(|&v| f64::from(v)).sum();
            let at =
                |f: &dyn Fn(usize) -> usize| y.iter().enumerate().map(|(k, &v)| f64::from(v) * (f(k) as f64 - 16.0)).sum::<f64>() / sum;
            [at(&|k| k % size), at(&|k| k / size)]
        };
        y.chunks(size * size).map(one).collect()
    };
    let radius = 58f64.sqrt();
    let angle = |[column, row]: [f64; 2]| (row.atan2(column) - 3f64.atan2(7.0)).to_degrees();
    let got = centres(&run(device, &x, |x| x.random_affine(RandomAffine { degrees: 40.0, ..RandomAffine::default() }))?);
    assert!(got.iter().all(|c| (c[0].hypot(c[1]) - radius).abs() < 0.05), "the radius changes");
    let angles: Vec<f64> = got.into_iter().map(angle).collect();
    let (mean, square) = (angles.iter().sum::<f64>() / n as f64, angles.iter().map(|a| a * a).sum::<f64>() / n as f64);
    // Uniform in ±40: mean 0, variance 40²/3. The bounds are 5 standard deviations.
    assert!(angles.iter().all(|a| a.abs() < 40.5) && mean.abs() < 5.8 && (square / (1600.0 / 3.0) - 1.0).abs() < 0.23, "{mean} {square}");
    let got = centres(&run(device, &x, |x| x.random_affine(RandomAffine { scale: [0.5, 1.5], ..RandomAffine::default() }))?);
    let scales: Vec<f64> = got.iter().map(|c| c[0].hypot(c[1]) / radius).collect();
    let mean = scales.iter().sum::<f64>() / n as f64;
    assert!(scales.iter().all(|s| (0.48..1.52).contains(s)) && (mean - 1.0).abs() < 0.08, "{mean}");
    assert!(got.iter().all(|&c| angle(c).abs() < 0.5), "a scale turns nothing");
    let got = centres(&run(device, &x, |x| x.random_affine(RandomAffine { translate: [0.125, 0.0], ..RandomAffine::default() }))?);
    assert!(got.iter().all(|c| (c[1] - 3.0).abs() < 0.02 && (c[0] - 7.0).abs() < 4.2), "only columns move");
    assert!(got.iter().any(|c| c[0] > 10.0) && got.iter().any(|c| c[0] < 4.0));
    Ok(())
}

fn shades(device: &Device) -> Check {
    let (n, pixels) = (300, 2 * 12);
    let x = images([n, 2, 4, 3]);
    let y = run(device, &x, |x| x.random_brightness(0.3))?;
    let deltas: Vec<f32> = y.chunks(pixels).zip(x.f().chunks(pixels)).map(|(y, x)| y[0] - x[0]).collect();
    for (k, (y, x)) in y.chunks(pixels).zip(x.f().chunks(pixels)).enumerate() {
        assert!(y.iter().zip(x).all(|(y, x)| (y - x - deltas[k]).abs() < 1e-6));
    }
    let (least, most) = deltas.iter().fold((0f32, 0f32), |(a, b), &d| (a.min(d), b.max(d)));
    assert!((-0.3..-0.28).contains(&least) && (0.28..0.3).contains(&most), "{least} {most}");
    let y = run(device, &x, |x| x.random_contrast(0.5))?;
    let mut factors = Vec::new();
    for (y, x) in y.chunks(pixels).zip(x.f().chunks(pixels)) {
        let mean = |v: &[f32]| v.iter().sum::<f32>() / 12.0;
        let factor = (y[0] - mean(&y[..12])) / (x[0] - mean(&x[..12]));
        for (y, x) in y.chunks(12).zip(x.chunks(12)) {
            assert!((mean(y) - mean(x)).abs() < 1e-5);
            assert!(y.iter().zip(x).all(|(a, b)| (a - mean(y) - factor * (b - mean(x))).abs() < 1e-4));
        }
        factors.push(factor);
    }
    let (least, most) = factors.iter().fold((9f32, 0f32), |(a, b), &d| (a.min(d), b.max(d)));
    assert!((0.499..0.52).contains(&least) && (1.48..1.501).contains(&most), "{least} {most}");
    Ok(())
}

/// A square of zeros around each pixel, as often as any other.
fn cutout(device: &Device) -> Check {
    let (n, h, w, size) = (3000, 5, 4, 3);
    let x = Host::new([n, 2, h, w], vec![1.0; n * 2 * h * w]);
    let y = run(device, &x, |x| x.cutout(3))?;
    let mut seen = vec![0; h * w];
    for image in y.chunks(2 * h * w) {
        let fits = |centre: usize| {
            (0..2 * h * w).all(|k| {
                let near = |at: usize, c: usize| (at as isize - c as isize).unsigned_abs() <= size / 2;
                let hole = near(k / w % h, centre / w) && near(k % w, centre % w);
                image[k] == if hole { 0.0 } else { 1.0 }
            })
        };
        let found: Vec<usize> = (0..h * w).filter(|&c| fits(c)).collect();
        assert_eq!(found.len(), 1, "{image:?}");
        seen[found[0]] += 1;
    }
    let expected = n as f64 / (h * w) as f64;
    assert!(seen.iter().all(|&s| (f64::from(s) - expected).abs() < 5.0 * expected.sqrt()), "{seen:?}");
    Ok(())
}

fn mixup(device: &Device) -> Check {
    let (n, classes) = (2001, 3);
    let x = Host::new([n, 2], (0..2 * n).map(|i| (i as f32 * 0.1).sin()).collect());
    let labels = Host::labels([n], (0..n as u32).map(|i| i % 3).collect());
    for alpha in [0.2f32, 1.0, 4.0] {
        let g = Graph::training();
        let (a, b) = g.input_of(x.shape).mixup(g.labels([n]), classes, alpha);
        let out = device.compile(&[a, b])?.run(&[x.clone(), labels.clone()])?;
        let mut shares = Vec::new();
        for i in 0..n {
            let (mine, other) = (labels.u()[i] as usize, labels.u()[n - 1 - i] as usize);
            let y = &out[1].f()[3 * i..][..3];
            assert!((y.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{y:?}");
            if mine == other {
                assert!((y[mine] - 1.0).abs() < 1e-6);
                continue;
            }
            let share = y[mine];
            assert!((y[other] - (1.0 - share)).abs() < 1e-6);
            for k in 0..2 {
                let want = share * x.f()[2 * i + k] + (1.0 - share) * x.f()[2 * (n - 1 - i) + k];
                assert!((out[0].f()[2 * i + k] - want).abs() < 1e-5, "sample {i}");
            }
            shares.push(f64::from(share));
        }
        // Beta(α, α) has the mean ½ and the variance 1/(4(2α + 1)).
        let m = shares.len() as f64;
        let mean = shares.iter().sum::<f64>() / m;
        let variance = shares.iter().map(|s| (s - 0.5).powi(2)).sum::<f64>() / m;
        let want = 1.0 / (4.0 * (2.0 * f64::from(alpha) + 1.0));
        assert!(
            m > 1000.0 && (mean - 0.5).abs() < 5.0 * (want / m).sqrt() && (variance / want - 1.0).abs() < 0.2,
            "{mean} {variance} {want}"
        );
    }
    let g = Graph::inference();
    let (a, b) = g.input_of(x.shape).mixup(g.labels([n]), classes, 0.2);
    let out = device.compile(&[a, b])?.run(&[x.clone(), labels.clone()])?;
    assert_eq!(out[0], x);
    assert!(out[1].f().iter().enumerate().all(|(k, &p)| p == f32::from(u8::from(labels.u()[k / 3] as usize == k % 3))));
    Ok(())
}

/// Everything at once, from data on the device and from the host: the same bits, and a model that learns.
fn training(device: &Device) -> Check {
    let digits = data::digits().reshape([1, 8, 8])?.subset(&(0..300).collect::<Vec<_>>())?;
    let data = Dataset::of([
        Field::new("image", data::Role::Feature, [1, 8, 8], digits.features().clone()),
        Field::labels("digit", digits.labels().to_vec(), 10),
    ])?;
    let make = || {
        Trainer::for_batches(
            device,
            &data,
            |b| {
                let x = whole(b["image"]).random_brightness(0.1).random_contrast(0.1).cutout(2);
                let (x, y) = x.mixup(b["digit"], 10, 0.2);
                let scores = x.reshape([b.samples(), 64]).linear("fc1", 32).relu().linear("fc2", 10);
                Outputs::new().output("scores", scores).loss("loss", 1.0, losses::cross_entropy_soft(scores, y).mean())
            },
            Adam::new(0.01),
        )
    };
    let (mut a, mut b) = (make()?, make()?);
    let fit = || Fit::new().epochs(4).batch_size(50).validation(&data);
    let (resident, streamed) = (a.fit(&data, fit())?, b.fit(&data, fit().resident(0))?);
    assert_eq!(common::weights(&a)?, common::weights(&b)?);
    assert_eq!(resident.epochs[3].losses, streamed.epochs[3].losses);
    let (first, last) = (&resident.epochs[0], &resident.epochs[3]);
    assert!(last.validation.map(|v| v.0) < first.validation.map(|v| v.0), "{first:?} {last:?}");
    Ok(())
}

fn mistakes() -> Check {
    let affine =
        |options: RandomAffine| move |x: [usize; 4]| Graph::training().input(x).random_affine(options).error().map(|e| e.to_string());
    for (options, want) in [
        (RandomAffine { degrees: -1.0, ..RandomAffine::default() }, "degrees are -1, but must be in 0..=180"),
        (RandomAffine { scale: [1.5, 0.5], ..RandomAffine::default() }, "the scale is 1.5 to 0.5, but must be above 0 and in order"),
        (RandomAffine { translate: [0.0, 2.0], ..RandomAffine::default() }, "translate is 0 and 2, but must be in 0..=1"),
    ] {
        let e = affine(options)([2, 1, 3, 3]).ok_or("no mistake")?;
        assert!(e.starts_with("random_affine: [2, 1, 3, 3]: ") && e.contains(want) && e.contains("tests/augment.rs"), "{e}");
    }
    let changes: [(Change, &str); 5] = [
        (|x| x.random_affine(RandomAffine::default()), "random_affine: [4, 3]: takes images [n, channels, height, width] of floats"),
        (|x| x.random_contrast(0.5), "random_contrast: [4, 3]: takes images [n, channels, height, width]"),
        (|x| x.cutout(2), "cutout: [4, 3]: takes images [n, channels, height, width]"),
        (|x| x.random_brightness(f32::NAN), "random_brightness: [4, 3]: delta is NaN, but must be finite and at least 0"),
        (|x| x.mixup(x.graph().labels([4]), 3, 0.0).0, "mixup: [4, 3]: alpha is 0, but must be finite and positive"),
    ];
    for (change, want) in changes {
        let g = Graph::training();
        let e = change(g.input([4, 3])).error().ok_or("no mistake")?.to_string();
        assert!(e.starts_with(want) && e.contains("tests/augment.rs"), "{e}");
    }
    Ok(())
}
