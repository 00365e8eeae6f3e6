//! The course of a training as a table and as a picture.

use std::fmt::Write as _;

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
    let positive = || {
        train
            .iter()
            .chain(&valid)
            .copied()
            .filter(|&loss| loss > 0.0)
    };
    let low = positive().fold(f64::INFINITY, f64::min).min(1e9).max(1e-12);
    let high = positive().fold(low, f64::max).max(low * 1.01);
    let epochs = outcome.epochs.len().max(2);
    let x = |epoch: usize| LEFT + (WIDTH - LEFT - 20.0) * (epoch - 1) as f64 / (epochs - 1) as f64;
    let y = |loss: f64| {
        TOP + (HEIGHT - TOP - 50.0) * (high.ln() - loss.max(low).ln()) / (high.ln() - low.ln())
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    for at in 0..=4 {
        let loss = low * (high / low).powf(f64::from(at) / 4.0);
        let line = y(loss);
        push(
            &mut svg,
            format_args!(
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{line:.1}\" y2=\"{line:.1}\" stroke=\"#ddd\"/>",
                WIDTH - 20.0
            ),
        );
        push(
            &mut svg,
            format_args!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.3e}</text>",
                LEFT - 6.0,
                line + 4.0
            ),
        );
    }
    for epoch in [1, epochs.div_ceil(2), epochs] {
        push(
            &mut svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{epoch}</text>",
                x(epoch),
                HEIGHT - 30.0
            ),
        );
    }
    push(
        &mut svg,
        format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">epoch</text>",
            WIDTH / 2.0,
            HEIGHT - 10.0
        ),
    );
    for (losses, colour, name, at) in [
        (&train, "#1f77b4", "training loss", 0.0),
        (&valid, "#d62728", "held-out loss", 1.0),
    ] {
        let every = losses.len().div_ceil(POINTS_MAX).max(1);
        let points = losses
            .iter()
            .enumerate()
            .step_by(every)
            .map(|(at, &loss)| format!("{:.1},{:.1}", x(at + 1), y(loss)));
        let points = points.collect::<Vec<_>>().join(" ");
        push(
            &mut svg,
            format_args!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>"
            ),
        );
        let label = WIDTH - 260.0 + 130.0 * at;
        push(
            &mut svg,
            format_args!("<text x=\"{label}\" y=\"22\" fill=\"{colour}\">{name}</text>"),
        );
    }
    if let Some(best) = outcome.epochs.get(outcome.best_epoch.saturating_sub(1)) {
        let (at, loss) = (x(best.epoch), best.valid.loss);
        push(
            &mut svg,
            format_args!(
                "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#d62728\"><title>best: epoch {}, {loss}</title></circle>",
                y(loss),
                best.epoch
            ),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn push(svg: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    drop(writeln!(svg, "{line}"));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
