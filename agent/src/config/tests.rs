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
