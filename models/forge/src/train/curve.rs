//! The course of a training as a table and as a picture.

use super::Outcome;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 40.0;
/// Most points of a line: more than pixels show.
const POINTS_MAX: usize = 1_000;

/// A row for each epoch; what a model has no measure of is left empty.
pub fn curve_csv(outcome: &Outcome) -> String {
    let mut csv =
        String::from("epoch,rate,train_loss,valid_loss,valid_accuracy,valid_mae,valid_rmse\n");
    let number = |number: Option<f64>| number.map_or_else(String::new, |number| number.to_string());
    for epoch in &outcome.epochs {
        let valid = &epoch.valid;
        let cells = [
            epoch.epoch.to_string(),
            epoch.rate.to_string(),
            epoch.train_loss.to_string(),
            valid.loss.to_string(),
            number(valid.accuracy),
            number(valid.mae),
            number(valid.rmse),
        ];
        csv.push_str(&cells.join(","));
        csv.push('\n');
    }
    csv
}

/// Training and held-out loss by epoch, on a logarithmic axis, with a mark at the epoch whose weights remain.
pub fn curve_svg(outcome: &Outcome, title: &str) -> String {
    let train: Vec<f64> = outcome
        .epochs
        .iter()
        .map(|epoch| epoch.train_loss)
        .collect();
    let valid: Vec<f64> = outcome
        .epochs
        .iter()
        .map(|epoch| epoch.valid.loss)
        .collect();
    let axes = Axes::of(&train, &valid);
    let mut lines = vec![
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">"
        ),
        format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"),
        format!(
            "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>",
            escape(title)
        ),
    ];
    lines.extend(axes.grid());
    lines.push(axes.line(&train, "#1f77b4", "training loss", WIDTH - 260.0));
    lines.push(axes.line(&valid, "#d62728", "held-out loss", WIDTH - 130.0));
    if let Some(best) = outcome.epochs.get(outcome.best_epoch.saturating_sub(1)) {
        let (x, y) = (axes.x(best.epoch), axes.y(best.valid.loss));
        let title = format!("best: epoch {}, {}", best.epoch, best.valid.loss);
        lines.push(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#d62728\"><title>{title}</title></circle>"));
    }
    lines.push("</svg>\n".to_owned());
    lines.join("\n")
}

/// Where epochs and losses are on the picture.
struct Axes {
    epochs: usize,
    low: f64,
    high: f64,
}

impl Axes {
    fn of(train: &[f64], valid: &[f64]) -> Self {
        let positive = || {
            train
                .iter()
                .chain(valid)
                .copied()
                .filter(|&loss| loss > 0.0)
        };
        let low = positive().fold(f64::INFINITY, f64::min).clamp(1e-12, 1e9);
        Self {
            epochs: train.len().max(2),
            low,
            high: positive().fold(low, f64::max).max(low * 1.01),
        }
    }

    fn x(&self, epoch: usize) -> f64 {
        LEFT + (WIDTH - LEFT - 20.0) * (epoch - 1) as f64 / (self.epochs - 1) as f64
    }

    fn y(&self, loss: f64) -> f64 {
        let depth = (self.high.ln() - loss.max(self.low).ln()) / (self.high.ln() - self.low.ln());
        TOP + (HEIGHT - TOP - 50.0) * depth
    }

    fn grid(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for at in 0..=4 {
            let loss = self.low * (self.high / self.low).powf(f64::from(at) / 4.0);
            let (y, end, before) = (self.y(loss), WIDTH - 20.0, LEFT - 6.0);
            lines.push(format!(
                "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
            ));
            lines.push(format!(
                "<text x=\"{before}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.3e}</text>",
                y + 4.0
            ));
        }
        for epoch in [1, self.epochs.div_ceil(2), self.epochs] {
            let (x, y) = (self.x(epoch), HEIGHT - 30.0);
            lines.push(format!(
                "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{epoch}</text>"
            ));
        }
        let (x, y) = (WIDTH / 2.0, HEIGHT - 10.0);
        lines.push(format!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">epoch</text>"
        ));
        lines
    }

    fn line(&self, losses: &[f64], colour: &str, name: &str, label: f64) -> String {
        let every = losses.len().div_ceil(POINTS_MAX).max(1);
        let points = losses.iter().enumerate().step_by(every);
        let points = points.map(|(at, &loss)| format!("{:.1},{:.1}", self.x(at + 1), self.y(loss)));
        let points = points.collect::<Vec<_>>().join(" ");
        format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>\n\
             <text x=\"{label}\" y=\"22\" fill=\"{colour}\">{name}</text>"
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
