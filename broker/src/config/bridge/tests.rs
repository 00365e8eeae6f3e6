use super::{Bridge, BridgeLogin, BridgePassword, BridgeRoute, BridgeTls, BridgeVersion};
use crate::{config::Config, message::QoS};
use std::time::Duration;

fn error(text: &str) -> String {
    toml::from_str::<Config>(text).unwrap_err().to_string()
}

#[test]
fn a_bridge_is_read_with_its_defaults() {
    let text = r##"
        [[bridge]]
        name = "hall"
        url = "mqtts://[::1]"
        user = "me"
        password = "secret"
        out = [{ filter = "a/#", remote_prefix = "x/" }]
        in = [{ filter = "#", qos = 0, local_prefix = "hall/" }]
    "##;
    let config: Config = toml::from_str(text).unwrap();
    let route = |filter: &str, qos, local: &str, remote: &str| BridgeRoute {
        filter: filter.into(),
        qos,
        local_prefix: local.into(),
        remote_prefix: remote.into(),
        allow_protected: false,
    };
    let wanted = Bridge {
        name: "hall".into(),
        host: "::1".into(),
        port: 8883,
        tls: Some(BridgeTls::default()),
        login: Some(BridgeLogin {
            user: "me".into(),
            password: BridgePassword::Text("secret".into()),
        }),
        client_id: "hall-bridge".into(),
        version: BridgeVersion::V5,
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::from_hours(24),
        notification_topic: None,
        queue_bytes_max: 4 << 20,
        queue_count_max: 16_384,
        outward: vec![route("a/#", QoS::AtLeastOnce, "", "x/")],
        inward: vec![route("#", QoS::AtMostOnce, "hall/", "")],
    };
    assert_eq!(config.bridges, [wanted]);
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn what_is_wrong_is_named() {
    for (keys, wanted) in [
        ("url = \"tcp://x\"", "mqtt://HOST:PORT"),
        ("url = \"mqtt://me:pw@x\"", "keys of their own"),
        ("url = \"mqtt://x:port\"", "mqtt://x:port"),
        ("url = \"mqtt://x\"\nversion = 3", "version is 3"),
        (
            "url = \"mqtt://x\"\nkeep_alive = \"1s\"",
            "keep_alive (s) is 1, expected 5 to 65535",
        ),
        (
            "url = \"mqtt://x\"\nkeep_alive = \"soon\"",
            "keep_alive is not a duration",
        ),
        (
            "url = \"mqtt://x\"\nqueue_bytes_max = 1",
            "queue_bytes_max is 1",
        ),
        ("url = \"mqtt://x\"\nca_file = \"ca\"", "mqtts://"),
        (
            "url = \"mqtts://x\"\nkey_file = \"key\"",
            "certificate_file and key_file",
        ),
        (
            "url = \"mqtt://x\"\npassword = \"p\"",
            "password without a user",
        ),
        (
            "url = \"mqtt://x\"\nuser = \"u\"\npassword = \"p\"\npassword_file = \"f\"",
            "password_file",
        ),
        ("url = \"mqtt://x\"\nclient_id = \"\"", "client_id"),
        (
            "url = \"mqtt://x\"\nnotification_topic = \"$SYS/x\"",
            "notification_topic",
        ),
        ("url = \"mqtt://x\"\nuser_name = \"u\"", "user_name"),
    ] {
        let text = format!("[[bridge]]\nname = \"hall\"\nout = [{{ filter = \"a\" }}]\n{keys}");
        let error = error(&text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn what_passes_is_checked() {
    for (keys, wanted) in [
        ("", "nothing would pass"),
        ("out = [{ filter = \"a#\" }]", "a#"),
        ("out = [{ filter = \"#\", local_prefix = \"a\" }]", "a#"),
        ("out = [{ filter = \"b\", local_prefix = \"+/\" }]", "+/"),
        ("out = [{ filter = \"b\", qos = 2 }]", "at least once"),
        ("out = [{ filter = \"b\", qos = 3 }]", "qos is 3"),
        ("out = [{ filter = \"$SYS/#\" }]", "remote_prefix"),
        (
            "out = [{ filter = \"$share/g/a\", remote_prefix = \"x/\" }]",
            "$share",
        ),
        (
            "out = [{ filter = \"a\", allow_protected = true }]",
            "allow_protected",
        ),
        (
            "out = [{ filter = \"a/+\" }, { filter = \"+/b\", remote_prefix = \"x/\" }]",
            "of out overlap",
        ),
        (
            "in = [{ filter = \"a/+\" }, { filter = \"+/b\", local_prefix = \"x/\" }]",
            "of in overlap",
        ),
        (
            "in = [{ filter = \"$SYS/#\", local_prefix = \"x/\" }]",
            "$SYS",
        ),
        (
            "in = [{ filter = \"x\", local_prefix = \"$SYS/\" }]",
            "$SYS",
        ),
        ("in = [{ filter = \"#\" }]", "lamppost/v1/#"),
        (
            "in = [{ filter = \"nodes/#\", local_prefix = \"lamppost/v1/\" }]",
            "allow_protected = true",
        ),
        (
            "version = 4\nout = [{ filter = \"a/#\", remote_prefix = \"x/\" }]\nin = [{ filter = \"x/+/b\" }]",
            "\"x/a/#\" of out overlaps \"x/+/b\" of in",
        ),
    ] {
        let text = format!("[[bridge]]\nname = \"hall\"\nurl = \"mqtt://x\"\n{keys}");
        let error = error(&text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
    for keys in [
        "out = [{ filter = \"$SYS/#\", remote_prefix = \"x/\" }]",
        "out = [{ filter = \"#\" }]\nin = [{ filter = \"#\", allow_protected = true }]",
        "version = 4\nout = [{ filter = \"#\", remote_prefix = \"x/\" }]\nin = [{ filter = \"#\", remote_prefix = \"y/\", local_prefix = \"y/\" }]",
    ] {
        let text = format!("[[bridge]]\nname = \"hall\"\nurl = \"mqtt://x\"\n{keys}");
        assert!(toml::from_str::<Config>(&text).is_ok(), "{text}");
    }
}

#[test]
fn names_and_numbers_of_bridges_are_bounded() {
    let bridge = |name: &str| {
        format!("[[bridge]]\nname = {name:?}\nurl = \"mqtt://x\"\nout = [{{ filter = \"a\" }}]\n")
    };
    let many: String = (0..17).map(|n| bridge(&format!("b{n}"))).collect();
    for (text, wanted) in [
        (bridge("a/b"), "a-z"),
        (bridge(""), "a-z"),
        (bridge("b") + &bridge("b"), "two bridges"),
        (many, "there are 17 bridges"),
        ("broker_id = \"a b\"".to_owned(), "broker_id"),
    ] {
        let error = error(&text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}
