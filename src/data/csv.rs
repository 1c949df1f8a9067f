//! Tables of numbers as text.

use super::{Dataset, Target, file};
use crate::error::{Error, Result};
use csv::{ReaderBuilder, StringRecord, Trim};
use std::path::PathBuf;

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Counted from 0.
    Index(usize),
    /// By its name in the header.
    Name(String),
    /// The last one of each row.
    Last,
}

impl From<usize> for Column {
    fn from(i: usize) -> Column {
        Column::Index(i)
    }
}
impl From<&str> for Column {
    fn from(name: &str) -> Column {
        Column::Name(name.to_string())
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    None,
    Labels(Column, Option<usize>),
    Values(Column),
}

/// Reads a table of numbers, gzipped or not (its content decides, not its name).
///
/// ```no_run
/// use downhill::data::Csv;
/// let houses = Csv::new("houses.csv").header().skip("id").values("price").read()?;
/// let wine = Csv::new("wine.csv.gz").delimiter(';').labels(0).read()?;
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Csv {
    path: PathBuf,
    header: bool,
    delimiter: char,
    skip: Vec<Column>,
    target: Kind,
}

impl Csv {
    /// A file without a header, fields separated by commas, all of them features. What differs is said by the methods.
    pub fn new(path: impl Into<PathBuf>) -> Csv {
        Csv { path: path.into(), header: false, delimiter: ',', skip: Vec::new(), target: Kind::None }
    }
    /// The first line has the names of the columns.
    pub fn header(self) -> Csv {
        Csv { header: true, ..self }
    }
    /// What separates fields: one ASCII character. A space stands for any run of spaces and tabs.
    pub fn delimiter(self, delimiter: char) -> Csv {
        Csv { delimiter, ..self }
    }
    /// Leaves a column out, such as a row's number.
    pub fn skip(mut self, column: impl Into<Column>) -> Csv {
        self.skip.push(column.into());
        self
    }
    /// That column is the class: 0, 1, … There are as many classes as the largest plus one, or as [`classes`](Csv::classes) says.
    pub fn labels(self, column: impl Into<Column>) -> Csv {
        Csv { target: Kind::Labels(column.into(), None), ..self }
    }
    /// How many classes there are, where the file may not show them all.
    pub fn classes(mut self, classes: usize) -> Csv {
        if let Kind::Labels(_, n) = &mut self.target {
            *n = Some(classes);
        }
        self
    }
    /// That column is the number to predict, as targets of shape `[1]`.
    pub fn values(self, column: impl Into<Column>) -> Csv {
        Csv { target: Kind::Values(column.into()), ..self }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read; [`Error::Format`], with line and column, where it is a corrupt gzip, not UTF-8, empty,
    /// has lines of different lengths, or a field that is no finite number or no class; [`Error::Label`] beyond
    /// [`classes`](Csv::classes); [`Error::Argument`] for a column that does not exist or a delimiter that cannot be one.
    pub fn read(&self) -> Result<Dataset> {
        self.parse(&file::open(&self.path)?.read(u64::MAX)?)
    }

    pub(super) fn parse(&self, bytes: &[u8]) -> Result<Dataset> {
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
            Error::format(&self.path, format!("line {line}: not UTF-8 text; save it as UTF-8"))
        })?;
        let mut table = Table {
            csv: self,
            text: text.trim_start_matches('\u{feff}'),
            names: None,
            columns: Vec::new(),
            x: Vec::new(),
            labels: Vec::new(),
            values: Vec::new(),
        };
        table.read()?;
        if table.x.is_empty() {
            return Err(Error::format(&self.path, "no rows of numbers in it"));
        }
        let target = match &self.target {
            Kind::None => Target::None,
            Kind::Labels(_, classes) => {
                let largest = table.labels.iter().max().map_or(0, |&m| m as usize);
                Target::labels(table.labels, classes.unwrap_or(largest + 1))
            }
            Kind::Values(_) => Target::values([1], table.values),
        };
        let width = table.columns.iter().filter(|r| **r == Role::Feature).count();
        Dataset::new(table.x, [width], target)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Feature,
    Skip,
    Label,
    Value,
}

/// What has been read so far.
struct Table<'a> {
    csv: &'a Csv,
    text: &'a str,
    names: Option<Vec<String>>,
    /// The role of each column, known from the first line on.
    columns: Vec<Role>,
    x: Vec<f32>,
    labels: Vec<u32>,
    values: Vec<f32>,
}

impl Table<'_> {
    fn read(&mut self) -> Result<()> {
        let (text, delimiter) = (self.text, self.csv.delimiter);
        if delimiter == ' ' {
            let mut start = 0;
            for line in text.split_inclusive('\n') {
                let fields: Vec<&str> = line.split_whitespace().collect();
                if !fields.is_empty() {
                    self.row(start, &fields)?;
                }
                start += line.len();
            }
            return Ok(());
        }
        if !delimiter.is_ascii() || delimiter == '"' || delimiter == '\n' || delimiter == '\r' {
            return Err(Error::argument("delimiter", format!("{delimiter:?} cannot separate fields; use one ASCII character")));
        }
        let mut builder = ReaderBuilder::new();
        let mut reader = builder.has_headers(false).flexible(true).trim(Trim::All).delimiter(delimiter as u8).from_reader(text.as_bytes());
        let mut record = StringRecord::new();
        while reader.read_record(&mut record).map_err(|e| Error::format(&self.csv.path, e))? {
            let start = record.position().map_or(0, |p| p.byte() as usize);
            self.row(start, &record.iter().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// One line, whose text starts at byte `start` (or after the empty lines there).
    fn row(&mut self, start: usize, fields: &[&str]) -> Result<()> {
        let first = self.columns.is_empty();
        if first {
            self.columns = self.roles(fields)?;
        }
        if fields.len() != self.columns.len() {
            let why = format!("{} fields, but the first line has {}", fields.len(), self.columns.len());
            return Err(self.bad(start, None, why));
        }
        if first && self.csv.header {
            self.names = Some(fields.iter().map(|f| f.to_string()).collect());
            return Ok(());
        }
        for (i, field) in fields.iter().enumerate() {
            let number = |what: &str| match field.parse::<f32>() {
                Ok(x) if x.is_finite() => Ok(x),
                _ if field.is_empty() => Err(self.bad(start, Some(i), format!("is empty, but {what} is wanted"))),
                _ => Err(self.bad(start, Some(i), format!("{} is not {what}", quote(field)))),
            };
            match self.columns[i] {
                Role::Skip => {}
                Role::Feature => {
                    let x = number("a finite number")?;
                    self.x.push(x);
                }
                Role::Value => {
                    let y = number("a finite number")?;
                    self.values.push(y);
                }
                Role::Label => {
                    // Some programs write 2 as 2.0.
                    let whole = field.strip_suffix(".0").unwrap_or(field);
                    let label =
                        whole.parse().map_err(|_| self.bad(start, Some(i), format!("{} is not a class (0, 1, …)", quote(field))))?;
                    self.labels.push(label);
                }
            }
        }
        Ok(())
    }

    fn roles(&self, fields: &[&str]) -> Result<Vec<Role>> {
        let csv = self.csv;
        let find = |column: &Column| match column {
            Column::Index(i) if *i < fields.len() => Ok(*i),
            Column::Index(i) => Err(format!("{i} is not one of the {} columns (0 to {})", fields.len(), fields.len() - 1)),
            Column::Last => Ok(fields.len() - 1),
            Column::Name(name) if !csv.header => Err(format!("`{name}` is looked for in the header; call header() if there is one")),
            Column::Name(name) => fields.iter().position(|f| f == name).ok_or_else(|| format!("no `{name}` among {}", fields.join(", "))),
        };
        let mut roles = vec![Role::Feature; fields.len()];
        let target = match &csv.target {
            Kind::None => None,
            Kind::Labels(column, _) => Some((column, Role::Label)),
            Kind::Values(column) => Some((column, Role::Value)),
        };
        for (column, role) in csv.skip.iter().map(|c| (c, Role::Skip)).chain(target) {
            let i = find(column).map_err(|why| Error::argument(format!("column of {}", csv.path.display()), why))?;
            roles[i] = role;
        }
        match roles.contains(&Role::Feature) {
            true => Ok(roles),
            false => Err(Error::format(
                &csv.path,
                format!("{} columns, none of them a feature; is `{}` the delimiter?", fields.len(), csv.delimiter),
            )),
        }
    }

    /// `line 3, column 2 (weight): …`, counted from 1 as editors do.
    fn bad(&self, start: usize, column: Option<usize>, why: String) -> Error {
        let rest = &self.text[start..];
        let blank = rest.len() - rest.trim_start_matches(['\r', '\n']).len();
        let line = 1 + self.text[..start + blank].matches('\n').count();
        let place = match column {
            Some(i) => match self.names.as_ref().and_then(|n| n.get(i)) {
                Some(name) => format!("line {line}, column {} ({}): ", i + 1, clip(name)),
                None => format!("line {line}, column {}: ", i + 1),
            },
            None => format!("line {line}: "),
        };
        Error::format(&self.csv.path, place + &why)
    }
}

/// Up to 40 characters: an unclosed quote makes a field of the whole file.
fn clip(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((i, _)) => format!("{}…", &text[..i]),
        None => text.to_string(),
    }
}

fn quote(text: &str) -> String {
    format!("`{}`", clip(text))
}

#[cfg(test)]
mod tests {
    use super::{super::idx::tests::gzip, *};
    use crate::{data::Features, shape::Shape};
    use std::fs;

    fn read(bytes: impl AsRef<[u8]>, csv: impl Fn(Csv) -> Csv) -> Result<Dataset> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.csv");
        fs::write(&path, bytes).unwrap();
        csv(Csv::new(path)).read()
    }

    #[test]
    fn columns_take_their_roles() {
        let text = "id,weight,class,height\r\n7, 1.5 ,0,2\r\n\r\n8,-3e-1,2.0,4\r\n";
        let data = read(text, |c| c.header().skip("id").labels("class")).unwrap();
        assert_eq!((data.sample_shape(), data.labels(), data.classes()), (Shape::from([2]), &[0, 2][..], 3));
        assert_eq!(data.features(), &Features::Float(vec![1.5, 2.0, -0.3, 4.0]));
        assert_eq!(read(gzip(text.as_bytes()), |c| c.header().skip(0).labels(2)).unwrap(), data);
        assert_eq!(read("\u{feff}".to_string() + text, |c| c.header().skip("id").labels("class")).unwrap(), data);
        assert_eq!(read(text, |c| c.header().labels("class").classes(5)).unwrap().classes(), 5);

        let data = read("1;2;3\n4;5;6", |c| c.delimiter(';').values(Column::Last)).unwrap();
        assert_eq!(data.target(), &Target::values([1], vec![3.0, 6.0]));
        assert_eq!(read("1\t2\n", |c| c.delimiter('\t')).unwrap().features(), &Features::Float(vec![1.0, 2.0]));
        assert_eq!(read("\"1\",\"2\"\n", |c| c).unwrap().target(), &Target::None);
    }

    #[test]
    fn several_spaces_are_one_delimiter() {
        let data = read("  1   2.5 \t3\n\n10 20    30  \n", |c| c.delimiter(' ').values(2)).unwrap();
        assert_eq!(data.features(), &Features::Float(vec![1.0, 2.5, 10.0, 20.0]));
        assert_eq!(data.target(), &Target::values([1], vec![3.0, 30.0]));
        let e = read("1 2\n\n 3 x\n", |c| c.delimiter(' ')).unwrap_err();
        assert!(e.to_string().ends_with("line 3, column 2: `x` is not a finite number"), "{e}");
    }

    #[test]
    fn bad_files_are_refused_with_their_place() {
        let labels = |c: Csv| c.labels(Column::Last);
        let packed = gzip(b"1,2\n3,4\n");
        for (bytes, csv, want) in [
            (b"".to_vec(), labels as fn(Csv) -> Csv, "no rows"),
            (b"\n\n".to_vec(), labels, "no rows"),
            (b"a,b\n".to_vec(), |c| c.header(), "no rows"),
            (b"1,2,0\n1,2,0\n1,0\n".to_vec(), labels, "line 3: 2 fields, but the first line has 3"),
            (b"1,2,0\n\n\n1,2,3,0\n".to_vec(), labels, "line 4: 4 fields, but the first line has 3"),
            (b"1,2,0\n1,two,0\n".to_vec(), labels, "line 2, column 2: `two` is not a finite number"),
            (b"w,h,c\n1,,0\n".to_vec(), |c| c.header().labels("c"), "line 2, column 2 (h): is empty, but a finite number is wanted"),
            (b"1,2,0\n1,nan,0\n".to_vec(), labels, "line 2, column 2: `nan` is not a finite number"),
            (b"1,2\n1,1e99\n".to_vec(), |c| c.values(1), "line 2, column 2: `1e99` is not a finite number"),
            (b"1,2,0\n1,2,0.5\n".to_vec(), labels, "line 2, column 3: `0.5` is not a class"),
            (b"1,2,0\n1,2,-1\n".to_vec(), labels, "line 2, column 3: `-1` is not a class"),
            (b"1,2,0\n1,2,cat\n".to_vec(), labels, "line 2, column 3: `cat` is not a class"),
            (b"1,2,0\n1,2,4294967296\n".to_vec(), labels, "is not a class"),
            (b"1,2\n3,\xff\n".to_vec(), |c| c, "line 2: not UTF-8 text"),
            (b"\xff\xfe1\0,\0".to_vec(), |c| c, "line 1: not UTF-8 text"),
            (packed[..packed.len() - 3].to_vec(), |c| c, "corrupt gzip"),
            (b"1;2;0\n".to_vec(), labels, "1 columns, none of them a feature; is `,` the delimiter?"),
            (["1,\"", &"9,9\n".repeat(99)].concat().into_bytes(), |c| c, "…` is not a finite number"),
        ] {
            let e = read(&bytes, csv).unwrap_err();
            let at = matches!(&e, Error::Format { path, .. } if path.ends_with("table.csv"));
            assert!(at && e.to_string().contains(want) && e.to_string().len() < 300, "{want}: {e}");
        }
        let e = Csv::new("/nowhere/table.csv").read().unwrap_err();
        assert!(matches!(e, Error::File { .. }) && e.to_string().starts_with("/nowhere/table.csv: "), "{e}");
        let e = read("1,0\n1,1\n1,3\n", |c| c.labels(1).classes(3)).unwrap_err();
        assert!(matches!(e, Error::Label { row: 2, label: 3, classes: 3 }), "{e}");
    }

    #[test]
    fn columns_that_are_not_there() {
        for (csv, want) in [
            ((|c| c.labels(2)) as fn(Csv) -> Csv, "2 is not one of the 2 columns (0 to 1)"),
            (|c| c.labels("b"), "call header()"),
            (|c| c.header().values("c"), "no `c` among a, b"),
            (|c| c.header().skip("d"), "no `d`"),
            (|c| c.delimiter('→'), "cannot separate fields"),
        ] {
            let e = read("a,b\n1,2\n", csv).unwrap_err();
            assert!(matches!(e, Error::Argument { .. }) && e.to_string().contains(want), "{want}: {e}");
        }
    }
}
