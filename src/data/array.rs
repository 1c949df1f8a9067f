//! Arrays in files whose rows are read when a batch needs them: IDX, npy and plain numbers.

use super::{Source, file::Reads, idx};
use crate::{
    error::{Error, Result},
    shape::{MAX_RANK, Shape},
};
use std::path::Path;

/// The type of a number in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
}

impl Number {
    fn bytes(self) -> usize {
        match self {
            Number::Bool | Number::U8 | Number::I8 => 1,
            Number::U16 | Number::I16 | Number::F16 => 2,
            Number::U32 | Number::I32 | Number::F32 => 4,
            Number::U64 | Number::I64 | Number::F64 => 8,
        }
    }
    fn is_whole(self) -> bool {
        !matches!(self, Number::F16 | Number::F32 | Number::F64)
    }
    /// Reads NumPy's name of a type without the byte order, such as `f4`.
    fn named(name: &str) -> Option<Number> {
        Some(match name {
            "b1" => Number::Bool,
            "u1" => Number::U8,
            "i1" => Number::I8,
            "u2" => Number::U16,
            "i2" => Number::I16,
            "u4" => Number::U32,
            "i4" => Number::I32,
            "u8" => Number::U64,
            "i8" => Number::I64,
            "f2" => Number::F16,
            "f4" => Number::F32,
            "f8" => Number::F64,
            _ => return None,
        })
    }
    fn of_idx(kind: u8) -> Option<Number> {
        Some(match kind {
            0x08 => Number::U8,
            0x09 => Number::I8,
            0x0B => Number::I16,
            0x0C => Number::I32,
            0x0D => Number::F32,
            0x0E => Number::F64,
            _ => return None,
        })
    }
    /// Converts the numbers in `bytes`.
    fn convert<T>(self, big: bool, bytes: &[u8], out: &mut [T], of: impl Fn(f64) -> T) {
        fn each<const N: usize, T>(bytes: &[u8], out: &mut [T], of: impl Fn([u8; N]) -> T) {
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, &b)| *x = of(b));
        }
        macro_rules! number {
            ($t:ty) => {
                match big {
                    true => each(bytes, out, |b| of(<$t>::from_be_bytes(b) as f64)),
                    false => each(bytes, out, |b| of(<$t>::from_le_bytes(b) as f64)),
                }
            };
        }
        match self {
            Number::Bool => each(bytes, out, |b: [u8; 1]| of(f64::from(u8::from(b[0] != 0)))),
            Number::U8 => number!(u8),
            Number::I8 => number!(i8),
            Number::U16 => number!(u16),
            Number::I16 => number!(i16),
            Number::U32 => number!(u32),
            Number::I32 => number!(i32),
            Number::U64 => number!(u64),
            Number::I64 => number!(i64),
            Number::F16 => each(bytes, out, |b| {
                let bits = if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) };
                of(half::f16::from_bits(bits).to_f64())
            }),
            Number::F32 => number!(f32),
            Number::F64 => number!(f64),
        }
    }
}

/// The type, the byte order and the axes of an array, and the byte where its numbers begin.
pub(super) struct Header {
    pub number: Number,
    pub big: bool,
    pub dims: Vec<usize>,
    pub start: u64,
}

/// Returns the number of bytes of the numbers. `None` if no memory holds them.
fn size(number: Number, dims: &[usize]) -> Option<u64> {
    let count = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
    count.checked_mul(number.bytes() as u64).filter(|&n| n < isize::MAX as u64)
}

/// Parses the text of an npy header, a dictionary of Python. Returns the type, the byte order and the axes.
fn npy(text: &str) -> std::result::Result<(Number, bool, Vec<usize>), String> {
    let value = |key: &str| -> std::result::Result<&str, String> {
        let missing = || format!("its header has no '{key}'");
        let (_, rest) = text.split_once(&format!("'{key}'")).ok_or_else(missing)?;
        Ok(rest.trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start())
    };
    let descr = value("descr")?;
    let name = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\''));
    let (order, name) = match name {
        Some((name, _)) if name.is_char_boundary(1) && !name.is_empty() => name.split_at(1),
        _ => return Err("its numbers are records of several types; save a plain array".to_string()),
    };
    let number = Number::named(name).filter(|_| "<>|=".contains(order));
    let number = number.ok_or_else(|| format!("its numbers have the type `{order}{name}`; save them as float32, or as whole numbers"))?;
    let shape = value("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let (axes, _) = shape.ok_or("its header has no shape")?;
    let axis = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("`{:.40}` is not the size of an axis", text.trim()));
    let dims: Vec<usize> = axes.split(',').filter(|text| !text.trim().is_empty()).map(axis).collect::<std::result::Result<_, _>>()?;
    if value("fortran_order")?.starts_with("True") && dims.iter().filter(|&&d| d > 1).count() > 1 {
        return Err("its rows are not stored one after the other (fortran_order); save numpy.ascontiguousarray of it".to_string());
    }
    Ok((number, order == ">", dims))
}

/// An array `[n, …]` in a file, whose rows are read when a batch needs them. The file may be larger than the memory.
///
/// [`open`](ArrayFile::open) reads IDX, the format of MNIST, and npy, the format of `numpy.save`. The file must not be gzipped,
/// because a gzip can only be read from its beginning. The rows are read from the places where they lie, and the operating
/// system keeps the parts of the file that were read in free memory. If the file is cut short or changes its length while it
/// is in use, reading is an error.
///
/// ```
/// use downhill::data::{ArrayFile, Dataset, Field};
/// # let folder = tempfile::tempdir().unwrap();
/// # let (images, labels) = (folder.path().join("images.npy"), folder.path().join("labels.npy"));
/// # let npy = |path: &std::path::Path, dims: &str, bytes: &[u8]| {
/// #     let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {dims}, }}");
/// #     std::fs::write(path, [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), bytes].concat()).unwrap();
/// # };
/// # npy(&images, "(3, 1, 2)", &[0, 255, 255, 0, 0, 0]);
/// # npy(&labels, "(3,)", &[1, 0, 1]);
/// // Three images of one channel, one line and two pixels.
/// let images = ArrayFile::open(images)?.scaled(1.0 / 255.0);
/// let labels = ArrayFile::open(labels)?.labels()?;
/// let data = Dataset::of([Field::source("x", [1, 1, 2], images), Field::labels("y", labels, 2)])?;
/// let (x, y) = data.batch(&[2, 1])?;
/// assert_eq!((x.f(), y.u()), (&[0.0, 0.0, 1.0, 0.0][..], &[1, 0][..]));
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Debug)]
pub struct ArrayFile {
    file: Reads,
    header: Header,
    scale: f64,
    /// The number of elements of a row.
    width: usize,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?} of {:?}", self.dims, self.number)
    }
}

/// The most bytes that are read at once.
const MOST: usize = 4 << 20;

impl ArrayFile {
    /// Opens a file in the format IDX or npy. The content tells the format, not the name.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read. [`Error::Format`] if it is neither IDX nor npy, has no rows, is gzipped, has
    /// numbers of another type, or is shorter or longer than its header says.
    pub fn open(path: impl AsRef<Path>) -> Result<ArrayFile> {
        let path = path.as_ref();
        let file = Reads::open(path)?;
        let bad = |why: String| Error::format(path, why);
        let mut at = 0;
        let mut next = |count: u64| {
            let mut bytes = vec![0; count.min(file.len() - at) as usize];
            file.read(at, &mut bytes)?;
            at += bytes.len() as u64;
            Ok(bytes)
        };
        let magic: Vec<u8> = next(4)?;
        let header = if magic == b"\x93NUM" {
            let rest = next(4)?;
            let wide = match rest[..] {
                [b'P', b'Y', 1, _] => false,
                [b'P', b'Y', 2 | 3, _] => true,
                _ => return Err(bad("not an npy file of version 1, 2 or 3".into())),
            };
            let length = next(if wide { 4 } else { 2 })?.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
            let text = next(length)?;
            let (number, big, dims) = npy(&String::from_utf8_lossy(&text)).map_err(bad)?;
            Header { number, big, dims, start: at }
        } else if magic.starts_with(&[0x1f, 0x8b]) {
            return Err(bad("it is gzipped, and a gzip can only be read from its beginning: unpack it first".into()));
        } else {
            let (kind, dims) = idx::header(path, magic, next)?;
            let number = Number::of_idx(kind).expect("idx::header checks the type");
            let start = 4 + 4 * dims.len() as u64;
            Header { number, big: true, dims, start }
        };
        ArrayFile::of(path, file, header)
    }
    /// Opens a file that has numbers alone, in little-endian order.
    pub(super) fn plain(path: &Path, number: Number) -> Result<ArrayFile> {
        let file = Reads::open(path)?;
        let (len, each) = (file.len(), number.bytes());
        if !len.is_multiple_of(each as u64) {
            return Err(Error::format(path, format!("{len} bytes are no whole numbers of {each} bytes")));
        }
        let dims = vec![(len / each as u64) as usize];
        ArrayFile::of(path, file, Header { number, big: false, dims, start: 0 })
    }
    fn of(path: &Path, file: Reads, header: Header) -> Result<ArrayFile> {
        let (dims, shown) = (&header.dims, idx::shown(&header.dims));
        let Some(want) = size(header.number, dims).and_then(|n| n.checked_add(header.start)) else {
            return Err(Error::format(path, format!("its header says {shown}, which no memory holds")));
        };
        let len = file.len();
        if len != want {
            let what = if len < want { "truncated" } else { "trailing bytes" };
            return Err(Error::format(path, format!("{what}: {len} bytes, but {shown} takes {want}")));
        }
        match dims.split_first() {
            Some((&rows, sample)) if rows > 0 && sample.len() < MAX_RANK && !sample.contains(&0) => {
                let width = sample.iter().product();
                Ok(ArrayFile { file, header, scale: 1.0, width })
            }
            _ => Err(Error::format(path, format!("{shown} has no rows, or rows of too many axes"))),
        }
    }
    /// Sets the factor of each float that is read. 1/255 gives pixels in 0..1.
    pub fn scaled(self, scale: f32) -> ArrayFile {
        ArrayFile { scale: f64::from(scale), ..self }
    }
    /// Returns the number of rows, the size of the first axis.
    pub fn rows(&self) -> usize {
        self.header.dims[0]
    }
    /// Returns the shape of a row.
    pub fn sample(&self) -> Shape {
        Shape::from(&self.header.dims[1..])
    }
    /// Reads the whole file as labels, one for each row.
    ///
    /// # Errors
    /// [`Error::Format`] if the array has more than one axis, or names the row of a number that is no class. The errors of
    /// reading.
    pub fn labels(&self) -> Result<Vec<u32>> {
        if self.header.dims.len() != 1 {
            let why = format!("labels must be one number a sample, [n], not {}", idx::shown(&self.header.dims));
            return Err(Error::format(self.file.path(), why));
        }
        let mut labels = vec![0; self.rows()];
        self.tokens(0, &mut labels)?;
        self.file.check()?;
        Ok(labels)
    }

    /// Reads the elements from `first` on.
    fn elements<T>(&self, first: usize, out: &mut [T], of: impl Fn(f64) -> T + Copy) -> Result<()> {
        let each = self.header.number.bytes();
        let mut bytes = vec![0; MOST.min(out.len() * each)];
        for (k, part) in out.chunks_mut((MOST / each).max(1)).enumerate() {
            let bytes = &mut bytes[..part.len() * each];
            let at = first + k * (MOST / each);
            self.file.read(self.header.start + (at * each) as u64, bytes)?;
            self.header.number.convert(self.header.big, bytes, part, of);
        }
        Ok(())
    }
    /// Reads the elements from `first` on as tokens or labels.
    pub(super) fn tokens(&self, first: usize, out: &mut [u32]) -> Result<()> {
        // No token has this value.
        const NONE: u32 = u32::MAX;
        let token = |x: f64| if x >= 0.0 && x.fract() == 0.0 && x < f64::from(NONE) { x as u32 } else { NONE };
        self.elements(first, out, token)?;
        let Some(i) = out.iter().position(|&x| x == NONE) else { return Ok(()) };
        let mut bad = [0.0];
        self.elements(first + i, &mut bad, |x| x)?;
        let place = (first + i) / self.width;
        Err(Error::format(self.file.path(), format!("{} in row {place} is not a class or a token (0, 1, …)", bad[0])))
    }
    /// Reads rows. Rows that follow each other in the file are read at once.
    fn each<T>(&self, rows: &[usize], out: &mut [T], read: impl Fn(usize, &mut [T]) -> Result<()>) -> Result<()> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.rows()) {
            return Err(Error::argument(format!("row {row}"), format!("the file has {} rows", self.rows())));
        }
        let (mut rest, mut out) = (rows, out);
        while let Some(&first) = rest.first() {
            let run = rest.iter().zip(first..).take_while(|&(&row, want)| row == want).count();
            let (now, later) = out.split_at_mut(run * self.width);
            read(first * self.width, now)?;
            (rest, out) = (&rest[run..], later);
        }
        self.file.check()
    }
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }
    /// Returns whether the numbers can be tokens.
    pub(super) fn is_whole(&self) -> bool {
        self.header.number.is_whole()
    }
    /// Returns whether the numbers are bytes, such as those of images.
    pub(super) fn is_bytes(&self) -> bool {
        self.header.number == Number::U8
    }
    /// Returns an error if the length of the file has changed.
    pub(super) fn check(&self) -> Result<()> {
        self.file.check()
    }
    /// Returns the number of elements of the array.
    pub(super) fn len(&self) -> usize {
        self.rows() * self.width
    }
    /// Returns the shape of the whole array. `None` if it has too many axes for a sample.
    pub(super) fn whole(&self) -> Option<Shape> {
        Shape::new(&self.header.dims).filter(|shape| shape.rank() < MAX_RANK)
    }
    /// Reads all numbers of the array as floats.
    pub(super) fn all(&self, out: &mut [f32]) -> Result<()> {
        let scale = self.scale;
        self.elements(0, out, |x| (x * scale) as f32)?;
        self.file.check()
    }
}

impl Source for ArrayFile {
    fn rows(&self) -> usize {
        self.rows()
    }
    fn read(&self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        let scale = self.scale;
        self.each(rows, out, |first, out| self.elements(first, out, |x| (x * scale) as f32))
    }
    fn width(&self) -> Option<usize> {
        Some(self.width)
    }
}

impl Source<u32> for ArrayFile {
    fn rows(&self) -> usize {
        self.rows()
    }
    fn read(&self, rows: &[usize], out: &mut [u32]) -> Result<()> {
        self.each(rows, out, |first, out| self.tokens(first, out))
    }
    fn width(&self) -> Option<usize> {
        Some(self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_npy() {
        let text =
            |descr: &str, order: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}   \n");
        for (descr, order, shape, want) in [
            ("'<f4'", "False", "(3, 2)", (Number::F32, false, vec![3, 2])),
            ("'>i8'", "False", "(7,)", (Number::I64, true, vec![7])),
            ("'|u1'", "True", "(1, 5)", (Number::U8, false, vec![1, 5])),
            ("'|b1'", "False", "()", (Number::Bool, false, vec![])),
            ("'<f2'", "False", "(2,1,1,)", (Number::F16, false, vec![2, 1, 1])),
        ] {
            assert_eq!(npy(&text(descr, order, shape)), Ok(want));
        }
        for (header, want) in [
            (text("[('a', '<f4')]", "False", "(3,)"), "records of several types"),
            (text("'<c8'", "False", "(3,)"), "type `<c8`"),
            (text("'<U5'", "False", "(3,)"), "type `<U5`"),
            (text("''", "False", "(3,)"), "records"),
            (text("'é4'", "False", "(3,)"), "e"),
            (text("'<f4'", "True", "(3, 2)"), "fortran_order"),
            (text("'<f4'", "False", "(3, x)"), "`x` is not the size"),
            (text("'<f4'", "False", "(-3,)"), "`-3` is not the size"),
            (text("'<f4'", "False", "3"), "no shape"),
            ("{'descr': '<f4', 'shape': (3,)}".to_string(), "no 'fortran_order'"),
            (String::new(), "no 'descr'"),
        ] {
            let why = npy(&header).unwrap_err();
            assert!(why.contains(want), "{header}: {why}");
        }
    }
}
