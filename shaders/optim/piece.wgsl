// piece — the parameter, the group, the hyperparameters and the gradients of four neighbouring elements of a piece
// The tables lie behind the guard (`Control` in src/optim/guard.rs): the ends of parameters and groups, and hyperparameters
// [rows, groups, 8]. Generated before this file: `group_of`, the group of four elements, and `limited`, which clips four gradients.

// a + t·(b − a), exact at both ends, like PyTorch's `lerp`.
fn lerp(a: f32, b: f32, t: f32) -> f32 {
    return select(a + t * (b - a), b - (b - a) * (1.0 - t), t >= 0.5);
}

fn number(at: u32) -> f32 {
    return bitcast<f32>(guard[at]);
}

// The first row, in a table of ends and numbers, whose end lies behind these four elements.
fn row_of(four: u32, table: u32, count: u32) -> u32 {
    var low = 0u;
    var high = count - 1u;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (four < guard[table + 2u * middle]) {
            high = middle;
        } else {
            low = middle + 1u;
        }
    }
    return low;
}

// The number of the parameter or group that owns these four elements.
fn owner(four: u32, table: u32, count: u32) -> u32 {
    return guard[table + 2u * row_of(four, table, count) + 1u];
}

// The values that many elements share: hyperparameters and the two factors of the gradients. The second factor is 1 unless the
// first factor alone would be too small for a float.
struct Same {
    h: array<f32, 8>,
    factor: f32,
    scale: f32,
}

fn same(four: u32) -> Same {
    let at = p.hyper + 8u * (step.row * p.groups + group_of(four));
    let h = array<f32, 8>(
        number(at), number(at + 1u), number(at + 2u), number(at + 3u), number(at + 4u), number(at + 5u), number(at + 6u), number(at + 7u)
    );
    return Same(h, number(1u), number(4u));
}

fn clipped(g: vec4<f32>, all: Same) -> vec4<f32> {
    return limited(all.factor * (all.scale * g));
}
