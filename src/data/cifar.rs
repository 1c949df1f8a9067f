//! CIFAR-10 in its binary version: six files of records. A record has a label and the bytes of an image.

use super::{Dataset, Target, file};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const TRAIN: [&str; 5] = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: &str = "test_batch.bin";
const NAMES: &str = "batches.meta.txt";
/// The name of the folder in the archive.
const INNER: &str = "cifar-10-batches-bin";
const CLASSES: usize = 10;
/// The shape of an image: planes of red, green and blue, row by row.
const SAMPLE: [usize; 3] = [3, 32, 32];
const RECORD: usize = 1 + 3 * 32 * 32;

/// Reads the training part and the test part of CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour images of ten classes.
/// Samples are `[3, 32, 32]`, scaled to 0..1.
///
/// `name` is a folder or the name of a data set. The folder contains the files of the binary version: `data_batch_1.bin` to
/// `data_batch_5.bin`, `test_batch.bin`, and `batches.meta.txt` with the names of the classes. It may also contain the folder
/// `cifar-10-batches-bin` of the archive. A name such as `cifar-10` is searched in the folders in which
/// [`mnist`](super::mnist) searches.
///
/// # Errors
/// [`Error::NoData`] if no folder contains CIFAR-10. The error lists the searched folders and says how to get the data.
/// [`Error::File`] if one of the six files is missing or larger than [`with_read_limit`](super::with_read_limit) allows.
/// [`Error::Format`] if a file does not consist of whole records or has a label above 9.
pub fn cifar10(name: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    load(name.as_ref(), &file::roots())
}

fn load(name: &Path, roots: &[PathBuf]) -> Result<(Dataset, Dataset)> {
    let looked: Vec<PathBuf> = file::places(name, roots).into_iter().flat_map(|place| [place.join(INNER), place]).collect();
    let Some(folder) = looked.iter().find(|f| TRAIN.iter().chain([&TEST]).any(|file| f.join(file).is_file())) else {
        let advice = format!("Download its binary version (cifar-10-binary.tar.gz), unpack it and give that folder, which holds {INNER}");
        return Err(Error::NoData { name: name.display().to_string(), looked, advice });
    };
    let names = class_names(&folder.join(NAMES))?;
    let part = |files: &[&str]| {
        let (mut labels, mut pixels) = (Vec::new(), Vec::new());
        for file in files {
            records(&folder.join(file), &mut labels, &mut pixels)?;
        }
        let data = Dataset::bytes(pixels, SAMPLE, 1.0 / 255.0, Target::labels(labels, CLASSES))?;
        match names.is_empty() {
            true => Ok(data),
            false => data.with_class_names(&names.iter().map(String::as_str).collect::<Vec<_>>()),
        }
    };
    Ok((part(&TRAIN)?, part(&[TEST])?))
}

/// Appends the records of a file.
fn records(path: &Path, labels: &mut Vec<u32>, pixels: &mut Vec<u8>) -> Result<()> {
    let bytes = file::open(path)?.rest()?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        let why = format!("{} bytes are not whole records of {RECORD}: truncated, or not CIFAR-10's binary version", bytes.len());
        return Err(Error::format(path, why));
    }
    pixels.try_reserve(bytes.len()).map_err(|_| file::no_memory(path, bytes.len()))?;
    for (k, record) in bytes.chunks_exact(RECORD).enumerate() {
        if record[0] as usize >= CLASSES {
            return Err(Error::format(
                path,
                format!("record {k}, from 0, has the label {}, which should be 0 to {}", record[0], CLASSES - 1),
            ));
        }
        labels.push(record[0].into());
        pixels.extend_from_slice(&record[1..]);
    }
    Ok(())
}

/// Reads the names of the classes, one in each line. Returns none if there is no such file.
fn class_names(path: &Path) -> Result<Vec<String>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&file::open(path)?.rest()?).into_owned();
    let names: Vec<String> = text.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()).collect();
    match names.len() {
        CLASSES => Ok(names),
        n => Err(Error::format(path, format!("{n} names of classes instead of {CLASSES}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;
    use std::fs;

    /// A record whose planes start with `label`, 100 and 200. All other bytes are `label`.
    fn record(label: u8) -> Vec<u8> {
        let mut bytes = vec![label; RECORD];
        (bytes[1 + 32 * 32], bytes[1 + 2 * 32 * 32]) = (100, 200);
        bytes
    }

    /// Writes one record into each file, but two records into the second file.
    fn write(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (k, name) in TRAIN.iter().enumerate() {
            let more = if k == 1 { record(9) } else { Vec::new() };
            fs::write(folder.join(name), [record(k as u8), more].concat()).unwrap();
        }
        fs::write(folder.join(TEST), record(7)).unwrap();
    }

    #[test]
    fn reads_records_from_a_folder_or_by_name() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("root/cifar-10").join(INNER));
        let by_name = load(Path::new("cifar-10"), &["/nowhere".into(), dir.path().join("root")]).unwrap();
        for folder in ["root/cifar-10", "root/cifar-10/cifar-10-batches-bin"] {
            assert_eq!(load(&dir.path().join(folder), &[]).unwrap(), by_name);
        }
        let (train, test) = by_name;
        assert_eq!((train.len(), test.len(), train.sample_shape()), (6, 1, Shape::from(SAMPLE)));
        assert_eq!((train.labels(), test.labels()), (&[0, 1, 9, 2, 3, 4][..], &[7][..]));
        assert_eq!((train.classes(), test.classes(), train.class_names().len()), (10, 10, 0));
        // The first pixel of each plane of sample 2, and its last pixel.
        let at = |i: usize| train.features().at(2 * 3072 + i);
        assert_eq!([at(0), at(1024), at(2048), at(3071)], [9.0, 100.0, 200.0, 9.0].map(|x| x * (1.0f32 / 255.0)));
    }

    #[test]
    fn names_come_from_the_file_of_names() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
        fs::write(dir.path().join(NAMES), names.join("\n") + "\n\n").unwrap();
        let (train, test) = load(dir.path(), &[]).unwrap();
        assert_eq!((train.class_names(), test.class_name(7)), (&names.map(String::from)[..], "horse".to_string()));
        fs::write(dir.path().join(NAMES), "cat\ndog\n").unwrap();
        let e = load(dir.path(), &[]).unwrap_err();
        assert!(matches!(&e, Error::Format { path, .. } if path.ends_with(NAMES)), "{e}");
        assert!(e.to_string().ends_with("2 names of classes instead of 10"), "{e}");
    }

    #[test]
    fn says_where_it_looked_and_how_to_get_it() {
        let e = load(Path::new("cifar-10"), &["/nowhere".into()]).unwrap_err();
        let Error::NoData { looked, .. } = &e else { panic!("{e}") };
        let places = ["cifar-10/cifar-10-batches-bin", "cifar-10", "/nowhere/cifar-10/cifar-10-batches-bin", "/nowhere/cifar-10"];
        assert_eq!(*looked, places.map(PathBuf::from));
        assert!(e.to_string().contains("cifar-10-binary.tar.gz"), "{e}");
    }

    #[test]
    fn a_missing_truncated_or_wrong_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        let refused = |name: &str, bytes: &[u8], why: &str| {
            fs::write(dir.path().join(name), bytes).unwrap();
            let e = load(dir.path(), &[]).unwrap_err();
            assert!(matches!(&e, Error::Format { path, .. } if path.ends_with(name)), "{e}");
            assert!(e.to_string().contains(why), "{e}");
            write(dir.path());
        };
        refused(TEST, &record(7)[1..], "3072 bytes are not whole records of 3073: truncated, or not");
        refused(TRAIN[3], &[], "0 bytes are not whole records of 3073");
        refused(TRAIN[2], &[record(0), record(10)].concat(), "record 1, from 0, has the label 10, which should be 0 to 9");
        fs::remove_file(dir.path().join(TRAIN[4])).unwrap();
        let e = load(dir.path(), &[]).unwrap_err();
        assert!(matches!(&e, Error::File { path, .. } if path.ends_with(TRAIN[4])), "{e}");
    }
}
