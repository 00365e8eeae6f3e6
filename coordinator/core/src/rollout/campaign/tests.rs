mod life;
mod people;
mod revoke;
mod scale;
mod simulation;
pub(in crate::rollout) mod world;
