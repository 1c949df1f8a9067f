//! Means, variances, norms and normalisation of values that are large, tiny, equal or far from 0. Right values are closed forms, or the
//! `f64` oracle's, which a test here holds to closed forms and to PyTorch in `f64`.

use crate::common::{BOTH, Check, Suite};
use downhill::{
    Compiled, Device, Graph, Host, Shape, Tensor, Trainer,
    layers::{BatchNorm, LayerNorm, RmsNorm},
    optim::Sgd,
    plan::PlanOptions,
    testing,
};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "norms/equal numbers are normalised to exactly 0", equal);
    suite.each(&BOTH, "norms/equal numbers less their mean are exactly 0", less_mean);
    suite.each(&BOTH, "norms/two neighbouring floats", neighbours);
    suite.each(&BOTH, "norms/large and tiny numbers", sizes);
    suite.each(&BOTH, "norms/gradients of large and tiny numbers", gradients);
    suite.each(&BOTH, "norms/sums and means of large numbers", sums);
    suite.each(&BOTH, "norms/a mean beside an outlier", outlier);
    suite.each(&BOTH, "norms/variance and std leave no range", spreads);
    suite.each(&BOTH, "norms/the gradient of std is 0 where nothing is spread", std_of_equal);
    suite.each(&BOTH, "norms/eps 0", no_eps);
    suite.each(&BOTH, "norms/infinity and NaN", not_finite);
    suite.each(&BOTH, "norms/running statistics of large numbers stay finite", running);
    suite.test("norms/the oracle", oracle);
}

type Model = for<'g> fn(Tensor<'g>) -> Tensor<'g>;

/// Every way in which the device can divide the work: the portable one, its own, and those that hardware would take.
fn ways(device: &Device) -> Vec<PlanOptions> {
    let plain = device.plan_options();
    let Some(gpu) = device.as_gpu() else { return vec![plain] };
    let caps = *gpu.caps();
    let mut all = vec![PlanOptions { candidate: Some(0), ..device.plan_options() }];
    for subgroups in if caps.subgroups.is_some() { vec![caps.subgroups, None] } else { vec![None] } {
        for software in [true, false] {
            all.push(PlanOptions { caps: Some(downhill::kernel::Caps { subgroups, software, ..caps }), ..device.plan_options() });
        }
    }
    all
}

/// The value of `model` by all ways.
fn values(device: &Device, x: &Host<f32>, model: Model) -> Result<Vec<Vec<f32>>, downhill::Error> {
    let g = Graph::training();
    let y = model(g.input_of(x.shape));
    let run = |options: PlanOptions| Ok(Compiled::new(device, &[y], &options, 0)?.run(std::slice::from_ref(x))?[0].f().to_vec());
    ways(device).into_iter().map(run).collect()
}

fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).expect("at most six axes")
}

fn tiled(dims: &[usize], pattern: &[f32]) -> Host<f32> {
    let s = shape(dims);
    Host::new(s, (0..s.elements()).map(|i| pattern[i % pattern.len()]).collect())
}

fn near(got: &[f32], want: impl Fn(usize) -> f64, what: &str) -> Check {
    let want: Vec<f64> = (0..got.len()).map(want).collect();
    let got: Vec<f64> = got.iter().map(|&x| f64::from(x)).collect();
    Ok(testing::close(&got, &want, 1).map_err(|why| format!("{what}: {why}"))?)
}

/// Lines of lengths that reach every kernel and every division.
const LONG: [usize; 8] = [2, 33, 260, 1_028, 4_100, 8_228, 32_769, 100_000];
const EQUAL: [f32; 6] = [98_765.43, 1.7e9, 3e38, -0.1, 1e-30, 0.0];

fn equal(device: &Device) -> Check {
    let zero = |x: Host<f32>, name: &str, model: Model| -> Check {
        for (way, y) in values(device, &x, model)?.into_iter().enumerate() {
            let worst = y.iter().fold(0.0, |a: f32, y| if y.abs() <= a { a } else { y.abs() });
            assert!(worst == 0.0, "{name} of {} {}, way {way}: {worst}", x.shape, x.f()[0]);
        }
        Ok(())
    };
    for v in EQUAL {
        for n in LONG {
            if n <= 5_000 || v == EQUAL[0] {
                zero(tiled(&[n, 3], &[v]), "batch_norm", |x| x.batch_norm("n"))?;
            }
            zero(tiled(&[2, n], &[v]), "layer_norm", |x| x.layer_norm("n"))?;
        }
        zero(tiled(&[5_000, 1], &[v]), "batch_norm", |x| x.batch_norm("n"))?;
        for dims in [&[1, 3, 4, 5][..], &[3, 4, 5, 7], &[2, 2, 100, 170], &[67, 2, 3]] {
            zero(tiled(dims, &[v]), "batch_norm", |x| x.batch_norm("n"))?;
            zero(tiled(dims, &[v]), "instance_norm", |x| x.instance_norm("n"))?;
            zero(tiled(dims, &[v]), "group_norm", |x| x.group_norm("n", 1))?;
            zero(tiled(dims, &[v]), "layer_norm over three", |x| x.layer_norm_with("n", LayerNorm { axes: 2, ..LayerNorm::default() }))?;
            zero(tiled(dims, &[v]), "std", |x| x.std(&[0, 2], 0, true))?;
        }
    }
    Ok(())
}

fn less_mean(device: &Device) -> Check {
    for v in EQUAL {
        for n in LONG {
            for (dims, model) in [
                (vec![2, n], (|x| x - x.mean(&[1], true)) as Model),
                (vec![n, 3], |x| x - x.mean(&[0], true)),
                (vec![n, 8], |x| x - x.mean(&[0], true)),
                (vec![2, n, 2], |x| x - x.mean(&[0, 1], true)),
                (vec![n], |x| x - x.mean_all()),
            ] {
                if dims.iter().product::<usize>() > 300_000 {
                    continue;
                }
                for (way, y) in values(device, &tiled(&dims, &[v]), model)?.into_iter().enumerate() {
                    assert!(y.iter().all(|y| *y == 0.0), "{dims:?} of {v}, way {way}");
                }
            }
        }
    }
    Ok(())
}

/// Checks n values, of which k are one ulp u larger than the others: every second value, starting with the second. Above the
/// smaller value, the mean is k/n·u. The variance is u²·k(n − k)/n².
fn neighbours(device: &Device) -> Check {
    for x in [98_765.43f32, 1.7e9, -4_097.3, 1.0, 65_535.996] {
        let up = if x > 0.0 { f32::from_bits(x.to_bits() + 1) } else { f32::from_bits(x.to_bits() - 1) };
        let u = f64::from(up) - f64::from(x);
        for n in [2, 31, 33, 5_000, 32_769, 100_000] {
            let share = (n / 2) as f64 / n as f64;
            let r = 1.0 / (u * u * share * (1.0 - share) + f64::from(1e-5f32)).sqrt();
            let want = |i: usize| ((i % 2) as f64 - share) * u * r;
            let one: Vec<f32> = (0..n).map(|i| if i % 2 == 1 { up } else { x }).collect();
            let line = Host::new([1, n], one.clone());
            let column = Host::new([n, 1], one.clone());
            let batch = Host::new([n, 2, 1], one.iter().flat_map(|&v| [v, v]).collect());
            let what = format!("{n} of {x}");
            for y in values(device, &line, |x| x.layer_norm("n"))? {
                near(&y, want, &format!("layer_norm, {what}"))?;
            }
            for y in values(device, &column, |x| x.batch_norm("n"))? {
                near(&y, want, &format!("batch_norm, {what}"))?;
            }
            for y in values(device, &batch, |x| x.batch_norm("n"))? {
                near(&y, |i| want(i / 2), &format!("batch_norm of images, {what}"))?;
            }
            for y in values(device, &line, |x| x.unsqueeze(0).instance_norm("n"))? {
                near(&y, want, &format!("instance_norm, {what}"))?;
            }
            for y in values(device, &line, |x| x.std(&[1], 0, false))? {
                near(&y, |_| u * (share * (1.0 - share)).sqrt(), &format!("std, {what}"))?;
            }
        }
    }
    Ok(())
}

/// (1, −1, 3, −3) · s has the mean 0 and the variance 5s², also repeated.
fn sizes(device: &Device) -> Check {
    let want = |i: usize| [1.0, -1.0, 3.0, -3.0][i % 4] / 5f64.sqrt();
    for s in [1e20f32, 3e18, 1.1e38] {
        let pattern = [s, -s, 3.0 * s, -3.0 * s];
        for n in [4, 36, 260, 1_028, 8_228, 32_772, 100_000] {
            let what = format!("{n} of {s}");
            let all: [(&str, Vec<usize>, Model); 5] = [
                ("layer_norm", vec![2, n], |x| x.layer_norm("n")),
                ("rms_norm", vec![2, n], |x| x.rms_norm("n")),
                ("group_norm", vec![1, 4, n / 4], |x| x.group_norm("n", 1)),
                ("instance_norm", vec![2, 1, n], |x| x.instance_norm("n")),
                ("batch_norm", vec![n, 1], |x| x.batch_norm("n")),
            ];
            for (name, dims, model) in all {
                for (way, y) in values(device, &tiled(&dims, &pattern), model)?.into_iter().enumerate() {
                    near(&y, want, &format!("{name}, {what}, way {way}"))?;
                }
            }
        }
        // Channels of images.
        let images = tiled(&[2, 2, 2, 4], &pattern);
        for y in values(device, &images, |x| x.batch_norm("n"))? {
            near(&y, want, "batch_norm of images")?;
        }
    }
    // Not symmetric: (1, 1, −1)·3e38 has the mean 1e38, deviations 2, 2, −4 and their mean square 8.
    for (name, dims, model) in [("layer_norm", [1, 3], (|x| x.layer_norm("n")) as Model), ("batch_norm", [3, 1], |x| x.batch_norm("n"))] {
        for y in values(device, &tiled(&dims, &[3e38, 3e38, -3e38]), model)? {
            near(&y, |i| [0.5f64.sqrt(), 0.5f64.sqrt(), -(2f64.sqrt())][i], name)?;
        }
    }
    Ok(())
}

/// Against the oracle: value, and gradients for x, weight and bias.
fn against_oracle(device: &Device, x: &Host<f32>, terms: usize, what: &str, model: Model) -> Check {
    let g = Graph::training();
    let t = g.input_of(x.shape);
    let y = model(t);
    let c = g.constant(testing::fill(y.shape(), &downhill::ops::Fill::Range(-1.0, 1.5), 5));
    let sources = [&[t][..], &g.param_tensors()].concat();
    let mut outputs = vec![y];
    outputs.extend(y.vjp(c, &sources[..sources.len().min(3)]));
    for (way, options) in ways(device).into_iter().enumerate() {
        let compared = testing::compare(&g, &outputs, std::slice::from_ref(x), device, &options, terms);
        compared.map_err(|why| format!("{what} of {}, way {way}: {why}", x.shape))?;
    }
    Ok(())
}

fn gradients(device: &Device) -> Check {
    for s in [1e20f32, 1e30, 1e-3, 98_765.43] {
        for n in [7, 260, 5_003, 40_003] {
            let wave = |dims: &[usize]| {
                let s0 = shape(dims);
                Host::new(s0, testing::fill(s0, &downhill::ops::Fill::Range(-1.0, 2.0), 3).f().iter().map(|x| x * s).collect())
            };
            against_oracle(device, &wave(&[2, n]), n, &format!("layer_norm at {s}"), |x| x.layer_norm("n"))?;
            against_oracle(device, &wave(&[2, n]), n, &format!("rms_norm at {s}"), |x| x.rms_norm("n"))?;
            against_oracle(device, &wave(&[n, 3]), n, &format!("batch_norm at {s}"), |x| x.batch_norm("n"))?;
            against_oracle(device, &wave(&[3, 2, n]), 3 * n, &format!("batch_norm at {s}"), |x| x.batch_norm("n").relu())?;
            against_oracle(device, &wave(&[2, 4, n]), 2 * n, &format!("group_norm at {s}"), |x| x.group_norm("n", 2))?;
            against_oracle(device, &wave(&[n, 3]), n, &format!("std at {s}"), |x| x.std(&[0], 1, false))?;
            against_oracle(device, &wave(&[2, n]), n, &format!("mean at {s}"), |x| x - x.mean(&[1], true))?;
        }
    }
    Ok(())
}

fn sums(device: &Device) -> Check {
    let big = 3e38f32;
    for n in [3usize, 33, 260, 4_100, 20_011, 100_000] {
        let all: [(&str, Vec<usize>, Model); 6] = [
            ("all", vec![n], |x| x.mean_all()),
            ("along", vec![2, n], |x| x.mean(&[1], false)),
            ("across", vec![n, 3], |x| x.mean(&[0], false)),
            ("strips", vec![n, 8], |x| x.mean(&[0], false)),
            ("across ten", vec![n, 10], |x| x.mean(&[0], false)),
            ("two blocks", vec![n, 2, 3], |x| x.mean(&[0, 2], false)),
        ];
        for (name, dims, model) in all {
            for v in [big, -big, 1.2e-38, 98_765.43] {
                for (way, y) in values(device, &tiled(&dims, &[v]), model)?.into_iter().enumerate() {
                    assert!(y.iter().all(|y| *y == v), "mean {name} of {n} × {v}, way {way}: {}", y[0]);
                }
            }
        }
        // Signs that cancel: one number more of one sign.
        let cancel = |dims: &[usize], along: bool| {
            let s = shape(dims);
            let sign = |i: usize| {
                let k = if along { i % n } else { i / (s.elements() / n) };
                if k == n - 1 && n % 2 == 1 {
                    1e38
                } else if k < n / 2 {
                    big
                } else {
                    -big
                }
            };
            Host::new(s, (0..s.elements()).map(sign).collect())
        };
        let want = if n % 2 == 1 { 1e38 } else { 0.0 };
        let all: [(&str, Vec<usize>, bool, Model); 4] = [
            ("all", vec![n], true, |x| x.sum_all()),
            ("along", vec![2, n], true, |x| x.sum(&[1], false)),
            ("across", vec![n, 3], false, |x| x.sum(&[0], false)),
            ("strips", vec![n, 8], false, |x| x.sum(&[0], false)),
        ];
        for (name, dims, along, model) in all {
            for (way, y) in values(device, &cancel(&dims, along), model)?.into_iter().enumerate() {
                // Sums on the way are n times as large, and round accordingly.
                let off = y.iter().map(|y| (f64::from(*y) - want).abs()).fold(0.0, f64::max);
                assert!(off <= 3e38 * 1.2e-7 * n as f64, "sum {name} of {n}, way {way}: {}", y[0]);
            }
        }
        for (way, y) in values(device, &tiled(&[n], &[big]), |x| x.sum_all())?.into_iter().enumerate() {
            assert!(y[0] == f32::INFINITY, "way {way}");
        }
    }
    Ok(())
}

/// A first element that is far from all others does not spoil the mean.
fn outlier(device: &Device) -> Check {
    for n in [33usize, 1_001, 5_000, 40_000] {
        for first in [1e8f32, -1e30] {
            let mut x = vec![1.0f32; n];
            x[0] = first;
            let want = (f64::from(first) + (n - 1) as f64) / n as f64;
            for (dims, model) in [([1, n], (|x| x.mean(&[1], false)) as Model), ([n, 1], |x| x.mean(&[0], false))] {
                for y in values(device, &Host::new(shape(&dims), x.clone()), model)? {
                    near(&y, |_| want, &format!("{n}, {first}"))?;
                }
            }
            against_oracle(device, &Host::new([1, n], x.clone()), n, "layer_norm", |x| x.layer_norm("n"))?;
            against_oracle(device, &Host::new([n, 1], x.clone()), n, "batch_norm", |x| x.batch_norm("n"))?;
        }
    }
    Ok(())
}

/// (1, −1, 3, −3)·s: variance 5s², std √5·s.
fn spreads(device: &Device) -> Check {
    for s in [1e20f32, 6e18, 1.1e38, 1e-10, 1e-18, 1e-30, 1e-37] {
        let pattern = [s, -s, 3.0 * s, -3.0 * s];
        for n in [4, 36, 1_028, 5_000, 32_772, 100_000] {
            for (dims, std, variance) in [
                ([2, n], (|x| x.std(&[1], 0, false)) as Model, (|x| x.variance(&[1], 0, false)) as Model),
                ([n, 1], |x| x.std(&[0], 0, false), |x| x.variance(&[0], 0, false)),
            ] {
                let x = tiled(&dims, &pattern);
                for (way, y) in values(device, &x, std)?.into_iter().enumerate() {
                    near(&y, |_| 5f64.sqrt() * f64::from(s), &format!("std, {n} of {s}, way {way}"))?;
                }
                let want = 5.0 * f64::from(s) * f64::from(s);
                for (way, y) in values(device, &x, variance)?.into_iter().enumerate() {
                    match want > f64::from(f32::MAX) {
                        true => assert!(y.iter().all(|y| *y == f32::INFINITY), "variance, {n} of {s}, way {way}: {}", y[0]),
                        false => near(&y, |_| want, &format!("variance, {n} of {s}, way {way}"))?,
                    }
                }
            }
        }
        // d std / dx = (x − mean) / (n·std).
        let g = Graph::training();
        let x = g.input([4]);
        let dx = x.std(&[0], 0, false).grad(&[x]);
        let y = device.compile(&dx)?.run(&[Host::new([4], pattern.to_vec())])?;
        near(y[0].f(), |i| [1.0, -1.0, 3.0, -3.0][i] / 4.0 / 5f64.sqrt(), &format!("gradient of std at {s}"))?;
    }
    Ok(())
}

fn std_of_equal(device: &Device) -> Check {
    for (dims, axes) in [(&[33, 3][..], &[0][..]), (&[2, 33], &[1]), (&[2, 3, 40, 50], &[0, 2, 3]), (&[5_000, 2], &[0, 1])] {
        for correction in [0, 1] {
            let g = Graph::training();
            let x = g.input(shape(dims));
            let s = x.std(axes, correction, false);
            let slope = s.sum_all().grad(&[x])[0];
            let outputs = [s, slope, (slope.square() + x).sum_all().grad(&[x])[0]];
            for options in ways(device) {
                let y = Compiled::new(device, &outputs, &options, 0)?.run(&[tiled(dims, &[98_765.43])])?;
                assert!(y[0].f().iter().chain(y[1].f()).all(|y| *y == 0.0), "{dims:?}");
                // That of the gradient itself does not become NaN either.
                assert!(y[2].f().iter().all(|y| *y == 1.0), "{dims:?}: {}", y[2].f()[0]);
            }
        }
    }
    Ok(())
}

/// Without eps a line of tiny numbers is normalised like any other, forward and backward.
fn no_eps(device: &Device) -> Check {
    for s in [1e-30f32, 1e-36, 1e-20, 1.0, 1e25] {
        for n in [4usize, 36, 1_028, 40_000] {
            let x = tiled(&[2, n], &[s, -s, 3.0 * s, -3.0 * s]);
            let column = Host::new([2 * n, 1], x.f().to_vec());
            let want = |i: usize| [1.0, -1.0, 3.0, -3.0][i % 4] / 5f64.sqrt();
            let all: [(&str, &Host<f32>, Model); 3] = [
                ("layer_norm", &x, |x| x.layer_norm_with("n", LayerNorm { eps: 0.0, ..LayerNorm::default() })),
                ("rms_norm", &x, |x| x.rms_norm_with("n", RmsNorm { eps: 0.0, ..RmsNorm::default() })),
                ("batch_norm", &column, |x| x.batch_norm_with("n", BatchNorm { eps: 0.0, ..BatchNorm::default() })),
            ];
            for (name, x, model) in all {
                for (way, y) in values(device, x, model)?.into_iter().enumerate() {
                    near(&y, want, &format!("{name}, {n} of {s}, way {way}"))?;
                }
                let wave = testing::fill(x.shape, &downhill::ops::Fill::Range(-1.0, 2.0), 3);
                let wave = Host::new(x.shape, wave.f().iter().map(|x| x * s).collect());
                against_oracle(device, &wave, 2 * n, &format!("{name} at {s}"), model)?;
            }
        }
    }
    Ok(())
}

/// As PyTorch has it: a sum or mean with an infinity is one, and what is normalised over it is NaN.
fn not_finite(device: &Device) -> Check {
    let inf = f32::INFINITY;
    for n in [3usize, 36, 4_100, 20_011] {
        for at in [0, n / 2, n - 1] {
            for (value, is) in [(inf, "inf"), (-inf, "-inf"), (f32::NAN, "NaN")] {
                let mut x: Vec<f32> = (0..n).map(|i| (i as f32).sin()).collect();
                x[at] = value;
                let x = Host::new([1, n], x);
                let all: [(&str, Model); 3] =
                    [("mean", |x| x.mean(&[1], false)), ("sum", |x| x.sum(&[1], false)), ("across", |x| x.transpose().mean(&[0], false))];
                for (name, model) in all {
                    for (way, y) in values(device, &x, model)?.into_iter().enumerate() {
                        let right = y[0] == value || (y[0].is_nan() && value.is_nan());
                        assert!(right, "{name} of {n}, {is} at {at}, way {way}: {}", y[0]);
                    }
                }
                let all: [(&str, Model); 3] = [
                    ("layer_norm", |x| x.layer_norm("n")),
                    ("batch_norm", |x| x.transpose().batch_norm("n")),
                    ("std", |x| x.std(&[1], 0, false)),
                ];
                for (name, model) in all {
                    for (way, y) in values(device, &x, model)?.into_iter().enumerate() {
                        let rest = y.iter().filter(|y| !y.is_nan()).count();
                        assert!(rest == 0, "{name} of {n}, {is} at {at}, way {way}: {rest} are not NaN");
                    }
                }
            }
        }
        for y in values(device, &tiled(&[1, n], &[inf]), |x| x.mean(&[1], false))? {
            assert_eq!(y, [inf]);
        }
    }
    Ok(())
}

/// A variance beyond the range is kept as the largest number: inference then still has finite answers.
fn running(device: &Device) -> Check {
    let g = Graph::training();
    let loss = g.input([4, 1]).batch_norm("n").square().mean_all();
    let mut trainer = Trainer::new(device, loss, Sgd::new(1e-3))?;
    let x = Host::new([4, 1], vec![1e20, -1e20, 3e20, -3e20]);
    for _ in 0..40 {
        trainer.step(std::slice::from_ref(&x))?;
    }
    let var = trainer.params().get("n.running_var")?.f()[0];
    assert!(var.is_finite() && var > 3e38, "{var}");
    let h = Graph::inference();
    let y = trainer.compile(&[h.input([4, 1]).batch_norm("n")])?.run(&[x])?;
    assert!(y[0].f().iter().all(|y| y.is_finite()), "{y:?}");
    Ok(())
}

/// The oracle of the other tests, on what PyTorch has in `f64` (scripts/golden_values.py).
fn oracle() -> Check {
    let file: serde_json::Value = serde_json::from_str(include_str!("../golden/values_norms.json"))?;
    let list = |v: &serde_json::Value| v.as_array().into_iter().flatten().filter_map(|x| x.as_f64()).collect::<Vec<f64>>();
    let models: [(&str, &str, Model); 6] = [
        ("layer_norm", "layer_norm", |x| x.layer_norm("n")),
        ("batch_norm", "layer_norm", |x| x.transpose().batch_norm("n").transpose()),
        ("group_norm", "layer_norm", |x| x.group_norm("n", 1)),
        ("rms_norm", "rms_norm", |x| x.rms_norm_with("n", RmsNorm { eps: 1e-5, ..RmsNorm::default() })),
        ("std", "std", |x| x.std(&[0, 1], 1, false)),
        ("variance", "var", |x| x.variance(&[0, 1], 0, false)),
    ];
    for case in file["cases"].as_array().into_iter().flatten() {
        let x: Vec<f32> = list(&case["x"]).iter().map(|&x| x as f32).collect();
        for (name, key, model) in models {
            let g = Graph::training();
            let t = g.input([1, 4]);
            let y = model(t);
            let dy = list(&case["dy"]).iter().map(|&d| d as f32).collect::<Vec<_>>();
            let dy = if y.shape().elements() == 1 { g.full(y.shape(), 1.0) } else { g.constant(Host::new(y.shape(), dy)) };
            let got = testing::oracle(&g, &[y, y.vjp(dy, &[t])[0]], &[Host::new([1, 4], x.clone())])?;
            for (got, want) in got.iter().zip(["y", "dx"]) {
                let want = list(&case[key][want]);
                let most = want.iter().fold(0.0, |a: f64, w| a.max(w.abs()));
                let off = got.to_f64().iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
                assert!(want.len() == got.len() && off <= 1e-7 * most, "{name} of {x:?}: {got:?}, not {want:?}");
            }
        }
    }
    Ok(())
}
