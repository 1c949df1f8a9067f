//! What loading a plan would take: the same buffers and the same limits as `Exec::new`, without making anything.

use crate::{
    error::{Error, Result},
    gpu::{
        bind::wanted,
        device::Gpu,
        dispatch::{Reach, params},
        shader::STEP_BYTES,
    },
    plan::{Plan, ROWS, Step},
};

/// The bytes of the tables that a plan takes on a device beside what is in the plan and in the layout: uniforms of the dispatches, and rows
/// of the steps. `fetch` are the steps that fetch its batches, if they come from data on the device.
///
/// # Errors
/// [`Error::Limit`] wherever loading the plan would give one.
pub(crate) fn needs(gpu: &Gpu, plan: &Plan, fetch: &[Step]) -> Result<u64> {
    for (label, elements) in wanted(plan) {
        gpu.check_size(&label, elements as u64 * 4)?;
    }
    let (limits, align) = (gpu.limits(), gpu.limits().min_uniform_buffer_offset_alignment as u64);
    let reach = Reach { binding: gpu.caps().max_binding_bytes, groups: limits.max_compute_workgroups_per_dimension };
    let uniforms = |steps: &[Step]| -> Result<u64> {
        let mut bytes = 0;
        for step in steps {
            for pass in step.kernel.iter().flat_map(|k| &k.passes) {
                let why = || format!("kernel {} binds a tensor that is not there", pass.source.name);
                let elements = pass.binds.iter().map(|b| step.tensor(b.which).map(|tensor| tensor.1)).collect::<Option<Vec<_>>>();
                for window in reach.windows(&step.title(), pass, &elements.ok_or_else(|| Error::argument("plan", why()))?)? {
                    bytes = u64::next_multiple_of(bytes, align) + params(pass, window).len() as u64 * 4;
                }
            }
        }
        gpu.check_size("params of the dispatches", bytes)?;
        Ok(bytes.max(16))
    };
    let fetched = if fetch.is_empty() { 0 } else { uniforms(fetch)? };
    Ok(uniforms(&plan.steps)? + ROWS as u64 * STEP_BYTES.next_multiple_of(align) + fetched)
}
