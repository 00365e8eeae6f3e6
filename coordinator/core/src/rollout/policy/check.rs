//! What a policy must be like, whatever the fleet.

use super::Policy;

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("policy: {field} is {value}: {mend}")]
pub struct PolicyError {
    /// Which key.
    pub field: String,
    /// What it is.
    pub value: String,
    /// What it should be.
    pub mend: String,
}

impl Policy {
    /// Checks what can be checked without a fleet.
    ///
    /// # Errors
    /// [`PolicyError`] with the first key that cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        Ok(())
    }
}
