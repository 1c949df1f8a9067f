// softmax — y[o,i,c] = e^(x[o,i,c] − m) / s,  s = Σ_i e^(x[o,i,c] − m),  m = max_i x[o,i,c];  or its logarithm, x − m − ln s
//   x, y [outer, n, inner]
// grad — dx = y·(dy − Σ_i y·dy), of the logarithm dx = dy − e^y·Σ_i dy; y is called x here
//   x, dy, dx [outer, n, inner]
// log_sum — y[o,c] = m + ln s
//   y [outer, inner], or [outer, chunks, inner] for a long line, whose chunks' results another pass joins
// The lanes of a line read it for the sums, and again to write. The second reading is from registers or from cache.
// The largest elements are added separately from the others, in `log_powers` and if y is above HEAVY (only one element of a line can
// be). If the others are small, ln s and 1 − p are accurate as sums of the others. See src/ops/softmax.rs.
//!include lib/powers

fn forward(t: Line) {
    keep_x(t);
    if LOG == 1u {
        let both = log_powers(t);
        for (var k = 0u; k < share(t); k++) {
            if has(t, k) {
                y[place(t, k)] = (x_of(t, k) - both.x) - both.y;
            }
        }
    } else {
        let both = powers(t, NONE);
        for (var k = 0u; k < share(t); k++) {
            if has(t, k) {
                y[place(t, k)] = exp_v(x_of(t, k) - both.x) / both.y;
            }
        }
    }
}

// m and ln s. The powers of the largest elements are 1 each, or NaN where those are infinite.
fn log_powers(t: Line) -> vec2<f32> {
    var m = LOWEST;
    var others = V(0.0);
    var tops = V(0.0);
    if KEEP > 0u {
        m = kept_max(t);
    }
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            let v = x_of(t, k);
            if KEEP == 0u {
                let top = larger(m, max_v(v));
                if top > m {
                    others = (others + tops) * f_exp(m - top);
                    tops = V(0.0);
                }
                m = top;
            }
            let e = exp_v(v - m);
            let is_top = v == V(m);
            others += select(e, V(0.0), is_top);
            tops += select(V(0.0), e, is_top);
        }
    }
    if KEEP == 0u {
        let top = lanes_max(m);
        if top > m {
            others = (others + tops) * f_exp(m - top);
            tops = V(0.0);
        }
        m = top;
    }
    let s = lanes_sums(vec4(sum_v(others), sum_v(tops), 0.0, 0.0));
    return vec2(m, f_log1p(s.x + (s.y - 1.0)));
}

fn log_sum(t: Line) {
    keep_x(t);
    let both = log_powers(t);
    if writes(t) {
        // One that is infinite is larger than any sum of the others.
        y[t.out] = select(both.x + both.y, both.x, both.x > 3.40282347e38);
    }
}

// a·b, or 0 if a is 0. If nothing depends on b, the product is 0 even if b is NaN.
fn times(a: V, b: V) -> V { return select(a * b, V(0.0), a == V(0.0)); }

fn grad(t: Line) {
    keep_x(t);
    var of_heavy = V(0.0);
    var others = V(0.0);
    // Σ y of the others.
    var rest = V(0.0);
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            let v = x_of(t, k);
            let d = dy[place(t, k)];
            let heavy = v > V(HEAVY);
            of_heavy += select(V(0.0), d, heavy);
            if LOG == 1u {
                others += select(d, V(0.0), heavy);
            } else {
                others += select(times(d, v), V(0.0), heavy);
                rest += select(v, V(0.0), heavy);
            }
        }
    }
    let s = lanes_sums(vec4(sum_v(of_heavy), sum_v(others), sum_v(rest), 0.0));
    let shift = select(s.x * s.z, 0.0, s.x == 0.0) - s.y;
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            let v = x_of(t, k);
            let d = dy[place(t, k)];
            if LOG == 1u {
                // Without a condition: a software adapter would go through all of it in any case.
                let e = exp_v(v);
                let less = select(e - 1.0, expm1_near_0_v(v), v > V(-0.35));
                let heavy = v > V(HEAVY);
                dx[place(t, k)] = select(d, -d * less, heavy) - times(select(V(s.x + s.y), V(s.y), heavy), e);
            } else {
                dx[place(t, k)] = times((d - s.x) + shift, v);
            }
        }
    }
}
