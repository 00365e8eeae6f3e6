//! Walks forward over I-94 and sets the loop beside its two extremes: `just bench-forge` runs it.
//!
//! `gzip -dc traffic-i94-hourly.csv.gz | bench_loop [--quick] [--tell]`; the latter
//! prints each training and its outcome. A model made from the readings of 2012 goes live on
//! 2013-01-01; from then on each window is predicted by whatever version is live, in the engine that nodes run, and compared with
//! the reading an hour later. Three ways to go on:
//!
//! - *never*: that model stays;
//! - *always*: all windows are sent as samples, and each month a version trained on all samples so far goes live;
//! - *loop*: a share of the windows is sent by lot, the windows between them are cut out of their readings, `coordinator_core::learning` decides when to train, a version that is not better on
//!   held-out samples is not sent, and one that the node finds worse in shadow does not go live.
//!
//! All versions are trained by the same recipe from the one that is live, and go out in int8. Bytes are those of one node, as its outbox
//! packs a day's samples and as the coordinator packs a bundle for a node that has the version before.

use std::error::Error;

mod arms;
mod i94;
mod model;

use arms::{Kind, Told};

/// Seeds of first weights and orders of samples; a quick run has the first.
const SEEDS: [u64; 3] = [1, 2, 3];
/// Shares of the windows that the loop's node sends.
const SHARES: [f64; 3] = [0.05, 0.1, 0.2];
/// What is asked of the loop: this share of the gain of training always, for this share of its bytes.
const GOAL: (f64, f64) = (0.9, 0.25);

fn main() -> Result<(), Box<dyn Error>> {
    let asked = |option: &str| std::env::args().any(|argument| argument == option);
    let (quick, tell) = (asked("--quick"), asked("--tell"));
    let until = if quick { "2014-09" } else { "2018-10" };
    let hours = i94::read(std::io::stdin().lock(), until)?;
    let (seeds, shares) = if quick {
        (&SEEDS[..1], &SHARES[1..2])
    } else {
        (&SEEDS[..], &SHARES[..])
    };
    println!(
        "I-94, 2013-01 to before {until}, {} windows before and after, {} seeds",
        hours.windows.len(),
        seeds.len()
    );
    let mut arms = vec![Kind::Never, Kind::Always];
    arms.extend(shares.iter().map(|share| Kind::Loop { share: *share }));
    let mut rows = Vec::new();
    for kind in &arms {
        let told = seeds
            .iter()
            .map(|seed| arms::walk(&hours, *kind, *seed, tell))
            .collect::<Result<Vec<Told>, _>>()?;
        rows.push(mean(&told));
    }
    let (never, always) = (rows[0], rows[1]);
    println!(
        "| way | MAE | gain of always | trainings | went live | samples up, B | models down, B | bytes of always |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (kind, row) in arms.iter().zip(&rows) {
        println!(
            "| {kind} | {:.1} | {:.1} % | {:.1} | {:.1} | {:.0} | {:.0} | {:.1} % |",
            row.mae,
            100.0 * gain(row, &never, &always),
            row.trainings,
            row.live,
            row.up,
            row.down,
            100.0 * row.bytes() / always.bytes(),
        );
    }
    for (kind, row) in arms.iter().zip(&rows).skip(2) {
        let (gained, bytes) = (gain(row, &never, &always), row.bytes() / always.bytes());
        let met = if gained >= GOAL.0 && bytes <= GOAL.1 {
            "met"
        } else {
            "not met"
        };
        println!(
            "{kind}: at least {:.0} % of the gain for at most {:.0} % of the bytes: {met}",
            100.0 * GOAL.0,
            100.0 * GOAL.1
        );
    }
    Ok(())
}

fn gain(row: &Told, never: &Told, always: &Told) -> f64 {
    (never.mae - row.mae) / (never.mae - always.mae)
}

fn mean(told: &[Told]) -> Told {
    let of = |field: fn(&Told) -> f64| told.iter().map(field).sum::<f64>() / told.len() as f64;
    Told {
        mae: of(|told| told.mae),
        trainings: of(|told| told.trainings),
        live: of(|told| told.live),
        up: of(|told| told.up),
        down: of(|told| told.down),
    }
}
