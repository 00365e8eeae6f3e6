mod life;
mod people;
mod scale;
mod simulation;
pub(in crate::rollout) mod world;
