//! The program's arguments.

mod user;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use lamppost_broker::{Action, Config, ConfigError, Effect, Rule, Who};
use std::{net::SocketAddr, path::PathBuf};

/// An MQTT 3.1.1 and 5 broker.
#[derive(Debug, Parser)]
#[command(
    name = "lamppost-broker",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "SIGHUP reads users and rules again."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file; without it the defaults hold.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect, in place of the file's `listen`; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Let in clients without a user name.
    #[arg(long)]
    allow_anonymous: bool,
    /// State that anonymous clients are wanted although other machines can reach the address.
    #[arg(long)]
    expose_anonymous: bool,
    /// Refuse every subscription that touches this filter; may be repeated. Comes before the file's rules.
    #[arg(long, value_name = "FILTER")]
    deny_subscribe: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Change a file of users.
    #[command(subcommand)]
    User(user::UserCommand),
}

impl Cli {
    /// Does what was asked for, which may be to serve until a signal comes.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if let Some(Command::User(command)) = self.command {
            return command.run();
        }
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(crate::serve::serve(&self))
    }

    /// The configuration that the arguments and their file make together.
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if self.listen.is_some() {
            config.listen = self.listen;
        }
        config.allow_anonymous |= self.allow_anonymous;
        config.expose_anonymous |= self.expose_anonymous;
        let denied = self.deny_subscribe.iter().map(|filter| Rule {
            effect: Effect::Deny,
            who: Who::Any,
            action: Action::Subscribe,
            filter: filter.clone(),
        });
        config.rules.splice(0..0, denied);
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::Parser;
    use lamppost_broker::{Action, Effect};

    #[test]
    fn arguments_come_before_the_file() {
        let arguments = [
            "x",
            "--listen",
            "127.0.0.1:0",
            "--allow-anonymous",
            "--deny-subscribe",
            "a/#",
            "--deny-subscribe",
            "b",
        ];
        let config = Cli::try_parse_from(arguments).unwrap().config().unwrap();
        assert_eq!(config.listen.unwrap().port(), 0);
        assert!(config.allow_anonymous);
        let filters: Vec<_> = config
            .rules
            .iter()
            .map(|rule| rule.filter.as_str())
            .collect();
        assert_eq!(filters, ["a/#", "b"]);
        assert!(
            config
                .rules
                .iter()
                .all(|rule| (rule.effect, rule.action) == (Effect::Deny, Action::Subscribe))
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for arguments in [
            &["x", "--listen", "0.0.0.0:0", "--allow-anonymous"][..],
            &["x", "--deny-subscribe", "a#"],
        ] {
            assert!(
                Cli::try_parse_from(arguments).unwrap().config().is_err(),
                "{arguments:?}"
            );
        }
    }
    #[test]
    fn a_file_of_users_is_another_task() {
        for arguments in [
            &["x", "user", "add", "users", "ada", "--password-stdin"][..],
            &["x", "user", "remove", "users", "ada"],
            &["x", "user", "list", "users"],
        ] {
            assert!(Cli::try_parse_from(arguments).unwrap().command.is_some());
        }
        for arguments in [
            &["x", "--allow-anonymous", "user", "list", "users"][..],
            &["x", "user"],
            &["x", "user", "add", "users"],
        ] {
            assert!(Cli::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }
}
