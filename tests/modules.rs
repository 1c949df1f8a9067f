//! Modules of `src/` import in one direction: each takes from modules above it in [`ORDER`] alone. The one exception is the
//! graph and its ops, each of which is a part of the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules of `src/`, the lowest first. Modules of one line take nothing from each other.
const ORDER: &[&[&str]] = &[
    &["shape", "simd", "rng", "threads", "plot"],
    &["error"],
    &["file", "kernel", "host"],
    &["scratch", "init"],
    &["graph", "ops"],
    &["params", "recompute", "losses", "layers", "choice"],
    &["autodiff"],
    &["plan"],
    &["optim"],
    &["profile", "oracle"],
    &["cpu", "gpu", "data"],
    &["tune", "world"],
    &["device"],
    &["engine"],
    &["weights"],
    &["compiled"],
    &["peaks"],
    &["train", "testing"],
    &["selftest"],
];

const TOGETHER: [&str; 2] = ["graph", "ops"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src")
}

/// All files of a module, unit tests in files of their own left out.
fn files(path: &Path, all: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("the sources are there") {
            files(&entry.expect("the sources are there").path(), all);
        }
    } else if path.extension().is_some_and(|e| e == "rs") && !path.components().any(|c| c.as_os_str() == "tests") {
        all.push(path.to_path_buf());
    }
}

/// The code of a file, without comments and without unit tests, which stand at its end and may import anything.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("the sources are there");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first names of all paths that start with `crate::`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let name = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(name(rest));
            continue;
        };
        let (mut depth, mut start) = (1, 0);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (depth == 1 && c == ',') || depth == 0 {
                names.insert(name(&list[start..i]));
                start = i + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

/// Returns the module of each name that `lib.rs` exports again.
fn exports() -> BTreeMap<String, String> {
    let code = code(&src().join("lib.rs"));
    let mut from = BTreeMap::new();
    for line in code.lines().filter_map(|l| l.strip_prefix("pub use ")) {
        let (module, names) = line.split_once("::").expect("a path has two parts");
        for name in names.split(|c: char| !c.is_alphanumeric()).filter(|n| !n.is_empty()) {
            from.insert(name.to_string(), module.to_string());
        }
    }
    from
}

/// The imports that do not go down, as `from -> to (file)`.
fn upward(modules: &BTreeMap<String, Vec<(String, String)>>, exports: &BTreeMap<String, String>) -> Vec<String> {
    let rank = |module: &str| ORDER.iter().position(|line| line.contains(&module));
    let mut wrong = Vec::new();
    for (module, files) in modules {
        let Some(own) = rank(module) else {
            wrong.push(format!("{module} is missing in ORDER"));
            continue;
        };
        for (file, code) in files {
            for name in imports(code) {
                let to = exports.get(&name).unwrap_or(&name);
                if to == module || TOGETHER.contains(&to.as_str()) && TOGETHER.contains(&module.as_str()) {
                    continue;
                }
                // Macros of the crate and the like have no rank.
                if rank(to).is_some_and(|to| to >= own) {
                    wrong.push(format!("{module} -> {to} ({file})"));
                }
            }
        }
    }
    wrong
}

#[test]
fn imports_go_down() {
    let mut modules: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for entry in fs::read_dir(src()).expect("the sources are there") {
        let path = entry.expect("the sources are there").path();
        let module = path.file_stem().expect("files have names").to_string_lossy().to_string();
        if module == "lib" {
            continue;
        }
        let mut all = Vec::new();
        files(&path, &mut all);
        // A file that a module declares as its tests is a test.
        all.retain(|f| !f.ends_with("tests.rs") && !f.ends_with("checks.rs"));
        let read = |f: PathBuf| (f.strip_prefix(src()).expect("it is there").display().to_string(), code(&f));
        modules.entry(module).or_default().extend(all.into_iter().map(read));
    }
    assert_eq!(modules.len(), ORDER.iter().map(|line| line.len()).sum::<usize>(), "ORDER names a module that is not there");
    assert_eq!(upward(&modules, &exports()), Vec::<String>::new());
}

#[test]
fn an_upward_import_is_found() {
    let exports = BTreeMap::from([("Trainer".to_string(), "train".to_string())]);
    let of = |code: &str| upward(&BTreeMap::from([("plan".to_string(), vec![("plan.rs".to_string(), code.to_string())])]), &exports);
    assert_eq!(
        of("use crate::{\n    graph::{Kind, Node},\n    host::Host,\n};\nfn f() -> crate::Shape { crate::source!() }"),
        Vec::<String>::new()
    );
    assert_eq!(of("use crate::{graph::{Kind, Node}, gpu};"), ["plan -> gpu (plan.rs)"]);
    assert_eq!(of("use crate::Trainer;"), ["plan -> train (plan.rs)"]);
    assert_eq!(of("fn f() { crate::optim::all() }"), ["plan -> optim (plan.rs)"]);
}
