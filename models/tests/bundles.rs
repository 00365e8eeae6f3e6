//! Bundles: what is packed is read back, and what is damaged is refused.

#![allow(
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use common::{Parts, ZOO, zoo};
use lamppost_models::bundle::{BUNDLE_BYTES_MAX, Bundle, BundleError};
use lamppost_models::manifest::{GOLDEN_BYTES_MAX, MANIFEST_BYTES_MAX, Manifest};
use proptest::prelude::*;
use serde_json::json;

fn pack(parts: &Parts) -> Vec<u8> {
    Bundle::pack(&parts.manifest, &parts.model, &parts.golden).expect("parts that agree")
}

fn level() -> Parts {
    zoo("traffic-level", "1.0.0")
}

/// A tar of these files, whatever they are.
fn tar(files: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_entry_type(*kind);
        if *kind == tar::EntryType::Symlink {
            builder
                .append_link(&mut header, name, "/etc/passwd")
                .expect("it packs");
        } else {
            builder
                .append_data(&mut header, name, *content)
                .expect("it packs");
        }
    }
    builder.into_inner().expect("it packs")
}

fn refusal(files: &[(&str, tar::EntryType, &[u8])]) -> String {
    Bundle::read(&tar(files)).expect_err("refused").to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_flipped_byte_gives_an_error_or_the_same_model_under_another_digest(
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let bytes = pack(&level());
        let whole = Bundle::read(&bytes).expect("whole");
        let mut damaged = bytes;
        let at = at.index(damaged.len());
        damaged[at] ^= 1 << bit;
        if let Ok(read) = Bundle::read(&damaged) {
            // The manifest has no digest within the bundle: a letter of its text may differ. The release's digest is
            // over every byte.
            prop_assert_eq!(read.model(), whole.model());
            prop_assert_eq!(read.golden(), whole.golden());
            prop_assert_ne!(read.digest(), whole.digest());
        }
    }

    #[test]
    fn a_bundle_cut_anywhere_gives_an_error_or_the_same_content(length in any::<prop::sample::Index>()) {
        let bytes = pack(&level());
        let length = length.index(bytes.len());
        if let Ok(read) = Bundle::read(&bytes[..length]) {
            // Two blocks of zeros end a tar, and nothing is lost with them.
            prop_assert!(length + 1024 >= bytes.len());
            prop_assert_eq!(read.model(), level().model);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Bundle::read(&bytes).is_err());
    }

    #[test]
    fn a_header_of_any_content_is_refused_without_a_panic(
        field in prop::sample::select(vec![0..100_usize, 100..108, 124..136, 148..156, 156..157, 257..265, 345..500]),
        noise in prop::collection::vec(any::<u8>(), 155),
        entry in 0..2_usize,
    ) {
        let parts = level();
        let mut bytes = pack(&parts);
        let start = if entry == 0 { 0 } else { 512 + parts.manifest.len().div_ceil(512) * 512 };
        for (at, byte) in (start + field.start..start + field.end).zip(&noise) {
            bytes[at] = *byte;
        }
        // With a checksum that fits, so that the field itself is what gets looked at.
        let sum: u32 = (start..start + 512)
            .map(|at| if (start + 148..start + 156).contains(&at) { 32 } else { u32::from(bytes[at]) })
            .sum();
        bytes[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        if let Ok(read) = Bundle::read(&bytes) {
            prop_assert_eq!(read.model(), parts.model);
        }
    }
}

#[test]
fn what_is_packed_is_read_back_and_packs_to_the_same_bytes() {
    for (name, version) in ZOO {
        let parts = zoo(name, version);
        let bytes = pack(&parts);
        assert_eq!(bytes, pack(&parts));
        let bundle = Bundle::read(&bytes).expect("it is whole");
        assert_eq!(bundle.digest(), lamppost_models::Digest::of(&bytes));
        assert_eq!(
            *bundle.manifest(),
            Manifest::parse(&parts.manifest).expect("a manifest")
        );
        assert_eq!(
            (bundle.model(), bundle.golden().cases.len()),
            (parts.model.as_slice(), 8)
        );
    }
}

#[test]
fn a_model_or_golden_file_that_the_manifest_does_not_name_is_refused() {
    let other = zoo("traffic-flow", "1.1.0");
    let parts = zoo("traffic-flow", "1.0.0");
    let error =
        Bundle::pack(&parts.manifest, &other.model, &parts.golden).expect_err("another model");
    assert!(
        matches!(
            error,
            BundleError::Digest {
                file: "model.onnx",
                ..
            }
        ),
        "{error}"
    );
    let error = Bundle::pack(&parts.manifest, &parts.model, &other.golden)
        .expect_err("other golden vectors");
    assert!(
        matches!(
            error,
            BundleError::Digest {
                file: "golden.json",
                ..
            }
        ),
        "{error}"
    );
    let error = Bundle::pack(&parts.manifest, &parts.model[1..], &parts.golden)
        .expect_err("a byte is missing");
    assert_eq!(
        error.to_string(),
        "model.onnx has 18030 bytes, the manifest says 18031"
    );
    let error = Bundle::pack(b"{}", &parts.model, &parts.golden).expect_err("no manifest");
    assert!(matches!(error, BundleError::Manifest(_)), "{error}");
}

#[test]
fn files_that_are_missing_more_or_in_another_order_are_refused_by_name() {
    use tar::EntryType::{Directory, Regular, Symlink};
    let parts = level();
    let (manifest, model, golden) = (
        ("manifest.json", Regular, parts.manifest.as_slice()),
        ("model.onnx", Regular, parts.model.as_slice()),
        ("golden.json", Regular, parts.golden.as_slice()),
    );
    Bundle::read(&tar(&[manifest, model, golden])).expect("as it should be");
    let says = |files: &[_], words: &str| {
        let error = refusal(files);
        assert!(error.contains(words), "{words} is not in: {error}");
    };
    says(&[], r#"has "" where manifest.json should be"#);
    says(&[manifest, model], r#"has "" where golden.json should be"#);
    says(
        &[model, manifest, golden],
        r#"has "model.onnx" where manifest.json should be"#,
    );
    says(
        &[manifest, model, golden, ("more", Regular, &[1])],
        r#"has "more" where the end should be"#,
    );
    says(
        &[("dir/manifest.json", Regular, manifest.2), model, golden],
        r#"has "dir/manifest.json""#,
    );
    says(
        &[manifest, ("model.onnx", Symlink, &[]), golden],
        r#"has "model.onnx" where model.onnx should be"#,
    );
    says(
        &[("manifest.json", Directory, &[]), model, golden],
        "where manifest.json should be",
    );
}

#[test]
fn files_over_their_limit_are_refused_before_they_are_read() {
    use tar::EntryType::Regular;
    let manifest = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert_eq!(
        refusal(&[("manifest.json", Regular, &manifest)]),
        "manifest.json has 262145 bytes, the limit is 262144"
    );
    // A size in the header alone: there is nothing behind it.
    let mut header = tar::Header::new_ustar();
    header.set_path("manifest.json").expect("a path");
    header.set_entry_type(Regular);
    header.set_size(1 << 40);
    header.set_cksum();
    let error = Bundle::read(header.as_bytes())
        .expect_err("a terabyte")
        .to_string();
    assert_eq!(
        error,
        "manifest.json has 1099511627776 bytes, the limit is 262144"
    );
    let parts = level();
    let golden = vec![b' '; GOLDEN_BYTES_MAX + 1];
    let error = Bundle::pack(&parts.manifest, &parts.model, &golden)
        .expect_err("too large")
        .to_string();
    assert_eq!(
        error,
        "golden.json has 16777217 bytes, the limit is 16777216"
    );
    let size = usize::try_from(BUNDLE_BYTES_MAX + 1).expect("64-bit machine");
    assert!(matches!(
        Bundle::read(&vec![0; size]),
        Err(BundleError::TooLarge { .. })
    ));
}

#[test]
fn golden_vectors_that_do_not_fit_the_manifest_are_refused_with_their_place() {
    let golden: serde_json::Value = serde_json::from_slice(&level().golden).expect("JSON");
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut golden = golden.clone();
        change(&mut golden);
        let parts = level().with_golden(&golden);
        Bundle::pack(&parts.manifest, &parts.model, &parts.golden).expect_err("refused")
    };
    let error = refused(&|golden| golden["cases"] = json!([]));
    assert_eq!(
        error.to_string(),
        "golden.json: there must be at least one case"
    );
    let error = refused(&|golden| golden["cases"][1]["features"] = json!([1.0]));
    assert_eq!(
        error.to_string(),
        "golden.json: cases[1].features has 1 numbers, the manifest says 35"
    );
    let error = refused(&|golden| golden["cases"][2]["outputs"] = json!([1.0]));
    assert_eq!(
        error.to_string(),
        "golden.json: cases[2].outputs has 1 numbers, the manifest says 4"
    );
    let error = refused(&|golden| golden["cases"][7]["window"] = json!([]));
    assert_eq!(
        error.to_string(),
        "golden.json: cases[7].window has 0 readings, the manifest says 24"
    );
    // More than an f32 can hold: it must not become an infinity that anything agrees with.
    let error = refused(&|golden| golden["cases"][0]["outputs"][0] = json!(1e300));
    assert!(matches!(error, BundleError::GoldenJson(_)), "{error}");
    for change in [json!(2), json!("1")] {
        let error = refused(&|golden| golden["schema"] = change.clone());
        assert!(matches!(error, BundleError::GoldenJson(_)), "{error}");
    }
}
