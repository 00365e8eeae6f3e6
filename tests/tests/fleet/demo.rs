//! The demo itself, short, as a process.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use lamppost_tests::wait;
use lamppost_tests::world::{deadline, run};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

fn demo(seconds: &str) -> Command {
    let mut command = Command::new(super::DEMO);
    command
        .args(["--seconds", seconds])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[test]
fn the_demo_keeps_its_promises_and_writes_no_escape_codes_into_a_pipe() -> anyhow::Result<()> {
    run(async {
        let output = tokio::time::timeout(
            Duration::from_mins(2),
            demo("40").stderr(Stdio::piped()).output(),
        )
        .await??;
        let text = String::from_utf8(output.stdout)?;
        assert!(
            output.status.success(),
            "{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.starts_with("Lamppost demo:"), "{text}");
        assert!(text.contains("7 of 7 promises came true"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        Ok(())
    })
}

/// The processes that this one started, by number.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_parent = |number: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        // After the name in brackets: state, parent.
        stat.rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok())
            == Some(parent)
    };
    numbers.filter(has_parent).collect()
}

/// Whether a process is one of the demo's roles still.
fn plays(number: u32) -> bool {
    std::fs::read(format!("/proc/{number}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains("tied"))
}

async fn demo_with_its_roles() -> anyhow::Result<(Child, Vec<u32>)> {
    let mut child = demo("60").stderr(Stdio::null()).spawn()?;
    let number = child.id().context("a running demo")?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let running = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("sensors send") {
                // The rest is read, so that the demo does not wait for its reader.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(children_of(number));
            }
        }
        anyhow::bail!("the demo ended before its sensors began")
    };
    let roles = tokio::time::timeout_at(deadline(), running).await??;
    assert_eq!(roles.len(), 4, "a coordinator and three agents");
    assert!(roles.iter().all(|&role| plays(role)));
    Ok((child, roles))
}

#[test]
fn a_demo_that_is_stopped_or_killed_fails_and_leaves_no_process() -> anyhow::Result<()> {
    run(async {
        for signal in [Signal::TERM, Signal::KILL] {
            let (mut child, roles) = demo_with_its_roles().await?;
            let number = child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
                .context("its number")?;
            kill_process(number, signal)?;
            let status = tokio::time::timeout_at(deadline(), child.wait()).await??;
            assert!(!status.success(), "{status}");
            wait::until("the end of its processes", deadline(), || {
                std::future::ready((!roles.iter().any(|&role| plays(role))).then_some(()))
            })
            .await?;
        }
        Ok(())
    })
}
