//! IDX, the format of MNIST and similar data sets (LeCun, Cortes & Burges). A file has two zero bytes, a type, the number of
//! axes, and each axis as a big-endian `u32`. Then come the numbers, big-endian and row-major.

use super::{Dataset, Target, classes::infer, file};
use crate::{
    error::{Error, Result},
    shape::{MAX_RANK, Shape},
};
use std::path::Path;

/// The content of an IDX file.
#[derive(Clone, Debug, PartialEq)]
pub struct Idx {
    /// The size of each axis, outermost first.
    pub dims: Vec<usize>,
    /// The numbers, row-major.
    pub values: Values,
}

/// The numbers of an IDX file, in the type of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Type 0x08.
    U8(Vec<u8>),
    /// Type 0x09.
    I8(Vec<i8>),
    /// Type 0x0B.
    I16(Vec<i16>),
    /// Type 0x0C.
    I32(Vec<i32>),
    /// Type 0x0D.
    F32(Vec<f32>),
    /// Type 0x0E.
    F64(Vec<f64>),
}

impl Values {
    /// Returns all numbers as `f64`, which represents each of the types exactly.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Values::U8(v) => v.iter().map(|&x| x as f64).collect(),
            Values::I8(v) => v.iter().map(|&x| x as f64).collect(),
            Values::I16(v) => v.iter().map(|&x| x as f64).collect(),
            Values::I32(v) => v.iter().map(|&x| x as f64).collect(),
            Values::F32(v) => v.iter().map(|&x| x as f64).collect(),
            Values::F64(v) => v.clone(),
        }
    }
}

/// Reads an IDX file. The file may be gzipped, which the reader sees from its content and not from its name.
///
/// # Errors
/// [`Error::File`] if the file cannot be read, or is larger than [`with_read_limit`](super::with_read_limit) allows.
/// [`Error::Format`] if it is a corrupt gzip, is not an IDX file, is shorter or longer than its header says, or has an
/// impossible size.
pub fn read(path: impl AsRef<Path>) -> Result<Idx> {
    let path = path.as_ref();
    let bad = |why: String| Err(Error::format(path, why));
    let mut source = file::open(path)?;

    let (kind, dims) = header(path, source.read(4)?, |count| source.read(count))?;
    let size: u64 = match kind {
        0x08 | 0x09 => 1,
        0x0B => 2,
        0x0C | 0x0D => 4,
        _ => 8,
    };
    let shown = shown(&dims);
    let count = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let Some(want) = count.and_then(|n| n.checked_mul(size)).filter(|&n| n < isize::MAX as u64) else {
        return bad(format!("its header says {shown}, which no memory holds: not an IDX file, or a corrupt one"));
    };

    let bytes = source.read(want + 1)?;
    let (got, start) = (bytes.len() as u64, 4 + 4 * dims.len() as u64);
    if got < want {
        return bad(format!("truncated: {} bytes, but {shown} takes {}", start + got, start + want));
    }
    if got > want {
        return bad(format!("trailing bytes: {shown} takes {} bytes, and more follow", start + want));
    }
    let values = match kind {
        0x08 => Values::U8(bytes),
        0x09 => Values::I8(numbers(path, &bytes, i8::from_be_bytes)?),
        0x0B => Values::I16(numbers(path, &bytes, i16::from_be_bytes)?),
        0x0C => Values::I32(numbers(path, &bytes, i32::from_be_bytes)?),
        0x0D => Values::F32(numbers(path, &bytes, f32::from_be_bytes)?),
        _ => Values::F64(numbers(path, &bytes, f64::from_be_bytes)?),
    };
    Ok(Idx { dims, values })
}

/// Reads the header behind the first four bytes, `magic`. Returns the type and the axes.
pub(super) fn header(path: &Path, magic: Vec<u8>, mut next: impl FnMut(u64) -> Result<Vec<u8>>) -> Result<(u8, Vec<usize>)> {
    let bad = |why: String| Err(Error::format(path, why));
    let [zero, zero2, kind, axes] = match magic[..] {
        [a, b, c, d] => [a, b, c, d],
        _ => return bad(format!("truncated: {} bytes, but the magic number of an IDX file alone takes 4", magic.len())),
    };
    if !matches!(([zero, zero2], kind), ([0, 0], 0x08 | 0x09 | 0x0B..=0x0E)) {
        return bad(format!("not an IDX file: it starts with {magic:02x?}, not with [00, 00, type 08 to 0e, axes]"));
    }
    if axes == 0 {
        return bad("an IDX file of no axes".to_string());
    }
    let header = next(u64::from(axes) * 4)?;
    if header.len() < axes as usize * 4 {
        return bad(format!("truncated: {} bytes, but a header of {axes} axes takes {}", 4 + header.len(), 4 + axes as usize * 4));
    }
    Ok((kind, header.as_chunks().0.iter().map(|&b| u32::from_be_bytes(b) as usize).collect()))
}

/// Formats the axes, e.g. `[60000, 28, 28]`. A corrupt header may have 255 axes.
pub(super) fn shown(dims: &[usize]) -> String {
    match dims.get(..8) {
        Some(first) if dims.len() > 8 => format!("{first:?} and {} more axes", dims.len() - 8),
        _ => format!("{dims:?}"),
    }
}

fn numbers<T, const N: usize>(path: &Path, bytes: &[u8], of: fn([u8; N]) -> T) -> Result<Vec<T>> {
    let (bytes, _) = bytes.as_chunks();
    let mut numbers = file::room(path, bytes.len())?;
    numbers.extend(bytes.iter().map(|&b| of(b)));
    Ok(numbers)
}

/// Reads a file of samples `[n, …]` and a file of their labels `[n]`. Without `classes`, the number of classes is the largest
/// label plus one.
///
/// Images `[n, height, width]` become samples `[1, height, width]`. Bytes stay bytes, scaled to 0..1. Other numbers become
/// floats. Without `classes`, a class without any sample is reported through [`log`], together with the row of the suspicious
/// label.
///
/// # Errors
/// The errors of [`read`] and of [`Dataset::new`]. [`Error::Format`] if the two files have different lengths, or if `classes`
/// is not given and more than half of the classes up to the largest label have no sample.
pub fn dataset(samples: impl AsRef<Path>, labels: impl AsRef<Path>, classes: Option<usize>) -> Result<Dataset> {
    let values = read_labels(labels.as_ref())?;
    let classes = match classes {
        Some(classes) => classes,
        None => infer(&[(labels.as_ref(), &values)], 0)?,
    };
    labelled(samples.as_ref(), labels.as_ref(), values, classes)
}

/// Reads a file of samples and adds the labels `values`, which came from the file `labels`.
pub(super) fn labelled(path: &Path, labels: &Path, values: Vec<u32>, classes: usize) -> Result<Dataset> {
    let samples = read(path)?;
    if samples.dims[0] != values.len() {
        let why = format!("{} labels, but {} has {} samples", values.len(), path.display(), samples.dims[0]);
        return Err(Error::format(labels, why));
    }
    if values.is_empty() {
        return Err(Error::format(path, format!("{} holds no samples", shown(&samples.dims))));
    }
    let sample = match samples.dims[1..] {
        [height, width] => Some(Shape::from([1, height, width])),
        ref dims => Shape::new(dims),
    };
    let sample = sample
        .filter(|s| s.rank() < MAX_RANK && s.elements() > 0)
        .ok_or_else(|| Error::format(path, format!("{} holds empty samples, or samples of too many axes", shown(&samples.dims))))?;
    let target = Target::labels(values, classes);
    let x = match samples.values {
        Values::U8(bytes) => return Dataset::bytes(bytes, sample, 1.0 / 255.0, target),
        Values::F32(x) => x,
        Values::I8(v) => floats(path, v, f32::from)?,
        Values::I16(v) => floats(path, v, f32::from)?,
        Values::I32(v) => floats(path, v, |x| x as f32)?,
        Values::F64(v) => floats(path, v, |x| x as f32)?,
    };
    Dataset::new(x, sample, target)
}

fn floats<T>(path: &Path, values: Vec<T>, of: impl Fn(T) -> f32) -> Result<Vec<f32>> {
    let mut floats = file::room(path, values.len())?;
    floats.extend(values.into_iter().map(of));
    Ok(floats)
}

/// Reads one class for each sample.
pub(super) fn read_labels(path: &Path) -> Result<Vec<u32>> {
    let idx = read(path)?;
    if idx.dims.len() != 1 {
        return Err(Error::format(path, format!("labels must be one number a sample, [n], not {}", shown(&idx.dims))));
    }
    let label = |(row, x): (usize, f64)| match x >= 0.0 && x.fract() == 0.0 && x < u32::MAX as f64 {
        true => Ok(x as u32),
        false => Err(Error::format(path, format!("label {x} in row {row} is not a class (0, 1, …)"))),
    };
    idx.values.to_f64().into_iter().enumerate().map(label).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::{fs, io::Write, path::PathBuf};

    pub fn idx(kind: u8, dims: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, kind, dims.len() as u8];
        dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    }

    fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn every_type_gzipped_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            (0x08, vec![1, 2, 255, 4], Values::U8(vec![1, 2, 255, 4])),
            (0x09, vec![1, 2, 255, 128], Values::I8(vec![1, 2, -1, -128])),
            (0x0B, vec![1, 0, 255, 254, 0, 3, 0, 4], Values::I16(vec![256, -2, 3, 4])),
            (0x0C, [7i32, -8, i32::MAX, 1].iter().flat_map(|x| x.to_be_bytes()).collect(), Values::I32(vec![7, -8, i32::MAX, 1])),
            (0x0D, [0.5f32, -1.25, 3e38, 0.1].iter().flat_map(|x| x.to_be_bytes()).collect(), Values::F32(vec![0.5, -1.25, 3e38, 0.1])),
            (0x0E, [0.5f64, -1e300, 0.1, 2.0].iter().flat_map(|x| x.to_be_bytes()).collect(), Values::F64(vec![0.5, -1e300, 0.1, 2.0])),
        ];
        for (kind, data, values) in cases {
            let bytes = idx(kind, &[2, 2], &data);
            for bytes in [bytes.clone(), gzip(&bytes)] {
                assert_eq!(read(write(&dir, "x", &bytes)).unwrap(), Idx { dims: vec![2, 2], values: values.clone() });
            }
        }
    }

    #[test]
    fn bad_files_are_refused_by_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let good = idx(0x08, &[2, 3], &[1, 2, 3, 4, 5, 6]);
        let packed = gzip(&good);
        let mut flipped = packed.clone();
        let end = flipped.len() - 6; // inside the checksum
        flipped[end] ^= 1;
        let mut trailing_gzip = packed.clone();
        trailing_gzip.extend(b"junk");
        for (bytes, want) in [
            (good[..17].to_vec(), "truncated: 17 bytes, but [2, 3] takes 18"),
            (good[..9].to_vec(), "truncated: 9 bytes, but a header of 2 axes takes 12"),
            (good[..3].to_vec(), "truncated: 3 bytes"),
            (vec![], "truncated: 0 bytes"),
            (gzip(&good[..17]), "truncated: 17 bytes, but [2, 3] takes 18"),
            ([&good[..], &[0]].concat(), "trailing bytes: [2, 3] takes 18 bytes, and more follow"),
            (b"\x89PNG....".to_vec(), "not an IDX file: it starts with [89, 50, 4e, 47]"),
            (idx(0x0A, &[1], &[1]), "not an IDX file"),
            (vec![0, 0, 8, 0, 1], "no axes"),
            (idx(0x08, &[u32::MAX, u32::MAX, u32::MAX], &[1]), "which no memory holds"),
            (idx(0x0E, &[u32::MAX, u32::MAX / 4], &[1]), "which no memory holds"),
            (idx(0x08, &[9; 255], &[1]), "its header says [9, 9, 9, 9, 9, 9, 9, 9] and 247 more axes, which no memory holds"),
            (idx(0x08, &[u32::MAX, 1 << 20], &[1]), "truncated: 13 bytes"), // The header announces 4 PiB; nothing of this is allocated.
            (packed[..packed.len() / 2].to_vec(), "corrupt gzip"),
            (packed[..packed.len() - 1].to_vec(), "corrupt gzip"),
            (flipped, "corrupt gzip"),
            (trailing_gzip, "corrupt gzip"),
            (vec![0x1f, 0x8b, 9, 9, 9], "corrupt gzip"),
        ] {
            let path = write(&dir, "bad", &bytes);
            let e = read(&path).unwrap_err();
            assert!(matches!(&e, Error::Format { path: p, .. } if *p == path) && e.to_string().contains(want), "{want}: {e}");
        }
        let missing = dir.path().join("missing");
        let e = read(&missing).unwrap_err();
        assert!(matches!(&e, Error::File { path, .. } if *path == missing) && e.to_string().contains("missing: "), "{e}");
        assert!(matches!(read(dir.path()).unwrap_err(), Error::File { .. }), "a folder");
    }

    #[test]
    fn samples_and_labels_make_a_dataset() {
        let dir = tempfile::tempdir().unwrap();
        let images = write(&dir, "images", &idx(0x08, &[3, 1, 2], &[0, 255, 51, 0, 0, 102]));
        let labels = write(&dir, "labels", &gzip(&idx(0x08, &[3], &[2, 0, 1])));
        let data = dataset(&images, &labels, None).unwrap();
        assert_eq!((data.sample_shape(), data.labels(), data.classes()), (Shape::from([1, 1, 2]), &[2, 0, 1][..], 3));
        assert_eq!(data.features().at(1), 1.0);
        assert_eq!(dataset(&images, &labels, Some(10)).unwrap().classes(), 10);
        assert!(matches!(dataset(&images, &labels, Some(2)).unwrap_err(), Error::Label { row: 0, label: 2, classes: 2 }));

        let floats: Vec<u8> = [1.5f32, -2.5, f32::NAN].iter().flat_map(|x| x.to_be_bytes()).collect();
        let table = write(&dir, "table", &idx(0x0D, &[2, 1], &floats[..8]));
        let two = write(&dir, "two", &idx(0x0C, &[2], &[0, 0, 0, 0, 0, 0, 0, 1]));
        let data = dataset(&table, &two, None).unwrap();
        assert_eq!((data.sample_shape(), data.features().at(1)), (Shape::from([1]), -2.5));
        let nan = write(&dir, "nan", &idx(0x0D, &[1, 3], &floats));
        let one = write(&dir, "one", &idx(0x08, &[1], &[0]));
        assert!(matches!(dataset(&nan, &one, None).unwrap_err(), Error::NonFinite { row: 0, column: 2, .. }));

        let format = |samples: &Path, labels: &Path, want: &str| {
            let e = dataset(samples, labels, None).unwrap_err();
            assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(want), "{want}: {e}");
        };
        format(&images, &two, "2 labels, but ");
        format(&images, &images, "labels must be one number a sample, [n], not [3, 1, 2]");
        format(&one, &write(&dir, "minus", &idx(0x09, &[1], &[255])), "label -1 in row 0 is not a class");
        let nothing = write(&dir, "no labels", &idx(0x08, &[0], &[]));
        format(&write(&dir, "none", &idx(0x08, &[0, u32::MAX, u32::MAX, u32::MAX], &[])), &nothing, "no samples");
        format(&write(&dir, "empty", &idx(0x08, &[1, 0], &[])), &one, "empty samples");
        format(&write(&dir, "deep", &idx(0x08, &[1; 8], &[1])), &one, "too many axes");
    }
}
