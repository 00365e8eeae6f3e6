//! Listeners: an address with TLS, WebSocket, both or neither in front of MQTT.

use super::ConfigError;
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};

/// An address where clients connect, and what stands between TCP and MQTT there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawListener")]
pub struct Listener {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// TLS 1.3 and 1.2; `None` for plain bytes.
    pub tls: Option<TlsFiles>,
    /// WebSocket, which browsers need; `None` for MQTT without it.
    pub websocket: Option<WebSocket>,
}

/// The PEM files of a TLS listener. They are read when the broker starts and when it reloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The listener's certificate, then those between it and the root.
    pub certificate_file: PathBuf,
    /// The private key of the certificate.
    pub key_file: PathBuf,
    /// Whether clients show certificates; `None` to ask for none.
    pub clients: Option<ClientCertificates>,
}

/// Which certificates of clients are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The certificates of the authorities that sign clients' ones.
    pub ca_file: PathBuf,
    /// Certificates that have been revoked. Given, it must cover every authority that signs one, the root's apart.
    pub crl_file: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
}

/// How a WebSocket listener is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    /// The path of the URL, without its query.
    pub path: String,
    /// Web pages that may connect, by origin such as `https://dash.example`; `*` for all.
    ///
    /// A browser lets any page connect anywhere, from inside the network of whoever opens it, and tells the page's
    /// origin. Therefore pages are refused unless they are listed. Programs other than browsers send no origin, or make
    /// one up from the address they connect to, which is let in where no page can have it.
    pub origins: Vec<String>,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            path: "/mqtt".to_owned(),
            origins: Vec::new(),
        }
    }
}

impl Listener {
    /// A listener for plain TCP.
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            websocket: None,
        }
    }

    /// Whether clients may log in with a certificate.
    pub(crate) fn knows_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.clients.is_some())
    }

    /// Checks the listener on its own, and that it opens anonymous access to nobody by accident.
    pub(super) fn validate(&self, anonymous: bool) -> Result<(), ConfigError> {
        let Self {
            address,
            tls,
            websocket,
        } = self;
        let wrong = |problem: String| ConfigError::Listener {
            address: *address,
            problem,
        };
        if let Some(WebSocket { path, origins }) = websocket {
            let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
            if !path.starts_with('/') || !path.bytes().all(plain) {
                return Err(wrong(format!(
                    "path is {path:?}, expected one such as /mqtt, without ?, # and spaces"
                )));
            }
            if let Some(origin) = origins.iter().find(|origin| !is_origin(origin)) {
                return Err(wrong(format!(
                    "origin {origin:?} is neither * nor of the form https://HOST or https://HOST:PORT, in small letters"
                )));
            }
        }
        let clients = tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let certified = clients.is_some_and(|clients| clients.required);
        if !anonymous || certified {
            return Ok(());
        }
        if !address.ip().to_canonical().is_loopback() {
            return Err(ConfigError::AnonymousExposed(*address));
        }
        if websocket
            .as_ref()
            .is_some_and(|websocket| websocket.origins.iter().any(|origin| origin == "*"))
        {
            return Err(wrong(
                "origins has *, so that every web page could connect as an anonymous client: list the pages' origins, or \
                 state expose_anonymous = true"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

fn is_origin(text: &str) -> bool {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let part = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && byte != b'/';
    text == "*" || host.is_some_and(|host| !host.is_empty() && host.bytes().all(part))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListener {
    address: String,
    transport: Transport,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
    client_crl_file: Option<PathBuf>,
    client_certificates: Option<Wanted>,
    path: Option<String>,
    origins: Option<Vec<String>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Transport {
    Tcp,
    Tls,
    Ws,
    Wss,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Required,
    Optional,
}

impl TryFrom<RawListener> for Listener {
    type Error = ConfigError;

    fn try_from(mut raw: RawListener) -> Result<Self, ConfigError> {
        let address = raw.address.parse().map_err(|_| ConfigError::Listen {
            key: "address of a listener",
            value: raw.address.clone(),
        })?;
        let wrong = |problem: &str| ConfigError::Listener {
            address,
            problem: problem.to_owned(),
        };
        let (secure, web) = match raw.transport {
            Transport::Tcp => (false, false),
            Transport::Tls => (true, false),
            Transport::Ws => (false, true),
            Transport::Wss => (true, true),
        };
        let tls = raw.take_tls().map_err(wrong)?;
        match (secure, &tls) {
            (true, None) => {
                return Err(wrong(
                    "transport tls and wss need certificate_file and key_file",
                ));
            }
            (false, Some(_)) => {
                return Err(wrong(
                    "certificate_file and the keys about certificates need transport tls or wss",
                ));
            }
            _ => {}
        }
        if !web && (raw.path.is_some() || raw.origins.is_some()) {
            return Err(wrong("path and origins need transport ws or wss"));
        }
        let default = WebSocket::default();
        let websocket = web.then(|| WebSocket {
            path: raw.path.unwrap_or(default.path),
            origins: raw.origins.unwrap_or(default.origins),
        });
        Ok(Self {
            address,
            tls,
            websocket,
        })
    }
}

impl RawListener {
    fn take_tls(&mut self) -> Result<Option<TlsFiles>, &'static str> {
        let clients = match (
            self.client_ca_file.take(),
            self.client_crl_file.take(),
            self.client_certificates,
        ) {
            (Some(ca_file), crl_file, wanted) => Some(ClientCertificates {
                ca_file,
                crl_file,
                required: wanted != Some(Wanted::Optional),
            }),
            (None, None, None) => None,
            (None, ..) => {
                return Err("client_certificates and client_crl_file need client_ca_file");
            }
        };
        match (self.certificate_file.take(), self.key_file.take(), clients) {
            (Some(certificate_file), Some(key_file), clients) => Ok(Some(TlsFiles {
                certificate_file,
                key_file,
                clients,
            })),
            (None, None, None) => Ok(None),
            _ => Err("certificate_file and key_file are given together, and first"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ClientCertificates, Listener, TlsFiles, WebSocket};
    use crate::config::Config;

    const TLS: &str = "certificate_file = \"c\"\nkey_file = \"k\"";

    fn parse(keys: &str) -> Result<Config, String> {
        let text = format!("[[listener]]\n{keys}");
        toml::from_str(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn all_transports_are_read() {
        let address = "127.0.0.1:0".parse().unwrap();
        let tls = |clients| {
            Some(TlsFiles {
                certificate_file: "c".into(),
                key_file: "k".into(),
                clients,
            })
        };
        let clients = |crl_file: Option<&str>, required| {
            Some(ClientCertificates {
                ca_file: "ca".into(),
                crl_file: crl_file.map(Into::into),
                required,
            })
        };
        let web = |path: &str, origins: &[&str]| {
            Some(WebSocket {
                path: path.into(),
                origins: origins.iter().map(ToString::to_string).collect(),
            })
        };
        for (keys, tls, websocket) in [
            ("transport = \"tcp\"".to_owned(), None, None),
            (format!("transport = \"tls\"\n{TLS}"), tls(None), None),
            (
                format!("transport = \"tls\"\n{TLS}\nclient_ca_file = \"ca\""),
                tls(clients(None, true)),
                None,
            ),
            (
                format!(
                    "transport = \"wss\"\n{TLS}\nclient_ca_file = \"ca\"\nclient_crl_file = \"crl\"\nclient_certificates = \
                     \"optional\"\norigins = [\"https://a.example:1\"]"
                ),
                tls(clients(Some("crl"), false)),
                web("/mqtt", &["https://a.example:1"]),
            ),
            (
                "transport = \"ws\"\npath = \"/\"".to_owned(),
                None,
                web("/", &[]),
            ),
        ] {
            let config = parse(&format!("address = \"127.0.0.1:0\"\n{keys}")).unwrap();
            assert_eq!(
                config.listeners,
                [Listener {
                    address,
                    tls,
                    websocket
                }]
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (keys, wanted) in [
            (
                "address = \"x\"\ntransport = \"tcp\"",
                "address of a listener",
            ),
            (
                "address = \"[::1]:1\"\ntransport = \"tls\"",
                "need certificate_file",
            ),
            (
                "address = \"[::1]:1\"\ntransport = \"tls\"\nkey_file = \"k\"",
                "together",
            ),
            (
                "address = \"[::1]:1\"\ntransport = \"ws\"\ncertificate_file = \"c\"\nkey_file = \"k\"",
                "need transport tls or wss",
            ),
            (
                "address = \"[::1]:1\"\ntransport = \"tls\"\ncertificate_file = \"c\"\nkey_file = \"k\"\npath = \"/\"",
                "need transport ws",
            ),
            (
                "address = \"[::1]:1\"\ntransport = \"tls\"\ncertificate_file = \"c\"\nkey_file = \"k\"\nclient_certificates = \
                 \"required\"",
                "need client_ca_file",
            ),
            (
                "address = \"[::1]:1\"\ntransport = \"ws\"\npath = \"mqtt\"",
                "\"mqtt\"",
            ),
            (
                "address = \"[::1]:1\"\ntransport = \"ws\"\npath = \"/a b\"",
                "\"/a b\"",
            ),
            (
                "address = \"[::1]:1\"\ntransport = \"ws\"\norigins = [\"dash.example\"]",
                "\"dash.example\"",
            ),
            ("address = \"[::1]:1\"\ntransport = \"quic\"", "quic"),
        ] {
            let error = parse(keys).unwrap_err();
            assert!(error.contains(wanted), "{keys}: {error}");
        }
    }

    #[test]
    fn rules_may_name_whoever_has_a_certificate() {
        let rule =
            "[[rule]]\neffect = \"allow\"\nwho = \"user:lamp-7\"\naction = \"any\"\nfilter = \"#\"";
        let listener = format!("address = \"[::1]:1\"\ntransport = \"tls\"\n{TLS}\n");
        let error = parse(&format!("{listener}{rule}")).unwrap_err();
        assert!(error.contains("lamp-7"), "{error}");
        assert!(parse(&format!("{listener}client_ca_file = \"ca\"\n{rule}")).is_ok());
    }

    #[test]
    fn anonymous_access_is_opened_to_nobody_by_accident() {
        let files = |required| TlsFiles {
            certificate_file: "c".into(),
            key_file: "k".into(),
            clients: Some(ClientCertificates {
                ca_file: "ca".into(),
                crl_file: None,
                required,
            }),
        };
        let all_pages = WebSocket {
            origins: vec!["*".into()],
            ..WebSocket::default()
        };
        for (address, tls, websocket, allowed) in [
            ("127.0.0.1:1", None, None, true),
            ("[::ffff:127.0.0.1]:1", None, None, true),
            ("0.0.0.0:1", None, None, false),
            ("0.0.0.0:1", Some(files(false)), None, false),
            ("0.0.0.0:1", Some(files(true)), None, true),
            ("127.0.0.1:1", None, Some(WebSocket::default()), true),
            ("127.0.0.1:1", None, Some(all_pages.clone()), false),
            ("127.0.0.1:1", Some(files(true)), Some(all_pages), true),
        ] {
            let listener = Listener {
                address: address.parse().unwrap(),
                tls,
                websocket,
            };
            let config = |allow_anonymous, expose_anonymous| Config {
                allow_anonymous,
                expose_anonymous,
                listeners: vec![listener.clone()],
                ..Config::default()
            };
            assert_eq!(
                config(true, false).validate().is_ok(),
                allowed,
                "{listener:?}"
            );
            assert!(
                config(false, false).validate().is_ok() && config(true, true).validate().is_ok()
            );
        }
    }
}
