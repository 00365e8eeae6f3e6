use super::*;
use crate::release::BundleRef;

fn path(node: usize) -> NodePath {
    NodePath {
        site: "riverside".parse().unwrap(),
        node: format!("gw-{node}").parse().unwrap(),
    }
}

fn candidate(share: u16, control: u16) -> Candidate {
    Candidate {
        bundle: BundleRef {
            version: semver::Version::new(1, 1, 0),
            digest: Digest::of(b"bundle"),
            bytes: 6,
        },
        rollout: RolloutId::from_u64(7),
        exposure: Exposure {
            share: Share::new(share).unwrap(),
            ..Exposure::default()
        },
        control: Share::new(control).unwrap(),
    }
}

fn cohort(candidate: &Candidate, path: &NodePath, groups: &[GroupId], tags: &Tags) -> Cohort {
    candidate.cohort(Who { path, groups, tags })
}

#[test]
fn cohorts_are_as_large_as_asked_for_stable_and_apart() {
    let nodes: Vec<_> = (0..20_000).map(path).collect();
    let tags = Tags::new();
    let mut before = Vec::new();
    for share in [0, 100, 2_500, 9_000] {
        let candidate = candidate(share, 1_000);
        let cohorts: Vec<_> = nodes
            .iter()
            .map(|path| cohort(&candidate, path, &[], &tags))
            .collect();
        let count = |wanted| cohorts.iter().filter(|cohort| **cohort == wanted).count();
        // Five standard deviations of 20,000 draws are at most 354.
        assert!(count(Cohort::Candidate).abs_diff(usize::from(share) * 2) < 354);
        assert!(count(Cohort::Control).abs_diff(2_000) < 354);
        for (at, cohort) in before.iter().enumerate() {
            assert!(*cohort != Cohort::Candidate || cohorts[at] == Cohort::Candidate);
            assert_eq!(*cohort == Cohort::Control, cohorts[at] == Cohort::Control);
        }
        before = cohorts;
    }
}

#[test]
fn names_groups_and_tags_expose_and_only_a_name_reaches_the_control_cohort() {
    let tags = Tags::from([("backhaul".parse().unwrap(), "lte-7".parse().unwrap())]);
    let groups = ["canary".parse().unwrap()];
    let mut all_control = candidate(0, 10_000);
    assert_eq!(
        cohort(&all_control, &path(1), &groups, &tags),
        Cohort::Control
    );
    all_control.exposure.groups = groups.to_vec();
    assert_eq!(
        cohort(&all_control, &path(1), &groups, &tags),
        Cohort::Control
    );
    all_control.exposure.nodes = vec![path(1)];
    assert_eq!(
        cohort(&all_control, &path(1), &groups, &tags),
        Cohort::Candidate
    );

    let mut none = candidate(0, 0);
    assert_eq!(cohort(&none, &path(1), &groups, &tags), Cohort::Later);
    none.exposure.tags = vec![Tag {
        name: "backhaul".parse().unwrap(),
        value: "lte-7".parse().unwrap(),
    }];
    assert_eq!(cohort(&none, &path(1), &[], &tags), Cohort::Candidate);
    assert_eq!(cohort(&none, &path(1), &[], &Tags::new()), Cohort::Later);
}

/// Other implementations must come to the same places, and old rollouts go on.
#[test]
fn places_stay_as_they_are() {
    let places: Vec<_> = (0..4)
        .map(|node| place(RolloutId::from_u64(0x0123_4567_89ab_cdef), &path(node)))
        .collect();
    assert_eq!(places, [7807, 6111, 3177, 7033]);
}

#[test]
fn a_share_above_all_is_refused() {
    assert!(Share::new(10_001).is_err());
    assert!(serde_json::from_str::<Share>("10001").is_err());
    assert_eq!(Share::new(1_250).unwrap().to_string(), "12.50 %");
}
