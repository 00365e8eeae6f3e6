//! The log tells of each change of the keys that sign.

use lamppost_coordinator_core::rollout::audit::{Actor, Trusted};
use lamppost_models::Timestamp;
use lamppost_store::{StoreError, Write};

use super::{State, json, keys};

impl State {
    /// Has the log tell what changed of the keys since it told of them last, if anything did.
    pub(crate) fn note_keys(
        &mut self,
        trusted: &Trusted,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let before: Option<Trusted> = self.read_one(keys::TRUSTED)?;
        if before.as_ref() == Some(trusted) {
            return Ok(());
        }
        let told = Write::put(keys::TRUSTED, json(trusted));
        let Some(note) = trusted.note(before.as_ref(), by) else {
            return self.commit(&[told]);
        };
        tracing::info!(words = note.words, "the keys that sign changed");
        let (mut writes, log) = self.append(note, now)?;
        writes.push(told);
        self.commit(&writes)?;
        self.log = log;
        Ok(())
    }
}
