//! The course of a training as a table and as a picture.

use super::{Epoch, Outcome};
use crate::chart::Chart;

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
    let line = |name: &str, loss: fn(&Epoch) -> f64| {
        let points = outcome
            .epochs
            .iter()
            .map(|epoch| (epoch.epoch as f64, loss(epoch)));
        (name.to_owned(), points.collect())
    };
    let best = outcome.epochs.get(outcome.best_epoch.saturating_sub(1));
    let chart = Chart {
        title,
        across: "epoch",
        logarithmic: true,
        lines: vec![
            line("training loss", |epoch| epoch.train_loss),
            line("held-out loss", |epoch| epoch.valid.loss),
        ],
        mark: best.map(|best| {
            let what = format!("best: epoch {}, {}", best.epoch, best.valid.loss);
            ((best.epoch as f64, best.valid.loss), what)
        }),
    };
    chart.svg()
}
