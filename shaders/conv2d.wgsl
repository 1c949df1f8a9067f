// conv2d        y[n,o,i,j]  = map(Σ_{c,u,v} x[n, c, i·s − top + u·d, j·s − left + v·d] · w[o,c,u,v])
// conv2d_grad_x dx[n,c,·,·] = map(Σ of the dy · w that x had a part in)        conv2d_grad_w dw[o,c,u,v] = Σ of the dy · x
//   x [n, groups · c, h, w]   w [groups · o, c, kh, kw]   y [n, groups · o, oh, ow]; x is 0 outside of the image
// `map` is the elementwise code that follows, generated; the identity where there is none.
//
// All three are products of matrices that are made while they are read: see lib/conv. Tiles as in matmul: one workgroup computes
// TILE_M × TILE_N results of one group (and one phase or part) and walks along the terms in slabs of SLAB; an invocation owns
// 4 × 4 of them. An invocation loads one and the same column of all slabs, whose digits it finds once; those of a slab's terms are
// found by a few lanes while the slab before is multiplied, and handed round in workgroup memory. So there is no division in
// the loop that all lanes run.
//
// dw has few elements, each of which is a sum over all pixels of all images: that sum is cut into `parts` shares, each with results of its
// own in scratch, which `grad_w_sum` adds in order. How many shares follows from the sizes alone.
// Source: the tiles are those of matmul.wgsl; convolution as a product of matrices made on the fly is that of Chetlur et al. 2014,
// "cuDNN: Efficient primitives for deep learning".
//!include lib/index
//!include lib/conv

// A row of slab_a is one longer than the tile: lanes that load along the terms then hit different banks.
const ROW = TILE_M + 1u;
const SIDE_M = TILE_M / 4u;
const SIDE_N = TILE_N / 4u;
const WG = SIDE_M * SIDE_N;

var<workgroup> slab_a: array<f32, SLAB * ROW>;
var<workgroup> slab_b: array<f32, SLAB * TILE_N>;
var<workgroup> terms: array<vec4<u32>, SLAB>;

fn store(start: u32, m: u32, sum: f32) {
    if m < p.m {
        let e = start + m * p.row_y;
        y[e] = map(e, sum);
    }
}

@compute @workgroup_size(WG)
fn tiled(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(id, n);
    if unit >= p.units {
        return;
    }
    let block = unit / p.block_units;
    var rest = unit % p.block_units;
    let row = rest % p.tiles_m * TILE_M;
    rest /= p.tiles_m;
    let column = rest % p.tiles_n * TILE_N;
    rest /= p.tiles_n;
    let group = rest % p.groups;
    let part = rest / p.groups;
    let all = work(part, images_of(block));
    // The phases of a stride are not all of one size.
    if column >= all.columns.count {
        return;
    }
    let start_a = block * p.block_a + group * p.group_a;
    let start_b = block * p.block_b + group * p.group_b;
    let start_y = block * p.block_y + part * p.part_y + group * p.group_y;

    let mine = place(all.columns, column + lane % TILE_N);
    for (var q = lane; q < SLAB; q += WG) {
        terms[q] = place(all.terms, all.first + q);
    }
    workgroupBarrier();

    let r = lane / SIDE_N;
    let c = lane % SIDE_N;
    var y0 = vec4<f32>();
    var y1 = vec4<f32>();
    var y2 = vec4<f32>();
    var y3 = vec4<f32>();
    for (var first = all.first; first < all.end; first += SLAB) {
        for (var e = lane; e < TILE_M * SLAB; e += WG) {
            let q = e % SLAB;
            let m = row + e / SLAB;
            var value = 0.0;
            if m < p.m && first + q < all.end {
                value = a[start_a + m * p.row_a + terms[q].w];
            }
            slab_a[q * ROW + e / SLAB] = value;
        }
        for (var q = lane / TILE_N; q < SLAB; q += WG / TILE_N) {
            slab_b[q * TILE_N + lane % TILE_N] = factor(start_b, mine, terms[q]);
        }
        workgroupBarrier();
        for (var q = lane; q < SLAB; q += WG) {
            terms[q] = place(all.terms, first + SLAB + q);
        }
        for (var q = 0u; q < SLAB; q++) {
            let ia = q * ROW + r;
            let ib = q * TILE_N + c;
            let vb = vec4<f32>(slab_b[ib], slab_b[ib + SIDE_N], slab_b[ib + 2u * SIDE_N], slab_b[ib + 3u * SIDE_N]);
            y0 += slab_a[ia] * vb;
            y1 += slab_a[ia + SIDE_M] * vb;
            y2 += slab_a[ia + 2u * SIDE_M] * vb;
            y3 += slab_a[ia + 3u * SIDE_M] * vb;
        }
        workgroupBarrier();
    }
    for (var t = 0u; t < 4u; t++) {
        let j = column + c + t * SIDE_N;
        if j < all.columns.count {
            let out = start_y + place(all.columns, j).w;
            store(out, row + r, y0[t]);
            store(out, row + r + SIDE_M, y1[t]);
            store(out, row + r + 2u * SIDE_M, y2[t]);
            store(out, row + r + 3u * SIDE_M, y3[t]);
        }
    }
}

// dw[i] = Σ_s part[s,i], in order.
@compute @workgroup_size(LANES)
fn grad_w_sum(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * LANES + local;
    if i < p.units {
        var sum = 0.0;
        for (var s = 0u; s < p.parts; s++) {
            sum += part[s * p.size + p.first + i];
        }
        dw[i] = sum;
    }
}
