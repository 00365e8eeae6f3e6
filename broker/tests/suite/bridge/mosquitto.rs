//! Bridges to a broker that nobody here wrote. A mosquitto that is missing skips these tests, loudly.

use super::{Gate, all_numbers, bridge, bridge_is, config, out, publish_numbers, route};
use crate::{
    common::{DEADLINE, Hello, Raw, in_time, start},
    interop::skip,
};
use lamppost_broker::{BridgeTls, BridgeVersion, Publish, QoS};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Debian keeps it where only root looks.
const PROGRAMS: [&str; 2] = ["/usr/sbin/mosquitto", "mosquitto"];

/// A mosquitto of the test's own, which keeps its sessions on the disk.
struct Mosquitto {
    program: &'static str,
    folder: TempDir,
    address: SocketAddr,
    child: Child,
}

impl Mosquitto {
    /// `None`, after saying so, if there is none on this machine.
    fn start(settings: impl Fn(&Path) -> String) -> Option<Self> {
        let found = PROGRAMS.into_iter().find(|program| {
            let mut command = Command::new(program);
            let quiet = command
                .arg("-h")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            quiet.status().is_ok()
        });
        let Some(program) = found else {
            skip("the broker mosquitto (Debian: mosquitto)");
            return None;
        };
        // Another program may take the port between our look and its start: then the next one is tried.
        (0..20).find_map(|_| {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().display();
            // Started by root it would become another user, who may not write to our folder.
            let text = format!(
                "per_listener_settings false\nallow_anonymous true\nmax_queued_messages 10000\n\
                 persistence true\npersistence_location {path}/\nuser root\nlistener {} 127.0.0.1\n{}",
                address.port(),
                settings(folder.path())
            );
            std::fs::write(folder.path().join("mosquitto.conf"), text).unwrap();
            let child = run(program, folder.path());
            let mut started = Self {
                program,
                folder,
                address,
                child,
            };
            started.is_up().then_some(started)
        })
    }

    fn is_up(&mut self) -> bool {
        let since = Instant::now();
        while since.elapsed() < DEADLINE {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("mosquitto does not listen");
    }

    fn stop(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.stop();
        self.child = run(self.program, self.folder.path());
        assert!(self.is_up());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn run(program: &str, folder: &Path) -> Child {
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.join("mosquitto.conf"));
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_and_survive_a_restart_of_mosquitto() {
    const COUNT: usize = 500;
    for version in [BridgeVersion::V4, BridgeVersion::V5] {
        let Some(mut mosquitto) = Mosquitto::start(|_| String::new()) else {
            return;
        };
        let gate = Gate::new(Some(mosquitto.address)).await;
        let mut bridge = out(bridge("hall", gate.address), &[("out/#", "", "gate/")]);
        bridge.version = version;
        bridge.inward = vec![route("in/#", "", "hall/")];
        let (near, _) = start(config("near", vec![bridge])).await;
        let (publisher, mut here) = near.link("here").unwrap().split();
        here.subscribe("in/#", QoS::AtLeastOnce).await.unwrap();
        bridge_is(&near, "connected", |stats| stats.connected).await;

        // A client of mosquitto whose session outlives the restart.
        let hello = Hello {
            client_id: "there",
            unclean: true,
            ..Hello::default()
        };
        let mut there = Raw::connect(mosquitto.address, &hello).await;
        assert_eq!(there.subscribe(&[("gate/out/#", 1)]).await, [1]);
        let first = Publish::new("out/first", "x").qos(QoS::AtLeastOnce);
        publisher.publish(first).await.unwrap();
        assert_eq!(there.receive().await.topic, "gate/out/first");
        assert_eq!(there.publish_acked("hall/in/first", b"x", false).await, 0);
        let first = in_time("a message", here.recv()).await.unwrap();
        assert_eq!((&*first.topic, first.qos), ("in/first", QoS::AtLeastOnce));

        // Both sides publish while there is no connection, and mosquitto is restarted.
        gate.lead(None);
        bridge_is(&near, "cut", |stats| !stats.connected).await;
        publish_numbers(&near, "out/n", 0..COUNT).await;
        for n in 0..COUNT {
            let payload = n.to_string();
            assert_eq!(
                there
                    .publish_acked("hall/in/n", payload.as_bytes(), false)
                    .await,
                0
            );
        }
        mosquitto.restart();
        let (mut there, answer) = Raw::try_connect(mosquitto.address, &hello).await;
        assert_eq!(answer, [1, 0], "its session is there");
        gate.lead(Some(mosquitto.address));
        all_numbers(&mut here, COUNT).await;
        let mut missing: HashSet<String> = (0..COUNT).map(|n| n.to_string()).collect();
        while !missing.is_empty() {
            let received = there.receive().await;
            missing.remove(std::str::from_utf8(&received.payload).unwrap());
        }
        let stats = &near.bridges()[0];
        assert_eq!((stats.dropped, stats.loops), (0, 0));
        in_time("stopping", near.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_topics_both_ways_make_no_storm() {
    let Some(mosquitto) = Mosquitto::start(|_| String::new()) else {
        return;
    };
    let mut bridge = out(bridge("hall", mosquitto.address), &[("#", "", "")]);
    bridge.inward = vec![route("#", "", "")];
    let (near, _) = start(config("near", vec![bridge])).await;
    let (publisher, mut here) = near.link("here").unwrap().split();
    here.subscribe("#", QoS::AtLeastOnce).await.unwrap();
    bridge_is(&near, "connected", |stats| stats.connected).await;
    let mut there = Raw::named(mosquitto.address, true, "there").await;
    assert_eq!(there.subscribe(&[("#", 1)]).await, [1]);
    let retained = Publish::new("a", "x").qos(QoS::AtLeastOnce).retained();
    publisher.publish(retained).await.unwrap();
    assert_eq!(there.receive().await.topic, "a");
    let own = in_time("its own", here.recv()).await.unwrap();
    assert_eq!(&*own.topic, "a");
    there.publish("b", b"x", 1, true).await;
    // The acknowledgement and the message that its filter selects come in either order.
    for _ in 0..2 {
        there.read().await.expect("a packet");
    }
    let message = in_time("a message", here.recv()).await.unwrap();
    assert_eq!(&*message.topic, "b");
    bridge_is(&near, "done", |stats| {
        (stats.sent, stats.received, stats.waiting) == (1, 1, 0)
    })
    .await;
    let last = Publish::new("c", "x").qos(QoS::AtLeastOnce);
    publisher.publish(last).await.unwrap();
    bridge_is(&near, "done", |stats| {
        (stats.sent, stats.received, stats.waiting) == (2, 1, 0)
    })
    .await;
    // Both messages are kept on both sides.
    assert_eq!(near.stats().retained_count, 2);
    near.stop().await;
}

/// Writes an authority, a certificate for 127.0.0.1 and one for the bridge.
fn certificates(folder: &Path) {
    let name = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params
    };
    let mut params = name("authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    for (file, subject) in [("server", "127.0.0.1"), ("client", "gate-7")] {
        let key = KeyPair::generate().unwrap();
        let certificate = name(subject).signed_by(&key, &authority).unwrap();
        std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_certificates_on_both_sides() {
    let settings = |folder: &Path| {
        certificates(folder);
        let path = folder.display();
        format!(
            "cafile {path}/ca.pem\ncertfile {path}/server.pem\nkeyfile {path}/server.key\n\
             require_certificate true\nuse_identity_as_username true\n"
        )
    };
    let Some(mosquitto) = Mosquitto::start(settings) else {
        return;
    };
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let folder = mosquitto.folder.path();
    for version in [BridgeVersion::V4, BridgeVersion::V5] {
        let tls = |ca: &Path, certificate: bool| BridgeTls {
            ca_file: Some(ca.join("ca.pem")),
            certificate: certificate
                .then(|| (folder.join("client.pem"), folder.join("client.key"))),
        };
        let mut bridges = Vec::new();
        for (name, tls) in [
            ("good", tls(folder, true)),
            ("wrong-authority", tls(other.path(), true)),
            ("no-certificate", tls(folder, false)),
        ] {
            let prefix = format!("{name}/");
            let mut bridge = out(bridge(name, mosquitto.address), &[("out", &prefix, "")]);
            bridge.version = version;
            bridge.tls = Some(tls);
            bridges.push(bridge);
        }
        let (near, _) = start(config("near", bridges)).await;
        let (publisher, _receiver) = near.link("here").unwrap().split();
        for name in ["good", "wrong-authority", "no-certificate"] {
            let message = Publish::new(format!("{name}/out"), "x").qos(QoS::AtLeastOnce);
            publisher.publish(message).await.unwrap();
        }
        bridge_is(&near, "sent", |stats| stats.sent == 1).await;
        let stats = near.bridges();
        assert!(
            stats[1..]
                .iter()
                .all(|stats| !stats.connected && stats.sent == 0),
            "{stats:?}"
        );
        near.stop().await;
    }
}
