use super::*;

fn open(dir: &Path, known: &[(Digest, u64)]) -> (Artifacts, Sweep) {
    open_as(dir, known, true)
}

fn open_as(dir: &Path, known: &[(Digest, u64)], complete: bool) -> (Artifacts, Sweep) {
    Artifacts::open(
        dir.join("artifacts"),
        &known.iter().copied().collect(),
        complete,
    )
    .unwrap()
}

fn put(artifacts: &Artifacts, content: &[u8]) -> Digest {
    let mut upload = artifacts.upload().unwrap();
    for chunk in content.chunks(3) {
        upload.write(chunk).unwrap();
    }
    let digest = upload.finish().unwrap();
    upload.keep(artifacts, digest).unwrap();
    digest
}

#[test]
fn what_is_put_in_comes_out_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let (artifacts, _) = open(dir.path(), &[]);
    let digest = put(&artifacts, b"some bytes");
    assert_eq!(digest, Digest::of(b"some bytes"));
    assert_eq!(artifacts.read(digest).unwrap(), b"some bytes");
    assert_eq!(
        artifacts.read(digest).unwrap(),
        b"some bytes",
        "and again, verified by now"
    );
    let missing = artifacts.get(Digest::of(b"other")).unwrap_err();
    assert!(matches!(missing, ArtifactError::Missing { .. }));
}

#[test]
fn an_upload_that_is_dropped_leaves_nothing_and_a_large_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (artifacts, _) = open(dir.path(), &[]);
    let mut upload = artifacts.upload().unwrap();
    upload.bytes = BUNDLE_BYTES_MAX - 2;
    upload.write(b"ab").unwrap();
    assert!(matches!(upload.write(b"c"), Err(UploadError::TooLarge)));
    drop(upload);
    assert_eq!(fs::read_dir(&artifacts.dir).unwrap().count(), 0);
}

#[test]
fn what_a_crash_left_is_cleared_and_what_is_missing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (artifacts, _) = open(dir.path(), &[]);
    let (kept, orphan) = (put(&artifacts, b"kept"), put(&artifacts, b"orphan"));
    let (gone, short) = (Digest::of(b"gone"), put(&artifacts, b"short"));
    fs::write(artifacts.path(short), b"sho").unwrap();
    fs::write(artifacts.dir.join("tmp-0123"), b"half").unwrap();
    let (artifacts, sweep) = open(dir.path(), &[(kept, 4), (gone, 4), (short, 5)]);
    let mut missing = vec![gone, short];
    missing.sort();
    assert_eq!(
        sweep,
        Sweep {
            partial: 1,
            orphans: 1,
            missing
        }
    );
    assert!(matches!(
        artifacts.get(orphan),
        Err(ArtifactError::Missing { .. })
    ));
    artifacts.get(kept).unwrap();
}

#[test]
fn a_list_that_may_have_lost_versions_costs_no_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let (artifacts, _) = open(dir.path(), &[]);
    let digest = put(&artifacts, b"still wanted");
    let (artifacts, sweep) = open_as(dir.path(), &[], false);
    assert_eq!(sweep.orphans, 1);
    assert_eq!(artifacts.read(digest).unwrap(), b"still wanted");
}

#[test]
fn an_altered_artifact_is_never_served_also_when_it_was_good_before() {
    let dir = tempfile::tempdir().unwrap();
    let (artifacts, _) = open(dir.path(), &[]);
    for _ in 0..ALTERED_MAX + 2 {
        let digest = put(&artifacts, b"some bytes");
        artifacts.get(digest).unwrap();
        fs::write(artifacts.path(digest), b"same size!").unwrap();
        let file = File::options()
            .write(true)
            .open(artifacts.path(digest))
            .unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(matches!(
            artifacts.get(digest),
            Err(ArtifactError::Altered { .. })
        ));
        assert!(matches!(
            artifacts.get(digest),
            Err(ArtifactError::Missing { .. })
        ));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(fs::read_dir(&artifacts.dir).unwrap().count(), ALTERED_MAX);
}
