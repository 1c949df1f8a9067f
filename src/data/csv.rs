//! Tables of numbers in text files.

use super::{
    Dataset, Target,
    classes::infer,
    columns::Texts,
    fields::{FieldLines, Fields},
    file,
};
use crate::error::{Error, Result};
use std::{path::PathBuf, sync::Arc};

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// The number of the column, counted from 0.
    Index(usize),
    /// The name of the column in the header.
    Name(String),
    /// The last column of each row.
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

/// Reads a table of numbers, as NumPy, pandas and R write it. The file may be gzipped, which the reader sees from its content
/// and not from its name.
///
/// `True` and `False` (in any case) are 1 and 0. The reader skips blank lines. It also skips lines that begin with `#`,
/// unless the first column is left out. If the header is one name shorter than the rows, the first column contains row names,
/// as R writes them. Then the first column is left out. The methods may be called in any order.
///
/// ```no_run
/// use downhill::data::Csv;
/// let houses = Csv::new("houses.csv").header().skip("id").values("price").read()?;
/// let wine = Csv::new("wine.csv.gz").delimiter(';').labels(0).classes(3).read()?;
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Csv {
    pub(super) path: PathBuf,
    header: bool,
    delimiter: char,
    skip: Vec<Column>,
    labels: Option<Column>,
    pub(super) classes: Option<usize>,
    values: Option<Column>,
    pub(super) categories: Vec<Column>,
    /// The categories of columns that are known already, by name.
    pub(super) known: Vec<(String, Arc<[String]>)>,
}

impl Csv {
    /// Describes a file without a header. Commas separate the fields, and all columns are features. The methods change these
    /// settings.
    pub fn new(path: impl Into<PathBuf>) -> Csv {
        let (skip, categories, known) = (Vec::new(), Vec::new(), Vec::new());
        Csv { path: path.into(), header: false, delimiter: ',', skip, labels: None, classes: None, values: None, categories, known }
    }
    /// Declares that the first line contains the names of the columns. A `#` before the names is allowed.
    pub fn header(self) -> Csv {
        Csv { header: true, ..self }
    }
    /// Sets the separator of the fields, one ASCII character. A space stands for any run of spaces and tabs.
    pub fn delimiter(self, delimiter: char) -> Csv {
        Csv { delimiter, ..self }
    }
    /// Leaves a column out, such as a row number.
    pub fn skip(mut self, column: impl Into<Column>) -> Csv {
        self.skip.push(column.into());
        self
    }
    /// Declares the column of the class: 0, 1, …, also written as 1.0 or 1e0. [`classes`](Csv::classes) sets the number of
    /// classes. Without it, the number of classes is the largest label plus one, and a class without any row is reported
    /// through [`log`].
    pub fn labels(self, column: impl Into<Column>) -> Csv {
        Csv { labels: Some(column.into()), ..self }
    }
    /// Sets the number of classes, in case the file does not contain every class.
    pub fn classes(self, classes: usize) -> Csv {
        Csv { classes: Some(classes), ..self }
    }
    /// Declares the column of the number to predict. The targets have the shape `[1]`.
    pub fn values(self, column: impl Into<Column>) -> Csv {
        Csv { values: Some(column.into()), ..self }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// - [`Error::File`]: the file cannot be read, or is larger than [`with_read_limit`](super::with_read_limit) allows.
    /// - [`Error::Format`], with line and column: the file is a corrupt gzip, is not UTF-8 or is empty. Or it has lines of
    ///   different lengths, a field that is not a finite number or not a class, or labels that leave out more than half of
    ///   their classes.
    /// - [`Error::Label`]: a label is not below [`classes`](Csv::classes).
    /// - [`Error::Argument`]: a column does not exist or is named twice, the delimiter is not allowed, or methods contradict
    ///   each other.
    pub fn read(&self) -> Result<Dataset> {
        self.parse(&file::text(&self.path)?)
    }

    pub(super) fn parse(&self, text: &str) -> Result<Dataset> {
        if !self.categories.is_empty() {
            return Err(Error::argument("Csv::read", "a category is a column of its own; use Csv::columns"));
        }
        let table = self.table(text)?;
        let target = match (&self.labels, &self.values) {
            (Some(_), _) => {
                let classes = self.count(&table.labels)?;
                Target::labels(table.labels, classes)
            }
            (None, Some(_)) => Target::values([1], table.values),
            (None, None) => Target::None,
        };
        let width = table.columns.iter().filter(|r| **r == Role::Feature).count();
        Dataset::new(table.x, [width], target)
    }
    /// Reads the rows of a text.
    pub(super) fn table<'a>(&'a self, text: &'a str) -> Result<Table<'a>> {
        let contradiction = match (&self.labels, self.classes, &self.values) {
            (Some(_), _, Some(_)) => Some("labels and values are both asked for, but a table has one target"),
            (None, Some(_), _) => Some("classes says how many classes the labels have, but labels names no column"),
            _ => None,
        };
        if let Some(why) = contradiction {
            return Err(Error::argument("Csv", why));
        }
        let (columns, texts, x, labels, values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut table = Table { csv: self, text, names: None, columns, x, labels, values, texts };
        table.read()?;
        match table.columns.is_empty() {
            true => Err(Error::format(&self.path, "no rows of numbers in it")),
            false => Ok(table),
        }
    }
    /// Returns the number of classes.
    pub(super) fn count(&self, labels: &[u32]) -> Result<usize> {
        self.classes.map_or_else(|| infer(&[(&self.path, labels)], 0), Ok)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    Feature,
    Skip,
    Label,
    Value,
    /// One of the columns of texts. `label` says whether it is the target.
    Category {
        number: usize,
        label: bool,
    },
}

/// The content that has been read so far.
pub(super) struct Table<'a> {
    csv: &'a Csv,
    text: &'a str,
    /// The header, if there is one.
    pub names: Option<Vec<String>>,
    /// The role of each column, known after the first row.
    pub columns: Vec<Role>,
    pub x: Vec<f32>,
    pub labels: Vec<u32>,
    pub values: Vec<f32>,
    pub texts: Vec<Texts>,
}

impl Table<'_> {
    fn read(&mut self) -> Result<()> {
        let (text, delimiter) = (self.text, self.csv.delimiter);
        let (path, mut fields) = (&self.csv.path, Fields::default());
        let memory = |_| file::no_memory(path, text.len());
        if delimiter == ' ' {
            let mut start = 0;
            for line in text.split_inclusive(['\n', '\r']) {
                fields.split(line).map_err(memory)?;
                self.row(start, &fields)?;
                start += line.len();
            }
            return Ok(());
        }
        if !delimiter.is_ascii() || "\"\n\r".contains(delimiter) {
            return Err(Error::argument("delimiter", format!("{delimiter:?} cannot separate fields; use one ASCII character")));
        }
        let mut lines = FieldLines::new(text, delimiter as u8);
        while let Some(start) = lines.next(&mut fields).map_err(memory)? {
            self.row(start, &fields)?;
        }
        Ok(())
    }

    /// Adds one line. Its text starts at byte `start`, or after the empty lines there.
    fn row(&mut self, start: usize, fields: &Fields) -> Result<()> {
        // A line of spaces has one field. A line of tabs may have several fields.
        let blank = fields.len() < 2 || self.csv.delimiter.is_whitespace();
        if blank && fields.iter().all(str::is_empty) {
            return Ok(());
        }
        if self.csv.header && self.names.is_none() {
            let mut names: Vec<String> = fields.iter().map(str::to_string).collect();
            // NumPy writes `# a,b`. A column may also have the name `#`.
            if let Some(name) = names[0].strip_prefix('#').map(str::trim_start).filter(|name| !name.is_empty()) {
                names[0] = name.to_string();
            }
            self.names = Some(names);
            return Ok(());
        }
        if fields.at(0).starts_with('#') && !self.leaves_first_out() {
            return Ok(());
        }
        if self.columns.is_empty() {
            self.columns = self.roles(start, fields)?;
        }
        if fields.len() != self.columns.len() {
            let why = format!("{} fields, but the first line has {}", fields.len(), self.columns.len());
            return Err(self.bad(start, None, why));
        }
        self.x.try_reserve(fields.len()).map_err(|_| file::no_memory(&self.csv.path, self.x.len() * size_of::<f32>()))?;
        for (i, field) in fields.iter().enumerate() {
            let number = |what: &str| match truth(field).map_or_else(|| field.parse::<f32>(), Ok) {
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
                Role::Label => match class(field) {
                    Some(label) => self.labels.push(label),
                    None => return Err(self.bad(start, Some(i), format!("{} is not a class (0, 1, …)", quote(field)))),
                },
                Role::Category { number, .. } => {
                    if let Err(why) = self.texts[number].push(field) {
                        return Err(self.bad(start, Some(i), format!("{} is not {why}", quote(field))));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns true if the first column may contain any text.
    fn leaves_first_out(&self) -> bool {
        let first = self.names.as_ref().map(|names| &names[0]);
        self.csv.skip.iter().any(|column| match column {
            Column::Index(i) => *i == 0,
            Column::Name(name) => Some(name) == first,
            Column::Last => false,
        })
    }

    /// Finds the role of each column from the header and the first row below it.
    fn roles(&mut self, start: usize, fields: &Fields) -> Result<Vec<Role>> {
        let (csv, n) = (self.csv, fields.len());
        let mut roles = vec![Role::Feature; n];
        if let Some(names) = &mut self.names {
            if names.len() == n + 1 && names[0] == "#" {
                // The header may be `# a b`, separated by spaces.
                names.remove(0);
            } else if names.len() + 1 == n && !fields.at(n - 1).is_empty() {
                names.insert(0, String::new());
                roles[0] = Role::Skip;
            }
            if names.len() != n {
                let why = format!("{n} fields, but the first line has {}", names.len());
                return Err(self.bad(start, None, why));
            }
        }
        let find = |column: &Column| match (column, &self.names) {
            (Column::Index(i), _) if *i < n => Ok(*i),
            (Column::Index(i), _) => Err(format!("{i} is not one of the {n} columns (0 to {})", n - 1)),
            (Column::Last, _) => Ok(n - 1),
            (Column::Name(name), None) => Err(format!("`{name}` is looked for in the header; call header() if there is one")),
            (Column::Name(name), Some(names)) => {
                let mut found = (0..names.len()).filter(|&i| names[i] == *name);
                match (found.next(), found.next()) {
                    (None, _) => Err(format!("no `{}` among {}", clip(name), clip_to(&names.join(", "), 400))),
                    (Some(i), None) => Ok(i),
                    (Some(i), Some(k)) => Err(format!("`{}` is the name of columns {i} and {k}, from 0; say the number", clip(name))),
                }
            }
        };
        let target = csv.labels.iter().map(|c| (c, Role::Label)).chain(csv.values.iter().map(|c| (c, Role::Value)));
        for (column, role) in csv.skip.iter().map(|c| (c, Role::Skip)).chain(target) {
            let what = || format!("column of {}", csv.path.display());
            let i = find(column).map_err(|why| Error::argument(what(), why))?;
            if role != Role::Skip && roles[i] == Role::Skip {
                return Err(Error::argument(what(), format!("{i}, from 0, is left out, but it is the target as well")));
            }
            roles[i] = role;
        }
        for column in &csv.categories {
            let i = find(column).map_err(|why| Error::argument(format!("column of {}", csv.path.display()), why))?;
            let label = match roles[i] {
                Role::Feature => false,
                Role::Label => true,
                _ => {
                    let why = format!("{i}, from 0, is a category, but it is left out, a number to predict, or named twice");
                    return Err(Error::argument(format!("column of {}", csv.path.display()), why));
                }
            };
            roles[i] = Role::Category { number: self.texts.len(), label };
            self.texts.push(Texts::new(&csv.known, &name_of(&self.names, i)));
        }
        match roles.iter().any(|role| matches!(role, Role::Feature | Role::Category { label: false, .. })) {
            true => Ok(roles),
            false => Err(Error::format(&csv.path, format!("{n} columns, none of them a feature; is `{}` the delimiter?", csv.delimiter))),
        }
    }

    /// Returns an error such as `line 3, column 2 (weight): …`. Lines and columns are counted from 1, as in editors.
    fn bad(&self, start: usize, column: Option<usize>, why: String) -> Error {
        let rest = &self.text[start..];
        let blank = rest.len() - rest.trim_start_matches(['\r', '\n']).len();
        let line = 1 + file::lines(&self.text.as_bytes()[..start + blank]);
        let place = match column {
            Some(i) => match self.names.as_ref().and_then(|n| n.get(i)).filter(|name| !name.is_empty()) {
                Some(name) => format!("line {line}, column {} ({}): ", i + 1, clip(name)),
                None => format!("line {line}, column {}: ", i + 1),
            },
            None => format!("line {line}: "),
        };
        Error::format(&self.csv.path, place + &why)
    }
}

/// Returns the name of a column, or its number if it has no name.
pub(super) fn name_of(names: &Option<Vec<String>>, i: usize) -> String {
    names.as_ref().map(|names| names[i].clone()).filter(|name| !name.is_empty()).unwrap_or_else(|| i.to_string())
}

/// Parses the logical values of pandas and R.
fn truth(field: &str) -> Option<f32> {
    let is = |word: &str| field.eq_ignore_ascii_case(word);
    if is("true") { Some(1.0) } else { is("false").then_some(0.0) }
}

/// Parses a class. A program that stores whole numbers as floats writes it as `2.0`, `2.` or `2e0`.
fn class(field: &str) -> Option<u32> {
    field.parse().ok().or_else(|| {
        let x = truth(field).map(f64::from).or_else(|| field.parse().ok())?;
        (x >= 0.0 && x <= f64::from(u32::MAX) && x.fract() == 0.0).then_some(x as u32)
    })
}

/// Shortens a text to 40 characters. An unclosed quote can make one field of the whole file.
fn clip(text: &str) -> String {
    clip_to(text, 40)
}

pub(super) fn clip_to(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
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
        // The order of the calls does not matter.
        assert_eq!(read(text, |c| c.header().labels("class").classes(5)).unwrap().classes(), 5);
        assert_eq!(read(text, |c| c.classes(5).labels("class").header()).unwrap().classes(), 5);
        assert_eq!(read(text, |c| c.labels("class").skip("id").header()).unwrap(), data);

        let data = read("1;2;3\n4;5;6", |c| c.delimiter(';').values(Column::Last)).unwrap();
        assert_eq!(data.target(), Target::values([1], vec![3.0, 6.0]));
        assert_eq!(read("1\t2\n", |c| c.delimiter('\t')).unwrap().features(), &Features::Float(vec![1.0, 2.0]));
        assert_eq!(read("\"1\",\"2\"\n", |c| c).unwrap().target(), Target::None);
    }

    #[test]
    fn several_spaces_are_one_delimiter() {
        let data = read("  1   2.5 \t3\n\n10 20    30  \n", |c| c.delimiter(' ').values(2)).unwrap();
        assert_eq!(data.features(), &Features::Float(vec![1.0, 2.5, 10.0, 20.0]));
        assert_eq!(data.target(), Target::values([1], vec![3.0, 30.0]));
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
            (|c| c.labels(0).values(1), "a table has one target"),
            (|c| c.values(1).labels(0), "a table has one target"),
            (|c| c.classes(3), "labels names no column"),
            (|c| c.values(1).classes(3), "labels names no column"),
            (|c| c.header().skip("a").labels(0), "0, from 0, is left out, but it is the target as well"),
            (|c| c.header().labels("a").skip(0), "0, from 0, is left out, but it is the target as well"),
        ] {
            let e = read("a,b\n1,2\n", csv).unwrap_err();
            assert!(matches!(e, Error::Argument { .. }) && e.to_string().contains(want), "{want}: {e}");
        }
        let e = read("a,b,b\n1,2,0\n", |c| c.header().labels("b")).unwrap_err();
        assert!(matches!(e, Error::Argument { .. }) && e.to_string().contains("`b` is the name of columns 1 and 2, from 0"), "{e}");
    }
}
