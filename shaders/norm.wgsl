// norm — y[o,i] = (x[o,i] − m) · r,  m = mean_i x[o,i] (0 without CENTRE),  r = 1 / √(mean_i (x[o,i] − m)² + eps)
//   grad_x: dx = r · (dy − mean dy − y · mean(dy · y)), the second term only with CENTRE
//   x, dy, y [outer, n]     (Ba, Kiros & Hinton 2016, eq. 3; without the mean Zhang & Sennrich 2019, eq. 4)
// Each line is read three times by its LANES invocations: for the mean, for the deviations from it (so that a mean far
// from 0 does no harm), and to write; the second and third time it comes from cache. The gradient computes the same
// statistics again, along with its own two sums.
//!include lib/index
//!include lib/lines

var<workgroup> parts: array<vec4<f32>, WG>;

// lanes_sum of four sums at once.
fn lanes_sums(local: u32, v: vec4<f32>) -> vec4<f32> {
    if LANES == 1u {
        return v;
    }
    let lane = local / COLUMNS % LANES;
    workgroupBarrier();
    parts[local] = v;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if lane < step {
            parts[local] += parts[local + step * COLUMNS];
        }
    }
    workgroupBarrier();
    return parts[local - lane * COLUMNS];
}

// The mean, but for what its rounding leaves.
fn mean_of(local: u32, t: Line, len: f32) -> f32 {
    if CENTRE == 0u {
        return 0.0;
    }
    var s = 0.0;
    for (var i = t.lane; i < t.len; i += LANES) {
        s += x[t.first + i];
    }
    return lanes_sum(local, s) / len;
}

// What the mean left, and r, from the means of x − m and of its square.
fn rest_and_r(rest: f32, square: f32) -> vec2<f32> {
    let c = select(0.0, rest, CENTRE == 1u);
    return vec2(c, 1.0 / sqrt(larger(square - c * c, 0.0) + p.eps));
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        let len = f32(p.n);
        let m = mean_of(local, t, len);
        var s = vec4(0.0);
        for (var i = t.lane; i < t.len; i += LANES) {
            let d = x[t.first + i] - m;
            s += vec4(d, d * d, 0.0, 0.0);
        }
        s = lanes_sums(local, s) / len;
        let c = rest_and_r(s.x, s.y);
        for (var i = t.lane; i < t.len; i += LANES) {
            let at = t.first + i;
            y[at] = ((x[at] - m) - c.x) * c.y;
        }
    }
}

// y here is dx.
@compute @workgroup_size(WG)
fn grad_x(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        let len = f32(p.n);
        let m = mean_of(local, t, len);
        var s = vec4(0.0);
        for (var i = t.lane; i < t.len; i += LANES) {
            let d = x[t.first + i] - m;
            let g = dy[t.first + i];
            s += vec4(d, d * d, g, g * d);
        }
        s = lanes_sums(local, s) / len;
        let c = rest_and_r(s.x, s.y);
        let b = (s.w - s.z * c.x) * c.y;
        let a = select(0.0, s.z, CENTRE == 1u);
        for (var i = t.lane; i < t.len; i += LANES) {
            let at = t.first + i;
            y[at] = c.y * ((dy[at] - a) - ((x[at] - m) - c.x) * c.y * b);
        }
    }
}
