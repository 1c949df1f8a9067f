//! Long texts as files of tokens, for language models.

use super::{ArrayFile, Dataset, Field, Role, Source, array::Number};
use crate::error::{Error, Result};
use std::{ops::Range, path::Path, sync::Arc};

/// A long text as a file of tokens, which is read when a batch needs it. The file may be larger than the memory.
///
/// A tokenizer writes such files, for example as `numpy.array(ids, dtype=numpy.uint16).tofile("train.bin")`.
/// [`windows`](TokenFile::windows) makes a data set. The target of each token is the next token.
///
/// ```
/// use downhill::{Device, Fit, Trainer, data::TokenFile, init::Init, optim::Adam};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("train.bin");
/// # std::fs::write(&path, (0..2000u32).flat_map(|i| ((i % 7) as u16).to_le_bytes()).collect::<Vec<_>>()).unwrap();
/// let (train, test) = TokenFile::u16(path)?.split(0.9)?;
/// let (train, test) = (train.windows(8, 4, 7)?, test.windows(8, 8, 7)?);
/// let mut trainer = Trainer::for_data(
///     &Device::cpu(),
///     &train,
///     |tokens| {
///         let table = tokens.graph().param("table", [7, 8], Init::Normal { mean: 0.0, std: 1.0 });
///         table.gather_rows(tokens).linear("out", 7)
///     },
///     |logits, next| logits.cross_entropy(next),
///     Adam::new(0.05),
/// )?;
/// trainer.fit(&train, Fit::new().epochs(3))?;
/// assert_eq!(trainer.evaluate(&test)?.accuracy, Some(1.0));
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TokenFile {
    file: Arc<ArrayFile>,
    range: Range<usize>,
}

impl TokenFile {
    /// Opens a file of `u16` in little-endian order, without a header.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read. [`Error::Format`] if it is empty or ends within a number.
    pub fn u16(path: impl AsRef<Path>) -> Result<TokenFile> {
        TokenFile::of(ArrayFile::plain(path.as_ref(), Number::U16)?)
    }
    /// Opens a file of `u32` in little-endian order, without a header.
    ///
    /// # Errors
    /// The errors of [`u16`](TokenFile::u16).
    pub fn u32(path: impl AsRef<Path>) -> Result<TokenFile> {
        TokenFile::of(ArrayFile::plain(path.as_ref(), Number::U32)?)
    }
    /// Opens a file in the format npy or IDX that has whole numbers. All axes are read as one.
    ///
    /// # Errors
    /// The errors of [`ArrayFile::open`], and [`Error::Format`] if the numbers are floats.
    pub fn npy(path: impl AsRef<Path>) -> Result<TokenFile> {
        TokenFile::of(ArrayFile::open(path)?)
    }
    fn of(file: ArrayFile) -> Result<TokenFile> {
        match file.is_whole() {
            true => Ok(TokenFile { range: 0..file.len(), file: Arc::new(file) }),
            false => Err(Error::format(file.path(), "its numbers are floats, but tokens are whole numbers")),
        }
    }
    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        self.range.len()
    }
    /// Returns false: a text has at least one token.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
    /// Reads the tokens `range`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the text is shorter. [`Error::File`] if the file cannot be read, or has changed its length.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u32>> {
        if range.start > range.end || range.end > self.len() {
            return Err(Error::argument("TokenFile::read", format!("{range:?}, but there are {} tokens", self.len())));
        }
        let mut tokens = vec![0; range.len()];
        self.file.tokens(self.range.start + range.start, &mut tokens)?;
        self.file.check()?;
        Ok(tokens)
    }
    /// Splits the text into the first `fraction` and the rest, for training and validation.
    ///
    /// # Errors
    /// [`Error::Argument`] if a part would be empty.
    pub fn split(&self, fraction: f64) -> Result<(TokenFile, TokenFile)> {
        let n = self.len();
        let count = (fraction * n as f64).round();
        if !(count >= 1.0 && count < n as f64) {
            return Err(Error::argument("TokenFile::split", format!("a fraction of {fraction} of {n} tokens leaves one part empty")));
        }
        let middle = self.range.start + count as usize;
        let part = |range: Range<usize>| TokenFile { file: self.file.clone(), range };
        Ok((part(self.range.start..middle), part(middle..self.range.end)))
    }
    /// Cuts the text into windows of `t` tokens. Each window starts `stride` tokens after the window before it. Inputs `x` are
    /// `[n, t]`, and targets `y` are `[n, t]`: the tokens one position further. Each token must be below `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `t`, `stride` or `vocabulary` is 0, or if the text has fewer than `t + 1` tokens. A token that is
    /// too large is an error when a batch needs it.
    pub fn windows(&self, t: usize, stride: usize, vocabulary: usize) -> Result<Dataset> {
        let n = self.len();
        if t == 0 || stride == 0 {
            return Err(Error::argument("TokenFile::windows", format!("windows of {t} every {stride}: both must be at least 1")));
        }
        if t >= n {
            return Err(Error::argument("TokenFile::windows", format!("a window of {t} and the token after it need more than {n} tokens")));
        }
        let rows = (n - t).div_ceil(stride);
        let from = |shift: usize| Windows { file: self.file.clone(), first: self.range.start + shift, t, stride, rows };
        let column = |name: &str, shift: usize| Field::token_source(name, [t], from(shift), vocabulary);
        Dataset::of([column("x", 0), column("y", 1).with_role(Role::Target)])
    }
}

/// Windows of a text. Each is a row.
struct Windows {
    file: Arc<ArrayFile>,
    first: usize,
    t: usize,
    stride: usize,
    rows: usize,
}

impl Source<u32> for Windows {
    fn rows(&self) -> usize {
        self.rows
    }
    fn read(&self, rows: &[usize], out: &mut [u32]) -> Result<()> {
        let mut windows = rows.iter().zip(out.chunks_mut(self.t));
        windows.try_for_each(|(row, out)| self.file.tokens(self.first + row * self.stride, out))?;
        self.file.check()
    }
    fn width(&self) -> Option<usize> {
        Some(self.t)
    }
}
