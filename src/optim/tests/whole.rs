//! The graphs of the rules that are written with tensors, in the oracle, against the formulas of their documentation as loops.

use super::*;
use crate::{
    graph::{Graph, Tensor},
    host::Host,
    optim::whole::{Numbers, TensorRule},
    oracle::oracle,
};

/// Muon as loops over a matrix. Returns the new weight and the new momentum.
struct MuonLoops {
    decay: f64,
    lr: f64,
    mu: f64,
    nesterov: bool,
    abc: [f64; 3],
    eps: f64,
    steps: usize,
    factor: f64,
}

impl MuonLoops {
    fn step(&self, [rows, columns]: [usize; 2], w: &[f64], g: &[f64], m: &[f64]) -> [Vec<f64>; 2] {
        let mix = |m: &[f64]| -> Vec<f64> { m.iter().zip(g).map(|(m, g)| self.mu * m + (1.0 - self.mu) * g).collect() };
        let momentum = mix(m);
        let mut x = if self.nesterov { mix(&momentum) } else { momentum.clone() };
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(self.eps);
        x.iter_mut().for_each(|x| *x /= norm);
        let [a, b, c] = self.abc;
        for _ in 0..self.steps {
            let gram = product([rows, columns, rows], |i, k| x[i * columns + k], |k, j| x[j * columns + k]);
            let square = product([rows, rows, rows], |i, k| gram[i * rows + k], |k, j| gram[k * rows + j]);
            let more = product([rows, rows, columns], |i, k| b * gram[i * rows + k] + c * square[i * rows + k], |k, j| x[k * columns + j]);
            x.iter_mut().zip(more).for_each(|(x, more)| *x = a * *x + more);
        }
        let step = |(w, x): (&f64, &f64)| (1.0 - self.lr * self.decay) * w - self.lr * self.factor * x;
        [w.iter().zip(&x).map(step).collect(), momentum]
    }
}

fn product([n, terms, m]: [usize; 3], a: impl Fn(usize, usize) -> f64, b: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..n * m).map(|at| (0..terms).map(|k| a(at / m, k) * b(k, at % m)).sum()).collect()
}

/// Adafactor as loops over `[lines, rows, columns]`, or over a vector. Returns the new weight and the new states.
fn adafactor(
    dims: &[usize],
    [eps1, eps2, d, decay]: [f64; 4],
    [lr, fresh]: [f64; 2],
    w: &[f64],
    g: &[f64],
    s: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let n = w.len();
    let mix = |old: f64, new: f64| (1.0 - fresh) * old + fresh * new;
    let (v, states): (Vec<f64>, _) = match *dims {
        [.., rows, columns] => {
            let square = |line: usize, i: usize, j: usize| g[(line * rows + i) * columns + j].powi(2);
            let lines = n / (rows * columns);
            let mean_of_row = |k: usize| (0..columns).map(|j| square(k / rows, k % rows, j)).sum::<f64>() / columns as f64;
            let mean_of_column = |k: usize| (0..rows).map(|i| square(k / columns, i, k % columns)).sum::<f64>() / rows as f64;
            let row: Vec<f64> = (0..lines * rows).map(|k| mix(s[0][k], mean_of_row(k))).collect();
            let column: Vec<f64> = (0..lines * columns).map(|k| mix(s[1][k], mean_of_column(k))).collect();
            let of = |at: usize| {
                let (line, i, j) = (at / (rows * columns), at / columns % rows, at % columns);
                let mean = row[line * rows..][..rows].iter().sum::<f64>() / rows as f64;
                row[line * rows + i] * column[line * columns + j] / mean.max(eps1)
            };
            ((0..n).map(of).collect(), vec![row, column])
        }
        _ => {
            let square: Vec<f64> = (0..n).map(|i| mix(s[0][i], g[i] * g[i])).collect();
            (square.clone(), vec![square])
        }
    };
    let u: Vec<f64> = g.iter().zip(v).map(|(g, v)| g / v.max(eps1 * eps1).sqrt()).collect();
    let rms = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / n as f64).sqrt();
    let rate = lr * rms(w).max(eps2) / (rms(&u) / d).max(1.0);
    let new = w.iter().zip(&u).map(|(w, u)| (1.0 - lr * decay) * w - rate * u).collect();
    [vec![new], states].concat()
}

/// Compares the oracle's weight and states after a step from random weights, gradients and states with those of `loops`.
fn compare(rule: &dyn TensorRule, t: u64, dims: &[usize], loops: impl Fn(&[f64], &[f64], &[Vec<f64>]) -> Vec<Vec<f64>>) {
    let shape = Shape::new(dims).expect("few axes");
    // The oracle's inputs are `f32`, as those of a device are. So hyperparameters here are exact as `f32`.
    let hyper: Vec<f32> = rule.hyper(t, rule.lr(), rule.weight_decay()).iter().map(|&h| h as f32).collect();
    let sizes: Vec<Shape> = rule.state_shapes(shape).into_iter().flatten().collect();
    let values = |seed: usize, shape: &Shape| Host::new(*shape, noise((seed + shape.elements()) as u64, shape.elements()));
    let mut inputs = vec![Host::new([8], hyper), values(1, &shape), values(2, &shape)];
    // Running means of squares are not negative.
    inputs.extend(sizes.iter().enumerate().map(|(k, shape)| {
        let of = values(3 + k, shape);
        Host::new(*shape, of.f().iter().map(|x| if rule.name() == "Adafactor" { x.abs() } else { *x }).collect())
    }));
    let g = Graph::training();
    let all: Vec<Tensor> = inputs.iter().map(|input| g.input(input.shape)).collect();
    let (w, states) = rule.update(all[1], all[2], &all[3..], &Numbers { all: all[0], first: 0 });
    let got = oracle(&g, &[vec![w], states].concat(), &inputs).expect("a graph without mistakes");
    let wide: Vec<Vec<f64>> = inputs[1..].iter().map(Host::to_f64).collect();
    let want = loops(&wide[0], &wide[1], &wide[2..]);
    assert_eq!(got.len(), want.len());
    for (k, (got, want)) in got.iter().zip(&want).enumerate() {
        let got = got.to_f64();
        assert_eq!(got.len(), want.len(), "{rule:?} {dims:?} {k}");
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-10 * (1.0 + want.abs()), "{rule:?} {dims:?}, output {k}: {got} instead of {want}");
        }
    }
}

#[test]
fn muon_in_the_oracle_is_its_formula() {
    // All constants are exact as `f32`.
    let (lr, decay, eps) = (0.25, 0.5, 2f64.powi(-20));
    for (abc, steps) in [([3.5, -4.75, 2.0], 5), ([1.5, -0.5, 0.0], 1), ([3.5, -4.75, 2.0], 0)] {
        for (mu, nesterov) in [(0.75, true), (0.75, false), (0.25, true), (0.0, false)] {
            for (adjust, dims) in [
                (AdjustLr::Original, [5, 3]),
                (AdjustLr::MatchRmsAdamw, [3, 7]),
                (AdjustLr::SpectralUnclamped, [4, 16]),
                (AdjustLr::Original, [1, 6]),
            ] {
                let [rows, columns] = dims.map(|n| n as f64);
                let factor = match adjust {
                    AdjustLr::Original => (rows / columns).max(1.0).sqrt(),
                    AdjustLr::MatchRmsAdamw => 0.2 * rows.max(columns).sqrt(),
                    AdjustLr::SpectralUnclamped => (rows / columns).sqrt(),
                };
                let rule = Muon::new(lr).weight_decay(decay).momentum(mu).nesterov(nesterov).eps(eps).ns_steps(steps);
                let rule = rule.ns_coefficients(abc[0], abc[1], abc[2]).adjust_lr_fn(adjust);
                let loops = MuonLoops { decay, lr, mu, nesterov, abc, eps, steps, factor: f64::from(factor as f32) };
                compare(&rule, 1, &dims, |w, g, s| loops.step(dims, w, g, &s[0]).into());
            }
        }
    }
    // The kernel of a convolution is a matrix.
    let loops = MuonLoops { decay, lr, mu: 0.5, nesterov: true, abc: [3.5, -4.75, 2.0], eps, steps: 2, factor: 1.0 };
    let rule = Muon::new(lr).weight_decay(decay).momentum(0.5).eps(eps).ns_steps(2).ns_coefficients(3.5, -4.75, 2.0).flatten(true);
    compare(&rule, 1, &[3, 2, 2, 2], |w, g, s| loops.step([3, 8], w, g, &s[0]).into());
}

#[test]
fn adafactor_in_the_oracle_is_its_formula() {
    for dims in [&[5, 3][..], &[3, 7], &[1, 4], &[2, 3, 4], &[9]] {
        for [eps1, eps2, d, decay] in [[2f64.powi(-10), 2f64.powi(-10), 1.0, 0.5], [0.5, 0.5, 2.0, 0.0], [2f64.powi(-4), 4.0, 4.0, 0.25]] {
            // At t = 4 the rate is limited to 1/2, and the share of the new squares is 4^-0.5 = 1/2.
            for (lr, rate, t) in [(0.125, 0.125, 4), (0.125, 0.125, 1), (1.0, 0.5, 4)] {
                let rule = Adafactor::new(lr).eps(eps1, eps2).d(d).weight_decay(decay).beta2_decay(-0.5);
                let fresh = (t as f64).powf(-0.5);
                // The decay has the rate before its limit.
                let options = [eps1, eps2, d, decay * lr / rate];
                compare(&rule, t, dims, |w, g, s| adafactor(dims, options, [rate, fresh], w, g, s));
            }
        }
    }
}
