//! Gradients of the last step, updates with given gradients, and the norms and ratios of the parameters.

use super::{Trainer, plans::PlanKey};
use crate::{
    error::{Error, Result},
    host::{self, Host},
    optim::Trust,
    params::Status,
};

impl Trainer {
    /// Returns the gradient of a parameter in the last step, and waits for the step. It is the gradient of all micro-batches
    /// together.
    ///
    /// # Errors
    /// The trainer has no parameter of this name, or the name is of a state or a frozen parameter, which have no gradient.
    pub fn gradient(&self, name: &str) -> Result<Host<f32>> {
        let i = self.trained(name)?;
        let (flat, range) = (pollster::block_on(self.store.read_grads())?, self.store.layout().ranges[i]);
        Ok(Host::new(self.params[i].shape, flat[range.piece][range.of()].to_vec()))
    }
    /// Returns each trained parameter's norms in the last step and the trust ratio that follows from them, and waits for the
    /// step. The norms are measured before the update. The result is empty for an optimizer whose rule has no
    /// [`ratio`](crate::optim::Rule::ratio).
    ///
    /// # Errors
    /// The device fails.
    pub fn trust_ratios(&self) -> Result<Vec<(String, Trust)>> {
        if !self.update.optimizer.has_ratio() {
            return Ok(Vec::new());
        }
        let all = pollster::block_on(self.store.trusts())?;
        let trained = self.update.groups.statuses.iter().map(|status| matches!(status, Status::Trained { .. }));
        let named = self.params.iter().map(|param| param.name.clone()).zip(all);
        Ok(named.zip(trained).filter(|(_, trained)| *trained).map(|(row, _)| row).collect())
    }
    /// Makes one step of the optimizer with the given gradients instead of the gradients of the loss. The gradients may be
    /// means over several machines or batches, or come from another program.
    ///
    /// A parameter that is not named has the gradient 0. The step is an ordinary step for schedules, clipping and the check
    /// that all numbers are finite. The loss in its report is NaN. [`step_again`](Trainer::step_again) repeats the step.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, init::Init, optim::Sgd};
    /// let g = Graph::training();
    /// let w = g.param("w", [2], Init::Zeros);
    /// let mut trainer = Trainer::new(&Device::cpu(), w.square().sum_all(), Sgd::new(0.5))?;
    /// trainer.apply_gradients(&[("w", Host::new([2], vec![2.0, -4.0]))])?;
    /// assert_eq!(trainer.params().get("w")?.f(), &[-1.0, 2.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// A name or a shape does not fit the trainer, or the device fails. A gradient that is not finite gives
    /// [`Error::Diverged`], from the call that reads the reports.
    pub fn apply_gradients(&mut self, gradients: &[(&str, Host<f32>)]) -> Result<()> {
        self.no_part("apply_gradients")?;
        self.no_shard("apply_gradients", "give batches to Trainer::step, or use Shard::None")?;
        let layout = self.store.layout();
        let mut flat: Vec<Vec<f32>> =
            layout.pieces[..layout.trained].iter().map(|&n| host::zeros("gradients", n)).collect::<Result<_>>()?;
        for (name, value) in gradients {
            let i = self.trained(name)?;
            let (range, want) = (layout.ranges[i], self.params[i].shape);
            if value.shape != want || !value.fits(want) {
                let (what, got) = (format!("the gradient of {name}"), format!("{} with {}", value.shape, value.content()));
                return Err(Error::Input { what, got, want: want.to_string() });
            }
            flat[range.piece][range.of()].copy_from_slice(value.f());
        }
        pollster::block_on(async {
            self.plan(PlanKey::Given).await?;
            self.store.write_grads(flat)?;
            self.advance(PlanKey::Given, false).await
        })
    }
    /// Returns the number of the parameter `name`, which must have a gradient.
    fn trained(&self, name: &str) -> Result<usize> {
        let i = self.params().index(name)?;
        let why = match self.update.groups.statuses[i] {
            Status::Trained { .. } | Status::Whole { .. } => return Ok(i),
            Status::Frozen => "it is frozen, so it has no gradient; remove it from Optimizer::freeze and from groups whose lr_scale is 0",
            Status::State => "it is state, which has no gradient",
        };
        Err(Error::Parameter { name: name.to_string(), why: why.into() })
    }
}
