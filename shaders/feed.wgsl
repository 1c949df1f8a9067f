// feed — y[r, …] = the sample order[s + r] of a data set on the device. s is the place of the batch's first sample in the order.
//   order [len]: the epoch's order of samples
//   data: a piece of the data set, p.rows samples from p.start on, p.width numbers each; bytes (BYTES = 1) lie four to a word,
//         behind a table of the 256 numbers that they stand for, so that the host and every driver round alike
//   y [batch, …]
// All data is copied as words, without arithmetic. One invocation copies EACH numbers of one sample. It writes nothing if the sample
// is in another piece.
// `augmented` shifts an image [c, height, across] by up to p.pad in both directions and then mirrors it. The random words of
// (seed, step, place in the batch) give shift and mirroring. src/data/augment.rs computes the same on the host.
//!include lib/index
//!include lib/philox

const TABLE = 256u;
// The number of the random stream. The streams of a graph's nodes count from 1.
const STREAM = 0xffffffffu;

fn sample(row: u32) -> u32 {
    return order[min(step.sample + row, p.len - 1u)];
}

fn number(at: u32) -> u32 {
    if BYTES == 1u {
        return data[(data[TABLE + at / 4u] >> (at % 4u * 8u)) & 255u];
    }
    return data[at];
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * WG + local;
    if i >= p.units {
        return;
    }
    let unit = p.first + i;
    let parts = p.width / EACH;
    // For a sample before this piece, the difference wraps to a large number.
    let row = sample(unit / parts) - p.start;
    if row >= p.rows {
        return;
    }
    let at = row * p.width + unit % parts * EACH;
    if BYTES == 1u && EACH == 4u {
        let four = data[TABLE + at / 4u];
        for (var k = 0u; k < 4u; k++) {
            y[i * 4u + k] = data[(four >> (k * 8u)) & 255u];
        }
        return;
    }
    for (var k = 0u; k < EACH; k++) {
        y[i * EACH + k] = number(at + k);
    }
}

@compute @workgroup_size(WG)
fn augmented(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * WG + local;
    if i >= p.units {
        return;
    }
    let unit = p.first + i;
    let parts = p.width / EACH;
    let place = unit / parts;
    let row = sample(place) - p.start;
    if row >= p.rows {
        return;
    }
    let random = philox4(vec4<u32>(place, STREAM, step.step.x, step.step.y), step.seed);
    let at = unit % parts * EACH;
    let line = at / p.across;
    var down = line % p.height;
    if (random.x >> 8u) < p.vertical {
        down = p.height - 1u - down;
    }
    down += mulhi(random.z, 2u * p.pad + 1u) - p.pad;
    let start = row * p.width + (line / p.height * p.height + down) * p.across;
    let shift = mulhi(random.w, 2u * p.pad + 1u) - p.pad;
    for (var k = 0u; k < EACH; k++) {
        var right = at % p.across + k;
        if (random.y >> 8u) < p.horizontal {
            right = p.across - 1u - right;
        }
        right += shift;
        // A place left of the image, or above it, wraps to a large number.
        var word = 0u;
        if right < p.across && down < p.height {
            word = number(start + right);
        } else if BYTES == 1u {
            word = data[0];
        }
        y[i * EACH + k] = word;
    }
}
