use std::time::Duration;

use lamppost_models::id::FieldName;
use lamppost_models::time::Timestamp;

/// Why a message became no reading.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Too much to read.
    #[error("payload has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not of the configured format at all.
    #[error("payload is no {format}: {detail}")]
    Syntax {
        /// The format.
        format: &'static str,
        /// What the parser says.
        detail: String,
    },
    /// A raw payload of another length than the configuration says.
    #[error("payload has {bytes} bytes, {wanted}")]
    Length {
        /// Its size.
        bytes: usize,
        /// What it should have, in words.
        wanted: String,
    },
    /// A line with another number of cells than the configured columns.
    #[error("line has {found} cells, the configuration names {wanted} columns")]
    Cells {
        /// What it has.
        found: usize,
        /// What it should have.
        wanted: usize,
    },
    /// No event time where one should be.
    #[error("event time is missing")]
    TimeMissing,
    /// An event time that is none.
    #[error("event time {value} is not {wanted}")]
    Time {
        /// What was found, cut for display.
        value: String,
        /// What should be there.
        wanted: &'static str,
    },
    /// An event time that lies in the future.
    #[error("event time {ts} is {ahead:?} ahead of this node's clock, the limit is {limit:?}")]
    Ahead {
        /// The event time.
        ts: Timestamp,
        /// How far it is ahead.
        ahead: Duration,
        /// How far it may be.
        limit: Duration,
    },
    /// A field that must be there is not.
    #[error("field {field} is missing")]
    Missing {
        /// Which.
        field: FieldName,
    },
    /// A field of another kind.
    #[error("field {field} is {found}, not {wanted}")]
    Kind {
        /// Which.
        field: FieldName,
        /// What it is, cut for display.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A number that is none: NaN or infinite.
    #[error("field {field} is not finite")]
    NotFinite {
        /// Which.
        field: FieldName,
    },
    /// A number out of its range.
    #[error("field {field} is {value}, it must be {min} to {max}")]
    Range {
        /// Which.
        field: FieldName,
        /// What it is, after scale and offset.
        value: f64,
        /// The least it may be.
        min: f64,
        /// The most it may be.
        max: f64,
    },
}

impl DecodeError {
    /// One word for the kind of error, to count by.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Syntax { .. } => "syntax",
            Self::Length { .. } => "length",
            Self::Cells { .. } => "cells",
            Self::TimeMissing => "time-missing",
            Self::Time { .. } => "time",
            Self::Ahead { .. } => "ahead",
            Self::Missing { .. } => "missing",
            Self::Kind { .. } => "kind",
            Self::NotFinite { .. } => "not-finite",
            Self::Range { .. } => "range",
        }
    }
}

/// Why a decoder's configuration is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// Nothing to read.
    #[error("fields is empty: name at least one")]
    NoFields,
    /// A field is there twice.
    #[error("field {field} is there twice")]
    Twice {
        /// Which.
        field: FieldName,
    },
    /// An optional field that is none of the fields.
    #[error("optional names {field}, which is none of the fields")]
    UnknownOptional {
        /// Which.
        field: FieldName,
    },
    /// Not a JSON pointer.
    #[error(
        "{pointer:?} is no JSON pointer: start with '/', such as \"/temp\" or \"/data/0/temp\""
    )]
    Pointer {
        /// The text.
        pointer: String,
    },
    /// A column that the configured header does not have.
    #[error("column {column:?} is not among the columns {columns:?}")]
    UnknownColumn {
        /// The column.
        column: String,
        /// The columns.
        columns: Vec<String>,
    },
    /// A column by name without a header.
    #[error(
        "column {column:?} is a name, but no columns are configured: add columns = [..], or use its number from 0"
    )]
    NoColumns {
        /// The column.
        column: String,
    },
    /// A delimiter that a cell's text could not be told from.
    #[error("delimiter {delimiter:?} must be one character, and neither a quote nor a line break")]
    Delimiter {
        /// The delimiter.
        delimiter: char,
    },
    /// A conversion or a range on something that is no number, or one that no number passes.
    #[error("field {field}: {reason}")]
    Field {
        /// Which.
        field: FieldName,
        /// What is wrong.
        reason: String,
    },
    /// A raw payload's size that cannot be.
    #[error("{what} makes a payload of {bytes} bytes, it must have 1 to {limit}")]
    Size {
        /// What was configured.
        what: String,
        /// What it comes to.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}
