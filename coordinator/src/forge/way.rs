//! Ways to make a model smaller, as they are typed: a change of its shape, a way to store its weights, or both with a `+`.

use std::fmt;
use std::str::FromStr;

use lamppost_forge::Architecture;

use super::architecture;

/// One way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Way {
    text: String,
    pub(crate) shape: Shape,
    pub(crate) storage: Storage,
}

/// What becomes of the network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    Whole,
    /// Smallest weights to 0: this share of each, or as much as each alone bears.
    Prune(Option<f64>),
    /// This share of the channels away.
    Channels(f64),
    /// A new network learns from this one.
    Distil(Architecture),
}

/// How the weights of products are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    AsIs,
    Int8,
    F16,
    /// Each weight in as few bits as the loss allows.
    Adaptive,
}

impl Way {
    /// Whether a new network learns from another.
    pub(crate) fn distils(&self) -> bool {
        matches!(self.shape, Shape::Distil(_))
    }

    /// Whether samples decide anything.
    pub(crate) fn learns(&self) -> bool {
        self.shape != Shape::Whole || self.storage == Storage::Adaptive
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut way = Self {
            text: text.to_owned(),
            shape: Shape::Whole,
            storage: Storage::AsIs,
        };
        for step in text.split('+') {
            // First the shape, then the storage, each once.
            let place = (&way.shape, way.storage);
            if let Some(storage) = storage(step)
                && place.1 == Storage::AsIs
            {
                way.storage = storage;
            } else if place == (&Shape::Whole, Storage::AsIs) {
                way.shape = shape(step)?;
            } else {
                return Err(format!(
                    "{step:?} cannot stand there: first prune, channels or distil, then int8, f16 or adaptive"
                ));
            }
        }
        Ok(way)
    }
}

fn storage(step: &str) -> Option<Storage> {
    match step {
        "int8" => Some(Storage::Int8),
        "f16" => Some(Storage::F16),
        "adaptive" => Some(Storage::Adaptive),
        _ => None,
    }
}

fn shape(step: &str) -> Result<Shape, String> {
    let share = |text: &str| {
        let share = text
            .parse::<f64>()
            .ok()
            .filter(|share| (0.0..1.0).contains(share));
        share.ok_or_else(|| format!("share {text:?} must be a number from 0 to below 1"))
    };
    match step.split_once(':') {
        Some(("prune", "auto")) => Ok(Shape::Prune(None)),
        Some(("prune", text)) => Ok(Shape::Prune(Some(share(text)?))),
        Some(("channels", text)) => Ok(Shape::Channels(share(text)?)),
        Some(("distil", text)) => Ok(Shape::Distil(architecture::parse(text)?)),
        _ => Err(format!(
            "{step:?} is no way: write int8, f16, adaptive, prune:SHARE, prune:auto, channels:SHARE or distil:ARCHITECTURE"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_a_shape_then_a_storage() {
        let way = |text: &str| text.parse::<Way>().map(|way| (way.shape, way.storage));
        assert_eq!(way("int8"), Ok((Shape::Whole, Storage::Int8)));
        assert_eq!(
            way("prune:0.5"),
            Ok((Shape::Prune(Some(0.5)), Storage::AsIs))
        );
        assert_eq!(
            way("prune:auto+f16"),
            Ok((Shape::Prune(None), Storage::F16))
        );
        assert_eq!(
            way("channels:0.3+adaptive"),
            Ok((Shape::Channels(0.3), Storage::Adaptive))
        );
        let hidden = vec![16, 8];
        assert_eq!(
            way("distil:mlp:16,8+int8"),
            Ok((Shape::Distil(Architecture::Mlp { hidden }), Storage::Int8))
        );
        for wrong in [
            "",
            "int4",
            "prune",
            "prune:1",
            "prune:-0.1",
            "channels:auto",
            "distil:mlp",
            "int8+f16",
            "int8+prune:0.5",
            "prune:0.5+channels:0.5",
            "prune:NaN",
        ] {
            assert!(way(wrong).is_err(), "{wrong}");
        }
    }
}
