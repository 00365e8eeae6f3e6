//! Starting, stopping, starting again; and the program.

use crate::common::{DEADLINE, Raw, in_time, open_config, start};
use lamppost_broker::{Broker, Config, Publish, QoS, StartError};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

#[tokio::test]
async fn a_broker_starts_again_on_the_same_port() {
    let (broker, address) = start(open_config()).await;
    let mut five = Raw::named(address, true, "five").await;
    let mut four = Raw::named(address, false, "four").await;
    assert_eq!(five.subscribe(&[("a", 0)]).await, [0]);
    five.publish("kept", b"x", 0, true).await;
    five.ping().await;
    in_time("stopping", broker.stop()).await;
    assert_eq!(five.closed().await, Some(0x8b));
    assert_eq!(four.closed().await, None);
    for _ in 0..3 {
        let broker = Broker::start(Config {
            listen: Some(address),
            ..open_config()
        })
        .await
        .unwrap();
        assert_eq!(broker.local_addr(), Some(address));
        assert_eq!(broker.stats().retained_count, 0);
        let mut client = Raw::named(address, false, "five").await;
        assert_eq!(client.subscribe(&[("#", 1)]).await, [1]);
        assert_eq!(client.publish_acked("a", b"again", false).await, 0);
        assert_eq!(client.receive().await.payload, b"again");
        in_time("stopping", broker.stop()).await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (broker, address) = start(open_config()).await;
    let error = Broker::start(Config {
        listen: Some(address),
        ..open_config()
    })
    .await
    .unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn brokers_of_one_process_are_apart() {
    let (one, _) = start(open_config()).await;
    let (two, _) = start(open_config()).await;
    let (publish_one, mut receive_one) = one.link("x").unwrap().split();
    let (publish_two, mut receive_two) = two.link("x").unwrap().split();
    for receiver in [&mut receive_one, &mut receive_two] {
        receiver.subscribe("#", QoS::AtMostOnce).await.unwrap();
    }
    publish_one.publish(Publish::new("a", "one")).await.unwrap();
    publish_two.publish(Publish::new("a", "two")).await.unwrap();
    assert_eq!(receive_one.recv().await.unwrap().payload, "one");
    assert_eq!(receive_two.recv().await.unwrap().payload, "two");
    one.stop().await;
    publish_two
        .publish(Publish::new("a", "still"))
        .await
        .unwrap();
    assert_eq!(receive_two.recv().await.unwrap().payload, "still");
    two.stop().await;
}

#[tokio::test]
async fn the_program_serves_and_stops_on_a_signal() {
    for signal in ["-TERM", "-INT"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_lamppost-broker"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--allow-anonymous",
                "--deny-subscribe",
                "secret/#",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .parse()
            .unwrap();
        let mut client = Raw::named(address, true, "client").await;
        assert_eq!(
            client.subscribe(&[("secret/x", 0), ("a", 0)]).await,
            [0x80, 0]
        );
        let killed = Command::new("kill")
            .args([signal, &program.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        assert_eq!(client.closed().await, Some(0x8b));
        let since = Instant::now();
        let status = loop {
            if let Some(status) = program.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < DEADLINE);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        assert!(status.success(), "{status}");
    }
}

#[test]
fn the_program_names_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.toml");
    std::fs::write(&file, "lisen = \"127.0.0.1:0\"\n").unwrap();
    for (arguments, wanted) in [
        (
            vec!["--config".to_owned(), file.display().to_string()],
            "lisen",
        ),
        (
            vec![
                "--listen".to_owned(),
                "0.0.0.0:0".to_owned(),
                "--allow-anonymous".to_owned(),
            ],
            "expose_anonymous",
        ),
        (
            vec!["--config".to_owned(), "no/such/file".to_owned()],
            "no/such/file",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_lamppost-broker"))
            .args(&arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(wanted), "{said}");
    }
}
