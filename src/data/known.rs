//! Real data that ships with the crate. `data/README.md` names its sources.

use super::{Column, Csv, Dataset, Target, Text};
use flate2::read::MultiGzDecoder;
use std::io::Read;

const SHIPPED: &str = "ships with the crate, and the tests read it";

/// Handwritten digits: 1,797 images of 8 × 8 pixels in 10 classes (Alpaydin & Kaynak 1998). Samples are `[64]`, bytes of 0 to
/// 16 scaled to 0..1. `reshape([1, 8, 8])` turns them into images. The rows have the order of the source: different people
/// wrote the first and the last rows. So shuffle before splitting, as [`Dataset::split`] does.
///
/// ```
/// let digits = downhill::data::digits();
/// assert_eq!((digits.len(), digits.classes(), digits.sample_shape().dims()), (1797, 10, &[64][..]));
/// ```
pub fn digits() -> Dataset {
    let table = parse(&Csv::new("digits.csv.gz").labels(Column::Last), &unpack(include_bytes!("../../data/digits.csv.gz")));
    let pixels = (0..table.features().len()).map(|i| table.features().at(i) as u8).collect();
    Dataset::bytes(pixels, table.sample_shape(), 1.0 / 16.0, table.target()).expect(SHIPPED)
}

/// Iris flowers: 150 rows with 4 lengths in cm, in 3 classes (Fisher 1936).
pub fn iris() -> Dataset {
    titled("iris.csv", include_bytes!("../../data/iris.csv"))
}

/// Breast cancer, Wisconsin: 569 rows with 30 features. Class 0 is malignant and class 1 is benign (Wolberg et al. 1995).
pub fn breast_cancer() -> Dataset {
    titled("breast_cancer.csv", include_bytes!("../../data/breast_cancer.csv"))
}

/// Diabetes: 442 patients with 10 features (age, sex, body mass index, blood pressure, six blood serum measurements). The
/// target `[1]` is the progression of the disease after one year, 25 to 346 (Efron, Hastie, Johnstone & Tibshirani 2004).
pub fn diabetes() -> Dataset {
    let spaced = |name: &str, gz: &[u8]| parse(&Csv::new(name).delimiter(' '), &unpack(gz));
    let x = spaced("diabetes_data_raw.csv.gz", include_bytes!("../../data/diabetes_data_raw.csv.gz"));
    let y = spaced("diabetes_target.csv.gz", include_bytes!("../../data/diabetes_target.csv.gz"));
    let target = Target::values([1], (0..y.len()).map(|i| y.features().at(i)).collect());
    Dataset::with(x.features().clone(), x.sample_shape(), target).expect(SHIPPED)
}

/// Genesis, the first book of the Bible in the King James Version of 1611. It has 196,818 characters, 60 different ones, and
/// one verse in each line.
///
/// ```
/// let text = downhill::data::genesis();
/// assert_eq!(text.decode(&text.tokens()[..24])?, "In the beginning God cre");
/// # Ok::<(), downhill::Error>(())
/// ```
pub fn genesis() -> Text {
    let text = String::from_utf8(unpack(include_bytes!("../../data/genesis.txt.gz"))).expect(SHIPPED);
    Text::new(&text).expect(SHIPPED)
}

/// Parses a table whose first line is `rows,features,class names…` and whose last column is the class.
fn titled(name: &str, bytes: &[u8]) -> Dataset {
    let end = bytes.iter().position(|&b| b == b'\n').expect(SHIPPED);
    let title = std::str::from_utf8(&bytes[..end]).expect(SHIPPED);
    let names: Vec<&str> = title.trim_end().split(',').skip(2).collect();
    parse(&Csv::new(name).labels(Column::Last), &bytes[end + 1..]).with_class_names(&names).expect(SHIPPED)
}

fn parse(csv: &Csv, bytes: &[u8]) -> Dataset {
    csv.parse(std::str::from_utf8(bytes).expect(SHIPPED)).expect(SHIPPED)
}

fn unpack(gz: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(gz).read_to_end(&mut bytes).expect(SHIPPED);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Features, Normalise};

    fn counts(data: &Dataset) -> Vec<usize> {
        (0..data.classes() as u32).map(|c| data.labels().iter().filter(|&&l| l == c).count()).collect()
    }

    #[test]
    fn the_shipped_data_is_what_its_sources_say() {
        let d = digits();
        assert_eq!((d.len(), d.sample_shape().dims()), (1797, &[64][..]));
        assert_eq!(counts(&d), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert!(matches!(d.features(), Features::Bytes { data, .. } if data.iter().max() == Some(&16)));
        assert_eq!((d.features().at(2), d.labels()[..3].to_vec()), (5.0 / 16.0, vec![0, 1, 2]));

        let i = iris();
        assert_eq!((i.len(), i.sample_shape().dims(), counts(&i)), (150, &[4][..], vec![50; 3]));
        assert_eq!(i.class_names(), ["setosa", "versicolor", "virginica"]);
        // The means of Fisher's table (sepal length and width, petal length and width).
        let mean = Normalise::features(&i).mean;
        assert!(mean.iter().zip([5.8433, 3.0573, 3.758, 1.1993]).all(|(m, want)| (m - want).abs() < 5e-5), "{mean:?}");

        let b = breast_cancer();
        assert_eq!((b.len(), b.sample_shape().dims(), counts(&b)), (569, &[30][..], vec![212, 357]));
        assert_eq!(b.class_names(), ["malignant", "benign"]);

        // Genesis has 50 chapters with 1,533 verses together.
        let g = genesis();
        let verses = g.decode(g.tokens()).unwrap();
        assert_eq!((verses.lines().count(), verses.len(), g.vocabulary().len()), (1533, 196_818, 60));
        assert!(verses.ends_with("and he was put in a coffin in Egypt.\n"));

        let d = diabetes();
        assert_eq!((d.len(), d.sample_shape().dims(), d.features().at(2)), (442, &[10][..], 32.1));
        let y = Normalise::targets(&d).unwrap();
        assert!((y.mean[0] - 152.1335).abs() < 5e-5, "{y:?}");
    }
}
