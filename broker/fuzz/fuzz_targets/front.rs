//! A whole broker, and up to four clients at once that do what the bytes say: `lamppost_broker::fuzzing::play`.
//!
//! The broker lives as long as the fuzzer, as one in a cabinet does, so that what one input leaves behind can meet the
//! next. A panic of any of its tasks ends the fuzzer: libfuzzer-sys aborts in the panic hook.
#![no_main]

use lamppost_broker::{
    Broker, Config,
    fuzzing::{self, Door},
};
use libfuzzer_sys::fuzz_target;
use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Runtime;

/// Inputs between two looks whether a fresh client is served.
const LOOK_EVERY: u64 = 256;

struct Stage {
    runtime: Runtime,
    broker: Broker,
    inputs: AtomicU64,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    // Small bounds, so that inputs reach them.
    let mut config = Config {
        listen: None,
        allow_anonymous: true,
        ..Config::default()
    };
    config.limits.filters_max = 32;
    config.limits.filters_per_client_max = 4;
    config.limits.log_bytes_per_filter = 16 * 1024;
    config.limits.retained_count_max = 32;
    config.limits.absent_sessions_max = 4;
    config.limits.session_expiry_max = Duration::from_secs(2);
    config.limits.queue_bytes_max = 8 * 1024;
    config.limits.queue_count_max = 16;
    config.limits.inflight_max = 4;
    config.limits.login_failure_delay = Duration::ZERO;
    let broker = runtime.block_on(Broker::start(config)).expect("a broker");
    Stage {
        runtime,
        broker,
        inputs: AtomicU64::new(0),
    }
});

fuzz_target!(|script: &[u8]| {
    let stage = &*STAGE;
    let inputs = stage.inputs.fetch_add(1, Ordering::Relaxed);
    stage.runtime.block_on(async {
        fuzzing::play(&stage.broker, Door::Inside, script).await;
        if inputs % LOOK_EVERY == 0
            && let Err(what) = fuzzing::serves(&stage.broker, Door::Inside).await
        {
            panic!("a fresh client is not served: {what}");
        }
    });
});
