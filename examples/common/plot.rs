//! Curves of a training, as an SVG file.

use clap::Args;
use downhill::History;
use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
    },
    prelude::*,
};
use std::{error::Error, ops::Range, path::PathBuf};

#[derive(Args)]
pub struct PlotArgs {
    /// Draws the curves of the training into this file
    #[arg(long, value_name = "FILE.svg", value_parser = super::new_file)]
    plot: Option<PathBuf>,
}

impl PlotArgs {
    /// Draws the panels, beside and below each other, where `--plot` asks for it.
    pub fn draw(&self, title: &str, panels: impl FnOnce() -> Vec<Panel>) -> Result<(), Box<dyn Error>> {
        let Some(path) = &self.plot else { return Ok(()) };
        downhill::file::replace(path, svg(title, &panels())?.as_bytes())?;
        println!("curves of the training: {}", path.display());
        Ok(())
    }
}

/// A curve.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Whether it is in the background, in the colour of the curve after it: many points, and noisy ones.
    pub faint: bool,
}

impl Series {
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Series {
        Series { name: name.into(), points: points.into_iter().collect(), faint: false }
    }
    /// A curve of the numbers of steps 1, 2, …
    pub fn steps(name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Series {
        Series::new(name, (1..).map(f64::from).zip(values))
    }
}

/// Curves that share their axes. The vertical one is logarithmic where the values are positive and more than two
/// decades apart.
pub struct Panel {
    pub title: String,
    /// What is counted along the horizontal axis: steps, epochs.
    pub x: &'static str,
    pub y: &'static str,
    pub series: Vec<Series>,
}

/// The losses of [`downhill::Trainer::fit`], and the accuracies where it trained a classifier.
pub fn history(history: &History) -> Vec<Panel> {
    let epochs = &history.epochs;
    // The mean over an epoch belongs in its middle, what was measured after it at its end.
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

/// At most some thousand points, each the mean of as many neighbours.
fn fewer(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let mean = |run: &[(f64, f64)]| run.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / run.len() as f64, y + p.1 / run.len() as f64));
    points.chunks(points.len().div_ceil(MOST).max(1)).map(mean).collect()
}
pub const MOST: usize = 2000;

/// Pixels of a panel.
const SIZE: (u32, u32) = (640, 420);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(230, 130, 20),
    RGBColor(110, 110, 110),
];
const INK: RGBColor = RGBColor(40, 40, 40);

/// The text of the file: the same for the same panels.
pub fn svg(title: &str, panels: &[Panel]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns).max(1);
    {
        let root = SVGBackend::with_string(&mut text, (SIZE.0 * columns as u32, SIZE.1 * rows as u32 + 40)).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(title, ("sans-serif", 24).into_font().color(&INK))?;
        for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
            draw(area, panel)?;
        }
        root.present()?;
    }
    Ok(text)
}

fn draw(area: &DrawingArea<SVGBackend, Shift>, panel: &Panel) -> Result<(), Box<dyn Error>> {
    let all = || panel.series.iter().flat_map(|s| s.points.iter().copied());
    let (low, high) = range(all().map(|p| p.1));
    let log = low > 0.0 && high / low > 100.0;
    let scale = |y: f64| if log { y.log10() } else { y };

    let x = Axis::new(range(all().map(|p| p.0)), false, 1.0);
    let y = Axis::new((scale(low), scale(high)), log, if log { 1.0 } else { 0.0 });
    // The legend goes where the fewest points are, counted in a part of the panel of about its size.
    let places = [
        (SeriesLabelPosition::UpperRight, 0.6, 0.65),
        (SeriesLabelPosition::LowerRight, 0.6, 0.0),
        (SeriesLabelPosition::MiddleRight, 0.6, 0.325),
        (SeriesLabelPosition::LowerLeft, 0.0, 0.0),
        (SeriesLabelPosition::UpperLeft, 0.0, 0.65),
    ];
    let covered = |left: f64, bottom: f64| {
        let within = |part: f64, from: f64, size: f64| (from..=from + size).contains(&part);
        all().filter(|p| within(x.part(p.0), left, 0.4) && within(y.part(scale(p.1)), bottom, 0.35)).count()
    };
    let legend = places.into_iter().min_by_key(|&(_, left, bottom)| covered(left, bottom)).map(|p| p.0);

    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .margin_right(28)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x, y)?;
    let unit = if log { format!("{} (logarithmic)", panel.y) } else { panel.y.to_string() };
    chart
        .configure_mesh()
        .x_desc(panel.x)
        .y_desc(unit)
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .bold_line_style(INK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .axis_style(INK.mix(0.6))
        .draw()?;
    let mut colours = COLOURS.iter().cycle().peekable();
    for series in panel.series.iter().filter(|s| !s.points.is_empty()) {
        let next = if series.faint { colours.peek().copied() } else { colours.next() };
        let colour = next.unwrap_or(&INK);
        let (colour, width) = if series.faint { (colour.mix(0.4), 1) } else { (colour.mix(1.0), 2) };
        let points = || series.points.iter().map(|&(x, y)| (x, scale(y)));
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(width)))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(width)));
        // A line of one point would not be seen.
        if !series.faint && series.points.len() <= 20 {
            chart.draw_series(points().map(|p| Circle::new(p, 3, colour.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .position(legend.unwrap_or(SeriesLabelPosition::UpperRight))
        .background_style(WHITE.mix(0.85))
        .border_style(INK.mix(0.25))
        .label_font(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    Ok(())
}

/// The smallest and the largest; 0 and 1 where there is nothing.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// An axis whose ticks are numbers that people would choose; plotters' own are not where values lie close together.
struct Axis {
    ticks: Vec<f64>,
    /// That tell the ticks apart.
    decimals: usize,
    /// Whether values are exponents of ten.
    log: bool,
}

impl Axis {
    /// Over these values, with ticks 1, 2 or 5 times a power of ten apart, and at least `least`.
    fn new((low, high): (f64, f64), log: bool, least: f64) -> Axis {
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let power = 10f64.powf((span / 6.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|k| k * power).into_iter().find(|step| span / step <= 6.0).unwrap_or(span).max(least);
        let first = (low / step).floor();
        let last = (high / step).ceil().max(first + 1.0);
        let ticks = (0..=(last - first) as usize).map(|k| (first + k as f64) * step).collect();
        Axis { ticks, decimals: (-step.log10()).ceil().max(0.0) as usize, log }
    }
    /// Where a value lies: 0 at the start of the axis, 1 at its end.
    fn part(&self, value: f64) -> f64 {
        let ends = self.range();
        (value - ends.start) / (ends.end - ends.start)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.part(*value) * f64::from(to - from)).round() as i32
    }
    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.ticks.clone()
    }
    fn range(&self) -> Range<f64> {
        self.ticks[0]..self.ticks[self.ticks.len() - 1]
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        value.to_string()
    }
    fn format_ext(&self, value: &f64) -> String {
        match (self.log, value) {
            (true, -3.0..=4.0) => 10f64.powf(*value).to_string(),
            (true, exponent) => format!("1e{exponent:.0}"),
            (false, value) => format!("{value:.*}", self.decimals),
        }
    }
}
