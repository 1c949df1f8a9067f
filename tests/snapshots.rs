//! The plan and the WGSL of three models, as text under tests/snapshots, so that a review sees where a change of the library changes them.
//!
//! The plans are those of a training step with Adam, for a GPU with WebGPU's default limits: no device is opened, so the text is the same
//! everywhere. `UPDATE=1 cargo test --test snapshots` writes the files anew.

use downhill::{
    Graph, Tensor,
    gpu::shader::assemble,
    kernel::{Caps, Pass},
    optim::Adam,
    plan::Plan,
    testing,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
    fs,
    path::Path,
};

const COMMAND: &str = "UPDATE=1 cargo test --test snapshots";

/// Writes a loss.
type Model = for<'g> fn(&'g Graph) -> Tensor<'g>;

const MODELS: [(&str, Model); 3] = [("mlp", mlp), ("cnn", cnn), ("transformer", transformer)];

fn mlp(g: &Graph) -> Tensor<'_> {
    let y = g.input([128, 784]).linear("fc1", 512).relu().linear("fc2", 256).relu().linear("fc3", 10);
    y.cross_entropy(g.labels([128]))
}

fn cnn(g: &Graph) -> Tensor<'_> {
    let x = g.input([32, 1, 28, 28]).conv2d("conv1", 16, 3).batch_norm("bn1").relu().max_pool2d(2);
    let x = x.conv2d("conv2", 32, 3).batch_norm("bn2").relu().max_pool2d(2);
    x.flatten().dropout(0.25).linear("fc", 10).cross_entropy(g.labels([32]))
}

fn transformer(g: &Graph) -> Tensor<'_> {
    let x = g.labels([8, 64]).embedding("embedding", 65, 32);
    let x = x.transformer_encoder_layer("layer", 4, 64);
    x.layer_norm("norm").linear("head", 65).cross_entropy(g.labels([8, 64]))
}

/// The plan of a training step.
fn plan(model: Model) -> downhill::Result<Plan> {
    let g = Graph::training();
    testing::training_plan(model(&g), &Adam::new(1e-3).into(), &Caps::default())
}

/// The kernels of all plans, each text once, and a name for each.
#[derive(Default)]
struct Kernels {
    names: BTreeMap<String, String>,
    /// In the order of their first use.
    texts: Vec<(String, String)>,
    of_entry: BTreeMap<String, usize>,
}

impl Kernels {
    fn name(&mut self, pass: &Pass) -> downhill::Result<String> {
        let text = assemble(pass)?;
        if let Some(name) = self.names.get(&text) {
            return Ok(name.clone());
        }
        let entry = format!("{}.{}", pass.source.name, pass.entry);
        let count = self.of_entry.entry(entry.clone()).or_default();
        *count += 1;
        let name = format!("{entry} {count}");
        self.names.insert(text.clone(), name.clone());
        self.texts.push((name.clone(), text));
        Ok(name)
    }
    /// All texts, shortened: without comments and `struct Params`, whose fields are in the plans. A function stands where it is first.
    fn text(&self) -> String {
        let mut out = String::new();
        let mut known: BTreeSet<String> = BTreeSet::new();
        for (name, text) in &self.texts {
            let _ = writeln!(out, "==== {name}");
            let is_code = |line: &&str| !line.trim_start().starts_with("//") && *line != "\n";
            let code: String = text.split_inclusive('\n').filter(is_code).map(|line| line.replace("    ", " ")).collect();
            for item in items(&code).into_iter().filter(|item| !item.starts_with("struct Params")) {
                if !item.contains("fn ") || known.insert(item.to_string()) {
                    out.push_str(&item.replace("@group(0) @binding", "").replace("var<storage, ", "<"));
                }
            }
        }
        out
    }
}

/// The top-level items of a shader: declarations of a line each, and what ends with a closing brace, with its attributes.
fn items(code: &str) -> Vec<&str> {
    let (mut items, mut start, mut at, mut depth) = (Vec::new(), 0, 0, 0);
    for line in code.split_inclusive('\n') {
        at += line.len();
        depth += line.matches(['{', '(']).count() as i32 - line.matches(['}', ')']).count() as i32;
        if depth == 0 && (line.trim_end().ends_with([';', '}'])) {
            items.push(&code[start..at]);
            start = at;
        }
    }
    items.push(&code[start..]);
    items
}

fn compare(name: &str, text: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|folder| folder.join("tests/snapshots.rs").exists());
    let path = root.expect("this file is in the repository").join("tests/snapshots").join(name);
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).and_then(|()| fs::write(&path, text)).expect("tests/snapshots can be written");
        return;
    }
    let old = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    let differs = old.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap_or(old.lines().count().min(text.lines().count()));
    let line = |text: &str| text.lines().nth(differs).unwrap_or("(the end)").to_string();
    assert!(
        old == text,
        "tests/snapshots/{name} has other text in line {}:\n  there: {}\n  now:   {}\nIf the change is meant, write the files anew, and \
         commit them: {COMMAND}",
        differs + 1,
        line(&old),
        line(text),
    );
}

#[test]
fn plans_and_kernels_are_as_reviewed() -> downhill::Result<()> {
    let mut kernels = Kernels::default();
    for (name, model) in MODELS {
        let plan = plan(model)?;
        let mut text = String::new();
        for step in &plan.steps {
            let _ = writeln!(text, "{step}");
            for pass in step.kernel.iter().flat_map(|kernel| &kernel.passes) {
                let params: Vec<String> = pass.params.iter().map(|(name, value)| format!("{name} {value:?}")).collect();
                let kernel = kernels.name(pass)?;
                let _ = writeln!(text, "    {kernel}: {} units, {} a group; {}", pass.units, pass.per_group, params.join(", "));
            }
        }
        compare(&format!("{name}.txt"), &text);
    }
    compare("kernels.wgsl", &kernels.text());
    Ok(())
}
