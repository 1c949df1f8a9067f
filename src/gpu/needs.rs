//! What loading a plan would take: the same buffers and the same limits as `Exec::new`, without making anything.

use crate::{
    data::Augment,
    error::{Error, Result},
    gpu::{
        bind::{LOSS, update_scratch, wanted},
        device::Gpu,
        dispatch::{Reach, params},
        exec::{ROWS, UpdatePass},
        feed::Resident,
        shader::STEP_BYTES,
        store::GUARD,
    },
    kernel::{Pass, Which},
    params::Layout,
    plan::{Plan, Step},
    shape::Shape,
};

/// Bytes that a plan takes on a device beside what is in the plan and in the layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Scratch of the updates.
    pub scratch: u64,
    /// Uniforms of the dispatches, rows of the steps.
    pub tables: u64,
}

/// Of a plan with these updates, whose batches are `fed` from data on the device or come from the host.
///
/// # Errors
/// [`Error::Limit`] wherever loading the plan would give one.
pub(crate) fn needs(
    gpu: &Gpu,
    plan: &Plan,
    layout: &Layout,
    updates: &[UpdatePass],
    fed: Option<(&Resident, Option<Augment>)>,
) -> Result<Needs> {
    for (label, elements) in wanted(plan, updates) {
        gpu.check_size(&label, elements as u64 * 4)?;
    }
    let (limits, align) = (gpu.limits(), gpu.limits().min_uniform_buffer_offset_alignment as u64);
    let reach = Reach { binding: gpu.caps().max_binding_bytes, groups: limits.max_compute_workgroups_per_dimension };
    let end = |uniforms: &mut u64, label: &str, pass: &Pass, elements: &[usize]| -> Result<()> {
        for window in reach.windows(label, pass, elements)? {
            *uniforms = uniforms.next_multiple_of(align) + params(pass, window).len() as u64 * 4;
        }
        Ok(())
    };
    let bound = |pass: &Pass, elements: &dyn Fn(Which) -> Option<usize>| -> Result<Vec<usize>> {
        let why = || format!("kernel {} binds a tensor that is not there", pass.source.name);
        pass.binds.iter().map(|b| elements(b.which)).collect::<Option<_>>().ok_or_else(|| Error::argument("plan", why()))
    };
    let mut uniforms = 0;
    for step in &plan.steps {
        for pass in step.kernel.iter().flat_map(|k| &k.passes) {
            end(&mut uniforms, &step.title(), pass, &bound(pass, &|which| of_step(step, which))?)?;
        }
    }
    for update in updates {
        for pass in &update.kernel.passes {
            end(&mut uniforms, &update.label(layout), pass, &bound(pass, &|which| of_update(plan, layout, update, which))?)?;
        }
    }
    gpu.check_size("params of the dispatches", uniforms)?;
    let mut tables = uniforms.max(16) + ROWS * STEP_BYTES.next_multiple_of(align);
    if let Some((data, augment)) = fed {
        let inputs: Vec<Shape> = plan.inputs.iter().map(|i| i.shape).collect();
        let mut uniforms = 0;
        for ((passes, elements), input) in data.passes(&inputs, augment, gpu.caps())?.iter().zip(data.elements()).zip(&inputs) {
            for (pass, [piece, order]) in passes.iter().zip(elements) {
                end(&mut uniforms, "feed", pass, &[piece, order, input.elements()])?;
            }
        }
        tables += uniforms.max(16);
    }
    Ok(Needs { scratch: update_scratch(updates).iter().sum::<usize>() as u64 * 4, tables })
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
