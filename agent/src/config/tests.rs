use std::collections::BTreeSet;

use toml::{Table, Value};

use super::coordinator::broker_address;
use super::raw::RawConfig;
use super::*;

const SHIPPED: &str = include_str!("../../../configs/agent.toml");

/// Keys without a default, and those whose form is another crate's.
const NO_DEFAULT: [&str; 14] = [
    "site",
    "node",
    "broker",
    "coordinator",
    "coordinator.mqtt",
    "coordinator.http",
    "coordinator.keys",
    "model",
    "model.name",
    "model.bundle",
    "stream",
    "stream.name",
    "stream.model",
    "stream.source",
];

/// The shipped file with the keys that stand in comments.
fn with_commented_keys() -> String {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase() || first == '[') => {
            format!("{key}\n")
        }
        _ => format!("{line}\n"),
    };
    SHIPPED.lines().map(uncommented).collect()
}

/// The paths of all keys down to the second level; of arrays of tables, those of the first one.
fn keys(table: &Table) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (key, value) in table {
        keys.insert(key.clone());
        let first = value
            .as_array()
            .and_then(|items| items.first())
            .and_then(Value::as_table);
        let inner = value.as_table().or(first);
        keys.extend(
            inner
                .into_iter()
                .flat_map(Table::keys)
                .map(|inner| format!("{key}.{inner}")),
        );
    }
    keys
}

fn remove(table: &mut Table, path: &str) {
    match path.split_once('.') {
        None => {
            table.remove(path);
        }
        Some((outer, key)) => {
            let inner = match table.get_mut(outer) {
                Some(Value::Array(items)) => items.first_mut().and_then(Value::as_table_mut),
                Some(other) => other.as_table_mut(),
                None => None,
            };
            inner.unwrap().remove(key);
        }
    }
}

#[test]
fn the_shipped_file_is_the_defaults() {
    let shipped: Table = toml::from_str(SHIPPED).unwrap();
    let whole: RawConfig = shipped.clone().try_into().unwrap();
    for key in keys(&shipped) {
        if NO_DEFAULT.contains(&key.as_str()) {
            continue;
        }
        let mut without = shipped.clone();
        remove(&mut without, &key);
        match without.try_into::<RawConfig>() {
            // The broker's table is held to configs/broker.toml by the broker.
            Ok(config) if !key.starts_with("broker.") => {
                assert_eq!(config, whole, "{key} is not shown with its default");
            }
            Ok(_) => {}
            Err(error) => assert_eq!(key, "stream.window", "{key} has no default: {error}"),
        }
    }
    Config::try_from(whole).unwrap();
}

#[test]
fn the_shipped_file_has_every_key() {
    let text = with_commented_keys();
    let shown: Table = toml::from_str(&text).unwrap();
    let known = Table::try_from(shown.clone().try_into::<RawConfig>().unwrap()).unwrap();
    assert_eq!(keys(&shown), keys(&known));
    // Both ways to give a password, which exclude each other, are shown.
    let alone = text
        .replace("password_file", "#password_file")
        .replace("trust_file", "#trust_file");
    Config::parse(&alone).unwrap();
}

#[test]
fn the_shortest_configuration_is_enough() {
    let config = Config::parse(
        r#"
        site = "s"
        node = "n"
        [[stream]]
        name = "a"
        source = { topic = "t", decode = "json", fields = { x = "/x" } }
        window = { count = 1 }
        model = "m"
        "#,
    )
    .unwrap();
    assert!(config.coordinator.is_none());
    assert!(
        config.broker.allow_anonymous,
        "sensors on the same machine need no password"
    );
    assert_eq!(config.broker.rules[0].filter, "lamppost/v1/#");
    assert_eq!(config.broker.protected, ["lamppost/v1/#"]);
}

#[test]
fn what_is_kept_for_training_is_named_and_allowed() {
    let parse = |sample: &str, coordinator: bool| {
        let table = "[coordinator]\nmqtt = \"mqtt://h\"\nhttp = \"http://h\"\nkeys = []\n";
        let text = format!(
            r#"
            site = "s"
            node = "n"
            {}
            [[stream]]
            name = "a"
            source = {{ topic = "t", decode = "json", fields = {{ x = "/x" }} }}
            window = {{ count = 1 }}
            model = "m"
            label = {{ source = {{ topic = "l", decode = "json", fields = {{ y = "/y" }} }}, field = "y" }}
            sample = {{ {sample} }}
            "#,
            if coordinator { table } else { "" }
        );
        Config::parse(&text).map_err(|error| crate::error_chain(&error))
    };
    let good = r#"consent = "c-1", fields = ["x", "y"], keep = { all = 1, rare = 0.5 }"#;
    let config = parse(good, true).unwrap();
    let sample = config.streams[0].sample.as_ref().unwrap();
    assert_eq!(
        (sample.day_bytes, sample.shares.len(), sample.fields.len()),
        (2_000_000, 2, 2)
    );
    for (sample, wanted) in [
        (good.replace("consent = \"c-1\",", ""), "consent"),
        (
            good.replace("\"y\"", "\"z\""),
            "sample.fields is z, it must be of x, y",
        ),
        (
            good.replace("\"x\", \"y\"", ""),
            "sample.fields is [], it must be at least one",
        ),
        (
            good.replace("all = 1,", "all = 0.5,"),
            "sample.keep.all is 0.5, it must be 1",
        ),
        (
            good.replace("0.5", "0"),
            "sample.keep.rare is 0, it must be a share",
        ),
        (
            good.replace("0.5", "nan"),
            "sample.keep.rare is NaN, it must be a share",
        ),
        (good.replace("rare", "odd"), "odd"),
        (
            good.replace("all = 1, rare = 0.5", ""),
            "sample.keep is empty",
        ),
        (
            format!("{good}, bytes_per_day = \"1KB\""),
            "sample.bytes_per_day is 1KB",
        ),
    ] {
        let error = parse(&sample, true).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    let error = parse(good, false).unwrap_err();
    assert!(error.contains("stream a: sample is set"), "{error}");
}

#[test]
fn users_of_a_file_close_the_broker_to_those_without_a_name() {
    let text = r#"
        site = "s"
        node = "n"
        [broker]
        users_file = "users"
        [[stream]]
        name = "a"
        source = { topic = "t", decode = "json", fields = { x = "/x" } }
        window = { count = 1 }
        model = "m"
        "#;
    let config = Config::parse(text).unwrap();
    assert!(!config.broker.allow_anonymous);
}

#[test]
fn addresses_of_brokers_are_read() {
    for (text, wanted) in [
        ("mqtt://h", (false, "h", 1883)),
        ("mqtts://h", (true, "h", 8883)),
        ("mqtt://h.example:7883/", (false, "h.example", 7883)),
        ("mqtt://[::1]:7883", (false, "[::1]", 7883)),
        ("mqtt://[::1]", (false, "[::1]", 1883)),
    ] {
        let (tls, host, port) = broker_address(text).unwrap();
        assert_eq!((tls, host.as_str(), port), wanted, "{text}");
    }
    for text in [
        "",
        "h:1",
        "http://h",
        "mqtt://",
        "mqtt://h:x",
        "mqtt://h:70000",
        "mqtt://u@h",
        "mqtt://h/path",
        "mqtt://::1",
    ] {
        assert!(broker_address(text).is_err(), "{text}");
    }
}
