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
    let scaled = |causal| Attention { causal, scale: Some(0.3), ..plain };
    cases.push(case(&[2, 2], [6, 5, 8, 4], scaled(false)));
    cases.push(case(&[3, 2], [70, 34, 5, 3], scaled(true)));
    // e^s overflows, but several keys still have weight.
    let all = |case: Case, size: f64| case.range(0, -size, size).range(1, -size, size);
    cases.push(all(case(&[2], [6, 7, 16, 5], scaled(false)), 6.0));
    // One key has all the weight, and the gradients are 0.
    cases.push(all(case(&[], [5, 67, 4, 3], plain), 40.0).flat());
    cases.push(case(&[65_537], [1, 2, 1, 1], plain).flat());
    cases.extend(masked());
    cases.extend(optional());
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
        let op = Attention { causal: i % 3 == 2, ..Attention::default() };
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

/// The leading axes of queries, those of keys, and the sizes of a case with options.
type Optional = (&'static [usize], &'static [usize], [usize; 4], Attention);

/// Cases with shared keys, windows, slopes and dropout.
fn options() -> Vec<Optional> {
    let plain = Attention::default();
    let causal = Attention { causal: true, ..plain };
    let gqa = Attention { enable_gqa: true, ..plain };
    let window = |left, right| Attention { local_window_size: Some([left, right]), ..plain };
    let drop = |dropout_p| Attention { dropout_p, stream: 7, ..plain };
    vec![
        // Shared keys: groups of heads, a batch, both, and all of them.
        (&[2, 6], &[2, 2], [5, 7, 3, 2], gqa),
        (&[4], &[2], [3, 4, 2, 3], Attention { causal: true, ..gqa }),
        (&[2, 6], &[2], [5, 7, 3, 2], Attention { causal: true, ..gqa }),
        (&[2, 2, 3], &[2, 1], [4, 3, 2, 2], plain),
        (&[2, 3], &[], [5, 3, 2, 4], causal),
        (&[2, 4], &[1, 2], [67, 35, 5, 9], Attention { causal: true, ..gqa }),
        // Windows: the key of the query's own number only, more keys than there are, one side, rows that see no key, skipped tiles.
        (&[2], &[2], [5, 6, 3, 2], window(0, 0)),
        (&[], &[], [6, 5, 2, 3], window(9, 2)),
        (&[2], &[2], [7, 3, 3, 2], window(1, 0)),
        (&[], &[], [9, 9, 2, 2], Attention { causal: true, ..window(2, 5) }),
        (&[], &[], [200, 170, 3, 5], window(10, 20)),
        (&[], &[], [150, 150, 4, 3], Attention { causal: true, ..window(30, 0) }),
        // Slopes of heads, beside other options.
        (&[2, 3], &[2, 3], [5, 7, 3, 2], Attention { alibi: true, ..plain }),
        (&[2, 4], &[2, 2], [6, 5, 3, 2], Attention { alibi: true, ..gqa }),
        (&[3], &[3], [70, 66, 5, 3], Attention { alibi: true, causal: true, ..window(40, 0) }),
        // Dropout: groups of four keys that are not whole, rows of both kinds in several tiles, nothing left.
        (&[2], &[2], [5, 7, 3, 2], drop(0.3)),
        (&[], &[], [4, 9, 2, 3], Attention { causal: true, ..drop(0.5) }),
        (&[], &[], [3, 5, 2, 2], drop(1.0)),
        (&[2], &[2], [70, 67, 5, 9], drop(0.2)),
        (&[], &[], [133, 150, 3, 2], Attention { local_window_size: Some([20, 30]), ..drop(0.2) }),
        (&[2, 4], &[2, 2], [35, 33, 4, 17], Attention { enable_gqa: true, alibi: true, causal: true, ..drop(0.1) }),
    ]
}

/// Returns the name of a case with options, and the shapes behind the first inputs.
fn option_case(lead: &[usize], op: &Attention) -> (String, Vec<Shape>) {
    let defaults = format!("{:?}", Attention { causal: op.causal, ..Attention::default() });
    let set: Vec<String> =
        format!("{op:?}").split(", ").zip(defaults.split(", ")).filter(|(a, b)| a != b).map(|(a, _)| a.to_string()).collect();
    let causal = if op.causal { "causal, " } else { "" };
    let slopes = op.alibi.then(|| shape(&lead[lead.len() - 1..]));
    (format!("{causal}{}", set.join(", ").trim_end_matches(" }")), slopes.into_iter().collect())
}

fn optional() -> Vec<Case> {
    let case = |(lead, kv, [n, m, d, e], op): Optional| {
        let (text, more) = option_case(lead, &op);
        let shapes = [shape(&[lead, &[n, d]].concat()), shape(&[kv, &[m, d]].concat()), shape(&[kv, &[m, e]].concat())];
        let case = Case::new(format!("{} × {}, {text}", shapes[0], shapes[1]), op, &[&shapes[..], &more].concat());
        if n * m > 200 { case.flat() } else { case }
    };
    let mut cases: Vec<Case> = options().into_iter().map(case).collect();
    // Every option at once.
    let op = Attention {
        causal: true,
        scale: Some(0.4),
        enable_gqa: true,
        local_window_size: Some([5, 9]),
        alibi: true,
        dropout_p: 0.25,
        stream: 3,
    };
    let shapes = [shape(&[2, 4, 8, 3]), shape(&[2, 2, 9, 3]), shape(&[2, 2, 9, 2]), shape(&[2]).u32(), shape(&[4, 1, 9]), shape(&[4])];
    cases.push(Case::new("all options", op, &shapes));
    cases
}

pub(super) fn grad() -> Vec<Case> {
    let mut cases = Vec::new();
    for of in [Of::Q, Of::K, Of::V] {
        let case = |lead: &[usize], [n, m, d, e]: [usize; 4], causal: bool| {
            let [a, b] = [[n, d + e + 2], [m, d + e]].map(|rc| shape(&[lead, &rc].concat()));
            let name = format!("of {of:?}, {a} × {b}, d {d}{}", if causal { ", causal" } else { "" });
            let options = Attention { causal, scale: Some(0.4), ..Attention::default() };
            Case::new(name, AttentionGrad { of, d, options }, &[a, b])
        };
        for (i, &(lead, [n, m, d, e], lengths, bias)) in MASKS.iter().enumerate() {
            let (masks, name) = masks(lead, lengths, bias);
            let [a, b] = [[n, d + e + 2], [m, d + e]].map(|rc| shape(&[lead, &rc].concat()));
            let options = Attention { causal: i % 3 == 1, scale: Some(0.4), ..Attention::default() };
            let op = AttentionGrad { of, d, options };
            let name = format!("of {of:?}, {a} × {b}, d {d}{}{name}", if options.causal { ", causal" } else { "" });
            let case = Case::new(name, op, &[&[a, b], &masks[..]].concat());
            cases.push(if i == 1 || i == 5 { case } else { case.flat() });
        }
        for (i, (lead, kv, [n, m, d, e], options)) in options().into_iter().enumerate() {
            let (text, more) = option_case(lead, &options);
            let [a, b] = [shape(&[lead, &[n, d + e + 2]].concat()), shape(&[kv, &[m, d + e]].concat())];
            let op = AttentionGrad { of, d, options: Attention { scale: Some(0.4), ..options } };
            let case = Case::new(format!("of {of:?}, {a} × {b}, d {d}, {text}"), op, &[&[a, b], &more[..]].concat());
            // The small cases of attention check these gradients, too. So here are the large ones, and gradients of gradients.
            match [1, 9, 12, 16].contains(&i) {
                true => cases.push(case),
                false if n * m > 200 => cases.push(case.flat()),
                false => {}
            }
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
