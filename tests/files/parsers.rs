//! Files as other programs write them, padded, cut, too large and contradictory: an answer or a typed error.

use crate::common::{Check, Suite};
use downhill::{
    Device, Error, Graph, Host, Trainer,
    data::{self, Column, Csv, Dataset, Features, Target, Text, idx},
    optim::Adam,
};
use flate2::{Compression, write::GzEncoder};
use std::{fs, io::Write, path::PathBuf};

pub fn trials(suite: &mut Suite) {
    for (name, check) in [
        ("tables of NumPy, pandas and R", tables as fn() -> Check),
        ("classes in every spelling", spellings),
        ("blank lines, line ends and marks", lines),
        ("comments and the names of rows", comments),
        ("the order of calls", orders),
        ("gzip of several members, padded with zeros", padded),
        ("classes that no row has", gaps),
        ("limits of reading", limits),
        ("headers that promise too much", headers),
        ("checkpoints at the end of all numbers", last_steps),
    ] {
        suite.test(name, check);
    }
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(bytes).and_then(|()| gz.finish()).expect("memory takes all that is written")
}

/// A file in a folder that goes with it.
struct File(tempfile::TempDir);

impl File {
    fn new(bytes: impl AsRef<[u8]>) -> Result<File, std::io::Error> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("file"), bytes)?;
        Ok(File(folder))
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("file")
    }
}

type How = fn(Csv) -> Csv;

fn read(bytes: impl AsRef<[u8]>, how: How) -> Result<Dataset, Box<dyn std::error::Error>> {
    let file = File::new(bytes)?;
    Ok(how(Csv::new(file.path())).read()?)
}

fn refused(bytes: impl AsRef<[u8]>, how: How) -> Result<Error, Box<dyn std::error::Error>> {
    let file = File::new(bytes)?;
    match how(Csv::new(file.path())).read() {
        Ok(data) => Err(format!("{data:?}").into()),
        Err(e) => Ok(e),
    }
}

fn floats(data: &Dataset) -> &[f32] {
    match data.features() {
        Features::Float(x) => x,
        _ => &[],
    }
}

/// The program that wrote the text, the text, the way to read it, features and labels.
type Table = (&'static str, &'static str, How, &'static [f32], &'static [u32]);

/// As the programs write them without being told otherwise: each text is what NumPy 2.4, pandas 3.1 and R 4 wrote.
fn tables() -> Check {
    let labels: How = |c| c.header().skip(0).labels("y");
    let spaced: How = |c| c.delimiter(' ').labels(Column::Last);
    let cases: [Table; 14] = [
        (
            "np.savetxt(x)",
            "1.500000000000000000e+00 2.000000000000000000e+00\n-3.000000000000000000e-05 0.000000000000000000e+00\n",
            spaced,
            &[1.5, -3e-5],
            &[2, 0],
        ),
        (
            "np.savetxt(x, delimiter=',', header='a,y', footer='end')",
            "# a,y\n1.500000000000000000e+00,2.000000000000000000e+00\n3.000000000000000000e+00,-0.000000000000000000e+00\n# end\n",
            |c| c.header().labels("y"),
            &[1.5, 3.0],
            &[2, 0],
        ),
        (
            "np.savetxt(x, header='a y')",
            "# a y\n1.500000000000000000e+00 2.000000000000000000e+00\n3.000000000000000000e+00 0.000000000000000000e+00\n",
            |c| c.delimiter(' ').header().labels("y"),
            &[1.5, 3.0],
            &[2, 0],
        ),
        ("the same, and the header is none of ours", "# a y\n1.5e+00 2.0e+00\n3.0e+00 0.0e+00\n", spaced, &[1.5, 3.0], &[2, 0]),
        ("x.tofile(sep=',')", "1.5,2.0,3.0,1.0", |c| c.labels(3), &[1.5, 2.0, 3.0], &[1]),
        ("df.to_csv()", ",a,b,y\n0,1.5,True,1\n1,3.0,False,0\n2,1e-05,True,2\n", labels, &[1.5, 1.0, 3.0, 0.0, 1e-5, 1.0], &[1, 0, 2]),
        ("a logical class", ",a,b,y\n0,1.5,True,True\n1,3.0,False,False\n", labels, &[1.5, 1.0, 3.0, 0.0], &[1, 0]),
        (
            "df.to_csv(sep='\\t'), floats",
            "\ta\ty\n0\t1.5\t1.0\n1\t3.0\t0.0\n",
            |c| c.delimiter('\t').header().skip(0).labels("y"),
            &[1.5, 3.0],
            &[1, 0],
        ),
        ("df.to_csv(quoting=1)", "\"\",\"a\",\"y\"\n\"0\",\"1.5\",\"1.0\"\n\"1\",\"3.0\",\"0.0\"\n", labels, &[1.5, 3.0], &[1, 0]),
        (
            "df.to_csv(encoding='utf-8-sig', lineterminator='\\r\\n')",
            "\u{feff},a,y\r\n0,1.5,1\r\n1,3.0,0\r\n",
            labels,
            &[1.5, 3.0],
            &[1, 0],
        ),
        ("df.to_string()", "     a    y\n0  1.5  1.0\n1  3.0  0.0", |c| c.delimiter(' ').header().labels("y"), &[1.5, 3.0], &[1, 0]),
        ("write.csv(df)", "\"\",\"x\",\"y\"\n\"1\",1e+05,1\n\"2\",2,0\n", labels, &[1e5, 2.0], &[1, 0]),
        (
            "write.table(df)",
            "\"x\" \"b\" \"y\"\n\"1\" 0.1 TRUE 1\n\"Merc 230\" 2 FALSE 0\n",
            |c| c.delimiter(' ').header().labels("y"),
            &[0.1, 1.0, 2.0, 0.0],
            &[1, 0],
        ),
        ("write.table(df, sep=',')", "\"x\",\"y\"\n\"a, b\",0.1,1\n\"c\",2,0\n", |c| c.header().labels(Column::Last), &[0.1, 2.0], &[1, 0]),
    ];
    for (what, text, how, x, y) in cases {
        for bytes in [text.as_bytes().to_vec(), packed(text.as_bytes())] {
            let data = read(bytes, how).map_err(|e| format!("{what}: {e}"))?;
            assert_eq!((floats(&data), data.labels()), (x, y), "{what}");
        }
    }
    // Values are floats, and missing ones are said to be missing.
    let data = read("a,y\n1.5,1\n3.0,2e1\n", |c| c.header().values("y"))?;
    assert_eq!(data.target(), Target::values([1], vec![1.0, 20.0]));
    for (text, want) in [
        (",a,y\n0,1.5,1.0\n1,,0.0\n", "line 3, column 2 (a): is empty"),
        ("\"\",\"a\",\"y\"\n\"1\",NA,1\n", "line 2, column 2 (a): `NA` is not a finite number"),
        (",a,y\n0,inf,1.0\n", "line 2, column 2 (a): `inf` is not a finite number"),
        (",a,y\n0,1.5,\n", "line 2, column 3 (y): `` is not a class"),
    ] {
        let e = refused(text, labels)?;
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(want), "{want}: {e}");
    }
    Ok(())
}

fn spellings() -> Check {
    for (class, field) in [
        (3, "3"),
        (3, "3."),
        (3, "3.0"),
        (3, "3.000000000000000000e+00"),
        (3, "3e0"),
        (3, "0.3e1"),
        (3, "30E-1"),
        (3, "+3"),
        (3, " 3 "),
        (3, "\"3\""),
        (3, "03"),
        (0, "0"),
        (0, "-0"),
        (0, "-0.0"),
        (0, "-0.000000000000000000e+00"),
        (0, "False"),
        (1, "TRUE"),
        (1, "1e+00"),
        (1, ".1e1"),
        (300, "3e+02"),
        (16_777_217, "16777217.0"),
        (u32::MAX, "4294967295.0"),
    ] {
        let file = File::new(format!("0.5,{field}\n"))?;
        let data = Csv::new(file.path()).labels(1).classes(u32::MAX as usize + 1).read()?;
        assert_eq!(data.labels(), [class], "{field}");
    }
    for field in ["3.5", "-1", "-1e0", "1e-1", "nan", "inf", "1e10", "4294967296", "4294967296.0", "1e999", "cat", "", "1 2", "0x3", "1,"] {
        let e = refused(format!("0.5,\"{field}\"\n"), |c| c.labels(1).classes(10))?;
        let want = format!("line 1, column 2: `{field}` is not a class");
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(&want), "{field}: {e}");
    }
    Ok(())
}

fn lines() -> Check {
    let want = read("1,2\n3,4\n", |c| c)?;
    for text in [
        "1,2\n3,4",
        "1,2\n3,4\n   \n",
        "1,2\n3,4\n \t ",
        "\n\n1,2\n   \n\n3,4\n\n\n",
        "1,2\r\n3,4\r\n",
        "1,2\r\n\r\n3,4\r\n  \r\n",
        "1,2\r3,4\r",
        "1,2\n\r3,4\n\r",
        "\u{feff}1,2\n3,4\n",
        " 1 , 2 \n\t3,4\t\n",
    ] {
        assert_eq!(read(text, |c| c)?, want, "{text:?}");
        let spaced = text.replace(',', "  ");
        assert_eq!(read(&spaced, |c| c.delimiter(' '))?, want, "{spaced:?}");
        let tabs = text.replace(['\t', ' '], "").replace(',', "\t");
        assert_eq!(read(&tabs, |c| c.delimiter('\t'))?, want, "{tabs:?}");
    }
    assert_eq!(read("1\t2\n3\t4\n\t\n", |c| c.delimiter('\t'))?, want);
    // The line of a mistake is the editor's, whatever ends them.
    for text in ["1,2\n\n  \n3,x\n", "1,2\r\n\r\n  \r\n3,x\r\n", "1,2\r\r  \r3,x\r"] {
        let e = refused(text, |c| c)?;
        assert!(e.to_string().ends_with("line 4, column 2: `x` is not a finite number"), "{text:?}: {e}");
        let e = refused(text.replace(',', " "), |c| c.delimiter(' '))?;
        assert!(e.to_string().ends_with("line 4, column 2: `x` is not a finite number"), "{text:?}: {e}");
    }
    // Empty fields are no blank line.
    let e = refused("1,2\n,\n", |c| c)?;
    assert!(e.to_string().ends_with("line 2, column 1: is empty, but a finite number is wanted"), "{e}");
    Ok(())
}

fn comments() -> Check {
    let want = read("1,2\n3,4\n", |c| c)?;
    for text in ["# made by hand, in May\n1,2\n3,4\n", "1,2\n# a,\"b\n3,4\n", "#\n# #\n1,2\n3,4\n# end"] {
        // An unclosed quote is text in a comment without a delimiter before it.
        let text = text.replace("a,\"b", "a \"b");
        assert_eq!(read(&text, |c| c)?, want, "{text:?}");
    }
    // A column that is left out may hold anything: no row is lost.
    for how in [(|c| c.header().skip("color")) as How, |c| c.header().skip(0)] {
        let data = read("color,x\n#ff0000,1\nblue,2\n", how)?;
        assert_eq!(floats(&data), [1.0, 2.0]);
    }
    assert_eq!(floats(&read("#1,1\n#2,2\n", |c| c.skip(0))?), [1.0, 2.0]);
    // A column may be called #.
    assert_eq!(floats(&read("#,x\n1,5\n2,6\n", |c| c.header().skip("#"))?), [5.0, 6.0]);
    assert_eq!(floats(&read("# x\n1 5\n2 6\n", |c| c.delimiter(' ').header().skip("#"))?), [5.0, 6.0]);
    // A header of another length than R's is a mistake.
    for (text, want) in [
        ("a,b,c\n1,2\n", "line 2: 2 fields, but the first line has 3"),
        ("a,b\n1,2,\n", "line 2: 3 fields, but the first line has 2"),
        ("a,b\n1,2,3,4\n", "line 2: 4 fields, but the first line has 2"),
        ("a,b\nr1,2,3\n2,3\n", "line 3: 2 fields, but the first line has 3"),
    ] {
        let e = refused(text, |c| c.header())?;
        assert!(e.to_string().contains(want), "{text:?}: {e}");
    }
    Ok(())
}

/// Every order of four calls: the same data set.
fn orders() -> Check {
    let calls: [How; 4] = [|c| c.header(), |c| c.labels("y"), |c| c.classes(4), |c| c.skip("id")];
    let file = File::new("id;x;y\n1;0.5;0\n2;0.25;1\n")?;
    let mut orders: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 0..4 {
        orders = orders.iter().flat_map(|o| (0..4).filter(|i| !o.contains(i)).map(|i| [&o[..], &[i]].concat())).collect();
    }
    assert_eq!(orders.len(), 24);
    for order in orders {
        let csv = order.iter().fold(Csv::new(file.path()).delimiter(';'), |csv, &i| calls[i](csv));
        let data = csv.read()?;
        assert_eq!((data.classes(), floats(&data), data.labels()), (4, &[0.5, 0.25][..], &[0, 1][..]), "{order:?}");
    }
    Ok(())
}

fn idx_file(kind: u8, dims: &[u32], data: &[u8]) -> Vec<u8> {
    let axes = dims.iter().flat_map(|d| d.to_be_bytes());
    [0, 0, kind, dims.len() as u8].into_iter().chain(axes).chain(data.iter().copied()).collect()
}

/// As archives and tapes pad them: `gzip -d` and Python read these as well.
fn padded() -> Check {
    let (zeros, plain) = (vec![0u8; 70_000], idx_file(8, &[2, 3], &[1, 2, 3, 4, 5, 6]));
    let want = {
        let file = File::new(&plain)?;
        idx::read(file.path())?
    };
    let (first, second) = plain.split_at(9);
    for parts in [
        vec![packed(&plain), vec![0]],
        vec![packed(&plain), zeros.clone()],
        vec![packed(first), packed(second)],
        vec![packed(first), zeros.clone(), packed(b""), packed(second), zeros.clone()],
    ] {
        let file = File::new(parts.concat())?;
        assert_eq!(idx::read(file.path())?, want);
    }
    for junk in [&b"junk"[..], b"\0\0junk", &[0x1f, 0x8b, 0, 0]] {
        let file = File::new([&packed(&plain), junk].concat())?;
        let e = idx::read(file.path()).err().ok_or("it was read")?;
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains("corrupt gzip"), "{e}");
    }
    // Zeros behind what is not packed are not padding.
    let file = File::new([&plain[..], &[0]].concat())?;
    assert!(idx::read(file.path()).is_err());

    let file = File::new([packed(b"1,2\n"), zeros.clone(), packed(b"3,4\n"), zeros.clone()].concat())?;
    assert_eq!(floats(&Csv::new(file.path()).read()?), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(Text::read(file.path())?, Text::new("1,2\n3,4\n")?);
    Ok(())
}

fn gaps() -> Check {
    // Labels as IDX and as CSV: both ways of inferring the number of classes. Other tests check the warnings.
    let both = |labels: &[u8], classes: Option<usize>| -> Result<[Result<Dataset, Error>; 2], std::io::Error> {
        let x = File::new(idx_file(8, &[labels.len() as u32, 1], labels))?;
        let y = File::new(idx_file(8, &[labels.len() as u32], labels))?;
        let table = File::new(labels.iter().map(|y| format!("0.5,{y}\n")).collect::<String>())?;
        let csv = Csv::new(table.path()).labels(1);
        let csv = classes.into_iter().fold(csv, |csv, n| csv.classes(n));
        Ok([idx::dataset(x.path(), y.path(), classes), csv.read()])
    };
    let digits: Vec<u8> = (0..200).map(|i| i % 10).collect();
    for data in both(&digits, None)? {
        assert_eq!(data?.classes(), 10);
    }
    // One label is odd: 256 classes are not trained in silence.
    let odd = [&digits[..77], &[255], &digits].concat();
    for data in both(&odd, None)? {
        let e = data.err().ok_or("one odd label made 256 classes")?;
        let want = "256 classes (0 to 255), and 245 of them without a sample: row 77 (counted from 0) has the label 255, and no row has the classes 10 to 254";
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains(want), "{e}");
    }
    // Who says how many there are is believed.
    for data in both(&odd, Some(256))? {
        assert_eq!(data?.classes(), 256);
    }
    for data in both(&odd, Some(10))? {
        assert!(matches!(data, Err(Error::Label { row: 77, label: 255, classes: 10 })));
    }
    // A part of MNIST without any 7 is data like any other; so are classes that count from 1.
    let without: Vec<u8> = digits.iter().copied().filter(|&y| y != 7).collect();
    for (labels, classes) in [(&without[..], 10), (&[1, 2, 3, 2], 4)] {
        for data in both(labels, None)? {
            assert_eq!(data?.classes(), classes);
        }
    }

    // An MNIST-style set is one of digits however few it has, and its parts are looked at together.
    let folder = tempfile::tempdir()?;
    let put = |part: &str, labels: &[u8]| {
        let n = labels.len() as u32;
        let images = idx_file(8, &[n, 1, 1], labels);
        fs::write(folder.path().join(format!("{part}-images-idx3-ubyte")), images)
            .and_then(|()| fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte")), idx_file(8, &[n], labels)))
    };
    put("train", &[0, 9])?;
    put("t10k", &[9])?;
    let (train, test) = data::mnist(folder.path())?;
    assert_eq!((train.classes(), test.classes()), (10, 10));
    put("train", &digits)?;
    put("t10k", &odd)?;
    let e = data::mnist(folder.path()).err().ok_or("one odd label made 256 classes")?;
    assert!(matches!(&e, Error::Format { path, .. } if path.ends_with("t10k-labels-idx1-ubyte")), "{e}");
    assert!(e.to_string().contains("row 77 (counted from 0) has the label 255"), "{e}");
    Ok(())
}

/// 254 KiB that unpack to 260 MB.
fn limits() -> Check {
    const SIZE: usize = 260 << 20;
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    let block = b"0,0\n".repeat(1 << 18);
    for _ in 0..SIZE / block.len() {
        gz.write_all(&block)?;
    }
    let bomb = gz.finish()?;
    assert!(bomb.len() < 300 << 10, "{}", bomb.len());
    let file = File::new(&bomb)?;
    let folder = tempfile::tempdir()?;
    for name in ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"] {
        fs::write(folder.path().join(name), &bomb)?;
    }
    let huge = idx_file(8, &[SIZE as u32], &[]);
    let idx_bomb = File::new([packed(&huge), bomb.clone()].concat())?;
    let all: [(&str, &dyn Fn() -> Option<Error>); 5] = [
        ("csv", &|| Csv::new(file.path()).read().err()),
        ("text", &|| Text::read(file.path()).err()),
        ("idx", &|| idx::read(idx_bomb.path()).err()),
        ("labels", &|| idx::dataset(idx_bomb.path(), idx_bomb.path(), None).err()),
        ("cifar", &|| data::cifar10(folder.path()).err()),
    ];
    for (what, read) in all {
        let e = read().ok_or(format!("{what}: it was read"))?;
        let text = e.to_string();
        let says = text.contains("unpacks to more than the limit of") && text.contains("data::with_read_limit");
        assert!(matches!(e, Error::File { .. }) && says, "{what}: {e}");
    }
    // Raised, it is read; lowered, less is.
    let read = data::with_read_limit(1 << 30, || idx::read(idx_bomb.path()))?;
    assert_eq!(read.dims, [SIZE]);
    let small = File::new("1,2\n3,4\n")?;
    let e = data::with_read_limit(7, || Csv::new(small.path()).read()).err().ok_or("8 bytes are more than 7")?;
    assert!(e.to_string().contains("it has 8 bytes, more than the limit of 7 bytes"), "{e}");
    assert_eq!(data::with_read_limit(8, || Csv::new(small.path()).read())?.len(), 2);
    Ok(())
}

/// The sizes in a header allocate no memory. Only data that follows does.
fn headers() -> Check {
    for (dims, kind) in [(&[u32::MAX, 1 << 20][..], 8), (&[u32::MAX], 8), (&[1 << 31], 0x0E), (&[1 << 20, 1 << 20], 9)] {
        let bytes = idx_file(kind, dims, &[1, 2, 3]);
        for bytes in [bytes.clone(), packed(&bytes)] {
            let file = File::new(bytes)?;
            let e = idx::read(file.path()).err().ok_or("it was read")?;
            assert!(matches!(e, Error::Format { .. }) && e.to_string().contains("truncated"), "{e}");
        }
    }
    for dims in [[u32::MAX; 3].as_slice(), &[u32::MAX; 255]] {
        let file = File::new(idx_file(8, dims, &[1]))?;
        let e = idx::read(file.path()).err().ok_or("it was read")?;
        assert!(matches!(e, Error::Format { .. }) && e.to_string().contains("which no memory holds"), "{e}");
    }
    Ok(())
}

/// Numbers that no training reaches, and that a changed file can have: nothing overflows.
fn last_steps() -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model");
    let g = Graph::training();
    let loss = g.input([2, 3]).linear("fc", 1).sum_all();
    let mut trainer = Trainer::new(&Device::cpu(), loss, Adam::new(0.01))?;
    let x = [Host::new([2, 3], vec![1.0; 6])];
    trainer.step(&x)?;
    trainer.save(&path)?;
    let bytes = fs::read(&path)?;
    for key in ["step", "epoch", "seed"] {
        for number in ["18446744073709551615", "18446744073709551614", "4294967295", "4294967296", "9007199254740993"] {
            let length = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
            let header = std::str::from_utf8(&bytes[8..8 + length])?;
            let at = header.find(&format!("\"{key}\":\"")).ok_or(format!("no {key} in {header}"))? + key.len() + 4;
            let end = at + header[at..].find('"').ok_or("no end")?;
            let header = [&header[..at], number, &header[end..]].concat();
            let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat();
            fs::write(&path, file)?;
            if let Err(e) = trainer.load(&path) {
                assert!(matches!(e, Error::Format { .. }), "{key} {number}: {e}");
                continue;
            }
            // It goes on, or says why not.
            let _ = (trainer.lr(), trainer.step(&x), trainer.loss(), trainer.save(folder.path().join("again")));
        }
    }
    Ok(())
}
