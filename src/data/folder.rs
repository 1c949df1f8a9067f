//! A folder of images, one folder for each class.

use super::{
    ArrayFile, Dataset, Field, Source,
    file::{self, unpacked},
};
use crate::{
    error::{Error, Result},
    shape::Shape,
    threads::{lines, lock},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Takes a folder that has a folder of images for each class, as torchvision's `ImageFolder` does. The images are read when a
/// batch needs them, on all cores.
///
/// The classes are the names of the folders in `root`, sorted. The samples of a class are all files in its folder and in the
/// folders within, sorted by their paths. Files of other types are left out. All images must have the same size.
///
/// | File | Sample |
/// |---|---|
/// | `.png` | `[1, height, width]` for grey, `[3, height, width]` for colours and palettes, 0..1. Transparency is dropped |
/// | `.ppm`, `.pgm`, `.pnm` | the same, for the binary formats P5 and P6 with values up to 255 |
/// | `.npy` | the array as it is. Bytes are scaled to 0..1 |
///
/// ```no_run
/// use downhill::data;
/// let flowers = data::image_folder("flowers/train")?;
/// println!("{:?} of {:?}", flowers, flowers.class_names());
/// # Ok::<(), downhill::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`] if a folder cannot be read. [`Error::Format`] for a folder without classes, a class without images, and an
/// image that cannot be read. An image of another size than the first is an error when a batch needs it.
pub fn image_folder(root: impl AsRef<Path>) -> Result<Dataset> {
    let root = root.as_ref();
    let (mut paths, mut labels, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for class in entries(root)?.into_iter().filter(|path| path.is_dir()) {
        let before = paths.len();
        collect(&class, &mut paths)?;
        if paths.len() == before {
            return Err(Error::format(&class, "no image in it (.png, .ppm, .pgm, .pnm or .npy), but each folder is a class"));
        }
        labels.resize(paths.len(), names.len() as u32);
        names.push(class.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    let Some(first) = paths.first() else {
        return Err(Error::format(root, "no folder in it, but each class needs a folder of images"));
    };
    let sample = Image::open(first)?.sample;
    // A small file may claim to be a large image. Images of another size are never read.
    let most = unpacked(fs::metadata(first).map_err(|e| Error::file(first, e))?.len());
    if sample.elements() as u64 > most {
        let why = format!("an image of {sample} has more than {most} bytes; data::with_read_limit sets another limit");
        return Err(Error::format(first, why));
    }
    let classes: Vec<&str> = names.iter().map(String::as_str).collect();
    let labels = Field::labels("y", labels, classes.len());
    Dataset::of([Field::source("x", sample, Images { paths, sample }), labels])?.with_class_names(&classes)
}

/// Returns the paths in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::file(folder, e);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(failed)?;
    paths.sort_unstable();
    Ok(paths)
}

/// Adds all images below a folder.
fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            collect(&path, paths)?;
        } else if Kind::of(&path).is_some() {
            paths.push(path);
        }
    }
    Ok(())
}

struct Images {
    paths: Vec<PathBuf>,
    /// The shape of each image.
    sample: Shape,
}

impl Source for Images {
    fn rows(&self) -> usize {
        self.paths.len()
    }
    fn read(&self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        // The first image of the batch that cannot be read, and its error.
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        lines(out, self.sample.elements(), 1, |place, out| {
            if let Err(e) = self.image(&self.paths[rows[place]], out) {
                let mut failed = lock(&failed);
                if failed.as_ref().is_none_or(|(first, _)| place < *first) {
                    *failed = Some((place, e));
                }
            }
        });
        let failed = lock(&failed).take();
        failed.map_or(Ok(()), |(_, e)| Err(e))
    }
    fn width(&self) -> Option<usize> {
        Some(self.sample.elements())
    }
}

impl Images {
    fn image(&self, path: &Path, out: &mut [f32]) -> Result<()> {
        let image = Image::open(path)?;
        match image.sample == self.sample {
            true => image.read(path, out),
            false => {
                let why = format!("a sample of {}, but the first is {}; all images must have the same size", image.sample, self.sample);
                Err(Error::format(path, why))
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Npy,
    Pnm,
    Png,
}

impl Kind {
    /// Returns the kind by the end of the name.
    fn of(path: &Path) -> Option<Kind> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "npy" => Some(Kind::Npy),
            "ppm" | "pgm" | "pnm" => Some(Kind::Pnm),
            "png" => Some(Kind::Png),
            _ => None,
        }
    }
}

/// An image whose size is known, but whose pixels are not read yet.
struct Image {
    sample: Shape,
    pixels: Pixels,
}

enum Pixels {
    Npy(ArrayFile),
    /// The content of a file, and the byte where its pixels begin.
    Pnm(Vec<u8>, usize),
    Png(Box<png::Reader<std::io::BufReader<fs::File>>>),
}

/// The factor of a byte.
const SCALE: f32 = 1.0 / 255.0;

impl Image {
    fn open(path: &Path) -> Result<Image> {
        match Kind::of(path) {
            Some(Kind::Png) => Image::png(path),
            Some(Kind::Pnm) => Image::pnm(path),
            Some(Kind::Npy) | None => {
                let array = ArrayFile::open(path)?;
                let array = if array.is_bytes() { array.scaled(SCALE) } else { array };
                let sample = array.whole().ok_or_else(|| Error::format(path, "an array of too many axes for a sample"))?;
                Ok(Image { sample, pixels: Pixels::Npy(array) })
            }
        }
    }
    fn png(path: &Path) -> Result<Image> {
        let file = fs::File::open(path).map_err(|e| Error::file(path, e))?;
        let mut decoder = png::Decoder::new(std::io::BufReader::new(file));
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let reader = decoder.read_info().map_err(|e| Error::format(path, e))?;
        let (info, (kind, _)) = (reader.info(), reader.output_color_type());
        let channels = if matches!(kind, png::ColorType::Grayscale | png::ColorType::GrayscaleAlpha) { 1 } else { 3 };
        let sample = Shape::from([channels, info.height as usize, info.width as usize]);
        Ok(Image { sample, pixels: Pixels::Png(Box::new(reader)) })
    }
    fn pnm(path: &Path) -> Result<Image> {
        let bytes = file::open(path)?.rest()?;
        let bad = |why: &str| Error::format(path, why);
        let channels = match bytes.get(..2) {
            Some(b"P5") => 1,
            Some(b"P6") => 3,
            _ => return Err(bad("not a binary PGM or PPM image: it does not start with P5 or P6")),
        };
        let mut at = 2;
        let mut number = || {
            // Blanks and comments stand between the numbers.
            while let Some(b) = bytes.get(at).filter(|b| b.is_ascii_whitespace() || **b == b'#') {
                at += if *b == b'#' { bytes[at..].iter().take_while(|b| **b != b'\n').count() } else { 1 };
            }
            let digits = bytes[at.min(bytes.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
            let text = std::str::from_utf8(&bytes[at..at + digits]).ok()?;
            at += digits;
            text.parse::<usize>().ok().filter(|&n| n > 0)
        };
        let header = [(); 3].map(|()| number());
        let [Some(width), Some(height), Some(most)] = header else { return Err(bad("its header cannot be read")) };
        if most != 255 {
            return Err(bad("its values do not end at 255"));
        }
        // One blank stands behind the header.
        let start = at + 1;
        let want = width.checked_mul(height).and_then(|n| n.checked_mul(channels)).and_then(|n| n.checked_add(start));
        if want != Some(bytes.len()) {
            return Err(bad(&format!("{} bytes, but {height} lines of {width} pixels take {want:?}", bytes.len())));
        }
        Ok(Image { sample: Shape::from([channels, height, width]), pixels: Pixels::Pnm(bytes, start) })
    }
    fn read(self, path: &Path, out: &mut [f32]) -> Result<()> {
        let (bytes, start, step) = match self.pixels {
            Pixels::Npy(array) => return array.all(out),
            Pixels::Pnm(bytes, start) => (bytes, start, self.sample.dims()[0]),
            Pixels::Png(mut reader) => {
                let too_large = || Error::format(path, "an image that no memory holds");
                let mut bytes = vec![0; reader.output_buffer_size().ok_or_else(too_large)?];
                reader.next_frame(&mut bytes).map_err(|e| Error::format(path, e))?;
                (bytes, 0, reader.output_color_type().0.samples())
            }
        };
        // Files have the channels of a pixel side by side.
        let plane = out.len() / self.sample.dims()[0];
        for (channel, plane) in out.chunks_mut(plane).enumerate() {
            let pixels = bytes[start..].iter().skip(channel).step_by(step);
            plane.iter_mut().zip(pixels).for_each(|(x, &b)| *x = (f64::from(b) * f64::from(SCALE)) as f32);
        }
        Ok(())
    }
}
