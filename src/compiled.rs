//! A graph, compiled: inputs in, outputs out.

use crate::{
    device::Device,
    engine::{Engine, Store, check_input},
    error::{Error, Result},
    gpu::{self, Counters, StepRow},
    graph::{InputDef, Tensor},
    host::Host,
    plan::{Draft, Plan, PlanOptions},
    profile::{KernelTime, Profile, StepTimes},
    rng::Key,
};
use std::time::Instant;

/// A graph lowered for a device. For training see [`crate::Trainer`].
///
/// ```
/// use downhill::{Device, Graph, Host};
/// let g = Graph::inference();
/// let (a, b) = (g.input([2, 2]), g.input([2, 2]));
/// let mut f = Device::cpu().compile(&[a.matmul(b), a + b])?;
/// let x = Host::new([2, 2], vec![1.0, 2.0, 3.0, 4.0]);
/// let y = f.run(&[x.clone(), x])?;
/// assert_eq!((y[0].f(), y[1].f()), (&[7.0, 10.0, 15.0, 22.0][..], &[2.0, 4.0, 6.0, 8.0][..]));
/// # Ok::<(), downhill::Error>(())
/// ```
pub struct Compiled {
    device: Device,
    engine: Engine,
    inputs: Vec<InputDef>,
    outputs: usize,
    key: Key,
    /// What is wrong with a run before the first step.
    untrained: Option<Error>,
    /// Whether the inputs have been loaded.
    loaded: bool,
}

impl Device {
    /// The graph that computes `outputs`, ready to run. Parameters start at their initial values.
    ///
    /// # Errors
    /// The graph's first mistake; a limit of the device.
    pub fn compile(&self, outputs: &[Tensor]) -> Result<Compiled> {
        Compiled::new(self, outputs, &self.plan_options(), 0)
    }
}

impl Compiled {
    /// Compiles with options: what is fused, how memory is shared. `seed` is that of the initial parameters and of
    /// random numbers.
    pub fn new(device: &Device, outputs: &[Tensor], options: &PlanOptions, seed: u64) -> Result<Compiled> {
        pollster::block_on(Compiled::new_async(device, outputs, options, seed))
    }
    /// [`new`](Compiled::new), without blocking.
    pub async fn new_async(device: &Device, outputs: &[Tensor<'_>], options: &PlanOptions, seed: u64) -> Result<Compiled> {
        let plan = device.lower(Draft::new(outputs, &[], options)?, options).await?;
        let store = Store::new(device, &plan.params, None, seed).await?;
        Compiled::on(device, plan, &store, seed).await
    }
    /// A plan over the parameters of a store.
    pub(crate) async fn on(device: &Device, plan: Plan, store: &Store, seed: u64) -> Result<Compiled> {
        let (inputs, outputs, untrained) = (plan.inputs.clone(), plan.outputs.len(), plan.untrained.clone());
        let engine = Engine::new(device, plan, store, None).await?;
        Ok(Compiled { device: device.clone(), engine, loaded: inputs.is_empty(), inputs, outputs, key: Key { seed, step: 0 }, untrained })
    }
    /// How many inputs it takes.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }
    /// Computes the outputs for these inputs, which are in the order of the graph's [`input`](crate::Graph::input) and
    /// [`labels`](crate::Graph::labels) calls. Each run is a step: it draws new random numbers.
    ///
    /// # Errors
    /// A number or shape of inputs other than the graph's, a label that names no class, a fault of the device.
    pub fn run(&mut self, inputs: &[Host<f32>]) -> Result<Vec<Host<f32>>> {
        pollster::block_on(self.run_async(inputs))
    }
    /// [`run`](Compiled::run) without blocking.
    pub async fn run_async(&mut self, inputs: &[Host<f32>]) -> Result<Vec<Host<f32>>> {
        self.load(inputs)?;
        self.launch()?;
        let mut out = Vec::with_capacity(self.outputs);
        for i in 0..self.outputs {
            out.push(self.engine.read(i).await?);
        }
        Ok(out)
    }
    /// Puts inputs on the device, for all calls of [`launch`](Compiled::launch) until others are loaded.
    ///
    /// # Errors
    /// As [`run`](Compiled::run).
    pub fn load(&mut self, inputs: &[Host<f32>]) -> Result<()> {
        if inputs.len() != self.inputs.len() {
            let (got, want) = (format!("{} tensors", inputs.len()), format!("{}", self.inputs.len()));
            return Err(Error::Input { what: "inputs".into(), got, want });
        }
        for (i, (data, def)) in inputs.iter().zip(&self.inputs).enumerate() {
            check_input(def, i, data)?;
        }
        for (i, data) in inputs.iter().enumerate() {
            self.engine.write(i, data)?;
        }
        self.loaded = true;
        Ok(())
    }
    /// Runs on the inputs loaded last. On a GPU it returns when the work is queued; outputs stay on the device until
    /// [`output`](Compiled::output) reads them.
    ///
    /// # Errors
    /// Inputs that were never loaded; a layer that must have seen a batch and has not; a fault of the device.
    pub fn launch(&mut self) -> Result<()> {
        self.ready()?;
        self.go(false)
    }
    /// An error where the inputs are not there yet, or it cannot run.
    fn ready(&self) -> Result<()> {
        match self.loaded {
            true => self.trained(),
            false => Err(Error::argument("launch", "no inputs have been loaded")),
        }
    }
    /// An error where a layer must have seen a batch and has not.
    fn trained(&self) -> Result<()> {
        match self.untrained.as_ref().filter(|_| !self.engine.store().is_trained()) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
    /// A run on the inputs as they are, or on those that it fetches from data on the device.
    pub(crate) fn go(&mut self, fed: bool) -> Result<()> {
        self.trained()?;
        self.engine.run(&[self.row()], fed, None)?;
        self.key.step += 1;
        Ok(())
    }
    /// The memory that it keeps for itself.
    fn row(&self) -> StepRow {
        StepRow { seed: self.key.seed, step: self.key.step, ..StepRow::default() }
    }
    pub(crate) fn bytes(&self) -> u64 {
        self.engine.bytes()
    }
    /// The plan on a GPU.
    pub(crate) fn gpu(&mut self) -> Option<&mut gpu::GpuExec> {
        self.engine.gpu_mut()
    }
    /// Output `i` of the last run; waits for it.
    ///
    /// # Errors
    /// A number beyond the outputs, a fault of the device.
    pub fn output(&self, i: usize) -> Result<Host<f32>> {
        pollster::block_on(self.output_async(i))
    }
    /// [`output`](Compiled::output), without blocking.
    pub async fn output_async(&self, i: usize) -> Result<Host<f32>> {
        if i >= self.outputs {
            return Err(Error::argument(format!("output {i}"), format!("there are {}", self.outputs)));
        }
        self.engine.read(i).await
    }
    /// Waits until all runs are done.
    pub fn wait(&mut self) -> Result<()> {
        self.engine.finish()
    }
    /// Where the time of a run goes, from `runs` of them on the inputs loaded last, and as many without clocks.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([64, 64]).linear("fc", 32).relu()])?;
    /// f.load(&[Host::new([64, 64], vec![0.5; 64 * 64])])?;
    /// let profile = f.profile(3)?;
    /// assert_eq!(profile.kernels[0].op, "matmul");
    /// println!("{profile}");
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`launch`](Compiled::launch).
    pub fn profile(&mut self, runs: usize) -> Result<Profile> {
        pollster::block_on(self.profile_async(runs))
    }
    /// [`profile`](Compiled::profile), without blocking.
    pub async fn profile_async(&mut self, runs: usize) -> Result<Profile> {
        let (mut plain, mut times) = (Vec::new(), Vec::new());
        let peaks = self.device.peaks_async().await?;
        for _ in 0..runs.max(1) {
            self.wait()?;
            let start = Instant::now();
            self.launch()?;
            self.wait()?;
            plain.push(start.elapsed().as_secs_f64());
        }
        let zero = Instant::now();
        for _ in 0..runs.max(1) {
            times.push(self.measure(zero).await?);
        }
        Ok(Profile::new(self.device.to_string(), self.device.clock(), peaks, self.kernels(), plain, &times))
    }
    /// One run with clocks.
    pub(crate) async fn measure(&mut self, zero: Instant) -> Result<StepTimes> {
        self.ready()?;
        let times = self.engine.profile(&self.row(), false, None, zero).await?;
        self.key.step += 1;
        Ok(times)
    }
    /// What a run computes.
    pub(crate) fn kernels(&self) -> Vec<KernelTime> {
        self.engine.kernels()
    }
    /// What it did so far on a GPU; `None` on the CPU.
    pub fn counters(&self) -> Option<Counters> {
        self.engine.gpu().map(|exec| exec.counters())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

    #[test]
    fn load_once_launch_often() {
        let g = Graph::inference();
        let x = g.input([3]);
        let mut f = Device::cpu().compile(&[x * 2.0, x.sum_all()]).unwrap();
        let early = f.launch().unwrap_err().to_string();
        assert!(early.contains("no inputs have been loaded"), "{early}");
        // Inputs that do not fit leave the loaded ones alone.
        f.load(&[Host::new([3], vec![1.0, 2.0, 4.0])]).unwrap();
        assert!(f.load(&[Host::new([2], vec![1.0, 2.0])]).is_err());
        for _ in 0..2 {
            f.launch().unwrap();
            f.wait().unwrap();
            assert_eq!((f.output(0).unwrap().f(), f.output(1).unwrap().f()), (&[2.0, 4.0, 8.0][..], &[7.0][..]));
        }
        assert!(f.output(2).unwrap_err().to_string().contains("there are 2"));
    }
}
