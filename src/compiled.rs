//! Compiled graphs. A compiled graph computes outputs from inputs.

use crate::{
    device::Device,
    engine::{Engine, Store, check_input},
    error::{Error, Result},
    gpu::{self, Counters, StepRow},
    graph::{InputDef, ParamDef, Tensor},
    host::Host,
    plan::{Draft, Plan, PlanOptions, no_gather},
    profile::{KernelTime, Profile, StepTimes},
    rng::Key,
    weights::Params,
};
use std::time::Instant;

/// A graph compiled for a device. [`Trainer`](crate::Trainer) trains a graph.
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
    params: Vec<ParamDef>,
    inputs: Vec<InputDef>,
    outputs: usize,
    key: Key,
    /// The error of a run, if a layer needs trained parameters and the parameters have been neither trained nor loaded.
    untrained: Option<Error>,
    /// Whether the inputs have been loaded.
    loaded: bool,
}

impl Device {
    /// Compiles the graph that computes `outputs`. Parameters have their initial values.
    ///
    /// # Errors
    /// - The graph has a mistake. The error describes the first mistake.
    /// - The graph exceeds a limit of the device.
    pub fn compile(&self, outputs: &[Tensor]) -> Result<Compiled> {
        Compiled::new(self, outputs, &self.plan_options(), 0)
    }
}

impl Compiled {
    /// Compiles with options. The options say which ops are fused and how memory is shared. `seed` decides the initial
    /// parameters and the random numbers of the runs.
    pub fn new(device: &Device, outputs: &[Tensor], options: &PlanOptions, seed: u64) -> Result<Compiled> {
        pollster::block_on(Compiled::new_async(device, outputs, options, seed))
    }
    /// [`new`](Compiled::new), without blocking.
    pub async fn new_async(device: &Device, outputs: &[Tensor<'_>], options: &PlanOptions, seed: u64) -> Result<Compiled> {
        let plan = device.lower(Draft::new(outputs, &[], options)?, options).await?;
        let store = Store::new(device, &plan.params, None, seed).await?;
        Compiled::on(device, plan, &store, seed).await
    }
    /// Compiles a plan that uses the parameters of `store`.
    pub(crate) async fn on(device: &Device, plan: Plan, store: &Store, seed: u64) -> Result<Compiled> {
        let (params, inputs, outputs, untrained) = (plan.params.clone(), plan.inputs.clone(), plan.outputs.len(), plan.untrained.clone());
        let engine = Engine::new(device, plan, store, None).await?;
        let (device, key) = (device.clone(), Key { seed, step: 0 });
        Ok(Compiled { device, engine, params, loaded: inputs.is_empty(), inputs, outputs, key, untrained })
    }
    /// Returns the number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }
    /// Returns a handle to the parameters and the state. [`Params::load`] loads trained weights, so that inference needs no
    /// trainer. The parameters of a graph that [`Trainer::compile`](crate::Trainer::compile) compiled are those of the trainer.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::Sgd};
    /// # let path = std::env::temp_dir().join(format!("downhill-compiled-{}.safetensors", std::process::id()));
    /// let g = Graph::training();
    /// let trainer = Trainer::new(&Device::cpu(), g.input([2, 3]).linear("fc", 1).sum_all(), Sgd::new(0.1))?;
    /// trainer.params().save(&path)?;
    ///
    /// let h = Graph::inference();
    /// let mut f = Device::cpu().compile(&[h.input([1, 3]).linear("fc", 1)])?;
    /// f.params().load(&path)?;
    /// assert_eq!(f.params().get("fc.weight")?, trainer.params().get("fc.weight")?);
    /// let y = f.run(&[Host::new([1, 3], vec![0.5, 1.0, -0.5])])?;
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn params(&self) -> Params<'_> {
        Params::new(&self.params, self.engine.store())
    }
    /// Computes the outputs for these inputs. The inputs are in the order of the graph's [`input`](crate::Graph::input) and
    /// [`labels`](crate::Graph::labels) calls. Each run draws new random numbers.
    ///
    /// # Errors
    /// - The number of inputs or the shape of an input differs from the graph's.
    /// - A label is not less than the number of classes.
    /// - The device has a fault.
    pub fn run(&mut self, inputs: &[Host<f32>]) -> Result<Vec<Host<f32>>> {
        pollster::block_on(self.run_async(inputs))
    }
    /// [`run`](Compiled::run), without blocking.
    pub async fn run_async(&mut self, inputs: &[Host<f32>]) -> Result<Vec<Host<f32>>> {
        self.load(inputs)?;
        self.launch()?;
        let mut out = Vec::with_capacity(self.outputs);
        for i in 0..self.outputs {
            out.push(self.engine.read(i).await?);
        }
        Ok(out)
    }
    /// Copies inputs to the device. All calls of [`launch`](Compiled::launch) use these inputs until other inputs are loaded.
    ///
    /// # Errors
    /// The errors of [`run`](Compiled::run).
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
    /// Runs on the inputs loaded last. On a GPU, `launch` returns as soon as the work is queued. The outputs stay on the device
    /// until [`output`](Compiled::output) reads them.
    ///
    /// # Errors
    /// - No inputs have been loaded.
    /// - A layer needs trained parameters (batch norm, for example), and the parameters have been neither trained nor loaded.
    /// - The device has a fault.
    pub fn launch(&mut self) -> Result<()> {
        self.ready()?;
        self.go(false)
    }
    /// Returns an error if no inputs have been loaded, or if a layer needs trained parameters and has none.
    fn ready(&self) -> Result<()> {
        match self.loaded {
            true => self.trained(),
            false => Err(Error::argument("launch", "no inputs have been loaded")),
        }
    }
    /// Returns an error if a layer needs trained parameters, and the parameters have been neither trained nor loaded.
    fn trained(&self) -> Result<()> {
        match self.untrained.as_ref().filter(|_| !self.engine.store().is_trained()) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
    /// Runs once. If `fed` is true, the inputs are fetched from a data set on the device. Otherwise the loaded inputs are used.
    pub(crate) fn go(&mut self, fed: bool) -> Result<()> {
        self.trained()?;
        self.engine.run(&[self.row()], fed, None, &mut no_gather)?;
        self.key.step += 1;
        Ok(())
    }
    /// Returns the seed and the number of the next run, in the form that the device reads.
    fn row(&self) -> StepRow {
        StepRow { seed: self.key.seed, step: self.key.step, ..StepRow::default() }
    }
    /// Returns the bytes of the device's memory that the compiled graph takes for itself.
    pub(crate) fn bytes(&self) -> u64 {
        self.engine.bytes()
    }
    /// Returns the executor of the plan on a GPU. `None` on the CPU.
    pub(crate) fn gpu(&mut self) -> Option<&mut gpu::GpuExec> {
        self.engine.gpu_mut()
    }
    /// Returns output `i` of the last run, and waits for the run. The first output is 0.
    ///
    /// # Errors
    /// - There is no output `i`.
    /// - The device has a fault.
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
    /// Measures where the time of a run goes. `profile` makes `runs` runs without clocks and then `runs` runs with clocks, all
    /// of them on the inputs loaded last.
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
    /// The errors of [`launch`](Compiled::launch).
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
    /// Makes one run with clocks, and returns the measured times.
    pub(crate) async fn measure(&mut self, zero: Instant) -> Result<StepTimes> {
        self.ready()?;
        let times = self.engine.profile(&self.row(), false, None, &mut no_gather, zero).await?;
        self.key.step += 1;
        Ok(times)
    }
    /// Describes the kernels of a run.
    pub(crate) fn kernels(&self) -> Vec<KernelTime> {
        self.engine.kernels()
    }
    /// Returns the counters of the GPU work so far. `None` on the CPU.
    pub fn counters(&self) -> Option<Counters> {
        self.engine.gpu().map(|exec| exec.counters())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

    /// A small run stays on the calling thread, with the bits that all threads give. A larger one does not.
    #[test]
    fn small_runs_have_the_same_bits() {
        for (batch, want) in [(1, true), (2, true), (64, false)] {
            let g = Graph::inference();
            let x = g.input([batch, 3, 8, 8]);
            let h = x.conv2d("conv", 8, 3).relu().reshape([batch, 8 * 36]).linear("fc1", 256).gelu().linear("fc2", 100);
            let mut f = Device::cpu().compile(&[h.softmax(1), h.mean(&[1], false), h.argmax(1)]).unwrap();
            let x = Host::new([batch, 3, 8, 8], (0..batch * 192).map(|i| (i as f32 * 0.37).sin()).collect());
            assert_eq!(f.engine.small(), Some(&mut { want }), "batch {batch}");
            let mut run = |small: bool| {
                f.engine.small().into_iter().for_each(|is| *is = small);
                f.run(std::slice::from_ref(&x)).unwrap()
            };
            assert_eq!(run(true), run(false), "batch {batch}");
        }
    }

    #[test]
    fn load_once_launch_often() {
        let g = Graph::inference();
        let x = g.input([3]);
        let mut f = Device::cpu().compile(&[x * 2.0, x.sum_all()]).unwrap();
        let early = f.launch().unwrap_err().to_string();
        assert!(early.contains("no inputs have been loaded"), "{early}");
        // Loading inputs of a wrong shape does not change the loaded inputs.
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
