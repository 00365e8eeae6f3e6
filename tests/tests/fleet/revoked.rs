//! A bundle that was revoked runs nowhere any more, whoever tries it, runs it, or is away.

use lamppost_tests::link::Uplink;
use lamppost_tests::wait;
use lamppost_tests::world::{Place, World, deadline, run};
use serde_json::{Value, json};

use super::{start, traffic_world};

const TARGET: &str = "rollouts/all/traffic-flow";

async fn revoke(world: &World, body: Value) -> anyhow::Result<Value> {
    world.api.post(&format!("{TARGET}/revoke"), &body).await
}

#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
async fn refused(world: &World, body: Value, why: &str) {
    let error = revoke(world, body).await.unwrap_err();
    assert!(format!("{error:#}").contains(why), "{error:#}");
}

/// Waits until the log has an entry with this act, and gives its words.
async fn audited(world: &World, act: &str) -> anyhow::Result<String> {
    let page = world.api.get::<serde_json::Value>("audit").await?;
    let entries = page["entries"].as_array().cloned().unwrap_or_default();
    let found = entries.iter().rfind(|entry| entry["act"] == act);
    let words = found.and_then(|entry| entry["words"].as_str());
    words
        .map(str::to_owned)
        .ok_or_else(|| anyhow::anyhow!("no entry {act} in {page}"))
}

#[test]
fn nodes_leave_a_version_that_is_revoked_also_when_they_come_back() -> anyhow::Result<()> {
    run(async {
        let nodes: [(&str, &[&str]); 2] = [("there", &["all"]), ("away", &["all"])];
        let mut world = traffic_world(Place::Here, &nodes).await?;
        world.api.rollout("traffic-flow", "1.1.0", "all").await?;
        for (name, _) in nodes {
            start(&mut world, name, "1.1.0").await?;
        }
        world.set_uplink("away", Uplink::Down)?;

        let reason = "it is blind in snow";
        let bare = json!({ "bundle": "1.1.0", "reason": reason });
        refused(&world, bare, "say with --to VERSION").await;
        let unknown = json!({ "bundle": format!("sha256:{:064x}", 7), "reason": reason });
        refused(&world, unknown, "no node's report has the bundle").await;
        let other = json!({ "bundle": "1.0.0", "reason": reason, "to": "1.0.0" });
        refused(&world, other, "not the bundle to revoke").await;

        let body = json!({ "bundle": "1.1.0", "reason": reason, "to": "1.0.0" });
        let view = revoke(&world, body.clone()).await?;
        assert_eq!(view["stable"]["version"], "1.0.0");
        world.runs("there", "1.0.0").await?;
        refused(
            &world,
            json!({ "bundle": "1.1.0", "reason": reason }),
            "already",
        )
        .await;
        let again = world.api.rollout("traffic-flow", "1.1.0", "all").await;
        let again = format!("{:#}", again.unwrap_err());
        assert!(again.contains("1.1.0 is revoked"), "{again}");
        let words = audited(&world, "revoke").await?;
        assert!(
            words.contains(reason) && words.contains("go to 1.0.0"),
            "{words}"
        );

        // It holds for whoever was away, and over the restarts of all.
        world.set_uplink("away", Uplink::Up)?;
        world.runs("away", "1.0.0").await?;
        world.end_coordinator().await?;
        world.restart_coordinator(Place::Here).await?;
        for (name, _) in nodes {
            world.stop_node(name).await?;
            start(&mut world, name, "1.0.0").await?;
        }
        world.stop().await
    })
}

#[test]
fn a_candidate_that_is_revoked_leaves_the_nodes_that_try_it() -> anyhow::Result<()> {
    run(async {
        let nodes: [(&str, &[&str]); 2] = [("first", &["all"]), ("second", &["all"])];
        let mut world = traffic_world(Place::Here, &nodes).await?;
        for (name, _) in nodes {
            start(&mut world, name, "1.0.0").await?;
        }
        let policy = json!({
            "wave": [
                { "nodes": ["minneapolis/first"], "soak": "1h" },
                { "share": "100 %" }
            ],
            "trial": {}
        });
        let body = json!({
            "model": "traffic-flow", "version": "1.1.0", "group": "all", "policy": policy
        });
        world.api.post("rollouts", &body).await?;
        world.runs("first", "1.1.0").await?;
        revoke(&world, json!({ "bundle": "1.1.0", "reason": "wrong data" })).await?;
        world.runs("first", "1.0.0").await?;
        world.runs("second", "1.0.0").await?;
        let over = wait::until("the rollout is over", deadline(), || async {
            let views = world.api.get::<serde_json::Value>(TARGET).await.ok()?;
            let state = views[0]["campaign"]["campaign"]["state"].clone();
            (state["state"] == "aborted").then_some(state)
        });
        let over = over.await?;
        assert_eq!(
            (&over["why"], &over["how"]),
            (&json!("revoked"), &json!("reverted"))
        );
        world.stop().await
    })
}
