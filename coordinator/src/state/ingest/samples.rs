//! Samples from nodes.

use lamppost_coordinator_core::ledger::Seen;
use lamppost_coordinator_core::samples::SampleId;
use lamppost_models::ledger::Class;
use lamppost_models::{NodePath, StreamName, Timestamp};
use lamppost_store::StoreError;

use super::parse::{self, RawBatch, Refused, parse, unpack};
use super::{Incoming, Round};
use crate::state::State;

impl State {
    /// Takes in a batch of samples. One that cannot be is refused and counted, and acknowledged with the others: it would
    /// never become better, and the node would send it for ever.
    pub(super) fn take_samples(
        &mut self,
        path: &NodePath,
        stream: &StreamName,
        message: &Incoming,
        now: Timestamp,
        round: &mut Round,
    ) -> Result<Result<(), Refused>, StoreError> {
        let checked = unpack(&message.payload)
            .and_then(|json| parse::<RawBatch>(&json))
            .and_then(|batch| check_stream(batch, stream));
        let checked = checked.and_then(|batch| Ok((batch, self.inventory.on_record(path, now)?)));
        let (batch, change) = match checked {
            Ok(checked) => checked,
            Err(refused) => return Ok(Err(refused)),
        };
        self.noted(path.clone(), change, round);
        let seen = self.desk(path)?.ledger.see_batch(batch.epoch, batch.number);
        let node = round.nodes.entry(path.clone()).or_default();
        node.ack_batches
            .entry(batch.epoch)
            .or_default()
            .push(batch.number);
        round.sampled = true;
        let samples = batch.records.into_iter();
        let samples = samples.map(|record| parse::sample(record, stream));
        if seen == Seen::Duplicate {
            for (_, boot, _) in samples.flatten() {
                self.desk(path)?
                    .ledger
                    .see_again(Class::Sample, stream, boot);
                self.samples.counts.duplicates += 1;
            }
            return Ok(Ok(()));
        }
        for sample in samples {
            let ledger = &mut self.desk(path)?.ledger;
            let seen = sample.and_then(|(sample, boot, seq)| {
                Ok((
                    sample,
                    boot,
                    seq,
                    ledger.see_sample(stream, boot, seq, now)?,
                ))
            });
            let (sample, boot, seq, seen) = match seen {
                Ok(seen) => seen,
                Err(refused) => {
                    self.samples.counts.refused += 1;
                    self.note_refusal(&message.topic, refused);
                    continue;
                }
            };
            let id = SampleId {
                path: path.clone(),
                stream: stream.clone(),
                boot,
                seq,
            };
            let new =
                seen == Seen::New && self.store_sample(id, sample, now, &mut round.samples)?;
            self.samples.counts.duplicates += u64::from(!new);
        }
        Ok(Ok(()))
    }
}

fn check_stream(batch: RawBatch, stream: &StreamName) -> Result<RawBatch, Refused> {
    match &batch.stream {
        Some(said) if said == stream => Ok(batch),
        said => {
            let said = said.as_ref().map_or("no stream", StreamName::as_str);
            let detail = format!("it says {said:?}, its topic says stream {stream}");
            Err(Refused::new("stream", detail))
        }
    }
}
