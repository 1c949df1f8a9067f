// ctc — y[r] = −ln Σ of the probabilities of all paths through `steps` time steps that spell the targets of sample r
//   lp [n, t, c] (log-probabilities)   info u32 [n, 2 + s]: absent steps, absent targets, targets   y [n]
// ctc_share — dx[r,i,k] = the share of these paths that is at class k in step i; Σ_k dx[r,i,k] = 1, and 0 in absent steps
// Graves et al. 2006, section 4.1: the states are blank, target, blank, …, blank. A column has a number for each state, the logarithm
// of the sum over all paths that end (alpha) or start (beta) there. A column is scaled to a largest number of 0, so that
// numbers stay near 0 however long the sequence is. One invocation per sample: a column depends on the one before.
//!include lib/index
//!include lib/nan

// The logarithm of 0, and what counts as such.
const NONE = -1e30;
const LOW = -5e29;

fn class_of(r: u32, s: u32) -> u32 {
    return select(BLANK, info[r * (2u + p.s) + 2u + s / 2u], s % 2u == 1u);
}

// Whether a path may come from state s − 2 to state s: two different targets need no blank between them.
fn skips(r: u32, s: u32) -> bool {
    return s >= 2u && s % 2u == 1u && class_of(r, s) != class_of(r, s - 2u);
}

fn log_p(r: u32, i: u32, s: u32) -> f32 {
    let k = class_of(r, s);
    let value = lp[(r * p.t + i) * p.c + min(k, p.c - 1u)];
    // With the bits of a number that the compiler does not know, a NaN that it cannot take away.
    return select(bitcast<f32>(k | 0x7fc00000u), value, k < p.c);
}

// The logarithm of eᵃ + eᵇ + eᶜ.
fn add3(a: f32, b: f32, c: f32) -> f32 {
    let m = larger(larger(a, b), c);
    return select(m + log(exp(a - m) + exp(b - m) + exp(c - m)), NONE, m <= LOW);
}

// Takes the largest number of a column from all of it, and returns it; 0 if there is no path.
fn scale(at: u32, states: u32) -> f32 {
    var m = NONE;
    for (var s = 0u; s < states; s++) {
        m = larger(m, column[at + s]);
    }
    if m <= LOW {
        return 0.0;
    }
    for (var s = 0u; s < states; s++) {
        column[at + s] = larger(column[at + s] - m, NONE);
    }
    return m;
}

// Writes alpha of step i at `to`, from that of the step before at `prior`, which may be the same place.
fn alpha(r: u32, i: u32, prior: u32, to: u32, states: u32) -> f32 {
    for (var k = 0u; k < states; k++) {
        let s = states - 1u - k;
        var sum = select(NONE, 0.0, s < 2u);
        if i > 0u {
            let one = select(NONE, column[prior + max(s, 1u) - 1u], s >= 1u);
            let two = select(NONE, column[prior + max(s, 2u) - 2u], skips(r, s));
            sum = add3(column[prior + s], one, two);
        }
        column[to + s] = larger(sum + log_p(r, i, s), NONE);
    }
    return scale(to, states);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let r = group_index(id, groups) * WG + local;
    if r < p.units {
        let absent = info[r * (2u + p.s)];
        let missing = info[r * (2u + p.s) + 1u];
        let steps = p.t - min(absent, p.t);
        let states = 2u * (p.s - min(missing, p.s)) + 1u;
        let at = r * (2u * p.s + 1u);
        var total = 0.0;
        for (var i = 0u; i < steps; i++) {
            total += alpha(r, i, at, at, states);
        }
        // Without a step there is one path, which spells nothing.
        let last = select(0.0, column[at + states - 1u], steps > 0u);
        let before = select(NONE, column[at + max(states, 2u) - 2u], steps > 0u && states > 1u);
        let none = (steps == 0u && states > 1u) || larger(last, before) <= LOW;
        let value = select(-(total + add3(last, before, NONE)), bitcast<f32>(0x7f800000u | min(absent, 0u)), none);
        y[r] = select(bitcast<f32>(absent | 0x7fc00000u), value, absent <= p.t && missing <= p.s);
    }
}

@compute @workgroup_size(WG)
fn share(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let r = group_index(id, groups) * WG + local;
    if r < p.units {
        let steps = p.t - min(info[r * (2u + p.s)], p.t);
        let states = 2u * (p.s - min(info[r * (2u + p.s) + 1u], p.s)) + 1u;
        let size = 2u * p.s + 1u;
        let first = r * (p.t + 1u) * size;
        for (var k = 0u; k < p.t * p.c; k++) {
            dx[r * p.t * p.c + k] = 0.0;
        }
        for (var i = 0u; i < steps; i++) {
            let at = first + i * size;
            _ = alpha(r, i, at - select(0u, size, i > 0u), at, states);
        }
        let beta = first + p.t * size;
        for (var back = 0u; back < steps; back++) {
            let i = steps - 1u - back;
            let at = first + i * size;
            if back == 0u {
                for (var s = 0u; s < states; s++) {
                    column[beta + s] = select(NONE, 0.0, s + 2u >= states);
                }
            } else {
                // Place by place: a number depends on those behind it.
                for (var s = 0u; s < states; s++) {
                    let own = column[beta + s] + log_p(r, i + 1u, s);
                    var one = NONE;
                    var two = NONE;
                    if s + 1u < states {
                        one = column[beta + s + 1u] + log_p(r, i + 1u, s + 1u);
                    }
                    if s + 2u < states && skips(r, s + 2u) {
                        two = column[beta + s + 2u] + log_p(r, i + 1u, s + 2u);
                    }
                    column[beta + s] = larger(add3(own, one, two), NONE);
                }
                _ = scale(beta, states);
            }
            var m = NONE;
            for (var s = 0u; s < states; s++) {
                m = larger(m, column[at + s] + column[beta + s]);
            }
            var sum = 0.0;
            for (var s = 0u; s < states; s++) {
                sum += exp(column[at + s] + column[beta + s] - m);
            }
            // Without a path there is no share.
            let by = select(1.0 / sum, 0.0, m <= LOW);
            for (var s = 0u; s < states; s++) {
                let k = class_of(r, s);
                if k < p.c {
                    dx[(r * p.t + i) * p.c + k] += exp(column[at + s] + column[beta + s] - m) * by;
                }
            }
        }
    }
}
