//! The golden values of PyTorch in `tests/golden/`: see `scripts/golden.py`.

use downhill::{Host, Shape};
use serde_json::{Map, Value};
use std::fmt::Debug;

/// The rows of a file.
pub fn cases(file: &str) -> Vec<Value> {
    whole(file)["cases"].as_array().expect("`cases` is a list").clone()
}

/// All of a file.
pub fn whole(file: &str) -> Value {
    let path = format!("{}/golden/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("`{key}` of {row} is no text"))
}

pub fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// The bits that [`generate`] makes number `i` of.
pub fn mix(seed: u64, i: u64) -> u64 {
    let mut z = (seed << 32).wrapping_add(i).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// `n` numbers in −bound..bound: `scripts/golden.py` and the file's `generator` have the definition.
pub fn generate(seed: u64, n: usize, bound: f32) -> Vec<f32> {
    (0..n as u64).map(|i| ((mix(seed, i) >> 40) as f32 * 2.0f32.powi(-24) * 2.0 - 1.0) * bound).collect()
}

/// A tensor; its numbers are `f32`s exactly where it is an input.
pub fn tensor(v: &Value) -> Host<f64> {
    let dims: Vec<usize> = numbers(&v["shape"]).iter().map(|&d| d as usize).collect();
    let (shape, data) = (Shape::new(&dims).expect("at most six axes"), numbers(&v["data"]));
    match v["dtype"] == "u32" {
        true => Host::labels(shape, data.iter().map(|&x| x as u32).collect()),
        false => Host::new(shape, data),
    }
}

/// The tensor that a device is fed with.
pub fn input(v: &Value) -> Host<f32> {
    let wide = tensor(v);
    let narrow: Host<f32> = wide.cast();
    // Parsing a decimal may miss the nearest f64 by a bit.
    let same = |(a, b): (f64, f64)| (a - b).abs() <= 4.0 * f64::EPSILON * b.abs();
    assert!(narrow.to_f64().into_iter().zip(wide.to_f64()).all(same), "an input is not made of f32s: {v}");
    narrow
}

/// Keyword arguments, each of which must be asked for.
pub struct Args(Map<String, Value>);

impl Args {
    pub fn new(row: &Value) -> Args {
        Args(row.as_object().expect("an object").clone())
    }
    fn take<T: Debug>(&mut self, name: &str, f: impl Fn(&Value) -> Option<T>) -> T {
        let value = self.0.remove(name).unwrap_or_else(|| panic!("no argument {name}"));
        f(&value).unwrap_or_else(|| panic!("{name}: {value}"))
    }
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
    pub fn f(&mut self, name: &str) -> f64 {
        self.take(name, Value::as_f64)
    }
    /// A number, or `null` for none.
    pub fn maybe_f(&mut self, name: &str) -> Option<f64> {
        self.take(name, |v| if v.is_null() { Some(None) } else { v.as_f64().map(Some) })
    }
    pub fn f32(&mut self, name: &str) -> f32 {
        self.f(name) as f32
    }
    pub fn u(&mut self, name: &str) -> usize {
        self.take(name, Value::as_u64) as usize
    }
    pub fn i(&mut self, name: &str) -> isize {
        self.take(name, Value::as_i64) as isize
    }
    pub fn b(&mut self, name: &str) -> bool {
        self.take(name, Value::as_bool)
    }
    pub fn text(&mut self, name: &str) -> String {
        self.take(name, |v| v.as_str().map(String::from))
    }
    pub fn list(&mut self, name: &str) -> Vec<f64> {
        self.take(name, |v| v.as_array().map(|_| numbers(v)))
    }
    pub fn dims(&mut self, name: &str) -> Vec<usize> {
        self.list(name).iter().map(|&x| x as usize).collect()
    }
    /// A word, or else sizes.
    pub fn text_or_dims(&mut self, name: &str) -> Result<String, Vec<usize>> {
        let sizes = |v: &Value| numbers(v).iter().map(|&x| x as usize).collect();
        self.take(name, |v| Some(v.as_str().map(str::to_string).ok_or_else(|| sizes(v))))
    }
    pub fn axes(&mut self, name: &str) -> Vec<isize> {
        self.list(name).iter().map(|&x| x as isize).collect()
    }
    /// Fails where an argument was not asked for.
    pub fn done(self) {
        assert!(self.0.is_empty(), "arguments that are not mapped: {:?}", self.0);
    }
}
