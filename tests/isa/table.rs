//! The rows of the table: the numbers of a family's compiler for a pass. One process compiles for one family, because a driver takes the
//! family from its environment. If a compiler crashes, only its process ends.

use crate::{
    kernels::{self, Item},
    machine::{self, Loop},
    radv::{self, Compiler},
};
use downhill::kernel::Word;
use serde_json::{Value, json};
use std::{
    env,
    error::Error,
    path::PathBuf,
    process::{Command, Stdio},
};

/// A pass of a candidate, compiled for a family.
pub struct Row {
    pub family: String,
    /// Network, op, candidate and number of the pass. They are the name of the row.
    pub of: String,
    pub op: String,
    pub candidate: String,
    pub number: u64,
    /// The number of the first row of the family with the same shader.
    pub same: Option<usize>,
    /// File and entry point.
    pub kernel: String,
    pub expected: bool,
    pub flops: u64,
    pub bytes: u64,
    pub groups: u64,
    /// The share of a tile's results that are in the matrix.
    pub useful: f64,
    /// In the order of [`STATS`].
    pub stats: Vec<f64>,
    pub assembly: String,
    pub hot: Option<Loop>,
}

/// Titles of columns, and the names that the driver has for them.
pub const STATS: [(&str, &[&str]); 9] = [
    ("vgprs", &["VGPRs"]),
    ("spills", &["Spilled SGPRs", "Spilled VGPRs", "Spill Count"]),
    ("scratch", &["Scratch size", "Scratch Memory Size"]),
    ("shared", &["LDS size", "Workgroup Memory Size"]),
    ("waves", &["Subgroups per SIMD"]),
    ("instr", &["Instructions", "Instruction Count"]),
    ("latency", &["Latency", "Cycle Count"]),
    ("inverse", &["Inverse Throughput"]),
    ("bytes", &["Code size"]),
];

impl Row {
    /// Returns true if there were too few registers.
    pub fn spills(&self) -> bool {
        STATS.iter().zip(&self.stats).any(|(stat, &value)| ["spills", "scratch"].contains(&stat.0) && value > 0.0)
    }
    /// Returns its name in a file of rows.
    pub fn name(&self) -> String {
        format!("{}: {} {} {}", self.of, self.op, self.candidate, self.number)
    }
    fn parse(family: &str, line: &str) -> Result<Row, Box<dyn Error>> {
        let all: Value = serde_json::from_str(line)?;
        let text = |key: &str| all[key].as_str().unwrap_or_default().to_string();
        let number = |key: &str| all[key].as_u64().unwrap_or_default();
        let stats = STATS.iter().map(|(_, names)| names.iter().map(|&name| all["stats"][name].as_f64().unwrap_or_default()).sum());
        let assembly = text("assembly");
        Ok(Row {
            family: family.to_string(),
            of: text("of"),
            op: text("op"),
            candidate: text("candidate"),
            number: number("number"),
            same: all["same"].as_u64().map(|same| same as usize),
            kernel: text("kernel"),
            expected: all["expected"].as_bool().unwrap_or_default(),
            flops: number("flops"),
            bytes: number("bytes"),
            groups: number("groups"),
            useful: all["useful"].as_f64().unwrap_or(1.0),
            stats: stats.collect(),
            hot: machine::hottest(&assembly).map(|lines| machine::count(&lines)),
            assembly,
        })
    }
}

/// The argument of a process that compiles for the family in its environment.
const CHILD: &str = "--compile-for-this-family";

/// If this process has that argument, compiles everything, prints one object in each line, and ends the process. Every `main` starts with
/// this call.
pub fn compile_if_child() {
    if env::args().nth(1).as_deref() != Some(CHILD) {
        return;
    }
    let all = || -> Result<(), Box<dyn Error>> {
        let compiler = Compiler::open()?;
        for item in kernels::all(compiler.caps())? {
            let compiled = match item.same {
                None => Some(compiler.compile(&item.pass).map_err(|e| format!("{} {}: {e}", item.op, item.candidate))?),
                Some(_) => None,
            };
            let (stats, assembly) = compiled.map(|compiled| (compiled.stats, compiled.assembly)).unzip();
            let Item { of, op, candidate, number, pass, same, expected, flops, bytes, .. } = &item;
            let kernel = format!("{}.{}", pass.source.name, pass.entry);
            let (groups, useful) = (pass.units.div_ceil(pass.per_group), useful(&item));
            println!(
                "{}",
                json!({
                    "of": of, "op": op, "candidate": candidate, "number": number, "kernel": kernel, "expected": expected, "flops": flops,
                    "bytes": bytes, "groups": groups, "useful": useful, "same": same, "stats": stats, "assembly": assembly,
                })
            );
        }
        Ok(())
    };
    match all() {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

/// Returns the share of a tile's results that are in the matrix.
fn useful(item: &Item) -> f64 {
    let number = |word: &Word| if let Word::U(x) = word { f64::from(*x) } else { 1.0 };
    let param = |name: &str| item.pass.params.iter().find(|p| p.0 == name).map(|p| number(&p.1));
    let tile = |name: &str| item.pass.consts.iter().find(|c| c.0 == name).map(|c| number(&c.1));
    let along = |size: Option<f64>, tile: Option<f64>| size.zip(tile).map_or(1.0, |(size, tile)| size / (size / tile).ceil() / tile);
    along(param("m"), tile("TILE_M")) * along(param("n"), tile("TILE_N"))
}

/// Returns the driver's file whose name begins with `start`.
fn manifest(start: &str) -> Option<PathBuf> {
    let folders = ["/usr/share", "/usr/local/share", "/etc"].map(|folder| PathBuf::from(folder).join("vulkan/icd.d"));
    let mut files = folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten().map(|entry| entry.path());
    files.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
}

/// Returns the environment that selects the compiler of a family.
///
/// # Errors
/// The compiler is not installed, and a command that installs it.
pub fn compiler(family: &str) -> Result<Vec<(&'static str, PathBuf)>, String> {
    let (start, command) = if radv::AMD.contains(&family) { ("radeon_icd", "radv") } else { ("intel_icd", "anv") };
    let missing = || format!("there is no compiler for {family}: `scripts/vulkan.sh {command}` makes one available");
    let driver = manifest(start).ok_or_else(missing)?;
    let mut all = vec![("VK_DRIVER_FILES", driver.clone()), ("VK_ICD_FILENAMES", driver)];
    if command == "radv" {
        all.push(("RADV_FORCE_FAMILY", family.into()));
    } else {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
        let shim = cache.map(|cache| cache.join("downhill/vulkan/anv/libintel_noop_drm_shim.so"));
        all.push(("LD_PRELOAD", shim.filter(|shim| shim.exists()).ok_or_else(missing)?));
        all.push(("INTEL_STUB_GPU_PLATFORM", family.into()));
    }
    Ok(all)
}

/// Returns all rows of some families, in their order.
pub fn rows(families: &[&str]) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut children = Vec::new();
    for &family in families {
        let mut command = Command::new(env::current_exe()?);
        command.arg(CHILD).envs(compiler(family)?);
        command.env("MESA_SHADER_CACHE_DISABLE", "true").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn()?;
        // Each is read by a thread of its own, so that none waits for another.
        children.push((family, std::thread::spawn(move || child.wait_with_output())));
    }
    let mut rows = Vec::new();
    for (family, child) in children {
        let output = child.join().map_err(|_| "a thread panicked")??;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_string();
            return Err(format!("the compiler of {family} ended with {}: {why}", output.status).into());
        }
        let first = rows.len();
        for line in String::from_utf8(output.stdout)?.lines() {
            let mut row = Row::parse(family, line)?;
            if let Some(same) = row.same {
                let same: &Row = &rows[first + same];
                (row.stats, row.hot) = (same.stats.clone(), same.hot.clone());
            }
            rows.push(row);
        }
    }
    Ok(rows)
}
