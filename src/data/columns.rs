//! Tables with a column for each field: numbers and categories.

use super::{
    Column, Csv, Dataset, Field,
    csv::{Role, clip_to, name_of},
    file,
};
use crate::error::{Error, Result};
use std::{collections::HashMap, sync::Arc};

impl Csv {
    /// Declares a column of categories, whose fields may have any text. [`columns`](Csv::columns) makes tokens of them. If
    /// [`labels`](Csv::labels) names the same column, its texts are the names of the classes.
    pub fn category(mut self, column: impl Into<Column>) -> Csv {
        self.categories.push(column.into());
        self
    }
    /// Takes the categories of another data set, so that a held-out file gets the same tokens as the training file. A text that
    /// is no category there is an error.
    pub fn like(mut self, data: &Dataset) -> Csv {
        let named = data.fields().iter().filter(|field| !field.categories().is_empty());
        self.known = named.map(|field| (field.name().to_string(), field.categories.clone())).collect();
        self
    }
    /// Reads the file as a data set with a column for each field. A column has the name in the header, or its number.
    ///
    /// | Column | Field |
    /// |---|---|
    /// | numbers | a feature `[1]` of floats |
    /// | [`category`](Csv::category) | a feature `[]` of tokens. The categories are the texts of the column, sorted |
    /// | [`labels`](Csv::labels), [`values`](Csv::values) | the target |
    ///
    /// ```
    /// use downhill::data::Csv;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (train, test) = (folder.path().join("train.csv"), folder.path().join("test.csv"));
    /// # std::fs::write(&train, "age,job,income\n31,cook,high\n44,smith,low\n27,cook,low\n").unwrap();
    /// # std::fs::write(&test, "age,job,income\n50,smith,high\n").unwrap();
    /// let people = |path| Csv::new(path).header().category("job").category("income").labels("income");
    /// let train = people(train).columns()?;
    /// let test = people(test).like(&train).columns()?;
    /// assert_eq!(format!("{train:?}"), "Dataset(3 samples: age [1] floats, job [] tokens, income 2 classes)");
    /// assert_eq!(train.field("job")?.categories(), ["cook", "smith"]);
    /// assert_eq!((test.columns(&[0])?[1].u(), test.class_name(test.labels()[0])), (&[1][..], "high".to_string()));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`read`](Csv::read). [`Error::Format`], with line and column, for a text that is no category of
    /// [`like`](Csv::like).
    pub fn columns(&self) -> Result<Dataset> {
        let text = file::text(&self.path)?;
        let mut table = self.table(&text)?;
        let width = table.columns.iter().filter(|role| **role == Role::Feature).count();
        let rows = table.x.len() / width.max(1);
        let (mut fields, mut classes, mut seen) = (Vec::new(), Arc::default(), 0);
        for (i, role) in table.columns.iter().enumerate() {
            let name = name_of(&table.names, i);
            fields.push(match *role {
                Role::Skip => continue,
                Role::Feature => {
                    let mut column = file::room(&self.path, rows)?;
                    column.extend(table.x[seen..].iter().step_by(width));
                    seen += 1;
                    Field::floats(name, [1], column)
                }
                Role::Value => Field::values(name, [1], std::mem::take(&mut table.values)),
                Role::Label => Field::labels(name, table.labels.clone(), self.count(&table.labels)?),
                Role::Category { number, label } => {
                    let (tokens, names) = std::mem::take(&mut table.texts[number]).sorted();
                    if label {
                        classes = names.clone();
                    }
                    let field = if label { Field::labels(name, tokens, names.len()) } else { Field::tokens(name, [], tokens, names.len()) };
                    Field { categories: names, ..field }
                }
            });
        }
        let data = Dataset::of(fields)?;
        let classes: Vec<&str> = classes.iter().map(String::as_str).collect();
        match (classes.is_empty(), self.classes) {
            (true, _) => Ok(data),
            (false, None) => data.with_class_names(&classes),
            (false, Some(_)) => Err(Error::argument("Csv", "classes is for labels that are numbers, but the labels are categories")),
        }
    }
}

/// The texts of a column of categories, as numbers.
#[derive(Default)]
pub(super) struct Texts {
    /// The number of each category, in the order in which the categories come, or in the order of `fixed`.
    numbers: HashMap<String, u32>,
    rows: Vec<u32>,
    /// The categories, if no others may come.
    fixed: Option<Arc<[String]>>,
}

impl Texts {
    /// Makes an empty column. `known` has the categories of columns that are known already.
    pub fn new(known: &[(String, Arc<[String]>)], name: &str) -> Texts {
        let fixed = known.iter().find(|(other, _)| other == name).map(|(_, names)| names.clone());
        let numbers = fixed.iter().flat_map(|names| names.iter().cloned().zip(0..)).collect();
        Texts { numbers, rows: Vec::new(), fixed }
    }
    /// Adds a field. The error says which texts are allowed.
    pub fn push(&mut self, text: &str) -> std::result::Result<(), String> {
        let number = match (self.numbers.get(text), &self.fixed) {
            (Some(&number), _) => number,
            (None, Some(names)) => return Err(format!("one of the {} categories: {}", names.len(), clip_to(&names.join(", "), 400))),
            (None, None) => {
                let next = self.numbers.len() as u32;
                self.numbers.insert(text.to_string(), next);
                next
            }
        };
        self.rows.push(number);
        Ok(())
    }
    /// Returns the number of each row's category, and the categories. New categories are sorted.
    fn sorted(self) -> (Vec<u32>, Arc<[String]>) {
        if let Some(names) = self.fixed {
            return (self.rows, names);
        }
        let mut names: Vec<(String, u32)> = self.numbers.into_iter().collect();
        names.sort_unstable();
        let mut place = vec![0; names.len()];
        (0..).zip(&names).for_each(|(new, (_, old))| place[*old as usize] = new);
        (self.rows.iter().map(|&old| place[old as usize]).collect(), names.into_iter().map(|(name, _)| name).collect())
    }
}
