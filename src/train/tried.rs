//! Errors of a model that is tried before a batch size is chosen.

use super::SOME;
use crate::error::Error;

/// The batch sizes at which an error is compared. Two sizes determine a line. The third size shows whether the numbers lie on
/// the line.
const AT: [usize; 3] = [SOME, 3, 5];

/// Rewrites the error that a model gives for [`SOME`] samples, so that it holds for `n` samples. Sizes that grow with the batch
/// become `n`, `2n` or `n + 1`. `at` returns the error for another batch size. If the errors differ in other ways, the text
/// names the batch size that the model was tried with.
pub(super) fn told_for_any(error: Error, at: impl Fn(usize) -> Option<Error>) -> Error {
    let Error::Op { op, operands, why, place } = error else { return error };
    let texts = |error| match error {
        Error::Op { op: other, operands, why, place: there } if (&other, there) == (&op, place) => Some([operands, vec![why]].concat()),
        _ => None,
    };
    let told = || {
        let (mut all, b, c) = ([&operands[..], std::slice::from_ref(&why)].concat(), texts(at(AT[1])?)?, texts(at(AT[2])?)?);
        if [b.len(), c.len()] != [all.len(); 2] {
            return None;
        }
        for ((a, b), c) in all.iter_mut().zip(&b).zip(&c) {
            *a = in_terms_of_n([a, b, c])?;
        }
        Some((all.pop()?, all))
    };
    match told() {
        Some((why, operands)) => Error::Op { op, operands, why, place },
        None => Error::Op { op, operands, why: format!("{why}; the model was tried with a batch of {SOME}"), place },
    }
}

/// Merges three texts that differ in numbers alone. Each such number must be a·n + b for the batch size n. Returns `None` for
/// other differences.
fn in_terms_of_n(texts: [&str; 3]) -> Option<String> {
    let [a, b, c] = texts.map(words);
    if [b.len(), c.len()] != [a.len(); 2] {
        return None;
    }
    let word = |((a, b), c): ((&str, &str), &str)| {
        if a == b && b == c {
            return Some(a.to_string());
        }
        let [x, y, z] = [a, b, c].map(|word| word.parse::<u64>().ok().map(i128::from));
        let ([x, y, z], [n, m, l]) = ([x?, y?, z?], AT.map(|n| n as i128));
        let slope = (y - x) / (m - n);
        let more = x - slope * n;
        if slope < 1 || [y, z] != [slope * m + more, slope * l + more] {
            return None;
        }
        let n = if slope == 1 { "n".to_string() } else { format!("{slope}n") };
        Some(match more {
            0 => n,
            1.. => format!("{n} + {more}"),
            _ => format!("{n} - {}", -more),
        })
    };
    a.into_iter().zip(b).zip(c).map(word).collect()
}

/// Splits a text where numbers begin and end.
fn words(text: &str) -> Vec<&str> {
    text.as_bytes()
        .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
        .scan(0, |end, word| {
            let start = *end;
            *end += word.len();
            Some(&text[start..*end])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::Location;

    #[test]
    fn numbers_that_grow_with_the_batch() {
        let told = |f: fn(usize) -> String| in_terms_of_n([&f(2), &f(3), &f(5)]);
        assert_eq!(told(|n| format!("[{n}, 784] × fc2.weight [10, 512]")).as_deref(), Some("[n, 784] × fc2.weight [10, 512]"));
        assert_eq!(told(|n| format!("{} of {}, {}", 784 * n, 2 * n + 1, n - 1)).as_deref(), Some("784n of 2n + 1, n - 1"));
        assert_eq!(told(|_| "0.5 ≤ 1.5".to_string()).as_deref(), Some("0.5 ≤ 1.5"));
        // Numbers on no line, a number that falls, and texts with different words.
        assert_eq!(told(|n| format!("{}", n * n)), None);
        assert_eq!(told(|n| format!("{}", n / 2)), None);
        assert_eq!(told(|n| format!("{}", 9 - n)), None);
        assert_eq!(told(|n| "x".repeat(n)), None);
    }

    #[test]
    fn errors_that_cannot_be_compared_name_the_batch_size() {
        let error = |n: usize, op: &str| Error::Op {
            op: op.into(),
            operands: vec![format!("[{n}, 4]"); if n == 5 { 1 } else { 2 }],
            why: "no".into(),
            place: Location::caller(),
        };
        let text = |at: &dyn Fn(usize) -> Option<Error>| told_for_any(error(2, "add"), at).to_string();
        let plain = "add: [2, 4] × [2, 4]: no; the model was tried with a batch of 2 (";
        assert!(text(&|_| None).starts_with(plain));
        assert!(text(&|n| Some(error(n, "mul"))).starts_with(plain));
        assert!(text(&|n| Some(error(n, "add"))).starts_with(plain));
        assert!(text(&|n| Some(error(if n == 5 { 3 } else { n }, "add"))).starts_with(plain));
        let other = told_for_any(Error::argument("a", "b"), |_| None);
        assert_eq!(other.to_string(), "a: b");
    }
}
