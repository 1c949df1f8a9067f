//! The number of classes, inferred from the labels.

use crate::error::{Error, Result};
use std::path::Path;

/// Returns the largest label in some files plus one. The files must have at least one label.
///
/// Each class without a sample makes the model larger by an output that never learns. A single wrong label can add hundreds
/// of such outputs. Part of a data set may well leave out some classes, so missing classes cause only a warning. If more than
/// half of the classes are missing, it is an error, unless there are at most `few` classes.
pub(super) fn infer(files: &[(&Path, &[u32])], few: usize) -> Result<usize> {
    let mut known: Vec<u32> = files.iter().flat_map(|(_, labels)| *labels).copied().collect();
    known.sort_unstable();
    known.dedup();
    let classes = known.last().map_or(0, |&largest| (largest as usize).saturating_add(1));
    let missing = classes - known.len();
    // The label with the largest gap of missing classes before it.
    let gaps = known.iter().enumerate().map(|(i, &label)| (if i == 0 { 0 } else { known[i - 1] + 1 }, label));
    let Some((first, odd)) = gaps.max_by_key(|(first, label)| label - first).filter(|_| missing > 0) else { return Ok(classes) };
    let row = |(path, labels): &(&Path, &[u32])| labels.iter().position(|&l| l == odd).map(|row| (path.to_path_buf(), row));
    let Some((path, row)) = files.iter().find_map(row) else { return Ok(classes) };
    let left_out = match odd - first {
        1 => format!("class {first}"),
        _ => format!("the classes {first} to {}", odd - 1),
    };
    let why = format!(
        "{classes} classes (0 to {}), and {missing} of them without a sample: row {row} (counted from 0) has the label {odd}, and no row has {left_out}",
        classes - 1
    );
    if 2 * missing > classes && classes > few {
        return Err(Error::format(path, format!("{why}. Correct that label, or say how many classes there are")));
    }
    log::warn!("{}: {why}. If that is right, saying how many classes there are silences this", path.display());
    Ok(classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Csv, told::told};
    /// A warning reports each class without a sample, with the row of the next label. If the number of classes is given, there is
    /// no warning.
    #[test]
    fn gaps_are_told() {
        let of = |labels: &[u32]| told("downhill::data", || assert!(of(labels, 10).is_ok()));
        for (labels, want) in [
            (
                &[9, 8, 6, 5, 4, 3, 2, 1, 0][..],
                "10 classes (0 to 9), and 1 of them without a sample: row 1 (counted from 0) has the label 8, and no row has class 7.",
            ),
            (
                &[2, 1],
                "3 classes (0 to 2), and 1 of them without a sample: row 1 (counted from 0) has the label 1, and no row has class 0.",
            ),
            (
                &[0, 3, 3],
                "4 classes (0 to 3), and 2 of them without a sample: row 1 (counted from 0) has the label 3, and no row has the classes 1 to 2.",
            ),
        ] {
            let told = of(labels);
            assert!(told.len() == 1 && told[0].contains(": labels: ") && told[0].contains(want), "{told:?}");
        }
        assert!(of(&[0, 2, 1, 1]).is_empty());
        let parse = |csv: Csv| told("downhill::data", || assert!(csv.parse("0.5,1\n0.25,3\n").is_ok()));
        assert!(parse(Csv::new("table").labels(1))[0].contains(": table: 4 classes"));
        assert!(parse(Csv::new("table").labels(1).classes(4)).is_empty());
    }

    fn of(labels: &[u32], few: usize) -> Result<usize> {
        infer(&[(Path::new("labels"), labels)], few)
    }

    #[test]
    fn one_more_than_the_largest_unless_most_of_them_have_no_sample() {
        for (labels, few, classes) in [
            (&[0, 1, 2, 1][..], 0, 3),
            (&[], 0, 0),
            (&[0], 0, 1),
            // Class 7 is missing, then class 0, then half of the classes.
            (&[9, 8, 6, 5, 4, 3, 2, 1, 0], 0, 10),
            (&[1, 2], 0, 3),
            (&[0, 3], 0, 4),
            (&[9], 10, 10),
        ] {
            assert_eq!(of(labels, few).unwrap(), classes, "{labels:?}");
        }
        for (labels, few, want) in [
            (
                &[0, 1, 2, 255, 3, 4, 5, 6, 7, 8, 9][..],
                10,
                "256 classes (0 to 255), and 245 of them without a sample: row 3 (counted from 0) has the label 255, and no row has the classes 10 to 254",
            ),
            (
                &[9],
                0,
                "10 classes (0 to 9), and 9 of them without a sample: row 0 (counted from 0) has the label 9, and no row has the classes 0 to 8",
            ),
            (&[0, 1, u32::MAX], 10, "4294967296 classes (0 to 4294967295), and 4294967293 of them without a sample"),
        ] {
            let e = of(labels, few).unwrap_err();
            assert!(matches!(&e, Error::Format { path, .. } if path.ends_with("labels")) && e.to_string().contains(want), "{e}");
            assert!(e.to_string().ends_with("Correct that label, or say how many classes there are"), "{e}");
        }
        // The wrong label is in the second file.
        let files: [(&Path, &[u32]); 2] = [(Path::new("first"), &[0, 1]), (Path::new("second"), &[1, 40])];
        let e = infer(&files, 0).unwrap_err();
        assert!(
            e.to_string()
                .starts_with("second: 41 classes (0 to 40), and 38 of them without a sample: row 1 (counted from 0) has the label 40"),
            "{e}"
        );
    }
}
