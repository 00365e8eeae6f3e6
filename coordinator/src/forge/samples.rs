//! Samples as the coordinator gives them: an object a line, from a file or from its API.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use lamppost_forge::DATA_BYTES_MAX;
use lamppost_models::id::{NodeId, SiteId, StreamName};
use lamppost_models::{ModelName, NodePath, Sample};
use serde::Deserialize;

use super::files::{self, LINE_BYTES_MAX};
use super::lessons::{Lesson, Lessons, Span, count};
use super::{ForgeError, SourceError};

/// One line; what else it says is not needed here.
#[derive(Debug, Deserialize)]
struct Line {
    id: String,
    site: SiteId,
    node: NodeId,
    stream: StreamName,
    sample: Sample,
}

/// Lines that become lessons, as they come.
#[derive(Debug)]
pub(crate) struct Harvest {
    model: ModelName,
    span: Span,
    name: String,
    lines: u64,
    bytes: usize,
    streams: BTreeSet<StreamName>,
    lessons: Lessons,
}

impl Harvest {
    /// Takes samples of this model alone; `name` is where they are from, for errors.
    pub(crate) fn new(model: &ModelName, span: Span, name: String) -> Self {
        Self {
            model: model.clone(),
            span,
            name,
            lines: 0,
            bytes: 0,
            streams: BTreeSet::new(),
            lessons: Lessons::default(),
        }
    }

    /// Takes a line in; the id that it carries.
    ///
    /// # Errors
    /// [`ForgeError::Source`] when it is no sample, or when all lines together are too much.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<String, ForgeError> {
        self.lines += 1;
        self.bytes += line.len();
        if self.bytes > DATA_BYTES_MAX {
            return Err(self.refuse(SourceError::TooLarge {
                limit: DATA_BYTES_MAX as u64,
            }));
        }
        let at = self.lines;
        let line: Line = serde_json::from_slice(line)
            .map_err(|source| self.refuse(SourceError::Line { line: at, source }))?;
        let Sample {
            ts,
            origin,
            window,
            label,
            ..
        } = line.sample;
        let skipped = &mut self.lessons.skipped;
        if origin.is_some_and(|origin| origin.model != self.model) {
            count(skipped, "of another model", 1);
        } else if !self.span.holds(ts) {
            count(skipped, "of another time", 1);
        } else if let Some(label) = label {
            let node = NodePath {
                site: line.site,
                node: line.node,
            };
            self.streams.insert(line.stream);
            self.lessons.all.push(Lesson {
                id: line.id.clone(),
                node: node.to_string(),
                ts,
                window: window.into_iter().map(Arc::new).collect(),
                label,
            });
        } else {
            count(skipped, "without a label", 1);
        }
        Ok(line.id)
    }

    fn refuse(&self, source: SourceError) -> ForgeError {
        ForgeError::Source {
            name: self.name.clone(),
            source,
        }
    }

    /// What has come.
    pub(crate) fn finish(mut self) -> Lessons {
        let streams: Vec<String> = self.streams.iter().map(ToString::to_string).collect();
        self.lessons.source = format!("samples of {}", streams.join(", "));
        self.lessons
    }
}

/// Reads samples from a file, one a line; `.gz` is unpacked.
///
/// # Errors
/// [`ForgeError::Source`] when it cannot be read, or when a line is no sample.
pub(crate) fn read(path: &Path, model: &ModelName, span: Span) -> Result<Lessons, ForgeError> {
    let name = path.display().to_string();
    let mut harvest = Harvest::new(model, span, name.clone());
    let named = |source: std::io::Error| ForgeError::Source {
        name: name.clone(),
        source: source.into(),
    };
    let mut file = files::open(path).map_err(named)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut file, LINE_BYTES_MAX + 1);
        if limited.read_until(b'\n', &mut line).map_err(named)? == 0 {
            return Ok(harvest.finish());
        }
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(harvest.refuse(SourceError::LongLine {
                line: harvest.lines + 1,
                limit: LINE_BYTES_MAX,
            }));
        }
        if !line.trim_ascii().is_empty() {
            harvest.line(&line)?;
        }
    }
}
