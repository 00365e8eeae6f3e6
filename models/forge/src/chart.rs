//! Small pictures: lines over an axis, as SVG.

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Most points of a line: more than pixels show.
const POINTS_MAX: usize = 1_000;
/// Colours that stay apart for most eyes (Wong, Nature Methods 8, 441, 2011), in turn.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// Lines over an axis; one of a single point is a dot.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) across: &'a str,
    /// Whether heights are on a logarithmic axis.
    pub(crate) logarithmic: bool,
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
    /// A point to mark, and what it is.
    pub(crate) mark: Option<((f64, f64), String)>,
}

impl Chart<'_> {
    pub(crate) fn svg(&self) -> String {
        let axes = Axes::of(self);
        let mut lines = vec![
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">"
            ),
            format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"),
            format!(
                "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>",
                escape(self.title)
            ),
        ];
        lines.extend(axes.grid(self.across));
        for (at, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let every = points.len().div_ceil(POINTS_MAX).max(1);
            let seen = points
                .iter()
                .step_by(every)
                .filter(|point| point.1.is_finite());
            let places = seen.map(|&(x, y)| format!("{:.1},{:.1}", axes.x(x), axes.y(y)));
            let path = places.collect::<Vec<_>>().join(" ");
            lines.push(format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{path}\"/>"
            ));
            if let &[(x, y)] = points.as_slice() {
                let (x, y) = (axes.x(x), axes.y(y));
                lines.push(format!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"
                ));
            }
            let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 10.0 + 16.0 * at as f64);
            lines.push(format!(
                "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>",
                escape(name)
            ));
        }
        if let Some(((x, y), what)) = &self.mark {
            let (x, y, what) = (axes.x(*x), axes.y(*y), escape(what));
            lines.push(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#d55e00\"><title>{what}</title></circle>"));
        }
        lines.push("</svg>\n".to_owned());
        lines.join("\n")
    }
}

/// Where numbers are on the picture.
struct Axes {
    across: (f64, f64),
    up: (f64, f64),
    logarithmic: bool,
}

impl Axes {
    fn of(chart: &Chart<'_>) -> Self {
        let points = || chart.lines.iter().flat_map(|(_, points)| points);
        let heights = points().map(|point| point.1);
        let heights =
            heights.filter(|&height| height.is_finite() && (height > 0.0 || !chart.logarithmic));
        Self {
            across: span(points().map(|point| point.0)),
            up: span(heights),
            logarithmic: chart.logarithmic,
        }
    }

    fn x(&self, x: f64) -> f64 {
        let (low, high) = self.across;
        LEFT + (WIDTH - LEFT - RIGHT) * (x - low) / (high - low)
    }

    fn y(&self, y: f64) -> f64 {
        let (low, high) = self.up;
        let share = if self.logarithmic {
            (y.max(low) / low).ln() / (high / low).ln()
        } else {
            (y - low) / (high - low)
        };
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    }

    fn grid(&self, across: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for at in 0..=4 {
            let share = f64::from(at) / 4.0;
            let (low, high) = self.up;
            let height = if self.logarithmic {
                low * (high / low).powf(share)
            } else {
                low + (high - low) * share
            };
            let (y, end, before) = (self.y(height), WIDTH - RIGHT, LEFT - 6.0);
            lines.push(format!(
                "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
            ));
            lines.push(format!(
                "<text x=\"{before}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                y + 4.0,
                short(height)
            ));
            let place = self.across.0 + (self.across.1 - self.across.0) * share;
            let (x, below) = (self.x(place), HEIGHT - BOTTOM + 18.0);
            lines.push(format!(
                "<text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>",
                short(place)
            ));
        }
        let (x, y) = ((WIDTH + LEFT - RIGHT) / 2.0, HEIGHT - 10.0);
        lines.push(format!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
            escape(across)
        ));
        lines
    }
}

/// The lowest and the highest, and never the same.
fn span(numbers: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = numbers
        .clone()
        .fold(f64::INFINITY, f64::min)
        .clamp(-1e12, 1e12);
    let high = numbers.fold(f64::NEG_INFINITY, f64::max).clamp(-1e12, 1e12);
    let high = high.max(low);
    if high - low > low.abs() * 1e-9 {
        (low, high)
    } else {
        (low, low + low.abs().max(1e-9))
    }
}

fn short(number: f64) -> String {
    if number.abs() >= 0.01 && number.abs() < 1e5 || number.to_bits() == 0 {
        let text = format!("{number:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{number:.2e}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
