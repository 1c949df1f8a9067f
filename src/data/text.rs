//! Text, for models of its characters.

use super::{Dataset, Target, file};
use crate::error::{Error, Result};
use std::{collections::BTreeSet, path::Path};

/// A text as tokens. A token is the number of a character in the vocabulary, the sorted list of all characters of the text.
///
/// [`windows`](Text::windows) makes a data set. Each sample is `t` tokens, and the target of each token is the next token.
///
/// ```
/// use downhill::{Device, Fit, Trainer, data::Text, init::Init, optim::Adam};
/// let text = Text::new(&"so on and ".repeat(60))?;
/// let (train, test) = text.split(0.8)?;
/// let (train, test) = (train.windows(10, 3)?, test.windows(10, 10)?);
/// let characters = text.vocabulary().len();
/// let mut trainer = Trainer::for_data(
///     &Device::cpu(),
///     &train,
///     move |tokens| {
///         let table = tokens.graph().param("embedding.weight", [characters, 8], Init::Normal { mean: 0.0, std: 1.0 });
///         table.gather_rows(tokens).gru("gru", 16).linear("out", characters)
///     },
///     |logits, next| logits.cross_entropy(next),
///     Adam::new(0.02),
/// )?;
/// trainer.fit(&train, Fit::new().epochs(10).batch_size(16).validation(&test))?;
/// assert!(trainer.evaluate(&test)?.accuracy.unwrap() > 0.85);
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    vocabulary: Vec<char>,
    tokens: Vec<u32>,
}

impl Text {
    /// Creates a text and the vocabulary of its characters.
    ///
    /// # Errors
    /// [`Error::Argument`] if the text is empty.
    pub fn new(text: &str) -> Result<Text> {
        // The characters are added one by one. Collecting all characters of the text first would take much memory.
        let mut seen = BTreeSet::new();
        for c in text.chars() {
            seen.insert(c);
        }
        let vocabulary: Vec<char> = seen.into_iter().collect();
        if vocabulary.is_empty() {
            return Err(Error::argument("Text", "there is no character in it"));
        }
        let mut new = Text { vocabulary, tokens: Vec::new() };
        new.tokens = new.encode(text)?;
        Ok(new)
    }
    /// Reads a file in UTF-8. The file may be gzipped, which the reader sees from its content and not from its name.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, or is larger than [`with_read_limit`](super::with_read_limit) allows.
    /// [`Error::Format`] if it is a corrupt gzip, is not UTF-8, or is empty.
    pub fn read(path: impl AsRef<Path>) -> Result<Text> {
        let (path, text) = (path.as_ref(), file::text(path.as_ref())?);
        if text.is_empty() {
            return Err(Error::format(path, "there is no character in it"));
        }
        Text::new(&text)
    }
    /// Returns the sorted characters. A token is an index into this list.
    pub fn vocabulary(&self) -> &[char] {
        &self.vocabulary
    }
    /// Returns the tokens of the text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
    /// Converts another text to tokens of this vocabulary.
    ///
    /// # Errors
    /// [`Error::Argument`] if a character is not in the vocabulary.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let token = |(at, c): (usize, char)| match self.vocabulary.binary_search(&c) {
            Ok(token) => Ok(token as u32),
            Err(_) => {
                let why = format!("{c:?} (character {at}) is not among the {} characters of the vocabulary", self.vocabulary.len());
                Err(Error::argument("Text::encode", why))
            }
        };
        let (count, mut tokens) = (text.chars().count(), Vec::new());
        tokens.try_reserve_exact(count).map_err(|_| Error::argument("Text::encode", format!("there is no memory for {count} tokens")))?;
        for c in text.chars().enumerate() {
            tokens.push(token(c)?);
        }
        Ok(tokens)
    }
    /// Converts tokens to text.
    ///
    /// # Errors
    /// [`Error::Index`] if a token is not an index of the vocabulary.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        super::check_tokens("Text::decode", tokens, self.vocabulary.len(), &[])?;
        Ok(tokens.iter().map(|&t| self.vocabulary[t as usize]).collect())
    }
    /// Splits the text into the first `fraction` and the rest, for training and validation. Both parts have the vocabulary of
    /// the whole.
    ///
    /// # Errors
    /// [`Error::Argument`] if a part would be empty.
    pub fn split(&self, fraction: f64) -> Result<(Text, Text)> {
        let n = self.tokens.len();
        let count = (fraction * n as f64).round();
        if !(count >= 1.0 && count < n as f64) {
            return Err(Error::argument("Text::split", format!("a fraction of {fraction} of {n} characters leaves one part empty")));
        }
        let part = |tokens: &[u32]| Text { vocabulary: self.vocabulary.clone(), tokens: tokens.to_vec() };
        let (first, second) = self.tokens.split_at(count as usize);
        Ok((part(first), part(second)))
    }
    /// Cuts the text into windows of `t` tokens. Each window starts `stride` tokens after the window before it. Inputs are
    /// `[n, t]`, and targets are `[n, t]`: the tokens one position further. With `stride = t`, every token is predicted once.
    ///
    /// # Errors
    /// [`Error::Argument`] if `t` or `stride` is 0, or if the text has fewer than `t + 1` characters.
    pub fn windows(&self, t: usize, stride: usize) -> Result<Dataset> {
        let n = self.tokens.len();
        if t == 0 || stride == 0 {
            return Err(Error::argument("Text::windows", format!("windows of {t} every {stride}: both must be at least 1")));
        }
        if t >= n {
            return Err(Error::argument("Text::windows", format!("a window of {t} and the token after it need more than {n} characters")));
        }
        let (starts, tokens) = (|| (0..n - t).step_by(stride), t.saturating_mul((n - t).div_ceil(stride)));
        let from = |shift: usize| {
            let mut all: Vec<u32> = Vec::new();
            all.try_reserve_exact(tokens).map_err(|_| {
                Error::argument("Text::windows", format!("there is no memory for {tokens} tokens: use a larger stride or a smaller window"))
            })?;
            starts().for_each(|s| all.extend_from_slice(&self.tokens[s + shift..s + shift + t]));
            Ok(all)
        };
        let (classes, names) = (self.vocabulary.len(), self.vocabulary.iter().map(char::to_string).collect::<Vec<_>>());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Dataset::tokens(from(0)?, [t], classes, Target::labels_per([t], from(1)?, classes))?.with_class_names(&names)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::idx::tests::gzip, *};
    use crate::{
        Device, Fit, Host, Shape, Trainer,
        data::{Features, Normalise},
        init::Init,
        optim::Adam,
    };

    #[test]
    fn there_and_back() {
        let text = Text::new("übel, aber gut").unwrap();
        assert_eq!(text.vocabulary().iter().collect::<String>(), " ,abeglrtuü");
        assert_eq!(text.tokens()[..5], [10, 3, 4, 6, 1]);
        assert_eq!(text.decode(text.tokens()).unwrap(), "übel, aber gut");
        assert_eq!(text.encode("gab").unwrap(), [5, 2, 3]);
        assert!(text.encode("").unwrap().is_empty());
    }

    #[test]
    fn from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Text::read(&path)
        };
        let text = "übel,\r\naber gut\n";
        for bytes in [text.as_bytes().to_vec(), gzip(text.as_bytes()), ["\u{feff}", text].concat().into_bytes()] {
            assert_eq!(read(&bytes).unwrap(), Text::new(text).unwrap());
        }
        for (bytes, want) in [(&b"one\ntw\xff"[..], "line 2: not UTF-8 text"), (b"", "no character"), (&gzip(b"a")[..9], "corrupt gzip")] {
            let e = read(bytes).unwrap_err();
            assert!(matches!(&e, Error::Format { path: p, .. } if *p == path) && e.to_string().contains(want), "{e}");
        }
        assert!(matches!(Text::read(dir.path().join("none")).unwrap_err(), Error::File { .. }));
    }

    #[test]
    fn windows_and_what_follows() {
        let text = Text::new("abcdefg").unwrap();
        let rows = |t, stride| {
            let data = text.windows(t, stride).unwrap();
            let (x, y) = data.batch(&(0..data.len()).collect::<Vec<_>>()).unwrap();
            assert_eq!((x.shape, y.shape), (Shape::from([data.len(), t]).u32(), Shape::from([data.len(), t]).u32()));
            let lines = |h: &Host| h.u().chunks(t).map(|w| text.decode(w).unwrap()).collect::<Vec<_>>().join(" ");
            (lines(&x), lines(&y))
        };
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(rows(3, 3), pair("abc def", "bcd efg"));
        assert_eq!(rows(3, 2), pair("abc cde", "bcd def"));
        assert_eq!(rows(6, 1), pair("abcdef", "bcdefg"));
        assert_eq!(rows(1, 5), pair("a f", "b g"));

        let data = text.windows(3, 1).unwrap();
        assert_eq!(format!("{data:?}"), "Dataset(4 samples of [3] tokens, 7 classes at each of [3])");
        assert_eq!((data.class_name(2), data.labels().len()), ("c".to_string(), 12));
        let part = data.subset(&[3, 0]).unwrap();
        let (x, y) = part.batch(&[0]).unwrap();
        assert_eq!((x.u(), y.u()), (&[3, 4, 5][..], &[4, 5, 6][..]));
        assert_eq!(part.features(), &Features::Tokens { data: vec![3, 4, 5, 0, 1, 2], vocabulary: 7 });
        assert_eq!(part.clone().reshape([1, 3]).unwrap().flat().sample_shape(), Shape::from([3]).u32());
        let (_, y) = part.with_float_labels().batch(&[1]).unwrap();
        assert_eq!(y, Host::new([1, 3], vec![1.0, 2.0, 3.0]));
    }

    #[test]
    fn mistakes() {
        let text = Text::new("abc").unwrap();
        let windows = text.windows(2, 1).unwrap();
        for (e, want) in [
            (Text::new("").unwrap_err(), "Text: there is no character in it"),
            (text.encode("abx").unwrap_err(), "Text::encode: 'x' (character 2) is not among the 3 characters of the vocabulary"),
            (text.split(0.0).unwrap_err(), "Text::split: a fraction of 0 of 3 characters leaves one part empty"),
            (text.windows(0, 1).unwrap_err(), "Text::windows: windows of 0 every 1: both must be at least 1"),
            (text.windows(3, 1).unwrap_err(), "Text::windows: a window of 3 and the token after it need more than 3 characters"),
            (windows.stratified(0.5, 1).unwrap_err(), "stratified: the targets are not labels, one for each sample; use split"),
            (Normalise::features(&windows).apply(&mut windows.clone()).unwrap_err(), "Normalise: tokens are numbers of words, which"),
            (Dataset::tokens(vec![0, 1, 2], [2], 3, Target::None).unwrap_err(), "features: 3 numbers are no whole samples of [2]"),
        ] {
            assert!(e.to_string().starts_with(want), "{e}");
        }
        let e = text.decode(&[0, 3]).unwrap_err();
        assert_eq!(e.to_string(), "Text::decode: the index 3 at position [1] is not below 3, the size of the vocabulary");
        // The position names the sample and the position within the sample.
        let e = Dataset::tokens(vec![0, 1, 2, 3], [2], 3, Target::None).unwrap_err();
        assert!(matches!(&e, Error::Index { position, index: 3, rows: 3, .. } if *position == [1, 1]), "{e}");
        assert_eq!(e.to_string(), "Dataset::tokens: the index 3 at position [1, 1] is not below 3, the size of the vocabulary");
        let e = Dataset::tokens((0..12).map(|i| u32::from(i == 11) * 9).collect(), [2, 3], 3, Target::None).unwrap_err();
        assert!(matches!(&e, Error::Index { position, index: 9, .. } if *position == [1, 1, 2]), "{e}");
        let e = Dataset::tokens(vec![0], [1], 0, Target::None).unwrap_err();
        assert_eq!(e.to_string(), "vocabulary: must be at least 1");
        let e = Dataset::tokens(vec![0; 4], [2], 3, Target::labels_per([2], vec![0, 7, 0, 0], 3)).unwrap_err();
        assert!(matches!(e, Error::Label { row: 0, label: 7, classes: 3 }), "{e}");
    }

    fn trainer(data: &Dataset, characters: usize) -> Trainer {
        Trainer::for_data(
            &Device::cpu(),
            data,
            move |tokens| {
                let table = tokens.graph().param("embedding.weight", [characters, 8], Init::Normal { mean: 0.0, std: 1.0 });
                table.gather_rows(tokens).lstm("lstm", 24).linear("out", characters)
            },
            |logits, next| logits.cross_entropy(next),
            Adam::new(0.02),
        )
        .unwrap()
    }

    #[test]
    fn a_character_model_learns_and_writes() {
        let text = Text::new(&"tick tock, ".repeat(60)).unwrap();
        let (train, test) = text.split(0.75).unwrap();
        let (train, test) = (train.windows(12, 4).unwrap(), test.windows(12, 12).unwrap());
        let mut trainer = trainer(&train, text.vocabulary().len());
        let history = trainer.fit(&train, Fit::new().epochs(12).batch_size(16).validation(&test)).unwrap();
        let (first, last) = (&history.epochs[0], &history.epochs[11]);
        assert!(last.loss < 0.5 * first.loss && last.accuracy > first.accuracy, "{last:?}");

        let result = trainer.evaluate(&test).unwrap();
        assert_eq!(result.outputs.shape, Shape::from([test.len(), 12, text.vocabulary().len()]));
        assert_eq!(last.validation, Some((result.loss, result.accuracy)));
        // The accuracy counts every position of every sample.
        let predicted = result.predictions().unwrap();
        let right = predicted.iter().zip(test.labels()).filter(|(a, b)| a == b).count();
        assert_eq!(result.accuracy, Some(right as f64 / test.labels().len() as f64));
        assert!(result.accuracy > Some(0.85), "{result:?}");

        // The model continues a text. Each step appends the most likely character.
        let mut written = text.encode("tick tock, t").unwrap();
        for _ in 0..11 {
            let x = Host::labels([1, 12], written[written.len() - 12..].to_vec());
            let y = trainer.predict(&x).unwrap();
            let next = crate::train::metrics::argmax(y.f(), text.vocabulary().len()).unwrap()[11];
            written.push(next);
        }
        assert_eq!(text.decode(&written).unwrap(), "tick tock, tick tock, t");
    }

    #[test]
    fn a_model_is_told_of_tokens_that_it_does_not_know() {
        let (small, large) = (Text::new("abcabc").unwrap(), Text::new("abcdef").unwrap());
        let mut trainer = trainer(&small.windows(2, 1).unwrap(), 3);
        let e = trainer.fit(&large.windows(2, 1).unwrap(), Fit::new()).unwrap_err();
        assert!(matches!(&e, Error::Index { position, index: 3, rows: 3, .. } if position == &[2, 1]), "{e}");
        let e = trainer.predict(&Host::labels([1, 2], vec![0, 3])).unwrap_err();
        assert!(matches!(&e, Error::Index { position, index: 3, rows: 3, .. } if position == &[0, 1]), "{e}");
        let e = trainer.predict(&Host::new([1, 2], vec![0.0, 1.0])).unwrap_err().to_string();
        assert!(e.starts_with("predict: got [1, 2] with 2 values, but") && e.contains("samples of shape u32 [2]"), "{e}");
        let e = trainer.evaluate(&small.windows(3, 1).unwrap()).unwrap_err().to_string();
        assert!(e.contains("samples of shape u32 [3] with labels of shape u32 [3]"), "{e}");
    }
}
