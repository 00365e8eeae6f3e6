//! Labels from a file.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::{Value, json};

use crate::api::{Labelled, RefusedLine};
use crate::cli::args::Global;
use crate::cli::client::Client;
use crate::cli::{Exit, Failure, show};

/// Lines and bytes of a request: less than the coordinator takes, and a fraction of a second of its time.
const LINES: usize = 2_000;
const BYTES: usize = 512 * 1024;

/// Lines for a request, and where in the file each comes from.
#[derive(Default)]
struct Part {
    body: Vec<u8>,
    places: Vec<u64>,
}

/// Sends what is collected, and adds up the answers.
struct Sender<'a> {
    client: &'a Client,
    part: Part,
    done: Labelled,
}

pub(super) async fn run(client: &Client, path: &Path, global: &Global) -> Result<(), Failure> {
    let mut sender = Sender {
        client,
        part: Part::default(),
        done: Labelled::default(),
    };
    let mut file = BufReader::new(open(path)?);
    if is_ndjson(&mut file)? {
        sender.ndjson(file).await?;
    } else {
        sender.csv(file, path).await?;
    }
    sender.send().await?;
    let done = sender.done;
    show(global, &done, || words(&done))?;
    if done.unknown_in_all + done.refused_in_all == 0 {
        return Ok(());
    }
    let text = format!(
        "{} samples are not stored, and {} lines are no labels",
        done.unknown_in_all, done.refused_in_all
    );
    Err(Failure::new(Exit::Failed, text))
}

pub(super) fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        let Failure { exit, text } = error.into();
        Failure::new(exit, format!("{}: {text}", path.display()))
    })
}

/// Whether the first character that is no space begins an object.
fn is_ndjson(file: &mut BufReader<File>) -> Result<bool, Failure> {
    let mut first = Vec::new();
    file.by_ref().take(4_096).read_to_end(&mut first)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(first.trim_ascii_start().first() == Some(&b'{'))
}

fn words(done: &Labelled) -> String {
    let mut lines = vec![format!("{} samples are labelled", done.labelled)];
    let unknown = done.unknown.iter();
    lines.extend(unknown.map(|id| format!("not stored: {id}")));
    let refused = done.refused.iter();
    lines.extend(refused.map(|RefusedLine { line, error }| format!("line {line}: {error}")));
    lines.join("\n")
}

impl Sender<'_> {
    async fn ndjson(&mut self, mut file: BufReader<File>) -> Result<(), Failure> {
        for number in 1.. {
            let mut line = Vec::new();
            if file.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            self.push(line.trim_ascii(), number).await?;
        }
        Ok(())
    }

    async fn csv(&mut self, file: BufReader<File>, path: &Path) -> Result<(), Failure> {
        let wrong =
            |error: csv::Error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
        let mut reader = csv::Reader::from_reader(file);
        let header = reader.headers().map_err(wrong)?;
        let column = |name| header.iter().position(|column| column.trim() == name);
        let Some((id, label)) = column("id").zip(column("label")) else {
            let text = format!(
                "{} is neither NDJSON nor CSV with the columns id and label: its first line is {:?}",
                path.display(),
                header.iter().take(8).collect::<Vec<_>>()
            );
            return Err(Failure::new(Exit::Failed, text));
        };
        for record in reader.records() {
            let record = record.map_err(wrong)?;
            let line = record.position().map_or(0, csv::Position::line);
            let label = label_of(record.get(label).unwrap_or_default());
            let label = json!({ "id": record.get(id).unwrap_or_default(), "label": label });
            self.push(label.to_string().as_bytes(), line).await?;
        }
        Ok(())
    }

    async fn push(&mut self, line: &[u8], place: u64) -> Result<(), Failure> {
        if line.is_empty() {
            return Ok(());
        }
        if self.part.body.len() + line.len() > BYTES || self.part.places.len() >= LINES {
            self.send().await?;
        }
        self.part.body.extend_from_slice(line);
        self.part.body.push(b'\n');
        self.part.places.push(place);
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        let Part { body, places } = std::mem::take(&mut self.part);
        if places.is_empty() {
            return Ok(());
        }
        let answer: Labelled = self.client.post_lines("/v1/samples/labels", body).await?;
        let done = &mut self.done;
        done.labelled += answer.labelled;
        done.unknown_in_all += answer.unknown_in_all;
        done.refused_in_all += answer.refused_in_all;
        done.unknown.extend(answer.unknown);
        let place = |line: u64| {
            let index = usize::try_from(line).ok()?.checked_sub(1)?;
            places.get(index).copied()
        };
        let refused = answer.refused.into_iter();
        done.refused.extend(refused.map(|refused| RefusedLine {
            line: place(refused.line).unwrap_or(refused.line),
            ..refused
        }));
        done.unknown.truncate(16);
        done.refused.truncate(16);
        Ok(())
    }
}

fn label_of(text: &str) -> Value {
    match text.parse::<f64>() {
        _ if text.is_empty() => Value::Null,
        Ok(number) if number.is_finite() => number.into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_number_a_text_or_nothing() {
        for (text, wanted) in [
            ("", Value::Null),
            ("4287", json!(4287.0)),
            ("-1.5e3", json!(-1500.0)),
            ("Clouds", json!("Clouds")),
            ("NaN", json!("NaN")),
        ] {
            assert_eq!(label_of(text), wanted, "{text}");
        }
    }
}
