//! Which windows of a stream are kept for training, how many bytes of them a day, and what of them leaves the node.
//!
//! - [`Sampler`]: policies give each window a score, and keep the top share of the recent ones;
//! - [`Budget`]: bytes a day, spread over the day;
//! - [`Room`]: where chosen windows wait for their label;
//! - [`Draft`]: the sample as it leaves the node, with the fields that may and no others.
//!
//! No policy has an absolute threshold: a score means something only among those of the same stream and time, and a
//! threshold that fits today keeps all or nothing when the model or the season changes. What is kept is a share.
//!
//! # The scores
//!
//! - **Uncertain**, of a classification: the margin between the two highest scores, which needs no scores that add up to 1
//!   (Scheffer, Decomain and Wrobel, "Active hidden Markov models for information extraction", 2001; Settles, "Active
//!   learning literature survey", 2009, section 3.1). Of a value: how wrong the model was of late on the windows that are
//!   most like this one, the mean loss of the nearest neighbours, since a single output has no width of its own
//!   (Papadopoulos, Vovk and Gammerman, "Regression conformal prediction with nearest neighbours", JAIR 40, 2011). It
//!   is learned from the stream's labels, so without labels nothing is chosen by it.
//! - **Rare**: the distance to the k-th nearest neighbour, which grows as the density falls (Loftsgaarden and Quesenberry, "A
//!   nonparametric estimate of a multivariate density function", 1965; Ramaswamy, Rastogi and Shim, "Efficient
//!   algorithms for mining outliers from large data sets", SIGMOD 2000).
//! - **Disagreeing**: how far candidate and active version are apart; where they say the same, nothing is kept.
//!
//! Neighbours are looked for in a bounded sample of the past that forgets slowly (`neighbours`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lamppost_models::Reading;
use lamppost_models::id::{FieldName, PredictionId};
use lamppost_models::message::{Label, SamplePolicy};

mod budget;
mod draft;
mod neighbours;
mod rank;
mod room;
#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use draft::{Draft, Giving};
pub use room::Room;

use neighbours::{Neighbours, Point, Sketcher};
use rank::{Lot, Rank};

/// Windows that wait for their label to be learned from: labels that are farther ahead teach nothing. A point has at most
/// 200 bytes, so all of them 100 KB.
const LEARNING_MAX: usize = 512;

/// The order in which policies are asked: the one that chooses first is told as the reason.
const ORDER: [SamplePolicy; 5] = [
    SamplePolicy::Disagreeing,
    SamplePolicy::Uncertain,
    SamplePolicy::Rare,
    SamplePolicy::Random,
    SamplePolicy::All,
];

/// A window that was scored.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The prediction on it; their numbers grow.
    pub id: PredictionId,
    /// The readings, oldest first.
    pub window: &'a [Arc<Reading>],
    /// The scores of all labels, of a classification.
    pub scores: Option<&'a [f32]>,
}

/// Chooses windows of one stream.
#[derive(Debug)]
pub struct Sampler {
    policies: Vec<Policy>,
    lot: Lot,
    sketcher: Sketcher,
    /// All windows.
    past: Neighbours,
    /// Those whose label came, with their loss.
    learned: Neighbours,
    /// Those that wait for it, oldest first.
    learning: VecDeque<(PredictionId, Point)>,
}

#[derive(Debug)]
struct Policy {
    which: SamplePolicy,
    share: f64,
    rank: Rank,
}

impl Sampler {
    /// Chooses by these policies, each a share of the windows, 0 to 1. `fields` are those that the stream's readings have;
    /// they are looked at to tell windows apart, and not given to anybody.
    pub fn new(
        shares: &BTreeMap<SamplePolicy, f64>,
        fields: impl IntoIterator<Item = FieldName>,
        seed: u64,
    ) -> Self {
        let policy = |which| {
            shares.get(&which).map(|share| Policy {
                which,
                share: *share,
                rank: Rank::default(),
            })
        };
        Self {
            policies: ORDER.into_iter().filter_map(policy).collect(),
            lot: Lot::new(seed),
            sketcher: Sketcher::new(fields),
            past: Neighbours::default(),
            learned: Neighbours::default(),
            learning: VecDeque::new(),
        }
    }

    /// Looks at a window, and says by which policy it is kept. That of disagreement has no part in it.
    pub fn choose(&mut self, seen: &Seen<'_>) -> Option<SamplePolicy> {
        let (uncertain, rare) = self.score(seen);
        let mut chosen = None;
        for policy in &mut self.policies {
            let keeps = match policy.which {
                SamplePolicy::All => true,
                SamplePolicy::Random => self.lot.draw() < policy.share,
                SamplePolicy::Uncertain => policy.keeps(uncertain, &mut self.lot),
                SamplePolicy::Rare => policy.keeps(rare, &mut self.lot),
                SamplePolicy::Disagreeing => false,
            };
            if keeps {
                chosen = chosen.or(Some(policy.which));
            }
        }
        chosen
    }

    /// Looks at what candidate and active version said of one window, and says whether it is kept for that.
    pub fn compare(&mut self, active: &Label, candidate: &Label) -> Option<SamplePolicy> {
        let which = SamplePolicy::Disagreeing;
        let score = match (active, candidate) {
            (Label::Value(a), Label::Value(b)) => (a - b).abs(),
            (Label::Class(a), Label::Class(b)) => f64::from(u8::from(a != b)),
            (Label::Value(_), Label::Class(_)) | (Label::Class(_), Label::Value(_)) => 1.0,
        };
        let policy = self.policies.iter_mut().find(|one| one.which == which)?;
        let keeps = policy.keeps(Some(score), &mut self.lot);
        (keeps && score > 0.0).then_some(which)
    }

    /// Takes in how wrong the prediction on a window was.
    pub fn learn(&mut self, id: PredictionId, loss: f64) {
        let at = self.learning.binary_search_by_key(&id, |(id, _)| *id);
        if let Some((_, point)) = at.ok().and_then(|at| self.learning.remove(at)) {
            self.learned.add(point, loss, &mut self.lot);
        }
    }

    fn wants(&self, which: SamplePolicy) -> bool {
        self.policies.iter().any(|policy| policy.which == which)
    }

    /// How uncertain and how rare a window is, as far as a policy asks and it can be said.
    fn score(&mut self, seen: &Seen<'_>) -> (Option<f64>, Option<f64>) {
        let (is_rare_asked, is_uncertain_asked) = (
            self.wants(SamplePolicy::Rare),
            self.wants(SamplePolicy::Uncertain),
        );
        let margin = seen.scores.filter(|_| is_uncertain_asked).map(margin);
        let is_value = is_uncertain_asked && seen.scores.is_none();
        if !is_rare_asked && !is_value {
            return (margin.map(|margin| -margin), None);
        }
        let point = self.sketcher.sketch(seen.window);
        self.sketcher.learn(&point);
        let mut uncertain = margin.map(|margin| -margin);
        if is_value {
            uncertain = self.learned.loss(&point, &self.sketcher);
            self.wait_to_learn(seen.id, point.clone());
        }
        let mut rare = None;
        if is_rare_asked {
            rare = self.past.distance(&point, &self.sketcher);
            self.past.add(point, 0.0, &mut self.lot);
        }
        (uncertain, rare)
    }

    fn wait_to_learn(&mut self, id: PredictionId, point: Point) {
        if self.learning.back().is_some_and(|(last, _)| *last >= id) {
            return;
        }
        if self.learning.len() == LEARNING_MAX {
            self.learning.pop_front();
        }
        self.learning.push_back((id, point));
    }
}

impl Policy {
    fn keeps(&mut self, score: Option<f64>, lot: &mut Lot) -> bool {
        score.is_some_and(|score| self.rank.of(score, lot) < self.share)
    }
}

/// The highest score less the one after it. Of a single score, which is that of a yes, twice its distance to one half.
fn margin(scores: &[f32]) -> f64 {
    let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for score in scores.iter().copied().map(f64::from) {
        if score > first {
            (first, second) = (score, first);
        } else if score > second {
            second = score;
        }
    }
    if scores.len() == 1 {
        (2.0 * first - 1.0).abs()
    } else {
        first - second
    }
}
