//! One line of comma-separated values (RFC 4180).

use std::borrow::Cow;
use std::collections::BTreeMap;

use lamppost_models::Value;
use lamppost_models::id::FieldName;

use super::Parts;
use super::error::{DecodeError, SpecError};
use super::number::{Clock, Field};
use super::spec::{Column, CsvSpec, FieldKind};

#[derive(Clone, Debug)]
pub(super) struct Csv {
    time: Option<usize>,
    clock: Clock,
    delimiter: char,
    /// How many cells a line has, where columns are configured.
    cells: Option<usize>,
    fields: Vec<Field<usize>>,
}

impl Csv {
    pub(super) fn new(spec: &CsvSpec) -> Result<Self, SpecError> {
        if matches!(spec.delimiter, '"' | '\n' | '\r') {
            return Err(SpecError::Delimiter {
                delimiter: spec.delimiter,
            });
        }
        let place = |column: &Column| place(column, &spec.columns);
        let fields = Field::all(&spec.fields, &spec.optional, place)?;
        if let Some(field) = fields
            .iter()
            .find(|field| field.kind == Some(FieldKind::Vector))
        {
            let reason = "a cell is a number or a text, not a vector".to_owned();
            return Err(SpecError::Field {
                field: field.name.clone(),
                reason,
            });
        }
        Ok(Self {
            time: spec.time.as_ref().map(place).transpose()?,
            clock: Clock {
                unit: spec.time_unit,
                zone: spec.zone.clone(),
            },
            delimiter: spec.delimiter,
            cells: (!spec.columns.is_empty()).then_some(spec.columns.len()),
            fields,
        })
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &FieldName> {
        self.fields.iter().map(|field| &field.name)
    }

    pub(super) fn parts(&self, payload: &[u8]) -> Result<Parts, DecodeError> {
        let text = std::str::from_utf8(payload).map_err(|error| syntax(error.to_string()))?;
        let cells = split(text, self.delimiter)?;
        if let Some(wanted) = self.cells.filter(|&wanted| wanted != cells.len()) {
            return Err(DecodeError::Cells {
                found: cells.len(),
                wanted,
            });
        }
        let cell = |at: usize| {
            cells
                .get(at)
                .map(Cow::as_ref)
                .filter(|cell| !cell.trim().is_empty())
        };
        let ts = match self.time {
            Some(at) => Some(self.clock.text(cell(at).ok_or(DecodeError::TimeMissing)?)?),
            None => None,
        };
        let mut fields = BTreeMap::new();
        for field in &self.fields {
            let value = match cell(field.at) {
                Some(cell) if field.kind == Some(FieldKind::Text) => Value::Text(cell.to_owned()),
                Some(cell) => Value::Number(field.parse(cell)?),
                None if field.optional => continue,
                None => return Err(field.missing()),
            };
            fields.insert(field.name.clone(), value);
        }
        Ok((ts, fields))
    }
}

fn place(column: &Column, columns: &[String]) -> Result<usize, SpecError> {
    let unknown = |column: String| SpecError::UnknownColumn {
        column,
        columns: columns.to_vec(),
    };
    match column {
        Column::Number(at) if columns.is_empty() || *at < columns.len() => Ok(*at),
        Column::Number(at) => Err(unknown(at.to_string())),
        Column::Name(name) if columns.is_empty() => Err(SpecError::NoColumns {
            column: name.clone(),
        }),
        Column::Name(name) => columns
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| unknown(name.clone())),
    }
}

fn syntax(detail: String) -> DecodeError {
    DecodeError::Syntax {
        format: "CSV line",
        detail,
    }
}

/// Splits a line at its delimiters; one line break at its end is not part of it.
fn split(text: &str, delimiter: char) -> Result<Vec<Cow<'_, str>>, DecodeError> {
    let mut rest = text
        .strip_suffix('\n')
        .map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    let mut cells = Vec::new();
    loop {
        let (cell, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_cell(quoted)?,
            None => plain_cell(rest, delimiter)?,
        };
        cells.push(cell);
        match after.strip_prefix(delimiter) {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(cells),
            None => {
                return Err(syntax(format!(
                    "cell {} goes on after its closing quote",
                    cells.len() - 1
                )));
            }
        }
    }
}

fn plain_cell(rest: &str, delimiter: char) -> Result<(Cow<'_, str>, &str), DecodeError> {
    let (cell, after) = rest.split_at(rest.find(delimiter).unwrap_or(rest.len()));
    if cell.contains(['\n', '\r']) {
        return Err(syntax("more than one line".to_owned()));
    }
    if cell.contains('"') {
        return Err(syntax(
            "a quote within a cell that does not start with one".to_owned(),
        ));
    }
    Ok((Cow::Borrowed(cell), after))
}

/// Reads a cell whose opening quote is gone; two quotes in it stand for one.
fn quoted_cell(rest: &str) -> Result<(Cow<'_, str>, &str), DecodeError> {
    let mut cell = Cow::Borrowed("");
    let mut rest = rest;
    loop {
        let Some(at) = rest.find('"') else {
            return Err(syntax("a quote is not closed".to_owned()));
        };
        let (piece, after) = (&rest[..at], &rest[at + 1..]);
        if cell.is_empty() {
            cell = Cow::Borrowed(piece);
        } else {
            cell.to_mut().push_str(piece);
        }
        let Some(next) = after.strip_prefix('"') else {
            return Ok((cell, after));
        };
        cell.to_mut().push('"');
        rest = next;
    }
}
