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
    cases.extend(masked());
    cases
}

type Masked = (&'static [usize], [usize; 4], Option<usize>, Option<&'static [usize]>);

/// The leading axes and sizes of a case, the number of axes of its lengths, and the shape of its bias.
const MASKS: [Masked; 12] = [
    (&[2, 3], [5, 7, 3, 2], Some(1), None),
    (&[2, 3], [5, 7, 3, 2], Some(2), None),
    (&[2], [67, 65, 3, 2], Some(1), None),
    (&[], [6, 5, 2, 3], Some(0), None),
    (&[2, 3], [5, 7, 3, 2], None, Some(&[5, 7])),
    (&[2, 3], [5, 7, 3, 2], None, Some(&[2, 1, 1, 7])),
    (&[2, 3], [5, 7, 3, 2], None, Some(&[3, 5, 1])),
    (&[2, 3], [1, 7, 3, 2], None, Some(&[2, 3, 1, 7])),
    (&[2, 2, 3], [4, 1, 3, 2], None, Some(&[2, 1, 4, 1])),
    (&[2], [33, 67, 9, 17], None, Some(&[67])),
    (&[2, 2], [66, 34, 5, 3], Some(1), Some(&[66, 34])),
    (&[2], [17, 20, 4, 3], Some(1), Some(&[2, 17, 20])),
];

/// Returns the shapes of the masks, and the text for the name of the case.
fn masks(lead: &[usize], lengths: Option<usize>, bias: Option<&[usize]>) -> (Vec<Shape>, String) {
    let lengths = lengths.map(|axes| shape(&lead[..axes]).u32());
    let all: Vec<Shape> = lengths.into_iter().chain(bias.map(shape)).collect();
    let name = all.iter().map(|s| format!(", masked by {s}")).collect();
    (all, name)
}

fn masked() -> Vec<Case> {
    let case = |(i, &(lead, [n, m, d, e], lengths, bias)): (usize, &Masked)| {
        let (masks, name) = masks(lead, lengths, bias);
        let op = Attention { causal: i % 3 == 2, scale: None };
        let shapes = [&[[n, d], [m, d], [m, e]].map(|rc| shape(&[lead, &rc].concat()))[..], &masks].concat();
        let case = Case::new(format!("{} × {}{}{name}", shapes[0], shapes[1], if op.causal { ", causal" } else { "" }), op, &shapes);
        if n * m > 200 { case.flat() } else { case }
    };
    let mut cases: Vec<Case> = MASKS.iter().enumerate().map(case).collect();
    // Half of the keys are hidden, and one of the others has all the weight: the biases are far apart.
    let shapes = [shape(&[3, 5, 4]), shape(&[3, 9, 4]), shape(&[3, 9, 2]), shape(&[3, 1, 9])];
    cases.push(Case::new("half of the keys hidden", Attention::default(), &shapes).range(3, -2e30, 1.0).flat());
    // No query sees a key.
    let shapes = [shape(&[5, 4]), shape(&[9, 4]), shape(&[9, 2]), shape(&[9])];
    cases.push(Case::new("all keys hidden", Attention::default(), &shapes).range(3, -3e30, -2e30).flat());
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
        for (i, &(lead, [n, m, d, e], lengths, bias)) in MASKS.iter().enumerate() {
            let (masks, name) = masks(lead, lengths, bias);
            let [a, b] = [[n, d + e + 2], [m, d + e]].map(|rc| shape(&[lead, &rc].concat()));
            let op = AttentionGrad { of, d, causal: i % 3 == 1, scale: 0.4 };
            let name = format!("of {of:?}, {a} × {b}, d {d}{}{name}", if op.causal { ", causal" } else { "" });
            let case = Case::new(name, op, &[&[a, b], &masks[..]].concat());
            cases.push(if i == 1 || i == 5 { case } else { case.flat() });
        }
        cases.push(case(&[], [1, 1, 1, 1], false));
        cases.push(case(&[2, 2], [5, 3, 2, 4], true));
        // Gradients of these gradients use plain ops, which other tests check. So these cases are flat.
        cases.push(case(&[2], [3, 18, 5, 1], true).flat());
        cases.push(case(&[], [65, 34, 9, 17], true).flat());
        cases.push(case(&[], [33, 67, 3, 5], false).flat());
    }
    cases
}
