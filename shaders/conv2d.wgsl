// conv2d        y[n,o,i,j]  = map(Σ_{c,u,v} x[n, c, i·s − top + u·d, j·s − left + v·d] · w[o,c,u,v])
// conv2d_grad_x dx[n,c,·,·] = map(Σ of the dy · w that x had a part in)        conv2d_grad_w dw[o,c,u,v] = Σ of the dy · x
//   x [n, groups · c, h, w]   w [groups · o, c, kh, kw]   y [n, groups · o, oh, ow]; x is 0 outside of the image
// `map` is the elementwise code that follows, generated. Without such code it is the identity.
//
// `direct` runs on any device, whatever the shape, and is for groups of so few channels (a depthwise convolution) that a tile
// would be nearly empty. Not yet timed on hardware.
//
// An image pass has one invocation per element of the result, neighbours writing neighbours; it goes over channels and
// taps in three loops, so that the only divisions are those that find its place.
// dw has few elements, each of which is a sum over all pixels of all images. `parts` neighbouring invocations share one element:
// each adds every parts-th term into its own place in scratch, so that neighbours read neighbouring pixels, and sum_parts adds
// them in order. It counts the digits of its term up by those of `parts`, with a carry instead of divisions.
//!include lib/index
//!include lib/conv

@compute @workgroup_size(LANES)
fn images_direct(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * LANES + local;
    if i >= p.units {
        return;
    }
    let column = i % p.y_width;
    let row = i / p.y_width % p.y_height;
    let plane = i / (p.y_width * p.y_height);
    let channel = plane % (p.m * p.groups);
    let image = plane / (p.m * p.groups);
    let group = channel / p.m;

    var terms = taps();
    var at = vec4<u32>(0u, row * p.sh - p.top, column * p.sw - p.left, 0u);
    if MODE == 1u {
        let h = phase(row % p.sh, p.h, p.sh, p.dh, p.top, p.kh, p.tap_h);
        let w = phase(column % p.sw, p.w, p.sw, p.dw, p.left, p.kw, p.tap_w);
        terms = work_x(h, w, 0u, 0u).terms;
        at.y = row / p.sh + h.start;
        at.z = column / p.sw + w.start;
    }
    at.x = at.y * p.b_width + at.z;
    let start_a = group * p.group_a + channel % p.m * p.row_a;
    let start_b = group * p.group_b + image * p.image_b;
    var sum = 0.0;
    for (var t0 = 0u; t0 < p.depth; t0++) {
        for (var t1 = 0u; t1 < terms.rows; t1++) {
            for (var t2 = 0u; t2 < terms.columns; t2++) {
                let term = place_of(terms, vec3<u32>(t0, t1, t2));
                sum += a[start_a + term.w] * factor(start_b, at, term);
            }
        }
    }
    y[i] = map(i, sum);
}

@compute @workgroup_size(LANES)
fn grad_w_direct(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * LANES + local;
    if i >= p.units {
        return;
    }
    let block = i / p.block_units;
    let part = i % p.parts;
    let element = i % p.block_units / p.parts;
    let channel = element / p.taps;
    let group = channel / p.m;
    let terms = pixels(images_of(block));
    let column = place(taps(), element % p.taps);
    let start_a = block * p.block_a + channel * p.row_a;
    let start_b = block * p.block_b + group * p.group_b;
    let step = digits(terms, p.parts);
    var t = digits(terms, part);
    var sum = 0.0;
    for (var k = part; k < terms.count; k += p.parts) {
        let term = place_of(terms, t);
        sum += a[start_a + term.w] * factor(start_b, column, term);
        t += step;
        if t.z >= terms.columns {
            t.z -= terms.columns;
            t.y += 1u;
        }
        if t.y >= terms.rows {
            t.y -= terms.rows;
            t.x += 1u;
        }
    }
    y[block * p.block_y + part * p.part_y + element] = sum;
}
