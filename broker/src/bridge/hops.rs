//! The mark by which a message that goes round in a circle is known.
//!
//! Each time a bridge takes a message out of its broker or into it, it adds that broker's id and which of both it was
//! to a user property: `gate-7.in gate-7.out hall.in`. A message that comes back to a broker is dropped there. One that
//! came in over one bridge may go out over another, which is why the two are told apart: only an `in` that stands last
//! is no sign of a circle. A broker that drops the property, and MQTT 3.1.1, which has none, break the chain.

/// The user property's name.
pub(super) const PROPERTY: &str = "lamppost-bridge-hops";

/// Bridges that a message may cross: more than any tree of brokers in a city is deep.
const HOPS_MAX: usize = 8;

/// Bytes of the property: room for that many ids of their greatest length.
const BYTES_MAX: usize = HOPS_MAX * 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// The message has been here before, or has crossed too many bridges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looped;

/// Adds a crossing to the properties.
pub(super) fn cross(
    properties: &mut Vec<(String, String)>,
    broker_id: &str,
    way: Way,
) -> Result<(), Looped> {
    let mut hops = String::new();
    let mut count = 0;
    let mut looped = false;
    let marks = properties.iter().filter(|(name, _)| name == PROPERTY);
    for hop in marks.flat_map(|(_, value)| value.split_whitespace()) {
        // An own `in` stops being the last one as soon as another hop follows.
        looped |= hops.ends_with(' ') && is_own_in(hops.trim_end(), broker_id);
        looped |= match hop.strip_prefix(broker_id) {
            Some(".out") => true,
            Some(".in") => way == Way::In,
            _ => false,
        };
        count += 1;
        if looped || count >= HOPS_MAX || hops.len() + hop.len() > BYTES_MAX {
            return Err(Looped);
        }
        hops.push_str(hop);
        hops.push(' ');
    }
    hops.push_str(broker_id);
    hops.push_str(match way {
        Way::In => ".in",
        Way::Out => ".out",
    });
    properties.retain(|(name, _)| name != PROPERTY);
    properties.push((PROPERTY.to_owned(), hops));
    Ok(())
}

/// Whether the last of the hops is this broker's `in`.
fn is_own_in(hops: &str, broker_id: &str) -> bool {
    hops.rsplit(' ')
        .next()
        .and_then(|hop| hop.strip_prefix(broker_id))
        .is_some_and(|way| way == ".in")
}

#[cfg(test)]
mod tests {
    use super::{HOPS_MAX, Looped, PROPERTY, Way, cross};

    fn marked(hops: &str) -> Vec<(String, String)> {
        vec![
            ("a".to_owned(), "b".to_owned()),
            (PROPERTY.to_owned(), hops.to_owned()),
        ]
    }

    #[test]
    fn a_crossing_is_added_and_the_rest_is_left() {
        let mut properties = vec![("a".to_owned(), "b".to_owned())];
        cross(&mut properties, "x", Way::Out).unwrap();
        cross(&mut properties, "y", Way::In).unwrap();
        // From one bridge to another one of the same broker.
        cross(&mut properties, "y", Way::Out).unwrap();
        assert_eq!(properties, marked("x.out y.in y.out"));
        // Marks that came apart are read as one.
        let mut properties = marked("x.out");
        properties.extend(marked("y.in"));
        cross(&mut properties, "z", Way::In).unwrap();
        assert_eq!(properties.last(), marked("x.out y.in z.in").last());
    }

    #[test]
    fn who_was_here_before_does_not_pass() {
        for (hops, way) in [
            ("x.out", Way::In),
            ("x.out", Way::Out),
            ("x.in", Way::In),
            ("x.in y.in", Way::Out),
            ("x.in y.in x.in", Way::Out),
            ("a.in x.out b.in", Way::Out),
        ] {
            assert_eq!(
                cross(&mut marked(hops), "x", way),
                Err(Looped),
                "{hops} {way:?}"
            );
        }
        for (hops, way) in [
            ("x.in", Way::Out),
            ("xx.out", Way::Out),
            ("y.out x", Way::In),
        ] {
            assert_eq!(cross(&mut marked(hops), "x", way), Ok(()), "{hops} {way:?}");
        }
    }

    #[test]
    fn the_way_has_an_end() {
        let mut properties = Vec::new();
        for broker in 0..HOPS_MAX {
            cross(&mut properties, &format!("b{broker}"), Way::In).unwrap();
        }
        assert_eq!(cross(&mut properties, "last", Way::In), Err(Looped));
        assert_eq!(
            cross(&mut marked(&"y".repeat(60_000)), "x", Way::In),
            Err(Looped)
        );
    }
}
