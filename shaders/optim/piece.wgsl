// piece — what kernels know of four neighbouring elements of a piece: whose they are, their hyperparameters, their gradients
// Tables are behind the guard (`Control` in src/optim/guard.rs): where parameters and groups end, and hyperparameters [rows, groups, 8].
// Generated before this file: `group_of`, the group of four elements, and `limited`, which clips each of them.

// a + t·(b − a), exact at both ends, as PyTorch's has it.
fn lerp(a: f32, b: f32, t: f32) -> f32 {
    return select(a + t * (b - a), b - (b - a) * (1.0 - t), t >= 0.5);
}

fn number(at: u32) -> f32 {
    return bitcast<f32>(guard[at]);
}

// The first row of a table of ends and numbers that ends behind these four elements.
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

// Its number.
fn owner(four: u32, table: u32, count: u32) -> u32 {
    return guard[table + 2u * row_of(four, table, count) + 1u];
}

// What is the same for many elements: hyperparameters, and what gradients are multiplied by. The second of these is 1, but where the
// first would be too small for a float.
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
