//! The compilers of AMD and Intel on every kernel: no candidate that hardware is expected to use spills registers or needs scratch memory, on
//! any family. Nothing is run, so no GPU is needed. Without a compiler the test says that it was not run. With `CI=true` it fails without
//! AMD's compiler.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)] // The tool uses the rest of these.
mod estimate;
mod kernels;
#[allow(dead_code)]
mod machine;
mod radv;
#[allow(dead_code)]
mod table;

use common::Check;
use libtest_mimic::{Arguments, Completion, Trial};

fn main() {
    table::compile_if_child();
    let gate = |families: &'static [&'static str], required: bool| match table::compiler(families[0]) {
        Err(why) if !required || std::env::var("CI").as_deref() != Ok("true") => Ok(Completion::ignored_with(why)),
        _ => Ok(check(families).map(|()| Completion::Completed)?),
    };
    let trials = vec![
        Trial::ignorable_test("AMD", move || gate(&radv::AMD, true)),
        Trial::ignorable_test("Intel", move || gate(&radv::INTEL, false)),
        Trial::test("loops are counted", || Ok(counting()?)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

fn check(families: &[&str]) -> Check {
    let rows = table::rows(families)?;
    for family in families {
        let count = rows.iter().filter(|row| row.family == *family && row.expected && row.stats.iter().sum::<f64>() > 0.0).count();
        assert!(count > 80, "only {count} kernels for {family}");
    }
    assert!(rows.iter().filter(|row| row.of == kernels::CONTROL).all(table::Row::spills), "scratch memory is not reported");
    let is_intel = families[0] == radv::INTEL[0];
    let spills = |row: &&table::Row| row.expected && row.spills();
    let bad: Vec<String> = rows.iter().filter(spills).map(|row| format!("{}: {} ({})", row.family, row.name(), row.kernel)).collect();
    assert!(bad.is_empty(), "these spill registers: make them smaller, or do not expect them\n{}", bad.join("\n"));
    let (all, last) = estimate::last(&rows);
    assert!(all > 50 || is_intel, "only {all} choices have an estimate");
    assert!(last.is_empty(), "the estimate puts these choices last\n{}", last.join("\n"));
    Ok(())
}

/// Checks the counts of a loop that was written for this test.
fn counting() -> Check {
    let code = "BB0:\n\ts_mov_b32 s0, 0 ; 00\nBB1:\n\tbuffer_load_dwordx4 v[0:3], v9, s[0:3], 0 offen ; 00\n\tds_read_b128 v[4:7], v8 ; 00\n\t\
        v_fmac_f32_e32 v10, v0, v1 ; 00\n\ts_waitcnt lgkmcnt(0) ; 00\n\tv_add_f32_e32 v4, v4, v5 ; 00\n\tv_fma_f32 v1, v2, v3, v4 ; 00\n\t\
        s_waitcnt vmcnt(0) ; 00\n\ts_cbranch_scc0 BB1 ; 00\n\ts_endpgm ; 00";
    let lines = machine::hottest(code).ok_or("there is a loop")?;
    let want = machine::Loop {
        vector: 3,
        fma: 2,
        lds_loads: 1,
        lds_bytes: 16,
        loads: 1,
        load_bytes: 16,
        waits: 2,
        branches: 1,
        cover: Some(2),
        lds_cover: Some(1.0),
    };
    assert_eq!(machine::count(&lines), want);
    Ok(())
}
