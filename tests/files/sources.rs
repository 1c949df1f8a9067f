//! Data that is read from files when a batch needs it: it trains as the same data in memory does, to the last bit.

use crate::{
    common::{BOTH, Check, Suite, weights},
    readers::{idx_file, npy_file, png_file},
};
use downhill::{
    Checkpoints, Device, Error, Fit, Tensor, Trainer,
    data::{self, ArrayFile, Augment, Csv, Dataset, Field, Role, Target, TokenFile, idx},
    init::Init,
    losses,
    optim::Adam,
};
use std::{fs, path::Path};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "images in files", images);
    suite.each(&BOTH, "a text in a file", text);
    suite.each(&BOTH, "a folder of images", folder);
    suite.each(&BOTH, "columns of a table", columns);
    suite.test("numbers of every type", numbers);
    suite.test("files that change", changed);
    suite.test("files that are refused", refused);
    suite.test("folders that are refused", bad_folders);
    suite.test("tables that are refused", bad_tables);
}

const N: usize = 37;

/// Numbers below `most` in no order.
fn mixed(n: usize, most: usize) -> Vec<u32> {
    (0..n).map(|i| (((i as u64 * 2_654_435_761) >> 9) % most as u64) as u32).collect()
}

fn bytes(n: usize) -> Vec<u8> {
    mixed(n, 251).into_iter().map(|x| x as u8).collect()
}

fn classifier(device: &Device, data: &Dataset) -> Result<Trainer, Error> {
    Trainer::for_data(
        device,
        data,
        |x| x.flatten().linear("fc1", 8).relu().dropout(0.2).linear("fc2", 3),
        |x, y| x.cross_entropy(y),
        Adam::new(0.02),
    )
}

/// The weights after training, the losses of all steps and the validation of each epoch.
type Trained = (Vec<(String, Vec<u32>)>, Vec<f32>, Vec<Option<(f64, Option<f64>)>>);

fn train(mut trainer: Trainer, data: &Dataset, fit: Fit) -> Result<Trained, Error> {
    let history = trainer.fit(data, fit)?;
    let losses = history.epochs.iter().flat_map(|e| e.losses.clone()).collect();
    Ok((weights(&trainer)?, losses, history.epochs.iter().map(|e| e.validation).collect()))
}

/// Data in memory and in files train to the same bits: resident and streamed, with any number of steps in a submit, shuffled, split,
/// augmented, with and without the last batch, and from a checkpoint within an epoch.
fn same(device: &Device, held: &Dataset, read: &Dataset, make: fn(&Device, &Dataset) -> Result<Trainer, Error>, augment: bool) -> Check {
    let (cached, _) = read.cache()?.split(0.8, 3)?;
    let ((held, validation), (read, other)) = (held.split(0.8, 3)?, read.split(0.8, 3)?);
    let folder = tempfile::tempdir()?;
    for drop_last in [false, true] {
        let fit = || {
            let fit = Fit::new().epochs(3).batch_size(8).drop_last(drop_last);
            if augment { fit.augment(Augment { horizontal_flip: 0.5, vertical_flip: 0.3, crop_padding: 1 }) } else { fit }
        };
        let want = train(make(device, &held)?, &held, fit().validation(&validation).resident(0))?;
        for steps in [1, 3, 64] {
            let fit = || fit().steps_per_submit(steps);
            assert_eq!(train(make(device, &held)?, &held, fit().validation(&validation))?, want, "{steps} resident");
            assert_eq!(train(make(device, &read)?, &read, fit().validation(&other))?, want, "{steps} from files");
            assert_eq!(train(make(device, &cached)?, &cached, fit().validation(&other))?, want, "{steps} cached");
        }
        // Step 5 is in the second epoch.
        let path = folder.path().join(drop_last.to_string());
        let checkpoints = Checkpoints::new(&path).every_steps(5).keep(9);
        train(make(device, &read)?, &read, fit().validation(&other).checkpoints(checkpoints))?;
        let resumed = train(make(device, &read)?, &read, fit().validation(&other).resume(path.join("checkpoint-00000001.safetensors")))?;
        assert_eq!(resumed, want, "resumed");
    }
    Ok(())
}

fn images(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let [images, labels, floats] = ["images", "labels.npy", "floats.npy"].map(|name| folder.path().join(name));
    let (pixels, classes) = (bytes(N * 12), mixed(N, 3));
    fs::write(&images, idx_file(8, &[N as u32, 1, 3, 4], &pixels))?;
    fs::write(&labels, npy_file("<i8", &[N], &classes.iter().flat_map(|&y| i64::from(y).to_le_bytes()).collect::<Vec<_>>()))?;
    let y = || Ok::<_, Error>(Field::labels("y", ArrayFile::open(&labels)?.labels()?, 3));
    let file = ArrayFile::open(&images)?.scaled(1.0 / 255.0);
    assert_eq!((file.rows(), file.sample()), (N, [1, 3, 4].into()));
    let read = Dataset::of([Field::source("x", file.sample(), file), y()?])?;
    let held = Dataset::bytes(pixels, [1, 3, 4], 1.0 / 255.0, Target::labels(classes.clone(), 3))?;
    same(device, &held, &read, classifier, true)?;
    // Floats of numpy, as the training set of one trainer after the other.
    let x: Vec<f32> = (0..N * 5).map(|i| (i as f32 * 0.37).sin()).collect();
    fs::write(&floats, npy_file("<f4", &[N, 5], &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()))?;
    let read = Dataset::of([Field::source("x", [5], ArrayFile::open(&floats)?), y()?])?;
    let held = Dataset::new(x, [5], Target::labels(classes, 3))?;
    same(device, &held, &read, classifier, false)?;
    let (mut a, mut b) = (classifier(device, &held)?, classifier(device, &held)?);
    assert_eq!(a.evaluate(&read)?.outputs, b.evaluate(&held)?.outputs);
    assert_eq!(a.predict_on(&read.select(&["x"])?)?, b.predict_on(&held)?);
    Ok(())
}

fn model(tokens: Tensor<'_>) -> Tensor<'_> {
    let table = tokens.graph().param("table", [11, 6], Init::Normal { mean: 0.0, std: 1.0 });
    table.gather_rows(tokens).linear("fc", 8).tanh().linear("out", 11)
}

fn text(device: &Device) -> Check {
    let make = |device: &Device, data: &Dataset| Trainer::for_data(device, data, model, |x, y| x.cross_entropy(y), Adam::new(0.02));
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tokens");
    let (t, stride, tokens) = (5, 3, mixed(3 * N + 7, 11));
    let window = |shift: usize| {
        (0..)
            .step_by(stride)
            .take_while(|s| s + t < tokens.len())
            .flat_map(|s| tokens[s + shift..s + shift + t].to_vec())
            .collect::<Vec<u32>>()
    };
    let held = Dataset::tokens(window(0), [t], 11, Target::labels_per([t], window(1), 11))?;
    fs::write(&path, tokens.iter().flat_map(|&x| (x as u16).to_le_bytes()).collect::<Vec<_>>())?;
    let file = TokenFile::u16(&path)?;
    let read = file.windows(t, stride, 11)?;
    assert_eq!((file.len(), read.len(), read.classes()), (tokens.len(), held.len(), 11));
    assert_eq!(format!("{read:?}"), format!("Dataset({} samples of [5] tokens of a source, 11 classes at each of [5])", held.len()));
    assert_eq!(read.columns(&[4, 0])?, held.columns(&[4, 0])?);
    assert_eq!((file.read(3..9)?, read.target()), (tokens[3..9].to_vec(), held.target()));
    same(device, &held, &read, make, false)?;
    // The parts of a text, in other formats.
    fs::write(&path, tokens.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
    let (a, b) = TokenFile::u32(&path)?.split(0.5)?;
    assert_eq!([a.read(0..a.len())?, b.read(0..b.len())?].concat(), tokens);
    assert_eq!(b.windows(4, 4, 11)?.columns(&[1])?[1].u(), &tokens[a.len() + 5..a.len() + 9]);
    fs::write(&path, npy_file(">u2", &[tokens.len()], &tokens.iter().flat_map(|&x| (x as u16).to_be_bytes()).collect::<Vec<_>>()))?;
    assert_eq!(TokenFile::npy(&path)?.read(0..tokens.len())?, tokens);
    // A token and a label that are too large: the error names the window and the place in it.
    let small = TokenFile::npy(&path)?.windows(t, stride, 10)?;
    let at = tokens.iter().position(|&x| x == 10).expect("there is one");
    let mut trainer = make(device, &held)?;
    let e = trainer.fit(&small, Fit::new()).unwrap_err();
    assert!(matches!(e, Error::Index { index: 10, rows: 10, .. } | Error::Label { label: 10, classes: 10, .. }), "{e}");
    let x = small.select(&["x"])?;
    let place = |row: usize| held.columns(&[row]).ok()?[0].u().iter().position(|&x| x == 10).map(|column| vec![row, column]);
    let want = (0..small.len()).find_map(place).expect("there is one");
    let e = x.columns(&[0, want[0]]).unwrap_err();
    assert!(matches!(&e, Error::Index { position, .. } if *position == want), "{e}");
    let y = Field::token_source("y", [], ArrayFile::open(&path)?, 10).with_role(Role::Target);
    let e = Dataset::of([Field::floats("x", [], vec![0.0; tokens.len()]), y])?.columns(&[0, at]).unwrap_err();
    assert!(matches!(e, Error::Label { row, label: 10, classes: 10 } if row == at), "{e}");
    // More tokens than the model's table has rows.
    let e = trainer.fit(&file.windows(t, stride, 12)?, Fit::new()).unwrap_err().to_string();
    assert_eq!(e, "column `x`: its source has 12 classes or tokens, but the model has 11");
    Ok(())
}

fn folder(device: &Device) -> Check {
    use png::ColorType::{Grayscale, Indexed, Rgb, Rgba};
    let root = tempfile::tempdir()?;
    let put = |name: &str, bytes: &[u8]| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("it is in a folder"))?;
        fs::write(path, bytes)
    };
    // [channels, height, width] from the pixels of a file.
    let apart = |pixels: &[u8], channels: usize, step: usize| -> Vec<u8> {
        (0..channels).flat_map(|c| pixels.iter().skip(c).step_by(step).copied().collect::<Vec<_>>()).collect()
    };
    let (mut all, mut labels) = (Vec::new(), Vec::new());
    for k in 0..N {
        let class = k * 3 / N;
        let pixels: Vec<u8> = bytes(24).into_iter().map(|x| x.wrapping_mul(k as u8 + 1)).collect();
        let name = |end: &str| format!("{}/{}/{k:02}.{end}", ["ant", "bee", "cat"][class], k / 20);
        match k % 4 {
            0 => put(&name("png"), &png_file(Rgb, [3, 2], &pixels[..18]))?,
            1 => put(&name("PNG"), &png_file(Rgba, [3, 2], &pixels))?,
            2 => put(&name("ppm"), &[b"P6 3 # wide\n2\n255\n", &pixels[..18]].concat())?,
            _ => put(&name("npy"), &npy_file("|u1", &[3, 2, 3], &pixels[..18]))?,
        }
        all.extend(match k % 4 {
            1 => apart(&pixels, 3, 4),
            3 => pixels[..18].to_vec(),
            _ => apart(&pixels[..18], 3, 3),
        });
        labels.push(class as u32);
    }
    put("ant/notes.txt", b"not an image")?;
    put("readme.txt", b"no class")?;
    let read = data::image_folder(root.path())?;
    assert_eq!((read.class_names(), read.labels(), read.len()), (&["ant", "bee", "cat"].map(String::from)[..], &labels[..], N));
    let held = Dataset::bytes(all, [3, 2, 3], 1.0 / 255.0, Target::labels(labels, 3))?;
    same(device, &held, &read, classifier, true)?;
    // Grey images, palettes, images of 16 bits, floats.
    let other = tempfile::tempdir()?;
    let path = other.path().join("one");
    fs::create_dir(&path)?;
    let first = |name: &str, bytes: &[u8]| -> Result<(Vec<usize>, Vec<f32>), Error> {
        fs::write(path.join(name), bytes).expect("a temporary folder can be written to");
        let x = data::image_folder(other.path())?.columns(&[0])?.swap_remove(0);
        fs::remove_file(path.join(name)).expect("it was written");
        Ok((x.shape.dims()[1..].to_vec(), x.f().to_vec()))
    };
    let scaled = |bytes: &[u8]| bytes.iter().map(|&b| (f64::from(b) * f64::from(1.0f32 / 255.0)) as f32).collect::<Vec<_>>();
    assert_eq!(first("a.png", &png_file(Grayscale, [2, 1], &[7, 255]))?, (vec![1, 1, 2], scaled(&[7, 255])));
    assert_eq!(first("a.pgm", b"P5\n2 1\n255\n\x07\xff")?, (vec![1, 1, 2], scaled(&[7, 255])));
    assert_eq!(first("a.png", &png_file(Indexed, [3, 1], &[2, 0, 1]))?, (vec![3, 1, 3], scaled(&[0, 255, 0, 0, 0, 51, 102, 0, 0])));
    assert_eq!(first("a.npy", &npy_file("<f4", &[2], &[0, 0, 0x20, 0xc1, 0, 0, 0x80, 0x3f]))?, (vec![2], vec![-10.0, 1.0]));
    let mut deep = Vec::new();
    let mut encoder = png::Encoder::new(&mut deep, 1, 1);
    encoder.set_color(Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.write_header()?.write_image_data(&[0x80, 0xff])?;
    assert_eq!(first("a.png", &deep)?, (vec![1, 1, 1], scaled(&[0x80])));
    Ok(())
}

/// A wide and deep model from a table of numbers and categories.
fn columns(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let [train, test] = ["train.csv", "test.csv"].map(|name| folder.path().join(name));
    let (jobs, age) = (mixed(N, 4), |i: usize| (i as f32 * 0.7).sin());
    let names = ["cook", "\"smith, black\"", "", "baker"];
    let rows = |range: std::ops::Range<usize>| -> String {
        range
            .map(|i| format!("{i},{},{},{},{}\n", age(i), names[jobs[i] as usize], i % 3, if i % 2 == 0 { "low" } else { "high" }))
            .collect()
    };
    fs::write(&train, format!("id,age,job,kind,income\n{}", rows(0..N)))?;
    fs::write(&test, format!("id,age,job,kind,income\n{}", rows(1..2)))?;
    let table = |path: &Path| Csv::new(path).header().skip("id").category("job").category("income").labels("income");
    let read = table(&train).columns()?;
    // Sorted: "", "baker", "cook", "smith, black".
    let sorted = [2, 3, 0, 1];
    assert_eq!(read.field("job")?.categories(), ["", "baker", "cook", "smith, black"]);
    assert_eq!(read.class_names(), ["high", "low"]);
    let held = Dataset::of([
        Field::floats("age", [1], (0..N).map(age).collect()),
        Field::tokens("job", [], jobs.iter().map(|&job| sorted[job as usize]).collect(), 4),
        Field::floats("kind", [1], (0..N).map(|i| (i % 3) as f32).collect()),
        Field::labels("income", (0..N).map(|i| u32::from(i % 2 == 0)).collect(), 2),
    ])?;
    assert_eq!(format!("{read:?}"), format!("{held:?}"));
    assert_eq!(read.columns(&[5, 36, 2])?, held.columns(&[5, 36, 2])?);
    let make = |device: &Device, data: &Dataset| {
        Trainer::for_batches(
            device,
            data,
            |b| {
                let table = b.graph().param("table", [4, 3], Init::Normal { mean: 0.0, std: 1.0 });
                let wide = b["age"].linear("age", 2) + b["kind"].linear("kind", 2);
                let scores = table.gather_rows(b["job"]).linear("job", 2) + wide;
                losses::cross_entropy(scores, b["income"]).mean().into()
            },
            Adam::new(0.02),
        )
    };
    same(device, &held, &read, make, false)?;
    // A held-out file has one category of each column, and gets the same tokens.
    let part = table(&test).like(&read).columns()?;
    assert_eq!(part.columns(&[0])?, read.columns(&[1])?);
    assert_eq!((part.class_names(), part.field("job")?.categories()), (read.class_names(), read.field("job")?.categories()));
    // Subsets keep the names.
    assert_eq!(read.subset(&[3])?.field("job")?.categories().len(), 4);
    // Without a header, columns have numbers. Labels may be numbers.
    fs::write(&test, "0.5,a,2\n1.5,b,0\n-1,a,1\n")?;
    let data = Csv::new(&test).category(1).labels(2).columns()?;
    assert_eq!(data.names().collect::<Vec<_>>(), ["0", "1", "2"]);
    assert_eq!((data.classes(), data.labels(), data.class_names().len()), (3, &[2, 0, 1][..], 0));
    let data = Csv::new(&test).category(1).values(2).columns()?;
    assert_eq!(data.target(), Target::values([1], vec![2.0, 0.0, 1.0]));
    assert_eq!(Csv::new(&test).skip(0).skip(2).category(1).columns()?.columns(&[1, 2])?[0].u(), [1, 0]);
    Ok(())
}

/// The files of numpy 2 itself, and numbers of every type.
fn numbers() -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("numbers");
    let read = |bytes: &[u8]| -> Result<(Vec<usize>, Vec<f32>), Error> {
        fs::write(&path, bytes).expect("a temporary folder can be written to");
        let file = ArrayFile::open(&path)?;
        let (rows, sample) = (file.rows(), file.sample());
        let data = Dataset::of([Field::source("x", sample, file)])?;
        let all: Vec<usize> = (0..rows).collect();
        let x = data.columns(&all)?.swap_remove(0);
        // Rows in another order, one after the other, and in memory.
        for row in [rows - 1, 0] {
            let width = sample.elements();
            assert_eq!(data.columns(&[row, 0])?[0].f(), [&x.f()[row * width..(row + 1) * width], &x.f()[..width]].concat());
        }
        assert_eq!(data.cache()?.columns(&all)?[0], x);
        Ok((x.shape.dims().to_vec(), x.f().to_vec()))
    };
    let spaces = " ".repeat(58);
    let of_numpy = [
        format!("\x01\0v\0{{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }}{spaces}\n").as_bytes(),
        b"\x00>\x00\xc0f.\x00B\x00D\xff{",
    ]
    .concat();
    let of_numpy = [b"\x93NUMPY", &of_numpy[..]].concat();
    assert_eq!(of_numpy.len(), 140);
    assert_eq!(read(&of_numpy)?, (vec![2, 3], vec![1.5, -2.0, 0.099_975_586, 3.0, 4.0, 65504.0]));
    let numbers = [1.0, 0.0, 3.0, 100.0];
    macro_rules! of {
        ($t:ty, $name:literal, $big:literal) => {
            for (name, bytes) in [
                ($name, numbers.map(|x| (x as $t).to_le_bytes().to_vec()).concat()),
                ($big, numbers.map(|x| (x as $t).to_be_bytes().to_vec()).concat()),
            ] {
                assert_eq!(read(&npy_file(name, &[4], &bytes))?, (vec![4], numbers.map(|x| x as f32).to_vec()), "{name}");
                let labels = ArrayFile::open(&path)?.labels()?;
                assert_eq!(labels, [1, 0, 3, 100], "{name}");
            }
        };
    }
    of!(u8, "|u1", "=u1");
    of!(i8, "|i1", "|i1");
    of!(u16, "<u2", ">u2");
    of!(i16, "<i2", ">i2");
    of!(u32, "<u4", ">u4");
    of!(i32, "<i4", ">i4");
    of!(u64, "<u8", ">u8");
    of!(i64, "<i8", ">i8");
    of!(f32, "<f4", ">f4");
    of!(f64, "<f8", ">f8");
    assert_eq!(read(&npy_file("|b1", &[2, 2], &[0, 1, 1, 0]))?, (vec![2, 2], vec![0.0, 1.0, 1.0, 0.0]));
    for (kind, bytes) in [
        (0x0B, numbers.map(|x| (x as i16).to_be_bytes().to_vec()).concat()),
        (0x0C, numbers.map(|x| (x as i32).to_be_bytes().to_vec()).concat()),
        (0x0D, numbers.map(|x| (x as f32).to_be_bytes().to_vec()).concat()),
        (0x0E, numbers.map(|x: f64| x.to_be_bytes().to_vec()).concat()),
    ] {
        assert_eq!(read(&idx_file(kind, &[2, 2], &bytes))?, (vec![2, 2], numbers.map(|x| x as f32).to_vec()));
    }
    // More bytes than are read at once: 4 MiB.
    let many: Vec<u8> = bytes((5 << 20) / 2);
    let both: Vec<u8> = many.iter().flat_map(|&b| [b, 1]).collect();
    fs::write(&path, npy_file("<u2", &[1, many.len()], &both))?;
    let file = ArrayFile::open(&path)?;
    let x = Dataset::of([Field::source("x", file.sample(), file)])?.columns(&[0])?.swap_remove(0);
    assert!(x.f().iter().zip(&many).all(|(&x, &b)| x == f32::from(b) + 256.0));
    Ok(())
}

/// A file that is cut short or grows while it is in use is a typed error, in the middle of a training as well.
fn changed() -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x");
    let whole = npy_file("<f4", &[N, 2], &[1; N * 8]);
    let file = || fs::OpenOptions::new().write(true).open(&path);
    for change in [-100i64, -1, 1, 4096] {
        fs::write(&path, &whole)?;
        let labels = Field::labels("y", mixed(N, 3), 3);
        let data = Dataset::of([Field::source("x", [2], ArrayFile::open(&path)?), labels])?;
        let mut trainer = classifier(&Device::cpu(), &data)?;
        let now = whole.len().checked_add_signed(change as isize).expect("a length");
        let mut steps = 0;
        let e = trainer
            .fit(
                &data,
                Fit::new().epochs(100).batch_size(4).callback(|_| {
                    steps += 1;
                    if steps == 15 {
                        file().and_then(|file| file.set_len(now as u64)).expect("a temporary file can change");
                    }
                    std::ops::ControlFlow::Continue(())
                }),
            )
            .unwrap_err();
        let want = format!("it had {} bytes when it was opened, but it has {now} now", whole.len());
        assert!(matches!(e, Error::File { .. }) && e.to_string().contains(&want), "{e}");
        assert!(steps < 40, "{steps} steps");
        assert!(matches!(data.cache().unwrap_err(), Error::File { .. }));
        assert!(matches!(ArrayFile::open(&path).unwrap_err(), Error::Format { .. }));
    }
    fs::write(&path, [0; 20])?;
    let tokens = TokenFile::u16(&path)?;
    file()?.set_len(10)?;
    assert!(matches!(tokens.read(0..2).unwrap_err(), Error::File { .. }));
    assert!(matches!(tokens.read(6..8).unwrap_err(), Error::File { .. }));
    Ok(())
}

fn refused() -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("file");
    let write = |bytes: &[u8]| fs::write(&path, bytes).expect("a temporary folder can be written to");
    let good = npy_file("<f4", &[2, 2], &[0; 16]);
    let gzip = [0x1f, 0x8b, 8, 0];
    for (bytes, want) in [
        (&good[..good.len() - 1], "truncated: 143 bytes, but [2, 2] takes 144"),
        (&[&good[..], &[0]].concat(), "trailing bytes: 145 bytes, but [2, 2] takes 144"),
        (&good[..9], "its header has no 'descr'"),
        (&good[..40], "its header has no 'shape'"),
        (&gzip, "it is gzipped"),
        (b"PK\x03\x04", "not an IDX file"),
        (b"", "truncated: 0 bytes"),
        (b"\x93NUMPY\x09\x00", "version 1, 2 or 3"),
        (&npy_file("<f4", &[0, 2], &[]), "[0, 2] has no rows"),
        (&npy_file("<f4", &[2, 0], &[]), "[2, 0] has no rows"),
        (&npy_file("<f4", &[1; 8], &[0; 4]), "too many axes"),
        (&npy_file("<f4", &[usize::MAX, 2], &[]), "which no memory holds"),
        (&npy_file("<c8", &[1], &[0; 8]), "the type `<c8`"),
        (&idx_file(8, &[3], &[1, 2]), "truncated: 10 bytes, but [3] takes 11"),
    ] {
        write(bytes);
        let e = ArrayFile::open(&path).unwrap_err();
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(want), "{want}: {e}");
    }
    assert!(matches!(ArrayFile::open(folder.path().join("none")).unwrap_err(), Error::File { .. }));
    assert!(matches!(ArrayFile::open(folder.path()).unwrap_err(), Error::File { .. }));
    // Labels with a gap: the row of the label is told, whether the number of classes is known or not.
    let gap: Vec<u8> = [&(0..10).collect::<Vec<u8>>()[..], &[3, 255, 1]].concat();
    write(&idx_file(8, &[13], &gap));
    let labels = ArrayFile::open(&path)?.labels()?;
    let e = Dataset::of([Field::floats("x", [], vec![0.0; 13]), Field::labels("y", labels, 10)]).unwrap_err();
    assert!(matches!(e, Error::Label { row: 11, label: 255, classes: 10 }), "{e}");
    let samples = folder.path().join("samples");
    fs::write(&samples, idx_file(8, &[13, 2], &[0; 26]))?;
    let e = idx::dataset(&samples, &path, None).unwrap_err();
    let want = "row 11 (counted from 0) has the label 255, and no row has the classes 10 to 254";
    assert!(matches!(&e, Error::Format { path: named, .. } if *named == path) && e.to_string().contains(want), "{e}");
    assert!(matches!(idx::dataset(&samples, &path, Some(10)).unwrap_err(), Error::Label { row: 11, label: 255, classes: 10 }));
    for (bytes, want) in [
        (npy_file("<f4", &[2], &[0, 0, 0, 0, 0, 0, 0, 0x3f]), "0.5 in row 1 is not a class or a token"),
        (npy_file("|i1", &[3], &[1, 0, 0xfe]), "-2 in row 2 is not a class or a token"),
        (npy_file("<u4", &[1], &[0xff; 4]), "4294967295 in row 0"),
        (npy_file("|u1", &[1, 2], &[1, 2]), "labels must be one number a sample, [n], not [1, 2]"),
    ] {
        write(&bytes);
        let e = ArrayFile::open(&path)?.labels().unwrap_err();
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(want), "{want}: {e}");
    }
    // Another sample shape, another number of rows, a number that is not finite.
    write(&npy_file("<f4", &[2, 2], &[[0; 12], [0, 0, 0xc0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0]].concat()[..16]));
    let field = || Ok::<_, Error>(Field::source("x", [2], ArrayFile::open(&path)?));
    let e = Dataset::of([Field::source("x", [3], ArrayFile::open(&path)?)]).unwrap_err().to_string();
    assert_eq!(e, "features: samples of [3], but a row of the source has 2 numbers");
    let e = Dataset::of([field()?, Field::labels("y", vec![0], 1)]).unwrap_err().to_string();
    assert_eq!(e, "Dataset: 2 samples, but 1 targets");
    for e in [Dataset::of([field()?])?.columns(&[0, 1]).unwrap_err(), Dataset::of([field()?])?.cache().unwrap_err()] {
        assert!(matches!(e, Error::NonFinite { row: 1, column: 1, .. }), "{e}");
    }
    // Texts.
    write(&[0; 7]);
    assert!(TokenFile::u16(&path).unwrap_err().to_string().contains("7 bytes are no whole numbers of 2 bytes"));
    write(&[]);
    assert!(matches!(TokenFile::u32(&path).unwrap_err(), Error::Format { .. }));
    write(&npy_file("<f4", &[2], &[0; 8]));
    assert!(TokenFile::npy(&path).unwrap_err().to_string().contains("its numbers are floats"));
    write(&[0; 8]);
    let file = TokenFile::u16(&path)?;
    for (e, want) in [
        (file.windows(0, 1, 3).map(|_| ()), "both must be at least 1"),
        (file.windows(1, 0, 3).map(|_| ()), "both must be at least 1"),
        (file.windows(4, 1, 3).map(|_| ()), "need more than 4 tokens"),
        (file.windows(2, 1, 0).map(|_| ()), "must be at least 1"),
        (file.read(2..5).map(|_| ()), "2..5, but there are 4 tokens"),
        (file.split(1.0).map(|_| ()), "leaves one part empty"),
    ] {
        let e = e.unwrap_err();
        assert!(matches!(e, Error::Argument { .. }) && e.to_string().contains(want), "{e}");
    }
    Ok(())
}

fn bad_folders() -> Check {
    let root = tempfile::tempdir()?;
    let open = || data::image_folder(root.path());
    assert!(matches!(data::image_folder(root.path().join("none")).unwrap_err(), Error::File { .. }));
    assert!(open().unwrap_err().to_string().contains("no folder in it"));
    let [a, b] = ["a", "b"].map(|name| root.path().join(name));
    fs::create_dir(&a)?;
    fs::create_dir(&b)?;
    fs::write(b.join("1.ppm"), b"P6 1 1 255 012")?;
    let e = open().unwrap_err();
    assert!(matches!(&e, Error::Format { path, .. } if *path == a) && e.to_string().contains("no image in it"), "{e}");
    // An image of another size, and one that cannot be read: the error names its file.
    fs::write(a.join("1.png"), png_file(png::ColorType::Rgb, [1, 1], &[1, 2, 3]))?;
    let other = a.join("2.png");
    for (bytes, want) in [
        (png_file(png::ColorType::Rgb, [2, 1], &[0; 6]), "a sample of [3, 1, 2], but the first is [3, 1, 1]"),
        (png_file(png::ColorType::Grayscale, [1, 1], &[0]), "a sample of [1, 1, 1], but the first is [3, 1, 1]"),
        (b"\x89PNG".to_vec(), ""),
        (png_file(png::ColorType::Rgb, [1, 1], &[1, 2, 3])[..50].to_vec(), ""),
    ] {
        fs::write(&other, bytes)?;
        let data = open()?;
        let e = data.columns(&[0, 1, 2]).unwrap_err();
        assert!(matches!(&e, Error::Format { path, .. } if *path == other) && e.to_string().contains(want), "{want}: {e}");
        assert!(data.columns(&[0, 2]).is_ok());
    }
    fs::remove_file(&other)?;
    // A small file that claims to be a large image.
    let mut bomb = png_file(png::ColorType::Grayscale, [1, 1], &[0]);
    bomb[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let crc = crc(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    fs::write(a.join("1.png"), bomb)?;
    let e = open().unwrap_err().to_string();
    assert!(e.contains("an image of [1, 16384, 16384] has more than 16777216 bytes"), "{e}");
    fs::remove_file(a.join("1.png"))?;
    for (text, want) in [
        (&b"P3 1 1 255 0"[..], "does not start with P5 or P6"),
        (b"P5 1 1 65535 00", "do not end at 255"),
        (b"P5 1 x 255 0", "header cannot be read"),
        (b"P5 0 1 255 0", "header cannot be read"),
        (b"P5 2 2 255 000", "but 2 lines of 2 pixels take"),
        (b"P5 2 2", "header cannot be read"),
        (b"P5 99999999999999999999 2 255 ", "header cannot be read"),
    ] {
        fs::write(a.join("1.pgm"), text)?;
        let e = open().unwrap_err();
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(want), "{want}: {e}");
    }
    Ok(())
}

/// The check sum of a chunk of PNG.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &b| (0..8).fold(crc ^ u32::from(b), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())))
}

fn bad_tables() -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("table.csv");
    fs::write(&path, "age,job,kind\n31,cook,0\n44,smith,1\n")?;
    let csv = || Csv::new(&path).header();
    let known = csv().category("job").columns()?;
    fs::write(&path, "age,job,kind\n31,cook,0\n44,clerk,1\n")?;
    for (e, want) in [
        (csv().category("job").like(&known).columns(), "line 3, column 2 (job): `clerk` is not one of the 2 categories: cook, smith"),
        (csv().columns(), "line 2, column 2 (job): `cook` is not a finite number"),
        (csv().category("job").read(), "a category is a column of its own; use Csv::columns"),
        (csv().category("jobs").columns(), "no `jobs` among age, job, kind"),
        (csv().category("job").category(1).columns(), "named twice"),
        (csv().category("job").skip("job").columns(), "is a category, but it is left out"),
        (csv().category("job").values("job").columns(), "a number to predict"),
        (csv().category("job").labels("job").classes(2).columns(), "classes is for labels that are numbers"),
        (csv().category("job").labels("job").skip("age").skip("kind").columns(), "none of them a feature"),
    ] {
        let e = e.unwrap_err().to_string();
        assert!(e.contains(want), "{want}: {e}");
    }
    Ok(())
}
