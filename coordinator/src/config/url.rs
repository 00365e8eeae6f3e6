//! Where an external broker is.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

/// `mqtt[s]://[user[:password]@]host[:port]`; the port is 1883, with TLS 8883, unless given.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name and password.
    pub login: Option<(String, String)>,
}

/// Why a text is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("broker address is no mqtt://[user:password@]host[:port] or mqtts://...: {reason}")]
pub struct ParseBrokerUrlError {
    reason: &'static str,
}

impl FromStr for BrokerUrl {
    type Err = ParseBrokerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| ParseBrokerUrlError { reason };
        let (tls, rest) = match (text.strip_prefix("mqtt://"), text.strip_prefix("mqtts://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(wrong("it starts with neither mqtt:// nor mqtts://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, rest),
        };
        let login = login.map(|login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            let decoded = unescape(user).zip(unescape(password));
            decoded.ok_or_else(|| wrong("a % in the user name or password is followed by no two hexadecimal digits of UTF-8"))
        });
        // An IPv6 address stands in brackets, since it has colons of its own.
        let (host, port) = match address
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((host, port)) => (
                host,
                port.strip_prefix(':')
                    .or(port.is_empty().then_some(""))
                    .ok_or_else(|| wrong("after ] comes :port or nothing"))?,
            ),
            None => address.split_once(':').unwrap_or((address, "")),
        };
        if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
            return Err(wrong("the host is missing, or something follows it"));
        }
        let port = match port {
            "" => {
                if tls {
                    8883
                } else {
                    1883
                }
            }
            port => port
                .parse()
                .map_err(|_| wrong("the port is no number up to 65535"))?,
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            login: login.transpose()?,
        })
    }
}

/// Undoes percent escapes, so that a password may hold `@` and `:`.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(match byte {
            b'%' => u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Without the password.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://")?;
        if let Some((user, _)) = &self.login {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_written() {
        let url = |tls, host: &str, port, login: Option<(&str, &str)>| BrokerUrl {
            tls,
            host: host.to_owned(),
            port,
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
        };
        for (text, wanted) in [
            ("mqtt://host", url(false, "host", 1883, None)),
            ("mqtts://host/", url(true, "host", 8883, None)),
            (
                "mqtts://u:p%40%3A@h:1",
                url(true, "h", 1, Some(("u", "p@:"))),
            ),
            ("mqtt://u@[::1]:7", url(false, "::1", 7, Some(("u", "")))),
            ("mqtt://[::1]", url(false, "::1", 1883, None)),
        ] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "host",
            "http://h",
            "mqtt://",
            "mqtt://h:70000",
            "mqtt://h/x",
            "mqtt://u%4@h",
            "mqtt://[::1]x",
            "mqtt://%ff@h",
        ] {
            assert!(text.parse::<BrokerUrl>().is_err(), "{text}");
        }
        assert_eq!(
            "mqtt://u:secret@h"
                .parse::<BrokerUrl>()
                .unwrap()
                .to_string(),
            "mqtt://u@h:1883"
        );
    }
}
