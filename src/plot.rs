//! Curves as an SVG file. [`History::svg`](crate::History::svg) draws the curves of a training.

use std::fmt::{self, Write};

/// A curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Whether the curve is drawn in the background, in the colour of the curve after it. It is for curves of many noisy points.
    pub faint: bool,
}

impl Series {
    /// Makes a curve from points.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Series {
        Series { name: name.into(), points: points.into_iter().collect(), faint: false }
    }
    /// Makes a curve of the values at the steps 1, 2, …
    pub fn steps(name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Series {
        Series::new(name, (1..).map(f64::from).zip(values))
    }
}

/// Curves that share their axes. The vertical axis is logarithmic if the values are positive and span more than two decades.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// The text above the curves.
    pub title: String,
    /// The label of the horizontal axis: step or epoch.
    pub x: &'static str,
    /// The label of the vertical axis.
    pub y: &'static str,
    /// The curves.
    pub series: Vec<Series>,
}

/// The width and the height of a panel in pixels.
const SIZE: (usize, usize) = (640, 420);
/// The height of the title above all panels in pixels.
const TITLE: usize = 40;
/// The pixels between a panel's edges and its curves: left, right, above and below.
const MARGIN: [usize; 4] = [84, 28, 40, 56];
const COLOURS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#e68214", "#6e6e6e"];
const INK: &str = "#282828";
/// The height of a line of the legend in pixels.
const LINE: usize = 20;
/// The assumed width of a letter in pixels. The real width of a text is unknown.
const LETTER: usize = 7;

/// Returns the content of the SVG file. Equal panels give equal text.
///
/// ```
/// use downhill::plot::{Panel, Series, svg};
/// let series = vec![Series::steps("loss", [3.0, 1.5, 0.5])];
/// let text = svg("a training", &[Panel { title: "loss".into(), x: "step", y: "loss", series }]);
/// assert!(text.starts_with("<svg") && text.contains("a training"));
/// ```
pub fn svg(title: &str, panels: &[Panel]) -> String {
    write_all(title, panels).expect("a String takes all text")
}

fn write_all(title: &str, panels: &[Panel]) -> Result<String, fmt::Error> {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns).max(1);
    let (width, height) = (SIZE.0 * columns, SIZE.1 * rows + TITLE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"{INK}\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    text(&mut out, (width / 2, 28), "text-anchor=\"middle\" font-size=\"24\"", title)?;
    for (k, panel) in panels.iter().enumerate() {
        draw(&mut out, (k % columns * SIZE.0, k / columns * SIZE.1 + TITLE), panel)?;
    }
    out.push_str("</svg>\n");
    Ok(out)
}

/// Writes text at a position, with these attributes.
fn text(out: &mut String, (x, y): (usize, usize), attributes: &str, text: &str) -> fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(out, "<text x=\"{x}\" y=\"{y}\" {attributes}>{text}</text>")
}

/// Draws a panel whose upper left corner is at `left` and `top`.
fn draw(out: &mut String, (left, top): (usize, usize), panel: &Panel) -> fmt::Result {
    let all = || panel.series.iter().flat_map(|s| s.points.iter().copied());
    let (low, high) = range(all().map(|p| p.1));
    let log = low > 0.0 && high / low > 100.0;
    let scale = |y: f64| if log { y.log10() } else { y };
    let x = Axis::new(range(all().map(|p| p.0)), false, 1.0);
    let y = Axis::new((scale(low), scale(high)), log, if log { 1.0 } else { 0.0 });

    let (from, to) = (left + MARGIN[0], left + SIZE.0 - MARGIN[1]);
    let (above, below) = (top + MARGIN[2], top + SIZE.1 - MARGIN[3]);
    let across = |value: f64| from as f64 + x.part(value) * (to - from) as f64;
    let up = |value: f64| below as f64 - y.part(value) * (below - above) as f64;

    text(out, ((from + to) / 2, above - 14), "text-anchor=\"middle\" font-size=\"18\"", &panel.title)?;
    for &tick in &x.ticks {
        let at = across(tick).round();
        writeln!(out, "<path d=\"M{at} {above}V{below}\" stroke=\"{INK}\" stroke-opacity=\"0.15\"/>")?;
        text(out, (at as usize, below + 18), "text-anchor=\"middle\"", &x.label(tick))?;
    }
    for &tick in &y.ticks {
        let at = up(tick).round();
        writeln!(out, "<path d=\"M{from} {at}H{to}\" stroke=\"{INK}\" stroke-opacity=\"0.15\"/>")?;
        text(out, (from - 8, at as usize + 4), "text-anchor=\"end\"", &y.label(tick))?;
    }
    writeln!(out, "<path d=\"M{from} {above}V{below}H{to}\" fill=\"none\" stroke=\"{INK}\" stroke-opacity=\"0.6\"/>")?;
    text(out, ((from + to) / 2, below + 42), "text-anchor=\"middle\" font-size=\"15\"", panel.x)?;
    let unit = if log { format!("{} (logarithmic)", panel.y) } else { panel.y.to_string() };
    let middle = (left + 20, (above + below) / 2);
    text(out, middle, &format!("text-anchor=\"middle\" font-size=\"15\" transform=\"rotate(-90 {} {})\"", middle.0, middle.1), &unit)?;

    let mut colours = COLOURS.iter().cycle().peekable();
    let mut legend = Vec::new();
    for series in panel.series.iter().filter(|s| !s.points.is_empty()) {
        let next = if series.faint { colours.peek().copied() } else { colours.next() };
        let colour = next.unwrap_or(&INK);
        let stroke = match series.faint {
            true => format!("stroke=\"{colour}\" stroke-opacity=\"0.4\""),
            false => format!("stroke=\"{colour}\" stroke-width=\"2\""),
        };
        let points: Vec<(f64, f64)> = series.points.iter().map(|&(x, y)| (across(x), up(scale(y)))).collect();
        let pairs: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(out, "<polyline points=\"{}\" fill=\"none\" {stroke}/>", pairs.join(" "))?;
        // A line of one point would be invisible.
        if !series.faint && points.len() <= 20 {
            for (x, y) in points {
                writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>")?;
            }
        }
        legend.push((stroke, series.name.as_str()));
    }
    if legend.is_empty() {
        return Ok(());
    }

    // The legend is drawn where it covers the fewest points.
    let longest = legend.iter().map(|(_, name)| name.chars().count()).max().unwrap_or(0);
    let (width, height) = (longest * LETTER + 44, legend.len() * LINE + 8);
    let (right, bottom) = (to.saturating_sub(width + 6), below.saturating_sub(height + 6));
    let places = [(right, above + 6), (right, bottom), (right, (above + bottom) / 2), (from + 6, bottom), (from + 6, above + 6)];
    let covered = |&(x, y): &(usize, usize)| {
        let within = |at: f64, from: usize, size: usize| (from as f64..=(from + size) as f64).contains(&at);
        all().filter(|p| within(across(p.0), x, width) && within(up(scale(p.1)), y, height)).count()
    };
    let (left, top) = places.into_iter().min_by_key(covered).unwrap_or(places[0]);
    let border = format!("stroke=\"{INK}\" stroke-opacity=\"0.25\"");
    writeln!(out, "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"white\" fill-opacity=\"0.85\" {border}/>")?;
    for (k, (stroke, name)) in legend.into_iter().enumerate() {
        let middle = top + 14 + k * LINE;
        writeln!(out, "<path d=\"M{} {middle}h18\" {stroke}/>", left + 10)?;
        text(out, (left + 36, middle + 4), "", name)?;
    }
    Ok(())
}

/// Returns the smallest and the largest finite value, or 0 and 1 if there are none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// An axis with round numbers as ticks.
struct Axis {
    ticks: Vec<f64>,
    /// The number of decimals that distinguishes the ticks.
    decimals: usize,
    /// Whether values are exponents of ten.
    log: bool,
}

impl Axis {
    /// Makes an axis for values in `low..=high`. The distance of ticks is 1, 2 or 5 times a power of ten, and at least `least`.
    fn new((low, high): (f64, f64), log: bool, least: f64) -> Axis {
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let power = 10f64.powf((span / 6.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|k| k * power).into_iter().find(|step| span / step <= 6.0).unwrap_or(span).max(least);
        let first = (low / step).floor();
        let last = (high / step).ceil().max(first + 1.0);
        let ticks = (0..=(last - first) as usize).map(|k| (first + k as f64) * step).collect();
        Axis { ticks, decimals: (-step.log10()).ceil().max(0.0) as usize, log }
    }
    /// Returns the relative position of a value: 0 at the start of the axis, 1 at its end.
    fn part(&self, value: f64) -> f64 {
        let (start, end) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        (value - start) / (end - start)
    }
    fn label(&self, tick: f64) -> String {
        match (self.log, tick) {
            (true, -3.0..=4.0) => 10f64.powf(tick).to_string(),
            (true, exponent) => format!("1e{exponent:.0}"),
            (false, tick) => format!("{tick:.*}", self.decimals),
        }
    }
}
