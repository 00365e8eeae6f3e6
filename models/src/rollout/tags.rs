//! What a node is tagged with.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{TagName, TagValue};

/// What a node is tagged with: its backhaul, say, or its kind. A copy shares the memory, since thousands of nodes have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(Arc<BTreeMap<TagName, TagValue>>);

impl Tags {
    /// No tags.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Deref for Tags {
    type Target = BTreeMap<TagName, TagValue>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(TagName, TagValue)> for Tags {
    fn from_iter<I: IntoIterator<Item = (TagName, TagValue)>>(tags: I) -> Self {
        Self(Arc::new(tags.into_iter().collect()))
    }
}

impl<const N: usize> From<[(TagName, TagValue); N]> for Tags {
    fn from(tags: [(TagName, TagValue); N]) -> Self {
        tags.into_iter().collect()
    }
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|tags| Self(Arc::new(tags)))
    }
}
