//! Prints what the compilers of AMD and Intel make of each kernel, without a GPU: registers, spills, workgroup memory, subgroups of a SIMD,
//! instructions, and the hottest loop. `cargo run -p downhill-backends --example isa -- --help` prints the options. `scripts/vulkan.sh radv`
//! and `scripts/vulkan.sh anv` make the compilers available.

mod estimate;
mod kernels;
mod machine;
mod radv;
mod table;

use clap::Parser;
use serde_json::{Map, Value, json};
use std::{collections::HashMap, error::Error, fs, path::PathBuf};
use table::{Row, STATS};

#[derive(Parser)]
#[command(about = "What the compilers of AMD and Intel make of each kernel, without a GPU")]
struct Options {
    /// Only this family: polaris10, vega10, navi10, navi21, gfx1100 of AMD; tgl, dg2 of Intel. AMD's five without one.
    #[arg(long)]
    family: Option<String>,
    /// Only rows with this in their name: network, op, candidate, file or entry point.
    #[arg(long)]
    filter: Option<String>,
    /// Only candidates that hardware is expected to use.
    #[arg(long)]
    expected: bool,
    /// Writes the rows to this file: a line for each pass, with a list of numbers for each family.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Prints only what differs from this file of an earlier run.
    #[arg(long, value_name = "OLD.jsonl")]
    compare: Option<PathBuf>,
    /// Prints the machine code of the hottest loop of rows with this in their name.
    #[arg(long, value_name = "KERNEL")]
    show: Option<String>,
    /// Prints the machine code of the whole of them.
    #[arg(long)]
    whole: bool,
    /// Prints the ops whose expected candidate comes last in the estimate of speed.
    #[arg(long)]
    last: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    table::compile_if_child();
    let options = Options::parse();
    let families = match &options.family {
        None => radv::AMD.to_vec(),
        Some(family) => vec![family.as_str()],
    };
    if let Some(unknown) = families.iter().find(|family| !radv::AMD.iter().chain(&radv::INTEL).any(|known| known == *family)) {
        return Err(format!("there is no family {unknown}").into());
    }
    let mut rows = table::rows(&families)?;
    if options.last {
        return last(&rows);
    }
    // Each shader once. It is expected if one of its ops expects it.
    for i in 0..rows.len() {
        let first = (0..i).rev().find(|&k| k == 0 || rows[k - 1].family != rows[i].family).unwrap_or(0);
        if let (Some(same), true) = (rows[i].same, rows[i].expected) {
            rows[first + same].expected = true;
        }
    }
    rows.retain(|row| row.same.is_none());
    let has = |row: &Row, part: &Option<String>| part.as_ref().is_none_or(|part| format!("{} {}", row.name(), row.kernel).contains(part));
    rows.retain(|row| has(row, &options.filter) && has(row, &options.show) && (row.expected || !options.expected));
    // The families of a pass stand together.
    let mut first: HashMap<String, usize> = HashMap::new();
    rows.iter().enumerate().for_each(|(i, row)| _ = first.entry(row.name()).or_insert(i));
    rows.sort_by_key(|row| first[&row.name()]);
    if rows.is_empty() {
        return Err("no row has that in its name".into());
    }
    if let Some(path) = &options.json {
        fs::write(path, lines(&rows))?;
    }
    if options.show.is_some() {
        rows.iter().for_each(|row| show(row, options.whole));
        return Ok(());
    }
    let old = options.compare.as_ref().map(fs::read_to_string).transpose()?;
    print(&rows, old.as_deref())
}

/// Prints the ops whose expected candidate comes last in the estimate.
fn last(rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let (all, last) = estimate::last(rows);
    last.iter().for_each(|line| println!("{line}"));
    println!("{} of {all} choices are last", last.len());
    Ok(())
}

/// Prints machine code.
fn show(row: &Row, whole: bool) {
    println!("\n== {} · {} ({})", row.family, row.name(), row.kernel);
    let hot = machine::hottest(&row.assembly);
    if let (false, Some(lines)) = (whole, &hot) {
        lines.iter().for_each(|line| println!("{}", line.split(';').next().unwrap_or(line).trim_end()));
    } else {
        println!("{}", row.assembly);
    }
    match &row.hot {
        Some(counts) => println!("{:.0} % of vector instructions are multiply-adds: {counts:?}", 100.0 * counts.share()),
        None => println!("nothing loops"),
    }
}

/// The numbers of a row in a file: STATS, and those of the loop.
fn numbers(row: &Row) -> Value {
    let mut numbers: Vec<Value> = row.stats.iter().map(|&x| json!(x as u64)).collect();
    numbers.push(row.hot.as_ref().map_or(Value::Null, machine::Loop::json));
    numbers.push(json!(u8::from(row.expected)));
    Value::Array(numbers)
}

/// A line for each pass, with a list of numbers for each family. The first line names the numbers.
fn lines(rows: &[Row]) -> String {
    let mut names: Vec<Value> = STATS.iter().map(|stat| json!(stat.0)).collect();
    names.extend([json!(["vector", "fma", "shared loads", "loads", "waits", "cover", "shared cover"]), json!("expected")]);
    let (mut all, mut at): (Vec<Map<String, Value>>, HashMap<String, usize>) = Default::default();
    for row in rows {
        let i = *at.entry(row.name()).or_insert(all.len());
        if i == all.len() {
            all.push(Map::from_iter([("name".to_string(), json!(row.name())), ("kernel".to_string(), json!(row.kernel))]));
        }
        all[i].insert(row.family.clone(), numbers(row));
    }
    let head = json!({ "numbers": names });
    std::iter::once(head).chain(all.into_iter().map(Value::Object)).map(|line| format!("{line}\n")).collect()
}

fn print(rows: &[Row], old: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut before: HashMap<(String, String), Value> = HashMap::new();
    for line in old.into_iter().flat_map(str::lines).skip(1) {
        let row: Value = serde_json::from_str(line)?;
        for family in radv::AMD.into_iter().chain(radv::INTEL) {
            before.insert((row["name"].as_str().unwrap_or_default().to_string(), family.to_string()), row[family].clone());
        }
    }
    let titles: Vec<String> = STATS.iter().map(|stat| format!("{:>8}", stat.0)).collect();
    println!("{:10}{} |   loop: fma of vector, shared loads, loads, waits, cover | could reach, memory allows", "", titles.concat());
    let mut name = String::new();
    for row in rows {
        let was = before.get(&(row.name(), row.family.clone()));
        if was == Some(&numbers(row)) {
            continue;
        }
        if name != row.name() {
            name = row.name();
            println!("{}{name} ({})", if row.expected { "* " } else { "  " }, row.kernel);
        }
        let mut line = format!("{:10}", row.family);
        for &stat in &row.stats {
            line += &format!("{stat:8}");
        }
        if let Some(c) = &row.hot {
            let cover = c.cover.map_or("-".to_string(), |cover| cover.to_string());
            line += &format!(
                " | {:4} of {:4} ({:2.0} %) {:4} {:4} {:4} {cover:>5}",
                c.fma,
                c.vector,
                100.0 * c.share(),
                c.lds_loads,
                c.loads,
                c.waits
            );
        }
        if let Some(e) = estimate::estimate(row) {
            line += &format!(" | {:3.0} % of {:3.0} %, {:3.0} %", 100.0 * e.all, 100.0 * e.loop_, 100.0 * e.memory);
        }
        println!("{line}{}", if row.spills() { " SPILLS" } else { "" });
        if old.is_some() {
            println!("  {}", was.map_or("new".to_string(), |was| format!("was {was}")));
        }
    }
    Ok(())
}
