//! Training and compression: from samples to a bundle with its evidence.
//!
//! - `samples` and `readings` make [`Lessons`]: windows and what came true;
//! - [`Subject`] is what is trained, `study` makes features with the engine of the nodes and splits them into `parts`;
//! - `course` trains, `squeeze` compresses; `exam` judges on windows that neither has seen; `pack` makes the bundle.
//!
//! It runs in the process of a command and never in the server: candle's threads are nobody's but its own, and a training that
//! takes all memory takes no coordinator with it.

mod architecture;
mod course;
mod error;
mod exam;
mod files;
mod lessons;
mod pack;
mod parts;
mod readings;
mod samples;
mod squeeze;
mod study;
mod teachers;
mod way;

pub(crate) use architecture::parse as parse_architecture;
pub(crate) use course::{Order, Trained, recipe, train};
pub(crate) use error::{ForgeError, SourceError};
pub(crate) use exam::{Exam, Grade, grade};
pub(crate) use lessons::{Lesson, Lessons, Span, words};
pub(crate) use pack::{Packed, pack};
pub(crate) use parts::{Shares, SplitBy};
pub(crate) use readings::{Columns, read as read_readings};
pub(crate) use samples::{Harvest, read as read_samples};
pub(crate) use squeeze::{Attempt, Candidate, Findings, Squeezed, squeeze};
pub(crate) use study::Subject;
pub(crate) use way::Way;
