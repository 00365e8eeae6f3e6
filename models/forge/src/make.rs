//! New models.

mod builder;

pub(crate) use builder::{Attribute, Builder};
