//! Samples to a file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use lamppost_coordinator_core::samples::SampleId;
use lamppost_models::id::FieldName;
use lamppost_models::message::Label;
use lamppost_models::reading::Value;
use serde::Serialize;

use super::SAMPLES;
use super::args::{Format, Which};
use crate::api::StoredSample;
use crate::cli::args::Global;
use crate::cli::client::Client;
use crate::cli::{Exit, Failure, show, tables};

/// Samples of a request: the most that the coordinator gives.
const PAGE: usize = 1_000;
/// Most columns of a table: what spreadsheets take.
const COLUMNS_MAX: usize = 16_384;
/// The columns in front of the window.
const COLUMNS: [&str; 16] = [
    "id",
    "ts",
    "site",
    "node",
    "stream",
    "boot",
    "seq",
    "model",
    "policy",
    "consent",
    "received_at",
    "label",
    "label_by",
    "prediction_value",
    "prediction_label",
    "prediction_score",
];

#[derive(Serialize)]
struct Exported<'a> {
    samples: u64,
    file: &'a Path,
}

/// A file that takes its place when it is whole, and goes when it never will be.
struct Part(PathBuf);

impl Part {
    fn beside(output: &Path, suffix: &str) -> Self {
        let mut name = output.as_os_str().to_owned();
        name.push(suffix);
        Self(name.into())
    }

    fn create(&self) -> Result<BufWriter<File>, Failure> {
        let file = File::create(&self.0).map_err(|error| self.failed(&error))?;
        Ok(BufWriter::new(file))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::new(Exit::Failed, format!("{}: {error}", self.0.display()))
    }

    fn keep(self, file: BufWriter<File>, output: &Path) -> Result<(), Failure> {
        let file = file
            .into_inner()
            .map_err(|error| self.failed(error.error()))?;
        let kept = file.sync_all().and_then(|()| fs::rename(&self.0, output));
        kept.map_err(|error| self.failed(&error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Once it has its place there is none left here.
        drop(fs::remove_file(&self.0));
    }
}

pub(super) async fn run(
    client: &Client,
    which: &Which,
    format: Format,
    output: &Path,
    global: &Global,
) -> Result<(), Failure> {
    let part = Part::beside(output, ".part");
    let mut file = part.create()?;
    let mut columns = Columns::default();
    let mut samples = 0;
    let mut after: Option<SampleId> = None;
    loop {
        let mut query = which.query();
        query.push(("limit", PAGE.to_string()));
        query.extend(after.take().map(|after| ("after", after.to_string())));
        let mut lines = client.page(SAMPLES, &query).await?;
        let mut count = 0;
        while let Some(line) = lines.next().await? {
            let sample = read(&line)?;
            if format == Format::Csv {
                columns.see(&sample)?;
            }
            file.write_all(&line).and_then(|()| file.write_all(b"\n"))?;
            after = Some(sample.id);
            count += 1;
        }
        samples += count as u64;
        if count < PAGE {
            break;
        }
    }
    match format {
        Format::Ndjson => part.keep(file, output)?,
        Format::Csv => {
            file.flush()?;
            let table = Part::beside(output, ".table.part");
            let mut writer = csv::Writer::from_writer(table.create()?);
            columns.write(&part.0, &mut writer).map_err(|error| {
                Failure::new(Exit::Failed, format!("{}: {error}", table.0.display()))
            })?;
            let file = writer
                .into_inner()
                .map_err(|error| table.failed(error.error()))?;
            table.keep(file, output)?;
        }
    }
    let exported = Exported {
        samples,
        file: output,
    };
    show(global, &exported, || {
        format!("{samples} samples are in {}", output.display())
    })
}

fn read(line: &[u8]) -> Result<StoredSample, Failure> {
    serde_json::from_slice(line).map_err(|error| {
        let text = format!("a sample is something else than this version understands: {error}");
        Failure::new(Exit::Failed, text)
    })
}

/// The fields of all windows, and how many readings of each there are at most.
#[derive(Default)]
struct Columns(BTreeMap<FieldName, usize>);

impl Columns {
    fn see(&mut self, sample: &StoredSample) -> Result<(), Failure> {
        for (reading, back) in sample.sample.window.iter().rev().zip(1..) {
            for (field, value) in &reading.fields {
                if matches!(value, Value::Vector(_)) {
                    let text = format!(
                        "field {field} of sample {} is a vector, which has no place in a table: export with --format ndjson",
                        sample.id
                    );
                    return Err(Failure::new(Exit::Failed, text));
                }
                let known = self.0.entry(field.clone()).or_default();
                *known = back.max(*known);
            }
        }
        let columns = COLUMNS.len() + self.0.values().sum::<usize>();
        if columns > COLUMNS_MAX {
            let text = format!(
                "the windows make {columns} columns, the limit is {COLUMNS_MAX}: export one --stream, or with --format ndjson"
            );
            return Err(Failure::new(Exit::Failed, text));
        }
        Ok(())
    }

    /// Fields by name, each from the oldest reading to the newest.
    fn places(&self) -> impl Iterator<Item = (&FieldName, usize)> {
        let fields = self.0.iter();
        fields.flat_map(|(field, count)| (0..*count).rev().map(move |back| (field, back)))
    }

    fn write<W: std::io::Write>(
        &self,
        lines: &Path,
        table: &mut csv::Writer<W>,
    ) -> Result<(), csv::Error> {
        let window = self
            .places()
            .map(|(field, back)| format!("{field}@-{back}"));
        let head = COLUMNS.iter().map(ToString::to_string);
        table.write_record(head.chain(window))?;
        for line in BufReader::new(File::open(lines)?).split(b'\n') {
            let sample: StoredSample =
                serde_json::from_slice(&line?).map_err(std::io::Error::other)?;
            table.write_record(self.cells(&sample))?;
        }
        Ok(())
    }

    fn cells(&self, stored: &StoredSample) -> Vec<String> {
        let StoredSample { id, sample, .. } = stored;
        let text = |value: Option<String>| value.unwrap_or_default();
        let origin = sample.origin.as_ref();
        let prediction = sample.prediction.as_ref();
        let label = sample.label.as_ref().map(|label| match label {
            Label::Value(value) => value.to_string(),
            Label::Class(class) => class.clone(),
        });
        let mut cells = vec![
            id.to_string(),
            sample.ts.to_string(),
            stored.path.site.to_string(),
            stored.path.node.to_string(),
            stored.stream.to_string(),
            id.boot.to_string(),
            id.seq.to_string(),
            text(origin.map(|origin| origin.model.to_string())),
            text(origin.map(|origin| tables::word(origin.policy))),
            text(origin.map(|origin| origin.consent.to_string())),
            stored.received_at.to_string(),
            text(label),
            text(stored.label_by.map(tables::word)),
            text(prediction.and_then(|made| Some(made.value?.to_string()))),
            text(prediction.and_then(|made| made.label.clone())),
            text(prediction.and_then(|made| Some(made.score?.to_string()))),
        ];
        cells.extend(self.places().map(|(field, back)| {
            let reading = sample.window.iter().rev().nth(back);
            match reading.and_then(|reading| reading.fields.get(field)) {
                Some(Value::Number(number)) => number.to_string(),
                Some(Value::Text(text)) => text.clone(),
                Some(Value::Vector(_)) | None => String::new(),
            }
        }));
        cells
    }
}
