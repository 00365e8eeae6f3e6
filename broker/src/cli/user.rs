//! `lamppost-broker user`: changes a file of users.

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use lamppost_broker::{PasswordHash, UsersFile};
use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// Bytes of a password: MQTT's own limit, since its length is a 16-bit number.
const PASSWORD_BYTES_MAX: usize = 65_535;

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user, or change a user's password.
    Add {
        /// The file; a new one is readable by its owner only.
        file: PathBuf,
        /// The user name.
        name: String,
        /// Read the password from the standard input, to its end or one line break before it.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user.
    Remove {
        /// The file.
        file: PathBuf,
        /// The user name.
        name: String,
    },
    /// List the users' names.
    List {
        /// The file.
        file: PathBuf,
    },
}

impl UserCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add {
                file,
                name,
                password_stdin,
            } => add(&file, &name, password_stdin),
            Self::Remove { file, name } => {
                // A file that is not there is not made for this.
                warn_of_others(&UsersFile::read(&file)?, &file);
                if !UsersFile::edit(&file, |users| Ok(users.remove(&name)))? {
                    bail!("{} has no user {name:?}", file.display());
                }
                say(&format!("removed {name}"))
            }
            Self::List { file } => {
                let users = UsersFile::read(&file)?;
                warn_of_others(&users, &file);
                users.names().try_for_each(say)
            }
        }
    }
}

fn add(file: &Path, name: &str, password_stdin: bool) -> anyhow::Result<()> {
    let password = if password_stdin {
        password_from(io::stdin())?
    } else {
        ask(name)?
    };
    ensure!(!password.is_empty(), "the password is empty");
    let hash = PasswordHash::of(password.as_bytes())?;
    let replaced = UsersFile::edit(file, |users| users.set(name, hash))?;
    warn_of_others(&UsersFile::read(file)?, file);
    say(&if replaced {
        format!("{name} has another password")
    } else {
        format!("added {name}")
    })
}

fn ask(name: &str) -> anyhow::Result<String> {
    let ask = |prompt: String| {
        rpassword::prompt_password(prompt).context(
            "cannot ask for the password; --password-stdin reads it from the standard input",
        )
    };
    let password = ask(format!("Password of {name}: "))?;
    ensure!(
        password == ask("Again: ".to_owned())?,
        "the two passwords differ"
    );
    Ok(password)
}

fn password_from(input: impl io::Read) -> anyhow::Result<String> {
    let mut password = String::new();
    input
        .take(PASSWORD_BYTES_MAX as u64 + 2)
        .read_to_string(&mut password)
        .context("cannot read the password")?;
    if password.ends_with('\n') {
        password.pop();
        if password.ends_with('\r') {
            password.pop();
        }
    }
    ensure!(
        password.len() <= PASSWORD_BYTES_MAX,
        "the password is longer than {PASSWORD_BYTES_MAX} bytes"
    );
    Ok(password)
}

fn warn_of_others(users: &UsersFile, file: &Path) {
    if users.is_readable_by_others() {
        let file = file.display();
        eprintln!("warning: {file} is readable by every user of this machine; chmod o= mends that");
    }
}

/// Prints a line; a reader that has gone, such as `head`, is an error and no panic.
fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot print")
}

#[cfg(test)]
mod tests {
    use super::{PASSWORD_BYTES_MAX, password_from};

    #[test]
    fn a_line_break_at_the_end_is_not_of_the_password() {
        for (input, wanted) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("two\nlines\n\n", "two\nlines\n"),
            (" \n", " "),
            ("", ""),
        ] {
            assert_eq!(password_from(input.as_bytes()).unwrap(), wanted);
        }
        let long = "x".repeat(PASSWORD_BYTES_MAX);
        assert_eq!(password_from(long.as_bytes()).unwrap(), long);
        for more in ["x", "xx", "xxxx"] {
            assert!(password_from(format!("{long}{more}").as_bytes()).is_err());
        }
    }
}
