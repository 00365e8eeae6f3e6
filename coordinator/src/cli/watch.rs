//! `lamppost watch`.

use super::args::{Global, Watch};
use super::client::Client;
use super::{Exit, Failure, print};
use crate::api::WatchLine;

pub(super) async fn run(watch: Watch, global: &Global) -> Result<(), Failure> {
    let Watch { filter, count } = watch;
    let mut lines = Client::new(global)?
        .lines("/v1/watch", &[("filter", filter)])
        .await?;
    let mut left = count;
    while left != Some(0) {
        let Some(line) = lines.next().await? else {
            return Err(Failure::new(
                Exit::Unreachable,
                "the coordinator ended the watch: it stops, or lost its broker",
            ));
        };
        let text = String::from_utf8_lossy(&line);
        if global.json {
            print(&text)?;
        } else {
            let line = serde_json::from_str(&text).map_err(|error| Failure::failed(&error))?;
            print(&human(&line))?;
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// Topic and payload, on one line whatever the payload holds.
fn human(line: &WatchLine) -> String {
    let payload = match (&line.json, &line.text, &line.base64) {
        (Some(json), _, _) => json.to_string(),
        (None, Some(text), _) => text.escape_debug().to_string(),
        (None, None, Some(base64)) => format!("base64:{base64}"),
        // JSON null reads back as nothing.
        (None, None, None) => "null".to_owned(),
    };
    format!("{} {payload}", line.topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        for (json, wanted) in [
            (
                r#"{"at":"2026-01-01T00:00:00Z","topic":"a/b","retain":false,"json":{"a":1}}"#,
                r#"a/b {"a":1}"#,
            ),
            (
                r#"{"at":"2026-01-01T00:00:00Z","topic":"a/b","retain":false,"text":"on\noff"}"#,
                r"a/b on\noff",
            ),
            (
                r#"{"at":"2026-01-01T00:00:00Z","topic":"a/b","retain":true,"base64":"/wA="}"#,
                "a/b base64:/wA=",
            ),
        ] {
            assert_eq!(human(&serde_json::from_str(json).unwrap()), wanted);
        }
    }
}
