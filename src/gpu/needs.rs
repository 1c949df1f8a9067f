//! What loading a plan would take: the same buffers and the same limits as `Exec::new`, without making anything.

use crate::{
    error::{Error, Result},
    gpu::{
        bind::{LOSS, update_scratch, wanted},
        device::Gpu,
        dispatch::{Reach, params},
        exec::{ExecOptions, ROWS, Ring, UpdatePass},
        shader::STEP_BYTES,
        store::GUARD,
    },
    kernel::{Pass, Which},
    params::Layout,
    plan::{Plan, Step},
};

/// Bytes that a plan takes on a device beside what is in the plan and in the layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Scratch of the updates.
    pub scratch: u64,
    /// Uniforms of the dispatches, rows of the steps, the ring of losses, the guard.
    pub tables: u64,
}

/// # Errors
/// [`Error::Limit`] wherever loading the plan would give one.
pub(crate) fn needs(gpu: &Gpu, plan: &Plan, layout: &Layout, options: &ExecOptions) -> Result<Needs> {
    for (label, elements) in wanted(plan, options.updates) {
        gpu.check_size(&label, elements as u64 * 4)?;
    }
    let (limits, align) = (gpu.limits(), gpu.limits().min_uniform_buffer_offset_alignment as u64);
    let reach = Reach { binding: gpu.caps().max_binding_bytes, groups: limits.max_compute_workgroups_per_dimension };
    let mut uniforms = 0u64;
    let mut add = |label: &str, pass: &Pass, elements: &dyn Fn(Which) -> Option<usize>| -> Result<()> {
        let all: Option<Vec<usize>> = pass.binds.iter().map(|b| elements(b.which)).collect();
        let why = || format!("kernel {} binds a tensor that is not there", pass.source.name);
        for window in reach.windows(label, pass, &all.ok_or_else(|| Error::argument(label, why()))?)? {
            uniforms = uniforms.next_multiple_of(align) + params(pass, window).len() as u64 * 4;
        }
        Ok(())
    };
    for step in &plan.steps {
        for pass in step.kernel.iter().flat_map(|k| &k.passes) {
            add(&step.label, pass, &|which| of_step(step, which))?;
        }
    }
    for update in options.updates {
        for pass in &update.kernel.passes {
            add(&update.label(layout), pass, &|which| of_update(plan, layout, update, which))?;
        }
    }
    let ring = options.ring.map_or(0, |spec| Ring::wanted(spec).1);
    let rows = ROWS * STEP_BYTES.next_multiple_of(align);
    let (scratch, uniforms) = (update_scratch(options.updates).iter().sum::<usize>() as u64 * 4, uniforms.max(16));
    gpu.check_size("params of the dispatches", uniforms)?;
    Ok(Needs { scratch, tables: uniforms + rows + ring + 4 * GUARD as u64 })
}

fn of_step(step: &Step, which: Which) -> Option<usize> {
    match which {
        Which::In(i) => step.inputs.get(i).map(|x| x.1.elements()),
        Which::Out => Some(step.output.1.elements()),
        Which::Scratch(k) => step.kernel.as_ref()?.scratch.get(k).copied(),
    }
}

fn of_update(plan: &Plan, layout: &Layout, update: &UpdatePass, which: Which) -> Option<usize> {
    match which {
        Which::In(2) => Some(GUARD),
        Which::In(LOSS) => plan.outputs.first().map(|o| o.1.elements()),
        Which::In(_) => Some(layout.pieces[update.piece]),
        Which::Scratch(k) => update.kernel.scratch.get(k).copied(),
        Which::Out => None,
    }
}
