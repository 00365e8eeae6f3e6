//! What became of some images.

use crate::subject::{Broken, Promise};

/// How many images kept what was promised.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) images: u64,
    /// Images of which anything was promised.
    pub(crate) promised: u64,
    pub(crate) broken: u64,
    /// Those that lost what was promised, or do not open.
    pub(crate) lost: u64,
    pub(crate) first: Option<String>,
}

impl Outcome {
    pub(crate) fn count(&mut self, promise: &Promise, at: &str, checked: Result<(), Broken>) {
        self.images += 1;
        self.promised += u64::from(!promise.is_empty());
        if let Err(broken) = checked {
            self.broken += 1;
            self.lost += u64::from(broken.is_loss());
            self.first.get_or_insert_with(|| format!("{at}: {broken}"));
        }
    }

    pub(crate) fn print(&self, what: &str) {
        let Self {
            images,
            promised,
            broken,
            lost,
            first,
        } = self;
        let example = first
            .as_deref()
            .map_or(String::new(), |first| format!("; {first}"));
        println!(
            "{what}: {images} images, {promised} with promises, {broken} broke one, {lost} by a loss{example}"
        );
    }

    /// What is wrong with cuts that must show what a missing sync costs.
    pub(crate) fn missed(&self, what: &str) -> Option<String> {
        let proves_nothing =
            || format!("{what}: nothing is lost, so that the other cuts prove nothing");
        (self.lost == 0).then(proves_nothing)
    }

    /// What is wrong, when nothing should be.
    pub(crate) fn failures(&self, what: &str) -> Option<String> {
        if self.promised * 2 < self.images {
            return Some(format!(
                "{what}: most images were taken before anything was stored"
            ));
        }
        let first = self.first.as_deref()?;
        Some(format!(
            "{what}: {} of {} images, {first}",
            self.broken, self.images
        ))
    }
}
