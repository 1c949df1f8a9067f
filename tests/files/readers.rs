//! Every reader of files, what must hold whatever a file has in it, and samples to change. The fuzz targets in `fuzz/` and the
//! bounded run of the suite (`mutations.rs`) share this.

use downhill::{
    Device, Error, Graph, Host, Trainer,
    data::{self, ArrayFile, Column, Csv, Dataset, Features, Field, Target, Text, TokenFile, idx},
    layers::BatchNorm,
    optim::Adam,
    testing::TuningFiles,
};
use flate2::{Compression, write::GzEncoder};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// Readers of data stop there.
pub const LIMIT: u64 = 1 << 20;

/// A reader of files, and its files in a folder of its own.
pub struct Reader {
    /// Files that it takes.
    pub samples: Vec<Vec<u8>>,
    /// Makes a changed file one that the reader looks deeper into.
    pub wrap: fn(&[u8]) -> Vec<u8>,
    read: Box<Read>,
}

impl Reader {
    /// Has it read a file of that content.
    ///
    /// # Errors
    /// The property that does not hold. The caller must catch a panic.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), String> {
        (self.read)(bytes)
    }
}

type Read = dyn FnMut(&[u8]) -> Result<(), String>;

/// A reader, made in a folder.
pub type Make = fn(&Path) -> Reader;

/// All of them, by name.
pub const READERS: [(&str, Make); 9] = [
    ("csv", csv),
    ("idx", idx),
    ("array", array),
    ("image", image),
    ("cifar", cifar),
    ("text", text),
    ("weights", weights),
    ("checkpoint", checkpoint),
    ("tuning", tuning),
];

/// Gzipped.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(bytes).and_then(|()| gz.finish()).expect("memory takes all that is written")
}

/// A safetensors file whose first bytes say how long its header is: up to the last brace.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|&b| b == b'}').map_or(8, |i| i + 1).max(8);
    (end as u64 - 8).to_le_bytes().into_iter().chain(bytes.iter().copied().skip(8)).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    // Some file systems wait for the disk where a file is written over.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("a temporary folder can be written to");
}

/// The error is of a kind that files cause, and can be read.
fn typed(e: &Error) -> Result<(), String> {
    let known = matches!(
        e,
        Error::File { .. }
            | Error::Format { .. }
            | Error::Argument { .. }
            | Error::Label { .. }
            | Error::Index { .. }
            | Error::Length { .. }
            | Error::NonFinite { .. }
            | Error::Parameter { .. }
            | Error::NoData { .. }
    );
    let text = e.to_string();
    match known && !text.is_empty() && text.chars().count() < 2000 {
        true => Ok(()),
        false => Err(format!("an odd error of {} characters: {text:.300}", text.chars().count())),
    }
}

/// Checks the properties of every data set.
fn whole(data: &Dataset) -> Result<(), String> {
    let (n, width) = (data.len(), data.sample_shape().elements());
    let finite = match data.features() {
        Features::Float(x) => x.len() == n * width && x.iter().all(|x| x.is_finite()),
        Features::Bytes { data, .. } => data.len() == n * width,
        Features::Tokens { data, vocabulary } => data.len() == n * width && data.iter().all(|&t| (t as usize) < *vocabulary),
        Features::Source(_) => false,
    };
    let fits = match data.target() {
        Target::None => true,
        Target::Labels { values, classes, sample } => {
            values.len() == n * sample.elements() && values.iter().all(|&y| (y as usize) < classes)
        }
        Target::Values { data, sample } => data.len() == n * sample.elements() && data.iter().all(|y| y.is_finite()),
    };
    let (x, _) = data.batch(&[0, n - 1]).map_err(|e| e.to_string())?;
    match finite && fits && x.len() == 2 * width {
        true => Ok(()),
        false => Err(format!("a data set that is not whole: {data:?}")),
    }
}

fn outcome(result: Result<Dataset, Error>) -> Result<(), String> {
    match result {
        Ok(data) => whole(&data),
        Err(e) => typed(&e),
    }
}

fn csv(folder: &Path) -> Reader {
    let path = folder.join("table");
    let samples = [
        "1.5,2,0\n3,-4e-1,1\n5,6,2\n",
        "id,weight,class\r\n7, 1.5 ,0\r\n\r\n8,-3e-1,2.0\r\n9,0,1\r\n",
        "# a y\n1.500000000000000000e+00 2.000000000000000000e+00\n3.000000000000000000e+00 0.000000000000000000e+00\n# end\n",
        "\u{feff},a,b,y\n0,1.5,True,1\n1,3.0,False,0\n",
        "\"\",\"x\",\"y\"\n\"1\",0.1,1\n\"2\",2,0\n",
        "\"x\" \"y\"\n\"one\" 0.1 1\n\"two, three\" 2 0\n  \n",
    ];
    let read = move |bytes: &[u8]| {
        write(&path, bytes);
        let csv = || Csv::new(&path);
        let all = [
            csv(),
            csv().labels(Column::Last),
            csv().header().labels("y").skip(0),
            csv().header().labels(2).classes(3),
            csv().delimiter(' ').values(1),
            csv().delimiter(' ').header().labels("y"),
        ];
        let categories = [csv().header().category(1).labels("class"), csv().header().category("y").labels("y"), csv().category(0)];
        data::with_read_limit(LIMIT, || {
            all.iter().try_for_each(|csv| outcome(csv.read()))?;
            categories.iter().chain(&all).try_for_each(|csv| outcome(csv.columns()))
        })
    };
    Reader { samples: samples.map(|s| s.as_bytes().to_vec()).into(), wrap: packed, read: Box::new(read) }
}

pub fn idx_file(kind: u8, dims: &[u32], data: &[u8]) -> Vec<u8> {
    let axes = dims.iter().flat_map(|d| d.to_be_bytes());
    [0, 0, kind, dims.len() as u8].into_iter().chain(axes).chain(data.iter().copied()).collect()
}

fn idx(folder: &Path) -> Reader {
    let [path, samples, labels] = ["idx", "samples", "labels"].map(|name| folder.join(name));
    let (some, classes) = (idx_file(8, &[3, 1, 2], &[0, 255, 51, 0, 0, 102]), idx_file(8, &[3], &[2, 0, 1]));
    write(&samples, &some);
    write(&labels, &classes);
    let floats: Vec<u8> = [0.5f32, -1.25, 3e38, 0.1, 1.0, 2.0].iter().flat_map(|x| x.to_be_bytes()).collect();
    let doubles: Vec<u8> = [0.5f64, -1e300, 2.0].iter().flat_map(|x| x.to_be_bytes()).collect();
    let all = vec![
        some,
        classes,
        idx_file(0x0D, &[3, 2], &floats),
        idx_file(0x0E, &[3], &doubles),
        idx_file(0x0B, &[3, 1], &[1, 0, 255, 254, 0, 3]),
        idx_file(0x0C, &[3], &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]),
        idx_file(0x09, &[1, 3], &[1, 2, 255]),
    ];
    let read = move |bytes: &[u8]| {
        write(&path, bytes);
        data::with_read_limit(LIMIT, || {
            if let Err(e) = idx::read(&path) {
                typed(&e)?;
            }
            outcome(idx::dataset(&path, &labels, None))?;
            outcome(idx::dataset(&samples, &path, None))?;
            outcome(idx::dataset(&path, &path, Some(10)))
        })
    };
    Reader { samples: all, wrap: packed, read: Box::new(read) }
}

/// A file of numpy.
pub fn npy_file(descr: &str, dims: &[usize], data: &[u8]) -> Vec<u8> {
    let axes: String = dims.iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    header.extend(std::iter::repeat_n(' ', 63 - (10 + header.len()) % 64));
    header.push('\n');
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Files whose rows are read when a batch needs them.
fn array(folder: &Path) -> Reader {
    let path = folder.join("array");
    let samples = vec![
        npy_file("<f4", &[3, 2], &[0; 24]),
        npy_file(">i2", &[3], &[0, 1, 0, 2, 0, 0]),
        npy_file("|u1", &[2, 1, 2], &[0, 255, 7, 8]),
        npy_file("<f2", &[2], &[0, 0x3e, 0, 0xc0]),
        idx_file(8, &[3, 1, 2], &[0, 255, 51, 0, 0, 102]),
        idx_file(0x0C, &[3], &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]),
    ];
    let read = move |bytes: &[u8]| {
        write(&path, bytes);
        let streamed = |data: Result<Dataset, Error>| outcome(data.and_then(|data| data.cache()));
        match ArrayFile::open(&path) {
            Ok(array) => {
                if let Err(e) = array.labels() {
                    typed(&e)?;
                }
                streamed(Dataset::of([Field::source("x", array.sample(), array)]))?;
            }
            Err(e) => typed(&e)?,
        }
        [TokenFile::npy(&path), TokenFile::u16(&path), TokenFile::u32(&path)]
            .into_iter()
            .try_for_each(|file| streamed(file.and_then(|file| file.windows(2, 1, 1 << 16))))
    };
    Reader { samples, wrap: <[u8]>::to_vec, read: Box::new(read) }
}

/// A PNG image of 8 bits.
pub fn png_file(color: png::ColorType, [width, height]: [u32; 2], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    if color == png::ColorType::Indexed {
        encoder.set_palette([[255, 0, 0], [0, 51, 0], [0, 0, 102]].concat());
    }
    let mut writer = encoder.write_header().expect("the header is right");
    writer.write_image_data(data).expect("memory takes all that is written");
    writer.finish().expect("memory takes all that is written");
    bytes
}

/// A folder of one image.
fn image(folder: &Path) -> Reader {
    let samples = vec![
        png_file(png::ColorType::Grayscale, [3, 2], &[0, 1, 2, 3, 4, 255]),
        png_file(png::ColorType::Rgba, [1, 2], &[0, 1, 2, 3, 4, 255, 6, 7]),
        png_file(png::ColorType::Indexed, [3, 1], &[0, 1, 2]),
        b"P5 3\n2 255\n012345".to_vec(),
        b"P6\n# a comment\n2 1\n255\n012345".to_vec(),
        npy_file("|u1", &[1, 2, 2], &[0, 255, 7, 8]),
    ];
    let roots: Vec<PathBuf> = ["png", "ppm", "npy"].map(|end| folder.join(end).join(format!("class/image.{end}"))).into();
    for path in &roots {
        fs::create_dir_all(path.parent().expect("it has one")).expect("a temporary folder can be written to");
    }
    let read = move |bytes: &[u8]| {
        roots.iter().try_for_each(|path| {
            write(path, bytes);
            let root = path.ancestors().nth(2).expect("it has two");
            outcome(data::with_read_limit(LIMIT, || data::image_folder(root)).and_then(|data| data.cache()))
        })
    };
    Reader { samples, wrap: <[u8]>::to_vec, read: Box::new(read) }
}

fn cifar(folder: &Path) -> Reader {
    let record = |label: u8| [&[label][..], &[100; 3072]].concat();
    for k in 1..=5 {
        write(&folder.join(format!("data_batch_{k}.bin")), &record(k));
    }
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n".as_bytes().to_vec();
    let (test, meta) = (folder.join("test_batch.bin"), folder.join("batches.meta.txt"));
    let (folder, whole_file, whole_names) = (folder.to_path_buf(), record(7), names.clone());
    let read = move |bytes: &[u8]| {
        for [a, b] in [[bytes, &whole_names], [&whole_file, bytes]] {
            write(&test, a);
            write(&meta, b);
            match data::with_read_limit(LIMIT, || data::cifar10(&folder)) {
                Ok((train, test)) => whole(&train).and(whole(&test))?,
                Err(e) => typed(&e)?,
            }
        }
        Ok(())
    };
    Reader { samples: vec![record(7), [record(9), record(0)].concat(), names], wrap: packed, read: Box::new(read) }
}

fn text(folder: &Path) -> Reader {
    let path = folder.join("text");
    let samples = ["In the beginning God created.\r\n", "\u{feff}übel, aber gut\n", "日本語のテキスト"];
    let read = move |bytes: &[u8]| {
        write(&path, bytes);
        let text = match data::with_read_limit(LIMIT, || Text::read(&path)) {
            Ok(text) => text,
            Err(e) => return typed(&e),
        };
        let back = text.decode(text.tokens()).map_err(|e| e.to_string())?;
        let packed = bytes.starts_with(&[0x1f, 0x8b]);
        match packed || std::str::from_utf8(bytes) == Ok(&back) || bytes.strip_prefix("\u{feff}".as_bytes()) == Some(back.as_bytes()) {
            true => outcome(text.windows(3, 2)),
            false => Err("the text is another one".to_string()),
        }
    };
    Reader { samples: samples.map(|s| s.as_bytes().to_vec()).into(), wrap: packed, read: Box::new(read) }
}

/// A model with parameters and state, after two steps.
fn trained() -> Result<Trainer, Error> {
    let g = Graph::training();
    let (x, y) = (g.input([4, 3]), g.labels([4]));
    let loss = x.linear("fc1", 2).batch_norm_with("bn", BatchNorm::default()).linear("fc2", 2).cross_entropy(y);
    let mut trainer = Trainer::new(&Device::cpu(), loss, Adam::new(0.01))?;
    step(&mut trainer)?;
    step(&mut trainer)?;
    Ok(trainer)
}

fn step(trainer: &mut Trainer) -> Result<(), Error> {
    let x = (0..12).map(|i| (i * 5 % 7) as f32 - 3.0).collect();
    trainer.step(&[Host::new([4, 3], x), Host::labels([4], vec![0, 1, 1, 0])])?;
    trainer.loss().map(|_| ())
}

/// The number of steps, and the bits of each parameter.
type State = (u64, Vec<(String, Vec<u32>)>);

fn state(trainer: &Trainer) -> Result<State, String> {
    let all = trainer.params().all().map_err(|e| e.to_string())?;
    Ok((trainer.steps(), all.into_iter().map(|(name, v)| (name, v.f().iter().map(|x| x.to_bits()).collect())).collect()))
}

/// Makes a reader that loads a file into a trainer by `load`. `save` writes the file.
fn model(path: PathBuf, save: fn(&Trainer, &Path) -> Result<(), Error>, load: fn(&mut Trainer, &Path) -> Result<(), Error>) -> Reader {
    let mut trainer = trained().expect("the model is right");
    save(&trainer, &path).expect("a temporary folder can be written to");
    let sample = fs::read(&path).expect("it was written");
    let mut before = state(&trainer).expect("nothing was changed");
    let read = move |bytes: &[u8]| {
        write(&path, bytes);
        match load(&mut trainer, &path) {
            Ok(()) => {
                // Whatever was loaded: training goes on, or says why not.
                let (_, now) = (trainer.lr(), step(&mut trainer));
                if let Err(e) = now
                    && !matches!(e, Error::Diverged { .. })
                {
                    typed(&e)?;
                }
                before = state(&trainer)?;
                Ok(())
            }
            Err(e) => match state(&trainer)? == before {
                true => typed(&e),
                false => Err(format!("a refused file changed the model: {e}")),
            },
        }
    };
    Reader { samples: vec![sample], wrap: framed, read: Box::new(read) }
}

fn weights(folder: &Path) -> Reader {
    model(folder.join("weights"), |trainer, path| trainer.params().save(path), |trainer, path| trainer.params().load(path))
}

fn checkpoint(folder: &Path) -> Reader {
    model(folder.join("checkpoint"), |trainer, path| trainer.save(path), |trainer, path| trainer.load(path))
}

fn tuning(folder: &Path) -> Reader {
    let files = TuningFiles::new(folder);
    let samples = files.paths().map(|path| fs::read(path).expect("it was written")).to_vec();
    assert_eq!(files.read(), (1, true));
    let read = move |bytes: &[u8]| {
        files.paths().iter().for_each(|path| write(path, bytes));
        // As if there were none, or some of it: nothing to say.
        files.read();
        Ok(())
    };
    Reader { samples, wrap: <[u8]>::to_vec, read: Box::new(read) }
}
