//! Test cases with sizes around the tiles (4, 8, 16, 32, 64 rows and columns; 8 and 16 terms; 8 columns for each lane).

use super::*;

fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).expect("at most six axes")
}

pub(super) fn forward() -> Vec<Case> {
    let case = |lead: &[usize], [n, m, d, e]: [usize; 4], op: Attention| {
        let [q, k, v] = [[n, d], [m, d], [m, e]].map(|rc| shape(&[lead, &rc].concat()));
        let causal = if op.causal { ", causal" } else { "" };
        let scale = op.scale.map_or(String::new(), |s| format!(", scale {s}"));
        Case::new(format!("{q} × {k} × {v}{causal}{scale}"), op, &[q, k, v])
    };
    let plain = Attention::default();
    let causal = Attention { causal: true, ..plain };
    let mut cases = vec![
        case(&[], [1, 1, 1, 1], plain),
        case(&[3], [1, 13, 4, 5], plain),
        case(&[], [13, 1, 4, 5], plain),
        case(&[], [4, 3, 33, 131], plain),
        case(&[2], [17, 15, 9, 11], causal),
        case(&[], [31, 33, 16, 9], causal),
        case(&[], [67, 63, 1, 1], causal),
        case(&[], [5, 9, 64, 64], causal),
    ];
    for op in [plain, causal] {
        cases.push(case(&[2, 3], [5, 7, 3, 2], op));
        cases.push(case(&[], [64, 65, 17, 13], op));
        cases.push(case(&[], [9, 6, 128, 128], op));
    }
    let scaled = |causal| Attention { causal, scale: Some(0.3) };
    cases.push(case(&[2, 2], [6, 5, 8, 4], scaled(false)));
    cases.push(case(&[3, 2], [70, 34, 5, 3], scaled(true)));
    // e^s overflows, but several keys still have weight.
    let all = |case: Case, size: f64| case.range(0, -size, size).range(1, -size, size);
    cases.push(all(case(&[2], [6, 7, 16, 5], scaled(false)), 6.0));
    // One key has all the weight, and the gradients are 0.
    cases.push(all(case(&[], [5, 67, 4, 3], plain), 40.0).flat());
    cases.push(case(&[65_537], [1, 2, 1, 1], plain).flat());
    cases
}

pub(super) fn grad() -> Vec<Case> {
    let mut cases = Vec::new();
    for of in [Of::Q, Of::K, Of::V] {
        let case = |lead: &[usize], [n, m, d, e]: [usize; 4], causal: bool| {
            let [a, b] = [[n, d + e + 2], [m, d + e]].map(|rc| shape(&[lead, &rc].concat()));
            let name = format!("of {of:?}, {a} × {b}, d {d}{}", if causal { ", causal" } else { "" });
            Case::new(name, AttentionGrad { of, d, causal, scale: 0.4 }, &[a, b])
        };
        cases.push(case(&[], [1, 1, 1, 1], false));
        cases.push(case(&[2, 2], [5, 3, 2, 4], true));
        // Gradients of these gradients use plain ops, which other tests check. So these cases are flat.
        cases.push(case(&[2], [3, 18, 5, 1], true).flat());
        cases.push(case(&[], [65, 34, 9, 17], true).flat());
        cases.push(case(&[], [33, 67, 3, 5], false).flat());
    }
    cases
}
