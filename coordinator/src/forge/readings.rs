//! Readings in a CSV file, cut into windows; their labels are later readings of the same file.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use csv::{Reader, StringRecord};
use lamppost_forge::DATA_BYTES_MAX;
use lamppost_models::manifest::{Feature, OutputKind};
use lamppost_models::message::Label;
use lamppost_models::time::Zone;
use lamppost_models::{Digest, FieldName, Manifest, Reading, Timestamp, Value};

use super::lessons::{Lesson, Lessons, Skipped, Span, count};
use super::{ForgeError, SourceError, files};

/// Cells that say that there is no value.
const NONE: [&str; 3] = ["", "NA", "null"];

/// How to read such a file.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// The column of event times.
    pub(crate) time: String,
    /// Whose clock times without an offset are of.
    pub(crate) zone: Zone,
    /// The column of a field that is called otherwise.
    pub(crate) fields: Vec<(FieldName, String)>,
    /// The field whose later value is the label.
    pub(crate) label: FieldName,
    /// How many steps later; as far as the model forecasts, unless given.
    pub(crate) ahead: Option<usize>,
}

/// A row.
struct Row {
    reading: Arc<Reading>,
    label: Option<Label>,
}

/// Reads a file and cuts it into windows as the manifest has them.
///
/// # Errors
/// [`ForgeError::Source`] when it cannot be read, a column is missing, or a cell is no value; [`ForgeError::Ahead`] when
/// the label would be of another time than the model forecasts.
pub(crate) fn read(
    path: &Path,
    manifest: &Manifest,
    columns: &Columns,
    span: Span,
) -> Result<Lessons, ForgeError> {
    let ahead = ahead(manifest, columns.ahead)?;
    let name = path.display().to_string();
    let refuse = |source: SourceError| ForgeError::Source {
        name: name.clone(),
        source,
    };
    let bytes = unpack(path).map_err(refuse)?;
    let digest = Digest::of(&bytes);
    let mut skipped = Skipped::new();
    let rows = rows(&bytes, manifest, columns, &mut skipped).map_err(refuse)?;
    let length = manifest.window.count;
    let mut all = Vec::new();
    for (at, window) in rows.windows(length).enumerate() {
        let newest = at + length - 1;
        let ts = rows[newest].reading.ts;
        if !span.holds(ts) {
            count(&mut skipped, "of another time", 1);
            continue;
        }
        let Some(label) = later(&rows, newest, ahead, manifest).and_then(|row| row.label.clone())
        else {
            count(&mut skipped, "without a label", 1);
            continue;
        };
        all.push(Lesson {
            id: format!("{digest}/{ts}"),
            node: String::new(),
            ts,
            window: window.iter().map(|row| Arc::clone(&row.reading)).collect(),
            label,
        });
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Lessons {
        all,
        skipped,
        source: format!("readings in {file} ({})", digest.short()),
    })
}

/// How many steps after the newest reading the label is.
fn ahead(manifest: &Manifest, given: Option<usize>) -> Result<usize, ForgeError> {
    let horizon_ms = manifest
        .output
        .kind
        .horizon()
        .map(|horizon| u64::try_from(horizon.as_millis()).unwrap_or(u64::MAX));
    match (given, horizon_ms, manifest.window.step_ms) {
        (Some(steps), Some(horizon_ms), Some(step_ms))
            if (steps as u64).saturating_mul(step_ms) != horizon_ms =>
        {
            Err(ForgeError::Ahead {
                steps,
                step_ms,
                horizon_ms,
            })
        }
        (Some(steps), _, _) => Ok(steps),
        (None, None, _) => Ok(0),
        (None, Some(horizon_ms), Some(step_ms)) if horizon_ms.is_multiple_of(step_ms.max(1)) => {
            Ok(usize::try_from(horizon_ms / step_ms.max(1)).unwrap_or(usize::MAX))
        }
        (None, Some(horizon_ms), _) => Err(ForgeError::NoStep { horizon_ms }),
    }
}

/// The row that the label of a window is in: where steps matter, one at that very time.
fn later<'a>(rows: &'a [Row], newest: usize, ahead: usize, manifest: &Manifest) -> Option<&'a Row> {
    let Some(step_ms) = manifest.window.step_ms else {
        return rows.get(newest.checked_add(ahead)?);
    };
    let wanted = rows[newest].reading.ts.as_ms()
        + i64::try_from(step_ms)
            .ok()?
            .checked_mul(i64::try_from(ahead).ok()?)?;
    let jitter = i64::try_from(manifest.window.jitter_ms).ok()?;
    let behind = &rows[newest..];
    let at = behind.partition_point(|row| row.reading.ts.as_ms() < wanted - jitter);
    behind
        .get(at)
        .filter(|row| row.reading.ts.as_ms() <= wanted + jitter)
}

fn unpack(path: &Path) -> Result<Vec<u8>, SourceError> {
    let limit = DATA_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    files::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(SourceError::TooLarge { limit });
    }
    Ok(bytes)
}

/// All rows by time, the first of those with the same time.
fn rows(
    bytes: &[u8],
    manifest: &Manifest,
    columns: &Columns,
    skipped: &mut Skipped,
) -> Result<Vec<Row>, SourceError> {
    let mut reader = Reader::from_reader(bytes);
    let header = reader.headers()?.clone();
    let place = |column: &str| {
        let found = header.iter().position(|name| name.trim() == column);
        found.ok_or_else(|| SourceError::Column {
            column: column.to_owned(),
            known: header.iter().map(str::to_owned).collect(),
        })
    };
    let of_field = |field: &FieldName| {
        let named = columns.fields.iter().find(|(name, _)| name == field);
        place(named.map_or(field.as_str(), |(_, column)| column))
    };
    let time = place(&columns.time)?;
    let label = (
        of_field(&columns.label)?,
        matches!(manifest.output.kind, OutputKind::Labels { .. }),
    );
    let mut fields = Vec::new();
    for field in manifest.fields() {
        fields.push((field.clone(), of_field(field)?, is_text(manifest, field)?));
    }
    let mut rows = BTreeMap::new();
    for (at, record) in reader.records().enumerate() {
        // The header is the first line.
        let line = at as u64 + 2;
        let record = record?;
        let ts = columns
            .zone
            .parse_instant(record.get(time).unwrap_or_default().trim())
            .map_err(|source| SourceError::Time { line, source })?;
        let row = row(&record, ts, line, &fields, label)?;
        if let std::collections::btree_map::Entry::Vacant(place) = rows.entry(ts) {
            place.insert(row);
        } else {
            count(skipped, "readings of a time that was there already", 1);
        }
    }
    Ok(rows.into_values().collect())
}

/// Whether a field holds text; vectors are in no CSV file.
fn is_text(manifest: &Manifest, field: &FieldName) -> Result<bool, SourceError> {
    let users = || {
        manifest
            .features
            .iter()
            .filter(|feature| feature.field() == Some(field))
    };
    if users().any(|feature| matches!(feature, Feature::Vector { .. } | Feature::Image { .. })) {
        return Err(SourceError::Vector {
            field: field.clone(),
        });
    }
    Ok(users().any(|feature| matches!(feature, Feature::OneHot { .. })))
}

fn row(
    record: &StringRecord,
    ts: Timestamp,
    line: u64,
    fields: &[(FieldName, usize, bool)],
    (label, is_class): (usize, bool),
) -> Result<Row, SourceError> {
    let cell = |at: usize| {
        let cell = record.get(at).unwrap_or_default().trim();
        (!NONE.contains(&cell)).then_some(cell)
    };
    let number = |cell: &str| {
        let number = cell.parse::<f64>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| SourceError::Cell {
            line,
            cell: cell.chars().take(64).collect(),
        })
    };
    let mut reading = Reading {
        ts,
        fields: BTreeMap::new(),
    };
    for (field, at, is_text) in fields {
        let Some(cell) = cell(*at) else { continue };
        let value = if *is_text {
            Value::Text(cell.to_owned())
        } else {
            Value::Number(number(cell)?)
        };
        reading.fields.insert(field.clone(), value);
    }
    let label = match cell(label) {
        Some(cell) if is_class => Some(Label::Class(cell.to_owned())),
        Some(cell) => Some(Label::Value(number(cell)?)),
        None => None,
    };
    Ok(Row {
        reading: Arc::new(reading),
        label,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hourly readings of a volume and a sky, and the volume an hour later.
    fn manifest() -> Manifest {
        let zoo = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../models/zoo/traffic-flow/1.0.0/manifest.json"
        );
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(zoo).unwrap()).unwrap();
        manifest["window"]["count"] = 2.into();
        manifest["window"]["jitter_ms"] = 60_000.into();
        manifest["input"]["shape"] = serde_json::json!([1, 4]);
        manifest["features"] = serde_json::json!([
            {"op": "lag", "field": "volume", "lags": [1, 0]},
            {"op": "one_hot", "field": "sky", "categories": ["Clear", "Clouds"]},
        ]);
        Manifest::parse(manifest.to_string().as_bytes()).unwrap()
    }

    fn read_text(text: &str, ahead: Option<usize>) -> Result<Lessons, ForgeError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("readings.csv");
        std::fs::write(&path, text).unwrap();
        let columns = Columns {
            time: "when".to_owned(),
            zone: "-06:00".parse().unwrap(),
            fields: vec![("volume".parse().unwrap(), "count, all".to_owned())],
            label: "volume".parse().unwrap(),
            ahead,
        };
        read(&path, &manifest(), &columns, Span::default())
    }

    #[test]
    fn windows_and_their_labels_are_found_by_time() {
        // Out of order, one hour twice, one late by less than the jitter, one without a value, one missing.
        let text = "when,\"count, all\",sky\n\
            2017-01-01 01:00:00,20,Clouds\n2017-01-01 00:00:00,10,Clear\n2017-01-01 01:00:00,99,Clear\n\
            2017-01-01T08:00:30Z,30,Clear\n2017-01-01 03:00:00,NA,Clear\n2017-01-01 05:00:00,50,Clear\n";
        let lessons = read_text(text, None).unwrap();
        let found: Vec<(String, Label)> = lessons
            .all
            .iter()
            .map(|lesson| (lesson.ts.to_string(), lesson.label.clone()))
            .collect();
        // The window that ends at 02:00 has no label since that hour has no value, that of 03:00 since an hour is missing.
        assert_eq!(
            found,
            [("2017-01-01T07:00:00Z".to_owned(), Label::Value(30.0))]
        );
        let window = &lessons.all[0].window;
        let sky: FieldName = "sky".parse().unwrap();
        assert_eq!(window[0].fields[&sky], Value::Text("Clear".to_owned()));
        let volume: FieldName = "volume".parse().unwrap();
        assert_eq!(window[1].number(&volume), Some(20.0));
        assert_eq!(
            lessons.skipped.into_iter().collect::<Vec<_>>(),
            [
                ("readings of a time that was there already", 1),
                ("without a label", 3)
            ]
        );
    }

    #[test]
    fn what_is_no_reading_is_refused_with_its_line() {
        let header = "when,\"count, all\",sky\n";
        let error = |text: &str| {
            let error = read_text(&format!("{header}{text}"), None).unwrap_err();
            crate::error::chain(&error)
        };
        let good = "2017-01-01 00:00:00,10,Clear\n";
        assert!(
            error(&format!("{good}2017-01-01 01:00:00,inf,Clear\n")).contains("line 3 has \"inf\"")
        );
        assert!(error(&format!("{good}noon,10,Clear\n")).contains("line 3: time \"noon\""));
        assert!(
            error(&format!("{good}2017-01-01 01:00:00,10\n"))
                .contains("found record with 2 fields")
        );
        assert!(read_text("when,volume,sky\n", None).is_err());
        let wrong = read_text(header, Some(2)).unwrap_err().to_string();
        assert!(wrong.contains("2 steps of 3600000 ms ahead"), "{wrong}");
    }
}
