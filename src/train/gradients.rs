//! Gradients: those of the last step, and those that come from elsewhere.

use super::Trainer;
use crate::{
    error::{Error, Result},
    graph::Graph,
    host::{self, Host},
    plan::Plan,
};

/// The key of the plan that computes nothing: its steps take the gradients as they lie.
pub(super) const GIVEN: usize = usize::MAX;

impl Trainer {
    /// The gradient of a parameter in the last step; waits for it.
    pub fn gradient(&self, name: &str) -> Result<Host<f32>> {
        let i = self.trained(name)?;
        let (flat, range) = (pollster::block_on(self.store.read_grads())?, self.store.layout().ranges[i]);
        Ok(Host::new(self.params[i].shape, flat[range.piece][range.start..range.start + range.len].to_vec()))
    }
    /// One step of the optimizer with these gradients, instead of those of a loss: means over several machines or batches,
    /// say, or what another program computed. A parameter that is not named has the gradient 0. The step counts as any other (schedules,
    /// clipping, the check that all is finite); its report has the loss NaN. [`step_again`](Trainer::step_again) repeats it.
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
    /// A name or a shape that this trainer does not have, a fault of the device. A gradient that is not finite is
    /// [`Error::Diverged`], from the call that reads the reports.
    pub fn apply_gradients(&mut self, gradients: &[(&str, Host<f32>)]) -> Result<()> {
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
            flat[range.piece][range.start..range.start + range.len].copy_from_slice(value.f());
        }
        pollster::block_on(self.apply(flat))
    }
    async fn apply(&mut self, mut flat: Vec<Vec<f32>>) -> Result<()> {
        if self.plans.get(GIVEN).is_none() {
            let g = Graph::training();
            let plan = Plan::new(&[g.scalar(0.0)], &[], &self.device.plan_options())?;
            self.load_plan(GIVEN, plan).await?;
        }
        // A step assigns to state what lies in the place of its gradient.
        flat.extend(self.store.read_params().await?.drain(flat.len()..));
        self.store.write_grads(flat)?;
        self.advance(GIVEN).await
    }
    /// The number of a parameter that has a gradient.
    fn trained(&self, name: &str) -> Result<usize> {
        let i = self.params().index(name)?;
        match self.params[i].trained {
            true => Ok(i),
            false => Err(Error::Parameter { name: name.to_string(), why: "it is state, which has no gradient".into() }),
        }
    }
}
