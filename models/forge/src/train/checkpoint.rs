//! A training's state in a file, so that a killed training goes on to the same bytes.
//!
//! ```text
//! "LPFORGE1" | fingerprint 32 | epoch u64 | step u64 | best epoch u64 | rows u64, then a byte and 6 f64 each
//!            | slots u64, then for each: values, first, second, best values, as u64 length and f32 each | sha-256 32
//! ```
//! All numbers are little-endian. The fingerprint covers model, samples and recipe: a checkpoint of another training is
//! told apart, and the checksum tells a damaged one.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::step::Slot;
use super::{Epoch, Quality, TrainError};
use crate::files::{self, FileError};

const MAGIC: &[u8; 8] = b"LPFORGE1";
const DIGEST: usize = 32;
/// Numbers of an epoch's row, behind a byte that says which of the last three there are: rate, training loss, held-out
/// loss, accuracy, both errors.
const ROW: usize = 6;

/// What a training is at the end of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    /// Epochs done.
    pub(crate) epoch: usize,
    /// Steps done.
    pub(crate) step: u64,
    /// The epoch with the lowest held-out loss, from 1; 0 before there is one.
    pub(crate) best_epoch: usize,
    pub(crate) history: Vec<Epoch>,
    pub(crate) slots: Vec<Slot>,
    /// The weights of the best epoch.
    pub(crate) best: Vec<Vec<f32>>,
}

pub(crate) fn write(
    path: &Path,
    fingerprint: &[u8; DIGEST],
    state: &State,
) -> Result<(), FileError> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(fingerprint);
    for number in [
        state.epoch as u64,
        state.step,
        state.best_epoch as u64,
        state.history.len() as u64,
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for epoch in &state.history {
        let (there, row) = row(epoch);
        bytes.push(there);
        for number in row {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    bytes.extend_from_slice(&(state.slots.len() as u64).to_le_bytes());
    for (slot, best) in state.slots.iter().zip(&state.best) {
        for numbers in [&slot.values, &slot.first, &slot.second, best] {
            bytes.extend_from_slice(&(numbers.len() as u64).to_le_bytes());
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
    }
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    files::write_whole(path, &bytes)
}

/// The state in the file, none where there is no file; it is of the form of `like`, the state that training starts from.
pub(crate) fn read(
    path: &Path,
    fingerprint: &[u8; DIGEST],
    like: &State,
    epochs: usize,
) -> Result<Option<State>, TrainError> {
    let numbers: usize = like
        .slots
        .iter()
        .map(|slot| 3 * slot.values.len() + slot.second.len() + 4)
        .sum();
    let limit = (MAGIC.len() + 2 * DIGEST + 8 * 5 + (8 * ROW + 1) * epochs + 8 * numbers) as u64;
    let Some(bytes) = files::read_bounded(path, limit)? else {
        return Ok(None);
    };
    let damaged = |reason: &'static str| TrainError::Damaged {
        path: path.display().to_string(),
        reason,
    };
    let (content, digest) = bytes
        .split_last_chunk::<DIGEST>()
        .ok_or_else(|| damaged("it is too short"))?;
    if Sha256::digest(content).as_slice() != digest {
        return Err(damaged("its checksum is wrong"));
    }
    let mut reader = Reader(content);
    if reader.take::<8>() != Some(*MAGIC) {
        return Err(damaged("it is of no known version"));
    }
    if reader.take::<DIGEST>().as_ref() != Some(fingerprint) {
        return Err(TrainError::OtherTraining {
            path: path.display().to_string(),
        });
    }
    let state = reader.state(like).filter(|_| reader.0.is_empty());
    state
        .map(Some)
        .ok_or_else(|| damaged("its content is not that of a training"))
}

fn row(epoch: &Epoch) -> (u8, [f64; ROW]) {
    let quality = &epoch.valid;
    let options = [quality.accuracy, quality.mae, quality.rmse];
    let there = options.iter().enumerate().fold(0, |there, (at, number)| {
        there | u8::from(number.is_some()) << at
    });
    let [accuracy, mae, rmse] = options.map(Option::unwrap_or_default);
    (
        there,
        [
            epoch.rate,
            epoch.train_loss,
            quality.loss,
            accuracy,
            mae,
            rmse,
        ],
    )
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.take()?)).ok()
    }

    fn floats(&mut self, wanted: usize) -> Option<Vec<f32>> {
        if self.count()? != wanted {
            return None;
        }
        (0..wanted)
            .map(|_| self.take().map(f32::from_le_bytes))
            .collect()
    }

    fn state(&mut self, like: &State) -> Option<State> {
        let (epoch, step, best_epoch, rows) = (
            self.count()?,
            self.count()? as u64,
            self.count()?,
            self.count()?,
        );
        let mut history = Vec::new();
        for at in 0..rows {
            let mut row = [0.0; ROW];
            let there = self.take::<1>()?[0];
            for number in &mut row {
                *number = f64::from_le_bytes(self.take()?);
            }
            let [rate, train_loss, loss, accuracy, mae, rmse] = row;
            let there = |number: f64, at: u8| (there >> at & 1 == 1).then_some(number);
            history.push(Epoch {
                epoch: at + 1,
                rate,
                train_loss,
                valid: Quality {
                    loss,
                    accuracy: there(accuracy, 0),
                    mae: there(mae, 1),
                    rmse: there(rmse, 2),
                },
            });
        }
        if self.count()? != like.slots.len() || epoch != rows || best_epoch > epoch {
            return None;
        }
        let (mut slots, mut best) = (Vec::new(), Vec::new());
        for slot in &like.slots {
            let count = slot.values.len();
            slots.push(Slot {
                values: self.floats(count)?,
                first: self.floats(count)?,
                second: self.floats(slot.second.len())?,
            });
            best.push(self.floats(count)?);
        }
        Some(State {
            epoch,
            step,
            best_epoch,
            history,
            slots,
            best,
        })
    }
}
