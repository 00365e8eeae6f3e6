//! `lamppost samples`.

use std::io::{self, IsTerminal as _, Write as _};

use super::args::Global;
use super::client::Client;
use super::{Exit, Failure, show, tables};
use crate::api::{Forgotten, SampleSummary};

pub(super) mod args;
mod export;
mod label;

use args::{Samples, Which};

/// Where the API has samples.
const SAMPLES: &str = "/v1/samples";

pub(super) async fn run(samples: Samples, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match samples {
        Samples::Ls => {
            let rows: Vec<SampleSummary> = client.get("/v1/samples/summary").await?;
            show(global, &rows, || tables::samples(&rows))
        }
        Samples::Label { file } => label::run(&client, &file, global).await,
        Samples::Export {
            which,
            format,
            output,
        } => export::run(&client, &which, format, &output, global).await,
        Samples::Forget { which, yes } => forget(&client, &which, yes, global).await,
    }
}

async fn forget(client: &Client, which: &Which, yes: bool, global: &Global) -> Result<(), Failure> {
    let query = which.query();
    if query.is_empty() {
        let text = "say which samples to forget, at least by one option: see `lamppost samples forget --help`";
        return Err(Failure::new(Exit::Usage, text));
    }
    if !yes && !confirmed(&query)? {
        return Err(Failure::new(Exit::Failed, "nothing is forgotten"));
    }
    let answer: Forgotten = client.delete(SAMPLES, &query).await?;
    show(global, &answer, || {
        format!("{} samples are forgotten", answer.forgotten)
    })
}

fn confirmed(query: &[(&str, String)]) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let text = "nobody can be asked here: give --yes to delete these samples for good";
        return Err(Failure::new(Exit::Usage, text));
    }
    let which = query.iter().map(|(key, value)| format!("{key} {value}"));
    let which = which.collect::<Vec<_>>().join(", ");
    let mut stderr = io::stderr();
    write!(
        stderr,
        "Delete for good all samples with {which}? [yes/no] "
    )?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
