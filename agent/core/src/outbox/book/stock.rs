//! Taking stock: what was found in a generation against what should be there.

use std::collections::BTreeMap;

use super::{Book, Class, GapReason, LossReason, Meta, Run, Waiters};

impl Book {
    /// Notes what was found in a generation, place by place, and what was not: a batch that waits and is not there is
    /// lost. Places behind the known count are of a write that was never acknowledged to the caller: they are left out.
    pub fn indexed(&mut self, generation: u32, mut index: Vec<Option<Meta>>) {
        let Some(entry) = self.generations.get_mut(&generation) else {
            return;
        };
        index.resize(entry.count as usize, None);
        let gaps: Vec<u32> = places(&index, |place, meta| {
            meta.is_none() && !entry.done.contains(place)
        });
        let waiting = || {
            let found = index.iter().zip(0_u32..);
            found
                .filter(|(_, place)| !entry.done.contains(*place))
                .filter_map(|(meta, _)| meta.as_ref())
        };
        let records_waiting: u64 = waiting().map(|meta| u64::from(meta.records)).sum();
        let oldest = waiting()
            .map(|meta| meta.stored)
            .min()
            .unwrap_or(entry.newest);
        // The sum that was written down stays: what the disk lost is the difference.
        let missing = entry
            .records
            .saturating_sub(entry.records_done)
            .saturating_sub(records_waiting);
        entry.oldest = oldest;
        let (class, sums) = (entry.class, entry.sums.clone());
        // Written by an agent that kept no sums: they are made once.
        if sums.is_empty() {
            index
                .iter_mut()
                .flatten()
                .for_each(|meta| entry.sum_up(meta));
        }
        let unfound = if gaps.is_empty() {
            Vec::new()
        } else {
            let known = sums.into_iter().map(|sum| sum.run).collect();
            unfound(known, &index)
        };
        entry.index = Some(index);
        for (nth, run) in unfound.into_iter().enumerate() {
            // How the missing records part among the runs is not known.
            let records = if nth == 0 { missing } else { 0 };
            let span = (run.to - run.from).saturating_add(1);
            self.tell_lost(class, run, records.min(span), LossReason::Damaged);
        }
        for (nth, place) in gaps.into_iter().enumerate() {
            let records = if nth == 0 { missing } else { 0 };
            self.lose_place(generation, place, records);
        }
    }

    /// Takes over the count of a generation that ended without being closed: all that is in it counts.
    pub fn recounted(&mut self, generation: u32, mut index: Vec<Option<Meta>>) {
        let Some(entry) = self.generations.get_mut(&generation) else {
            return;
        };
        entry.count = u32::try_from(index.len()).unwrap_or(u32::MAX);
        let metas = || index.iter().flatten();
        entry.records = metas().map(|meta| u64::from(meta.records)).sum();
        entry.newest = metas()
            .map(|meta| meta.stored)
            .max()
            .unwrap_or(entry.newest);
        let done = index
            .iter()
            .zip(0_u32..)
            .filter(|(_, place)| entry.done.contains(*place));
        entry.records_done = done
            .filter_map(|(meta, _)| meta.as_ref())
            .map(|meta| u64::from(meta.records))
            .sum();
        entry.sums.clear();
        index
            .iter_mut()
            .flatten()
            .for_each(|meta| entry.sum_up(meta));
        self.indexed(generation, index);
    }

    /// Notes that one batch, whose records are known only in sum with others, is lost.
    fn lose_place(&mut self, generation: u32, place: u32, records: u64) {
        if let Some(entry) = self.generations.get_mut(&generation) {
            entry.done.insert(place, place);
            entry.records_done += records;
            self.count_loss(generation, place, place, records, GapReason::Damaged);
        }
    }
}

fn places(index: &[Option<Meta>], wanted: impl Fn(u32, &Option<Meta>) -> bool) -> Vec<u32> {
    let all = index.iter().zip(0_u32..);
    all.filter(|(meta, place)| wanted(*place, meta))
        .map(|(_, place)| place)
        .collect()
}

/// The numbers of some runs that none of the batches has.
fn unfound(known: Vec<Run>, index: &[Option<Meta>]) -> Vec<Run> {
    let mut found = Waiters::default();
    for run in index.iter().flatten().filter_map(|meta| meta.run.as_ref()) {
        found.add(Class::Prediction, &run.stream, run.boot, run.from, run.to);
    }
    let found: BTreeMap<_, _> = found.ranges().into_iter().collect();
    let mut unfound = Vec::new();
    for Run {
        stream,
        boot,
        from,
        to,
    } in known
    {
        let ranges = found.get(&(Class::Prediction, stream.clone(), boot));
        let mut next = from;
        for (low, high) in ranges.into_iter().flatten() {
            if *low > next {
                let (stream, to) = (stream.clone(), (low - 1).min(to));
                let from = next;
                unfound.push(Run {
                    stream,
                    boot,
                    from,
                    to,
                });
            }
            next = next.max(high.saturating_add(1));
        }
        if next <= to {
            unfound.push(Run {
                stream,
                boot,
                from: next,
                to,
            });
        }
    }
    unfound
}
