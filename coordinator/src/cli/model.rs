//! `lamppost model`.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lamppost_models::Bundle;
use lamppost_models::bundle::{BUNDLE_BYTES_MAX, FILES};

use super::args::{Global, Model};
use super::client::Client;
use super::{Exit, Failure, block_on, show, tables};
use crate::api::{ModelDetail, ModelRow, Pushed};
use crate::clock::now;
use crate::{files, preflight};

/// Bytes that are handed to the connection at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// What takes longer gets a progress bar.
const BAR_AFTER: Duration = Duration::from_secs(1);

pub(super) fn run(model: Model, global: &Global) -> Result<(), Failure> {
    match model {
        Model::Push { path } => push(&path, global),
        Model::Ls => block_on(list(global)),
        Model::Inspect { model, version } => block_on(async {
            let path = format!(
                "/v1/models/{model}/{}",
                version.to_string().replace('+', "%2B")
            );
            let detail: ModelDetail = Client::new(global)?.get(&path).await?;
            show(global, &detail, || tables::model(&detail, now()))
        }),
        Model::Provenance { model, version } => {
            block_on(super::forge::provenance(global, model, version))
        }
        Model::Verify { path } => verify(&path, global),
        Model::Pack { folder, output } => pack(&folder, &output, global),
    }
}

async fn list(global: &Global) -> Result<(), Failure> {
    let rows: Vec<ModelRow> = Client::new(global)?.get("/v1/models").await?;
    show(global, &rows, || tables::models(&rows, now()))
}

fn push(path: &Path, global: &Global) -> Result<(), Failure> {
    let bundle = read(path)?;
    block_on(async {
        let pushed = upload(&Client::new(global)?, bundle).await?;
        show(global, &pushed, || tables::pushed(&pushed))
    })
}

pub(super) async fn upload(client: &Client, bundle: Vec<u8>) -> Result<Pushed, Failure> {
    let (bytes, started) = (bundle.len() as u64, Instant::now());
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::hidden());
    let style = "{msg} [{bar:30}] {bytes}/{total_bytes}";
    bar.set_style(ProgressStyle::with_template(style).map_err(|error| Failure::failed(&error))?);
    bar.set_message("uploading");
    let progress = bar.clone();
    let chunks = stream::unfold(
        (Bytes::from(bundle), progress),
        move |(mut rest, progress)| async move {
            if rest.is_empty() {
                progress.set_message("checking");
                return None;
            }
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            progress.inc(chunk.len() as u64);
            Some((Ok::<_, std::io::Error>(chunk), (rest, progress)))
        },
    );
    let mut answer =
        std::pin::pin!(client.put("/v1/models", bytes, reqwest::Body::wrap_stream(chunks)));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        () = tokio::time::sleep_until((started + BAR_AFTER).into()) => {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(100));
            answer.await
        }
    };
    bar.finish_and_clear();
    answer
}

fn verify(path: &Path, global: &Global) -> Result<(), Failure> {
    let bytes = read(path)?;
    let report = preflight::check_here(&bytes).map_err(|error| Failure::failed(&error))?;
    show(global, &report, || {
        let (name, version, digest) = (&report.name, &report.version, report.digest);
        tables::verified(
            &format!("{name} {version}"),
            digest,
            &preflight::of_report(&report),
        )
    })
}

fn pack(folder: &Path, output: &Path, global: &Global) -> Result<(), Failure> {
    let bytes = pack_folder(folder)?;
    let bundle = Bundle::read(&bytes).map_err(|error| Failure::failed(&error))?;
    let named = |error: std::io::Error| {
        Failure::new(
            Exit::Failed,
            format!("{} cannot be written: {error}", output.display()),
        )
    };
    files::write_whole(output, &bytes, 0o644).map_err(named)?;
    let packed =
        serde_json::json!({ "file": output, "digest": bundle.digest(), "bytes": bytes.len() });
    show(global, &packed, || {
        format!(
            "{}  {}  {}",
            output.display(),
            crate::units::human_bytes(bytes.len() as u64),
            bundle.digest()
        )
    })
}

/// A bundle: a file as it is, a folder packed.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    if path.is_dir() {
        pack_folder(path)
    } else {
        read_file(path, BUNDLE_BYTES_MAX)
    }
}

fn pack_folder(folder: &Path) -> Result<Vec<u8>, Failure> {
    let [manifest, model, golden] =
        FILES.map(|name| read_file(&folder.join(name), BUNDLE_BYTES_MAX));
    Bundle::pack(&manifest?, &model?, &golden?).map_err(|error| Failure::failed(&error))
}

pub(super) fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let named = |error: std::io::Error| {
        let Failure { exit, text } = Failure::from(error);
        Failure::new(exit, format!("{} cannot be read: {text}", path.display()))
    };
    let bytes = std::fs::metadata(path).map_err(named)?.len();
    if bytes > bytes_max {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} has {bytes} bytes, the limit is {bytes_max}",
                path.display()
            ),
        ));
    }
    std::fs::read(path).map_err(named)
}
