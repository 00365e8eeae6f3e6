# Common tasks; `just` alone lists them.

_list:
    @just --list --unsorted

# All that CI checks: format, lints, documentation, tests, dependencies.
check: fmt-check clippy doc test deny

# Format all Rust code.
fmt:
    cargo fmt --all

fmt-check:
    cargo fmt --all --check

# Lints, with warnings as errors.
clippy:
    cargo clippy --workspace --all-targets --quiet -- -D warnings

# Documentation, with warnings as errors.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet

# All tests.
test:
    cargo test --workspace

# Licences, advisories, bans and sources of the dependencies.
deny:
    .ci/deny

# The demo; `just demo --seconds 60`.
demo *ARGS:
    cargo demo -- {{ ARGS }}

# All benchmarks, against peers and limits measured in the same run.
bench *ARGS:
    tests/benches/run {{ ARGS }}

# lamppost-broker against mosquitto and stock rumqttd, under the same load; `just bench-broker --quick`.
bench-broker *ARGS:
    tests/benches/run-broker {{ ARGS }}

# Fuzz the broker, guided by coverage: needs a nightly compiler and cargo-fuzz. `just fuzz 10` takes ten minutes.
fuzz MINUTES="2" *TARGETS:
    broker/fuzz/run {{ MINUTES }} {{ TARGETS }}

# Malformed input without a nightly compiler: seeded, in a release build, so many times.
hostile COUNT="10000000" SEED="1":
    LAMPPOST_HOSTILE_COUNT={{ COUNT }} LAMPPOST_HOSTILE_SEED={{ SEED }} cargo test --release -p lamppost-broker --test hostile -- --nocapture

# A crowd of clients that come, go, stall and die, for so many minutes, and a broker that is afterwards as before.
soak MINUTES="10" SEED="24301":
    LAMPPOST_SOAK_SECONDS=$(({{ MINUTES }} * 60)) LAMPPOST_SOAK_SEED={{ SEED }} cargo test --release -p lamppost-broker --test soak -- --nocapture

# The outbox against sqlite, a plain log and a Python peer, and how soon a backlog is sent.
bench-outbox *ARGS:
    cargo build --release -p lamppost-tests --features bench --bin bench-outbox --bin demo
    LAMPPOST_BENCH_DEMO="${CARGO_TARGET_DIR:-target}/release/demo" "${CARGO_TARGET_DIR:-target}/release/bench-outbox" {{ ARGS }}

# 100,000 simulated nodes and 2,000 MQTT sessions against the coordinator; `just bench-fleet --quick`, `--only sessions`.
bench-fleet *ARGS:
    cargo build --release -p lamppost-tests --features bench --bin bench-fleet --bin demo
    ulimit -n 8192 && LAMPPOST_BENCH_DEMO="${CARGO_TARGET_DIR:-target}/release/demo" "${CARGO_TARGET_DIR:-target}/release/bench-fleet" {{ ARGS }}

# A simulated fleet with all that can go wrong, through so many seeds; `just sim 1 SEED` runs one again.
sim SEEDS="10000" FIRST="1":
    cargo run --release -p lamppost-sim -- {{ SEEDS }} {{ FIRST }}
# The forge beside scikit-learn on the same digits, what compression does to a model, and the loop on six years of traffic.
bench-forge *ARGS:
    tests/benches/run-forge {{ ARGS }}

# Power cuts: within a writer's system calls, and on ext4 below a loop device (root, xfsprogs); `just powercut 20`.
powercut IMAGES="60":
    cargo build -p lamppost-tests --bin powercut
    "${CARGO_TARGET_DIR:-target}/debug/powercut" model --cuts 300
    "${CARGO_TARGET_DIR:-target}/debug/powercut" images {{ IMAGES }}

# Agent, coordinator and broker killed at random points while a sensor sends, so many times; `just torture 1000 --seed 7`.
# `just torture --week` is an outage of a week at 100 records a second: some ten minutes, and 1 GB of disk.
torture *ARGS:
    cargo build --release -p lamppost-tests --bin torture
    "${CARGO_TARGET_DIR:-target}/release/torture" {{ ARGS }}

# Links that stall, break off, crawl and go silent while an outbox is replayed: so many seeds, from one on.
toxics SEED="1" COUNT="1":
    LAMPPOST_TOXIC_SEED={{ SEED }} LAMPPOST_TOXIC_COUNT={{ COUNT }} cargo test -p lamppost-tests --test fleet many_bad_links -- --ignored --nocapture

# Eclipse's interoperability suite, from a copy of paho.mqtt.testing that is not kept here.
paho FOLDER:
    broker/tests/interop/paho-suite {{ FOLDER }}

# The binaries for a gateway: smaller than a release build, and minutes longer to build.
dist:
    cargo build --profile dist -p lamppost-agent -p lamppost-broker

# Train the models of the zoo again.
zoo:
    python3 -m venv target/zoo-venv
    target/zoo-venv/bin/pip install --quiet -r models/zoo/requirements.txt
    cd models/zoo && ../../target/zoo-venv/bin/python train.py

# Install the outside programs that tests and benchmarks use: mosquitto, paho-mqtt, MQTT.js, cargo-deny.
tools:
    .ci/tools
