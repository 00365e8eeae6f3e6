//! The smallest numbers of a weight, taken away (Han et al., arXiv 1506.02626).

use serde::{Deserialize, Serialize};

use super::CompressError;
use super::quantise::{Format, formats};
use crate::chart::Chart;
use crate::data::DataSet;
use crate::network::Network;
use crate::train::{Loss, Quality, evaluate};

/// Quality with one weight pruned alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScanPoint {
    /// Name of the weight.
    pub name: String,
    /// Share of its numbers that are 0.
    pub sparsity: f64,
    /// Quality without training after it.
    pub quality: Quality,
}

/// Sets the smallest `share` of each named weight's numbers to 0 for good: training after it keeps them so.
///
/// # Errors
/// [`CompressError`] when a name is of no weight of a product, or a share is not from 0 to below 1.
pub fn prune(network: &mut Network, shares: &[(String, f64)]) -> Result<(), CompressError> {
    let known: Vec<String> = formats(network, Format::F32)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for (name, share) in shares {
        if !(0.0..1.0).contains(share) {
            return Err(CompressError::Share {
                name: name.clone(),
                share: share.to_string(),
            });
        }
        if !known.contains(name) {
            return Err(CompressError::Weight {
                name: name.clone(),
                known,
            });
        }
    }
    for parameter in network.parameters_mut() {
        let Some((_, share)) = shares.iter().find(|(name, _)| *name == parameter.name) else {
            continue;
        };
        let count = parameter.values.len();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length"
        )]
        let gone = (count as f64 * share).round() as usize;
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&one, &other| {
            parameter.values[one]
                .abs()
                .total_cmp(&parameter.values[other].abs())
        });
        let mut kept = vec![true; count];
        for &at in &order[..gone] {
            kept[at] = false;
            parameter.values[at] = 0.0;
        }
        parameter.kept = Some(kept);
    }
    Ok(())
}

/// Prunes each weight alone to each of the shares, and says what that does.
///
/// # Errors
/// [`CompressError`] when a share is not from 0 to below 1, or the samples do not suit the model.
pub fn scan(
    network: &Network,
    data: &DataSet,
    loss: Loss,
    shares: &[f64],
) -> Result<Vec<ScanPoint>, CompressError> {
    let mut points = Vec::new();
    for (name, _) in formats(network, Format::F32) {
        for &sparsity in shares {
            let mut pruned = network.clone();
            prune(&mut pruned, &[(name.clone(), sparsity)])?;
            points.push(ScanPoint {
                name: name.clone(),
                sparsity,
                quality: evaluate(&pruned, data, loss)?,
            });
        }
    }
    Ok(points)
}

/// For each weight the largest share of a scan up to which alone the error stays within `1 + max_loss` times `base`.
pub fn sparsity_by_scan(points: &[ScanPoint], base: &Quality, max_loss: f64) -> Vec<(String, f64)> {
    let limit = base.error() * (1.0 + max_loss);
    let mut shares: Vec<(String, f64)> = Vec::new();
    for point in points.iter().filter(|point| point.quality.error() <= limit) {
        match shares.iter_mut().find(|(name, _)| *name == point.name) {
            Some((_, share)) => *share = share.max(point.sparsity),
            None => shares.push((point.name.clone(), point.sparsity)),
        }
    }
    shares
}

/// A row for each point of a scan.
pub fn scan_csv(points: &[ScanPoint]) -> String {
    let mut csv = String::from("weight,sparsity,loss,error\n");
    for point in points {
        let cells = [
            point.name.replace(',', "_"),
            point.sparsity.to_string(),
            point.quality.loss.to_string(),
            point.quality.error().to_string(),
        ];
        csv.push_str(&cells.join(","));
        csv.push('\n');
    }
    csv
}

/// Error against sparsity, a line for each weight.
pub fn scan_svg(points: &[ScanPoint], title: &str) -> String {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for point in points {
        let place = (point.sparsity, point.quality.error());
        match lines.iter_mut().find(|(name, _)| *name == point.name) {
            Some((_, line)) => line.push(place),
            None => lines.push((point.name.clone(), vec![place])),
        }
    }
    let chart = Chart {
        title,
        across: "share of numbers that are 0",
        logarithmic: false,
        lines,
        mark: None,
    };
    chart.svg()
}
