//! The device of a rank.

use crate::{all, common::*, ranks};
use downhill::{Device, Error, gpu::GpuOptions};

pub fn cpu() -> Check {
    let names = all(2, |world| Ok(Device::for_rank_with(world, "cpu", &GpuOptions::default())?.name()))?;
    assert!(names.iter().all(|name| name == &Device::cpu().name()), "{names:?}");
    let mut results = ranks(2, |world| {
        let name = if world.rank() == 1 { "no such adapter" } else { "cpu" };
        let device = Device::for_rank_with(world, name, &GpuOptions::default())?;
        crate::classifier(&device, downhill::optim::Sgd::new(0.1))?.distributed(world).map(|_| ())
    });
    assert!(matches!(results.remove(1), Err(Error::NoAdapter { .. })));
    assert!(matches!(results.remove(0), Err(Error::Rank { rank: 1, .. })));
    Ok(())
}

/// More ranks than adapters share them.
pub fn gpu(_: &Device) -> Check {
    let options = GpuOptions { choice: downhill::gpu::Choice::Portable, ..GpuOptions::default() };
    let names = all(2, |world| Ok(Device::for_rank_with(world, "gpu", &options)?.name()))?;
    let there = Device::list();
    assert!(names.iter().all(|name| there.iter().any(|adapter| &adapter.name == name)), "{names:?}");
    Ok(())
}
