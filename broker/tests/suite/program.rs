//! The program's own means: its commands about users, and its signal to read them again.

use crate::{
    common::{DEADLINE, Hello, Raw},
    users::{login, set},
};
use lamppost_broker::{PasswordHash, UsersFile};
use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lamppost-broker");

fn run(arguments: &[&str], input: &str) -> Output {
    let mut program = Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    // A program that has no use for it may have ended.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    program.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_program_changes_a_file_of_users() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let file = path.to_str().unwrap();
    for (arguments, input, good, wanted) in [
        (&["list", file][..], "", false, "cannot read"),
        (&["remove", file, "ada"], "", false, "cannot read"),
        (
            &["add", file, "ada", "--password-stdin"],
            "one\n",
            true,
            "added ada",
        ),
        (
            &["add", file, "bob", "--password-stdin"],
            "two",
            true,
            "added bob",
        ),
        (
            &["add", file, "ada", "--password-stdin"],
            "three",
            true,
            "another password",
        ),
        (
            &["add", file, "eve", "--password-stdin"],
            "\n",
            false,
            "empty",
        ),
        (&["add", file, "a+b", "--password-stdin"], "x", false, "a+b"),
        (
            &["add", file, "bob/x", "--password-stdin"],
            "x",
            false,
            "bob/x",
        ),
        (&["list", file], "", true, "ada\nbob\n"),
        (&["remove", file, "eve"], "", false, "no user \"eve\""),
        (&["remove", file, "bob"], "", true, "removed bob"),
        (&["list", file], "", true, "ada\n"),
    ] {
        let output = run(&[&["user"], arguments].concat(), input);
        let said = text(if good { &output.stdout } else { &output.stderr });
        assert_eq!(output.status.success(), good, "{arguments:?}: {output:?}");
        assert!(said.contains(wanted), "{arguments:?}: {said}");
        assert!(!good || output.stderr.is_empty(), "{output:?}");
    }
    let content = std::fs::read_to_string(&path).unwrap();
    let hash = content.trim_end().strip_prefix("ada:").unwrap();
    let hash = PasswordHash::parse(hash).unwrap();
    assert_eq!(hash.matches(b"three"), Ok(true));
    let permissions = |mode| std::fs::Permissions::from_mode(mode);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, permissions(0o604)).unwrap();
    let said = text(&run(&["user", "list", file], "").stderr);
    assert!(said.contains("readable by every user"), "{said}");
}

/// The broker as a program, ended with the test.
struct Served {
    program: Child,
    address: SocketAddr,
}

impl Served {
    fn start(config: &Path) -> Self {
        let mut program = Command::new(PROGRAM)
            .arg("--config")
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        Self {
            address: address.parse().unwrap(),
            program,
        }
    }

    fn hang_up(&self) {
        let id = self.program.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until this login is answered so.
    async fn answers(&self, name: &str, password: &str, code: u8) {
        let since = Instant::now();
        while login(self.address, name, password).await != code {
            assert!(since.elapsed() < DEADLINE, "{name} {password} {code}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.program.kill());
        drop(self.program.wait());
    }
}

fn write_config(directory: &Path, users: &Path, more: &str) -> PathBuf {
    let path = directory.join("broker.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nusers_file = {:?}\n{more}[limits]\nlogin_failure_delay = \"0s\"\n",
        users.to_str().unwrap(),
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_signal_reads_users_and_rules_again() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    set(&users, "ada", "secret");
    let config = write_config(directory.path(), &users, "");
    let served = Served::start(&config);
    served.answers("ada", "secret", 0).await;
    served.answers("bob", "hidden", 0x86).await;
    // A broken file changes nothing, and the program lives on.
    std::fs::write(&config, "lisen = 1").unwrap();
    served.hang_up();
    served.answers("ada", "secret", 0).await;
    set(&users, "bob", "hidden");
    let no_publishing =
        "[[rule]]\neffect = \"deny\"\nwho = \"any\"\naction = \"publish\"\nfilter = \"#\"\n";
    write_config(directory.path(), &users, no_publishing);
    served.hang_up();
    served.answers("bob", "hidden", 0).await;
    let hello = Hello {
        v5: true,
        client_id: "bob",
        login: Some(("bob", "hidden")),
        ..Hello::default()
    };
    let mut bob = Raw::connect(served.address, &hello).await;
    assert_eq!(bob.publish_acked("a", b"x", false).await, 0x87);
    UsersFile::edit(&users, |file| Ok(file.remove("ada"))).unwrap();
    served.hang_up();
    served.answers("ada", "secret", 0x86).await;
}
