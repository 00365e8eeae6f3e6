//! Attributes of a node.

use tract_onnx::pb;

/// Reads a node's attributes; one that nothing reads is one that would be ignored, and is refused.
pub(crate) struct Attributes<'a>(&'a pb::NodeProto);

impl<'a> Attributes<'a> {
    /// The attributes, when there are no others than these.
    pub(crate) fn of(node: &'a pb::NodeProto, known: &[&str]) -> Result<Self, String> {
        for attribute in &node.attribute {
            if !known.contains(&attribute.name.as_str()) {
                return Err(format!("attribute '{}' is not supported", attribute.name));
            }
        }
        Ok(Self(node))
    }

    fn find(&self, name: &str) -> Option<&'a pb::AttributeProto> {
        self.0.attribute.iter().find(|found| found.name == name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.find(name).map_or(default, |found| found.i)
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name, i64::from(default)) != 0
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> f64 {
        f64::from(self.find(name).map_or(default, |found| found.f))
    }

    pub(crate) fn float32(&self, name: &str) -> f32 {
        self.find(name).map_or(0.0, |found| found.f)
    }

    pub(crate) fn floats(&self, name: &str) -> Option<&'a [f32]> {
        self.find(name).map(|found| found.floats.as_slice())
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.find(name).map(|found| found.ints.as_slice())
    }

    pub(crate) fn text(&self, name: &str, default: &'static str) -> String {
        self.find(name).map_or_else(
            || default.to_owned(),
            |found| String::from_utf8_lossy(&found.s).into_owned(),
        )
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        self.find(name).map_or_else(Vec::new, |found| {
            let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
            found.strings.iter().map(text).collect()
        })
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&'a pb::TensorProto> {
        self.find(name).and_then(|found| found.t.as_ref())
    }

    /// Sizes, one for each spatial axis, each at least `least` and at most [`SIZE_MAX`].
    pub(crate) fn sizes(
        &self,
        name: &str,
        axes: usize,
        default: usize,
        least: usize,
    ) -> Result<Vec<usize>, String> {
        let Some(found) = self.ints(name) else {
            return Ok(vec![default; axes]);
        };
        if found.len() != axes {
            return Err(format!("{name} has {} numbers, not {axes}", found.len()));
        }
        found
            .iter()
            .map(|&size| {
                usize::try_from(size)
                    .ok()
                    .filter(|size| (least..=SIZE_MAX).contains(size))
                    .ok_or_else(|| format!("{name} of {size} is not within {least} to {SIZE_MAX}"))
            })
            .collect()
    }
}

/// Largest kernel, stride, dilation or padding: no dimension of a tensor in use comes near, and products fit a usize.
pub(crate) const SIZE_MAX: usize = 32_767;
