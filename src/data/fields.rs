//! Splitting the lines of a table into fields.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use std::collections::TryReserveError;

/// The fields of one line, stored one after the other in one text.
#[derive(Default)]
pub(super) struct Fields {
    text: Vec<u8>,
    /// The end of each field in the text.
    ends: Vec<usize>,
    count: usize,
}

impl Fields {
    pub fn len(&self) -> usize {
        self.count
    }
    /// Returns field `i` without the blanks around it.
    pub fn at(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        std::str::from_utf8(&self.text[start..self.ends[i]]).expect("text was cut at ASCII characters").trim()
    }
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.count).map(|i| self.at(i))
    }
    /// Splits a line at spaces and tabs. A quoted text is one field.
    pub fn split(&mut self, line: &str) -> Result<(), TryReserveError> {
        (self.count, _) = (0, self.text.clear());
        let mut rest = line.trim();
        while !rest.is_empty() {
            let (field, behind) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
            };
            self.text.try_reserve(field.len())?;
            self.text.extend_from_slice(field.as_bytes());
            if self.count == self.ends.len() {
                grow(&mut self.ends)?;
            }
            self.ends[self.count] = self.text.len();
            self.count += 1;
            rest = behind.trim_start();
        }
        Ok(())
    }
}

/// Doubles the length. Returns a typed error if there is no memory.
fn grow<T: Default + Clone>(v: &mut Vec<T>) -> Result<(), TryReserveError> {
    let more = v.len().max(64);
    v.try_reserve_exact(more)?;
    v.resize(v.len() + more, T::default());
    Ok(())
}

/// The lines of a text whose fields are separated by one character. Fields may be quoted.
pub(super) struct FieldLines<'a> {
    core: Reader,
    text: &'a [u8],
    at: usize,
}

impl<'a> FieldLines<'a> {
    pub fn new(text: &'a str, delimiter: u8) -> FieldLines<'a> {
        FieldLines { core: ReaderBuilder::new().delimiter(delimiter).build(), text: text.as_bytes(), at: 0 }
    }
    /// Reads the next line. Returns the byte where the line starts, or where the empty lines before it start. `None` after
    /// the last line.
    pub fn next(&mut self, fields: &mut Fields) -> Result<Option<usize>, TryReserveError> {
        let (start, mut len) = (self.at, 0);
        fields.count = 0;
        // The reader writes only below the length of the vector.
        fields.text.resize(fields.text.capacity(), 0);
        loop {
            let (input, text, ends) = (&self.text[self.at..], &mut fields.text[len..], &mut fields.ends[fields.count..]);
            let (result, read, written, ended) = self.core.read_record(input, text, ends);
            (self.at, len, fields.count) = (self.at + read, len + written, fields.count + ended);
            match result {
                // The next call has no input left, and so the reader learns that the text has ended.
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => grow(&mut fields.text)?,
                ReadRecordResult::OutputEndsFull => grow(&mut fields.ends)?,
                ReadRecordResult::Record => return Ok(Some(start)),
                ReadRecordResult::End => return Ok(None),
            }
        }
    }
}
