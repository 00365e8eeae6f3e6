//! The bundles, good and bad.

use lamppost_models::Digest;
use lamppost_models::release::BundleRef;
use semver::Version;

use crate::rng::Rng;

/// What a bundle is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nature {
    /// As right as the first version.
    Good,
    /// A tenth less error.
    Better,
    /// Half as much error again.
    Worse,
    /// Its outputs are not finite now and then.
    Failing,
    /// Twenty times as slow.
    Slow,
    /// Its process dies in shadow.
    CrashesInShadow,
    /// The agent dies of it, but only when it is live.
    CrashesLive,
    /// Its golden vectors come out differently.
    BadGolden,
}

/// A bundle of the model.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) nature: Nature,
    pub(crate) bundle: BundleRef,
}

/// All bundles that were ever made, by number.
#[derive(Debug, Default)]
pub(crate) struct Bundles(Vec<Bundle>);

impl Nature {
    const ALL: [Self; 8] = [
        Self::Good,
        Self::Better,
        Self::Worse,
        Self::Failing,
        Self::Slow,
        Self::CrashesInShadow,
        Self::CrashesLive,
        Self::BadGolden,
    ];

    /// Its error, 1 being that of the first version.
    pub(crate) const fn loss(self) -> f64 {
        match self {
            Self::Better => 0.9,
            Self::Worse => 1.5,
            Self::Good
            | Self::Failing
            | Self::Slow
            | Self::CrashesInShadow
            | Self::CrashesLive
            | Self::BadGolden => 1.0,
        }
    }

    /// Median and 99th percentile of its inference time, in microseconds.
    pub(crate) const fn latency_us(self) -> (u64, u64) {
        match self {
            Self::Slow => (4_000, 16_000),
            Self::Good
            | Self::Better
            | Self::Worse
            | Self::Failing
            | Self::CrashesInShadow
            | Self::CrashesLive
            | Self::BadGolden => (200, 800),
        }
    }

    /// Whether a trial with a shadow keeps it from going live on every node, whatever comes.
    pub(crate) const fn never_live(self) -> bool {
        match self {
            Self::Slow | Self::BadGolden => true,
            // An unlucky shadow sees none of its failures; errors need labels, and the last needs the live slot.
            Self::Good
            | Self::Better
            | Self::Worse
            | Self::Failing
            | Self::CrashesInShadow
            | Self::CrashesLive => false,
        }
    }

    /// Whether it should not become the stable version.
    pub const fn bad(self) -> bool {
        !matches!(self, Self::Good | Self::Better)
    }
}

impl Bundles {
    /// Makes a new one; half of them are good.
    pub(crate) fn make(&mut self, rng: &mut Rng) -> Bundle {
        let nature = if self.0.is_empty() || rng.chance(40) {
            [Nature::Good, Nature::Better][rng.index(0, 1)]
        } else {
            Nature::ALL[rng.index(0, Nature::ALL.len() - 1)]
        };
        let number = self.0.len() as u64;
        let bundle = Bundle {
            nature,
            bundle: BundleRef {
                version: Version::new(1, number, 0),
                digest: Digest::of(&number.to_le_bytes()),
                bytes: 10_000 + rng.below(1_000_000),
            },
        };
        self.0.push(bundle.clone());
        bundle
    }

    pub(crate) fn nature(&self, digest: &Digest) -> Nature {
        self.get(digest).nature
    }

    pub(crate) fn get(&self, digest: &Digest) -> &Bundle {
        let found = self.0.iter().find(|known| known.bundle.digest == *digest);
        found.unwrap_or_else(|| panic!("nobody made bundle {digest}"))
    }

    /// One of the older ones.
    pub(crate) fn any(&self, rng: &mut Rng) -> &Bundle {
        &self.0[rng.index(0, self.0.len() - 1)]
    }
}
