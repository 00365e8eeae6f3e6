//! The `Range` header, by RFC 9110, section 14: one range of bytes. Several in one request are answered with the whole,
//! as the RFC allows.

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything.
    Whole,
    /// Bytes from `from` to `to`, both included and both there.
    Part { from: u64, to: u64 },
    /// Bytes that are not there.
    Unsatisfiable,
}

/// Reads the header for a content of `bytes`; what is malformed or of another unit is ignored.
pub(super) fn wanted(header: Option<&str>, bytes: u64) -> Wanted {
    let Some(range) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((from, to)) = range.trim().split_once('-') else {
        return Wanted::Whole;
    };
    match (from, to) {
        ("", suffix) => match number(suffix) {
            Some(0) => Wanted::Unsatisfiable,
            Some(_) if bytes == 0 => Wanted::Unsatisfiable,
            Some(suffix) => Wanted::Part {
                from: bytes.saturating_sub(suffix),
                to: bytes - 1,
            },
            None => Wanted::Whole,
        },
        (from, to) => {
            let Some(from) = number(from) else {
                return Wanted::Whole;
            };
            let to = if to.is_empty() {
                Some(u64::MAX)
            } else {
                number(to)
            };
            match to {
                Some(to) if from > to => Wanted::Whole,
                Some(_) if from >= bytes => Wanted::Unsatisfiable,
                Some(to) => Wanted::Part {
                    from,
                    to: to.min(bytes - 1),
                },
                None => Wanted::Whole,
            }
        }
    }
}

/// Digits alone, as the grammar has it; a number beyond 64 bits is beyond every file.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_as_the_rfc_has_it() {
        let part = |from, to| Wanted::Part { from, to };
        for (header, wanted) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-", part(2, 9)),
            ("bytes=2-5", part(2, 5)),
            ("bytes=2-500", part(2, 9)),
            ("bytes=9-99999999999999999999999", part(9, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-300", part(0, 9)),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=3", Wanted::Whole),
            ("items=0-1", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(super::wanted(Some(header), 10), wanted, "{header}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Unsatisfiable);
    }
}
