//! MNIST-style data sets: four IDX files in a folder.

use super::{Dataset, classes::infer, file, idx};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Reads the training part and the test part of an MNIST-style data set. Samples are `[1, height, width]`, scaled to 0..1.
///
/// `name` is a folder or the name of a data set. A folder contains the files `train-images-idx3-ubyte`,
/// `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`. The spelling `train-images.idx3-ubyte`
/// is also accepted, and each file may be gzipped. A name such as `fashion-mnist` is searched in `$DOWNHILL_DATA`, in
/// `downhill` in the user's cache folder, and in `/usr/share/datasets`, the data folder of Debian's packages.
///
/// # Errors
/// [`Error::NoData`] if no folder contains such a data set. The error lists the searched folders and says how to get the data
/// set. [`Error::File`] if one of the four files is missing. Also the errors of [`idx::dataset`], with one exception: in a
/// data set of up to ten classes, missing classes are no error.
pub fn mnist(name: impl AsRef<Path>) -> Result<(Dataset, Dataset)> {
    load(name.as_ref(), &file::roots())
}

fn load(name: &Path, roots: &[PathBuf]) -> Result<(Dataset, Dataset)> {
    let folder = find(name, roots)?;
    let part = |part: &str| {
        let (samples, labels) = (one_of(&folder, part, "images-idx3-ubyte")?, one_of(&folder, part, "labels-idx1-ubyte")?);
        let values = idx::read_labels(&labels)?;
        Ok((samples, labels, values))
    };
    let (train, test) = (part("train")?, part("t10k")?);
    // A class may be missing in one part by chance, and a small data set may not contain all ten digits. Both still count as
    // classes.
    let classes = infer(&[(&train.1, &train.2), (&test.1, &test.2)], DIGITS)?;
    let named = |(samples, labels, values): (PathBuf, PathBuf, Vec<u32>)| -> Result<(Dataset, PathBuf)> {
        let data = idx::labelled(&samples, &labels, values, classes)?;
        match folder.file_name().is_some_and(|f| f == "fashion-mnist") && classes == FASHION.len() {
            true => Ok((data.with_class_names(&FASHION)?, samples)),
            false => Ok((data, samples)),
        }
    };
    let ((train, _), (test, path)) = (named(train)?, named(test)?);
    if train.sample_shape() != test.sample_shape() {
        let why = format!("samples of {}, but those for training are {}", test.sample_shape(), train.sample_shape());
        return Err(Error::format(path, why));
    }
    Ok((train, test))
}

/// With at most this many classes, a data set may leave out any number of them.
const DIGITS: usize = 10;

const FASHION: [&str; 10] = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Returns the first of the folders that contains any file of such a data set.
fn find(name: &Path, roots: &[PathBuf]) -> Result<PathBuf> {
    let looked = file::places(name, roots);
    if let Some(folder) = looked.iter().find(|f| PARTS.iter().any(|(part, kind)| one_of(f, part, kind).is_ok())) {
        return Ok(folder.clone());
    }
    let files = PARTS.map(|(part, kind)| format!("{part}-{kind}")).join(", ");
    let package = match name == Path::new("fashion-mnist") {
        true => "On Debian or Ubuntu `apt install dataset-fashion-mnist` installs it; elsewhere ",
        false => "",
    };
    let verb = if package.is_empty() { "Download" } else { "download" };
    let advice = format!("{package}{verb} the four files {files} (gzipped or not) into a folder and give that (--data DIR)");
    Err(Error::NoData { name: name.display().to_string(), looked, advice })
}

const PARTS: [(&str, &str); 4] =
    [("train", "images-idx3-ubyte"), ("train", "labels-idx1-ubyte"), ("t10k", "images-idx3-ubyte"), ("t10k", "labels-idx1-ubyte")];

/// Finds a file such as `train-images-idx3-ubyte` in any of its spellings.
fn one_of(folder: &Path, part: &str, kind: &str) -> Result<PathBuf> {
    let dotted = kind.replace("-idx", ".idx");
    let names = [kind, &dotted].map(|kind| [format!("{part}-{kind}"), format!("{part}-{kind}.gz")]).concat();
    match names.iter().map(|n| folder.join(n)).find(|p| p.is_file()) {
        Some(path) => Ok(path),
        None => Err(Error::file(folder.join(&names[0]), format!("not found, nor as {}", names[1..].join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::idx::tests::{gzip, idx},
        *,
    };
    use crate::shape::Shape;
    use std::fs;

    /// Writes two training images and one test image. Each file name has another spelling.
    fn write(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
        put("train-images-idx3-ubyte", &idx(8, &[2, 2, 2], &[0, 255, 0, 0, 255, 0, 0, 0]));
        put("train-labels-idx1-ubyte.gz", &gzip(&idx(8, &[2], &[0, 1])));
        put("t10k-images.idx3-ubyte", &idx(8, &[1, 2, 2], &[0, 0, 0, 255]));
        put("t10k-labels.idx1-ubyte.gz", &gzip(&idx(8, &[1], &[9])));
    }

    #[test]
    fn reads_every_spelling_from_a_folder_or_by_name() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("second/fashion-mnist"));
        fs::create_dir_all(dir.path().join("first/fashion-mnist")).unwrap(); // exists, but contains no data set
        let by_name = load(Path::new("fashion-mnist"), &[dir.path().join("first"), dir.path().join("second")]).unwrap();
        let by_path = load(&dir.path().join("second/fashion-mnist"), &[]).unwrap();
        assert_eq!(by_name, by_path);
        let (train, test) = by_name;
        assert_eq!((train.len(), test.len(), train.sample_shape()), (2, 1, Shape::from([1, 2, 2])));
        assert_eq!((train.classes(), test.classes(), test.class_name(9)), (10, 10, "Ankle boot".to_string()));
        assert_eq!((train.features().at(1), test.labels()), (1.0, &[9][..]));
    }

    #[test]
    fn says_where_it_looked_and_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let e = load(Path::new("fashion-mnist"), &[dir.path().into(), "/nowhere".into()]).unwrap_err();
        let Error::NoData { looked, .. } = &e else { panic!("{e}") };
        assert_eq!(*looked, [PathBuf::from("fashion-mnist"), dir.path().join("fashion-mnist"), "/nowhere/fashion-mnist".into()]);
        assert!(e.to_string().contains("apt install dataset-fashion-mnist") && e.to_string().contains("--data DIR"), "{e}");
        // A path is not searched in other folders.
        let e = load(Path::new("some/dir"), &[dir.path().into()]).unwrap_err();
        assert!(matches!(&e, Error::NoData { looked, .. } if looked.len() == 1), "{e}");
        assert!(e.to_string().contains("t10k-labels-idx1-ubyte") && !e.to_string().contains("apt"), "{e}");
        assert!(matches!(load(Path::new(""), &[]).unwrap_err(), Error::NoData { .. }));
    }

    #[test]
    fn an_incomplete_or_inconsistent_set_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("set");
        write(&folder);
        fs::write(folder.join("t10k-images.idx3-ubyte"), idx(8, &[1, 3, 1], &[0, 0, 0])).unwrap();
        let e = load(&folder, &[]).unwrap_err();
        assert!(
            matches!(e, Error::Format { .. }) && e.to_string().contains("samples of [1, 3, 1], but those for training are [1, 2, 2]"),
            "{e}"
        );
        fs::write(folder.join("train-labels-idx1-ubyte.gz"), gzip(&idx(8, &[3], &[0, 1, 2]))).unwrap();
        let e = load(&folder, &[]).unwrap_err();
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains("3 labels, but") && e.to_string().contains("2 samples"), "{e}");
        fs::remove_file(folder.join("train-labels-idx1-ubyte.gz")).unwrap();
        let e = load(&folder, &[]).unwrap_err();
        assert!(matches!(&e, Error::File { path, .. } if path.ends_with("train-labels-idx1-ubyte")), "{e}");
        assert!(e.to_string().contains("nor as train-labels-idx1-ubyte.gz"), "{e}");
    }

    /// Reads the real data set, if Debian's package is installed.
    #[test]
    fn fashion_mnist() {
        if !Path::new("/usr/share/datasets/fashion-mnist").is_dir() {
            eprintln!("not run: the package dataset-fashion-mnist is not installed");
            return;
        }
        let (train, test) = load(Path::new("fashion-mnist"), &["/usr/share/datasets".into()]).unwrap();
        assert_eq!((train.len(), test.len(), train.sample_shape()), (60000, 10000, Shape::from([1, 28, 28])));
        assert_eq!(train.class_name(train.labels()[0]), "Ankle boot");
        for class in 0..10 {
            assert_eq!(train.labels().iter().filter(|&&l| l == class).count(), 6000);
        }
        let norm = crate::data::Normalise::overall(&train);
        // The well-known mean and standard deviation of this data set.
        assert!((norm.mean[0] - 0.2860).abs() < 5e-5 && (norm.std[0] - 0.3530).abs() < 5e-5, "{norm:?}");
    }
}
