//! The curves of a training.

use super::history::History;
use crate::plot::{Panel, Series, svg};

impl History {
    /// Returns panels of the losses and, for a classifier, of the accuracies.
    pub fn panels(&self) -> Vec<Panel> {
        let epochs = &self.epochs;
        // The mean over an epoch is drawn at its middle. A value measured after the epoch is drawn at its end.
        let (middle, end) = (|epoch: usize| epoch as f64 - 0.5, |epoch: usize| epoch as f64);
        let steps = epochs.iter().flat_map(|e| {
            let n = e.losses.len() as f64;
            e.losses.iter().enumerate().map(move |(k, &loss)| ((e.epoch - 1) as f64 + k as f64 / n, f64::from(loss)))
        });
        let loss = [
            Series { faint: true, ..Series::new("training, each step", fewer(steps.collect())) },
            Series::new("training, mean of the epoch", epochs.iter().map(|e| (middle(e.epoch), e.loss))),
            Series::new("held out", epochs.iter().filter_map(|e| Some((end(e.epoch), e.validation?.0)))),
        ];
        let accuracy = [
            Series::new("training, mean of the epoch", epochs.iter().filter_map(|e| Some((middle(e.epoch), 100.0 * e.accuracy?)))),
            Series::new("held out", epochs.iter().filter_map(|e| Some((end(e.epoch), 100.0 * e.validation?.1?)))),
        ];
        let panel = |title: &str, y, series: Vec<Series>| Panel { title: title.into(), x: "epoch", y, series };
        let panels = [panel("loss", "loss", loss.into()), panel("accuracy", "%", accuracy.into())];
        panels.into_iter().filter(|panel| panel.series.iter().any(|s| !s.points.is_empty())).collect()
    }
    /// Returns the content of an SVG file with the curves of the losses and, for a classifier, of the accuracies.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, data, file, optim::Sgd};
    /// let iris = data::iris();
    /// let mut trainer =
    ///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
    /// let history = trainer.fit(&iris, Fit::new().epochs(3))?;
    /// let folder = tempfile::tempdir().unwrap();
    /// file::replace(folder.path().join("iris.svg"), history.svg("irises").as_bytes())?;
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn svg(&self, title: &str) -> String {
        svg(title, &self.panels())
    }
}

/// Reduces points to about a thousand. Each new point is the mean of an equal number of neighbours.
fn fewer(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let mean = |run: &[(f64, f64)]| run.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / run.len() as f64, y + p.1 / run.len() as f64));
    points.chunks(points.len().div_ceil(MOST).max(1)).map(mean).collect()
}
/// The largest number of points of a curve.
const MOST: usize = 2000;
