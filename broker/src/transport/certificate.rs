//! The name in a client's certificate, which becomes its user name.

use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use thiserror::Error;
use webpki::EndEntityCert;

/// Bytes of a name; X.520 allows 64 characters.
const NAME_BYTES_MAX: usize = 256;

/// `id-at-commonName`, 2.5.4.3 (X.520).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The tags of the types that are read below (X.690, section 8).
mod tag {
    pub(super) const OID: u8 = 0x06;
    pub(super) const UTF8_STRING: u8 = 0x0c;
    pub(super) const PRINTABLE_STRING: u8 = 0x13;
    pub(super) const IA5_STRING: u8 = 0x16;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
}

/// Why a certificate that is believed names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum NameError {
    #[error("the certificate does not parse")]
    Malformed,
    #[error("the certificate has neither a common name nor a DNS name")]
    Missing,
    #[error("the certificate has more than one common name")]
    Several,
    #[error(
        "the certificate's name {0:?} is empty, over {NAME_BYTES_MAX} bytes, or contains +, #, / or a control character"
    )]
    Unusable(String),
}

/// The subject's common name or, without one, the first DNS name, of a certificate that was verified.
///
/// A name with `/` is refused: rules put names into topics, and among names that nobody lists, `a/b` would be inside
/// what is `a`'s.
pub(super) fn name(certificate: &CertificateDer<'_>) -> Result<Arc<str>, NameError> {
    let certificate = EndEntityCert::try_from(certificate).map_err(|_| NameError::Malformed)?;
    let name = match common_name(certificate.subject())? {
        Some(name) => name,
        None => certificate
            .valid_dns_names()
            .next()
            .ok_or(NameError::Missing)?,
    };
    let unusable = |symbol: char| matches!(symbol, '+' | '#' | '/') || symbol.is_control();
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(unusable) {
        return Err(NameError::Unusable(name.chars().take(80).collect()));
    }
    Ok(name.into())
}

/// Reads `RDNSequence` (RFC 5280, section 4.1.2.4) without its outer tag: a list of sets of pairs of a type and a value.
fn common_name(mut subject: &[u8]) -> Result<Option<&str>, NameError> {
    let mut found = None;
    while !subject.is_empty() {
        let mut set = expect(&mut subject, tag::SET)?;
        while !set.is_empty() {
            let mut pair = expect(&mut set, tag::SEQUENCE)?;
            if expect(&mut pair, tag::OID)? != COMMON_NAME {
                continue;
            }
            let (kind, value) = element(&mut pair).ok_or(NameError::Malformed)?;
            let text = std::str::from_utf8(value).map_err(|_| NameError::Malformed)?;
            match kind {
                tag::UTF8_STRING => {}
                tag::PRINTABLE_STRING | tag::IA5_STRING if text.is_ascii() => {}
                _ => return Err(NameError::Malformed),
            }
            if found.replace(text).is_some() {
                return Err(NameError::Several);
            }
        }
    }
    Ok(found)
}

fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Result<&'a [u8], NameError> {
    match element(input) {
        Some((found, content)) if found == tag => Ok(content),
        _ => Err(NameError::Malformed),
    }
}

/// Takes one element off the front: its tag and its content. DER lengths are definite (X.690, section 10.1).
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*bytes)), rest)
        }
        // A name of 64 KiB and more is nobody's.
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some((tag, content))
}

#[cfg(test)]
mod tests {
    use super::{NameError, common_name, name};
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate_name(common: &[&str], dns: &[&str]) -> Result<String, NameError> {
        let dns: Vec<_> = dns.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(dns).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Town");
        for name in common {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        name(certificate.der()).map(|name| name.to_string())
    }

    #[test]
    fn the_common_name_comes_before_dns_names() {
        for (common, dns, wanted) in [
            (Some("lamp-7"), &["a.example"][..], "lamp-7"),
            (Some("Lämpchen 7"), &[], "Lämpchen 7"),
            (None, &["a.example", "b.example"], "a.example"),
        ] {
            let common: Vec<_> = common.into_iter().collect();
            assert_eq!(certificate_name(&common, dns).as_deref(), Ok(wanted));
        }
        assert_eq!(certificate_name(&[], &[]), Err(NameError::Missing));
        let long = "x".repeat(257);
        for unusable in ["", "a/b", "/", "+", "a#", "a\0b", "a\nb", &long] {
            assert!(
                matches!(
                    certificate_name(&[unusable], &["a.example"]),
                    Err(NameError::Unusable(_))
                ),
                "{unusable:?}"
            );
        }
    }

    /// `SET { SEQUENCE { OID commonName, value } }`, short lengths.
    fn rdn(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = |extra: usize| u8::try_from(value.len() + extra).unwrap();
        let head = [
            0x31,
            length(9),
            0x30,
            length(7),
            6,
            3,
            0x55,
            4,
            3,
            kind,
            length(0),
        ];
        [&head, value].concat()
    }

    #[test]
    fn string_types() {
        for (kind, value, wanted) in [
            (0x0c, &b"ada"[..], Ok(Some("ada"))),
            (0x13, b"ada", Ok(Some("ada"))),
            (0x16, b"ada", Ok(Some("ada"))),
            (0x13, "\u{e4}".as_bytes(), Err(NameError::Malformed)),
            (0x0c, b"\xff", Err(NameError::Malformed)),
            // BMPString: two bytes a character.
            (0x1e, b"\0a\0d", Err(NameError::Malformed)),
        ] {
            assert_eq!(common_name(&rdn(kind, value)), wanted);
        }
        let twice = [rdn(0x0c, b"a"), rdn(0x0c, b"b")].concat();
        assert_eq!(common_name(&twice), Err(NameError::Several));
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0..20usize, byte: u8) {
            let _any = common_name(&bytes);
            let mut nearly = rdn(0x0c, b"lamp");
            if let Some(place) = nearly.get_mut(at) {
                *place = byte;
            }
            let _any = common_name(&nearly);
        }
    }
}
