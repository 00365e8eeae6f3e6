use super::{
    DecodeError, Delivery, Framed, Packet, Version, decode, decode_connect, frame, put_publish,
    reason,
};
use crate::message::QoS;
use bytes::BytesMut;
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

fn whole(bytes: &[u8]) -> super::Frame<'_> {
    match frame(bytes, LIMIT) {
        Ok(Framed::Complete(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_are_found_one_by_one() {
    assert_eq!(frame(&[], LIMIT), Ok(Framed::Partial(2)));
    assert_eq!(frame(&[0xc0], LIMIT), Ok(Framed::Partial(2)));
    assert_eq!(frame(&[0x30, 0x80], LIMIT), Ok(Framed::Partial(3)));
    assert_eq!(frame(&[0x30, 0x05, 0x00], LIMIT), Ok(Framed::Partial(7)));
    assert_eq!(whole(&[0xc0, 0x00, 0xc0]).length, 2);
    assert!(matches!(
        frame(&[0x30, 0xff, 0xff, 0xff, 0xff], LIMIT),
        Err(DecodeError::Malformed(_))
    ));
    assert_eq!(
        frame(&[0x30, 0x64], 100),
        Err(DecodeError::TooLarge {
            size: 102,
            limit: 100
        })
    );
}

#[test]
fn a_connect_of_each_version_decodes() {
    let v4 =
        b"\x10\x1e\x00\x04MQTT\x04\xce\x00\x3c\x00\x01c\x00\x01w\x00\x02up\x00\x01u\x00\x02pw\x00";
    let mut v4 = v4[..v4.len() - 1].to_vec();
    v4[1] = u8::try_from(v4.len() - 2).unwrap();
    let connect = decode_connect(&whole(&v4)).unwrap();
    assert_eq!(
        (connect.version, connect.keep_alive_s, connect.client_id),
        (Version::V4, 60, "c")
    );
    let will = connect.will.unwrap();
    assert_eq!(
        (will.topic, will.payload, will.qos, will.retain),
        ("w", &b"up"[..], QoS::AtLeastOnce, false)
    );
    assert_eq!(
        (connect.login.user, connect.login.password),
        (Some("u"), Some(&b"pw"[..]))
    );

    let v5 = b"\x10\x12\x00\x04MQTT\x05\x02\x00\x00\x05\x11\x00\x00\x00\x0a\x00\x00";
    let connect = decode_connect(&whole(v5)).unwrap();
    assert_eq!(
        (connect.version, connect.session_expiry_s, connect.clean),
        (Version::V5, 10, true)
    );
}

#[test]
fn an_unknown_version_is_told_apart() {
    let v3 = b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c";
    assert_eq!(decode_connect(&whole(v3)), Err(DecodeError::Version(3)));
    let v6 = b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x01c";
    assert_eq!(
        decode_connect(&whole(v6)).map_err(DecodeError::reason),
        Err(reason::UNSUPPORTED_VERSION)
    );
}

#[test]
fn what_only_a_server_sends_is_refused() {
    for first in [0x20, 0x90, 0xb0, 0xd0, 0xf0, 0x10] {
        let bytes = [first, 2, 0, 0];
        assert!(
            matches!(
                decode(&whole(&bytes), Version::V4),
                Err(DecodeError::Protocol(_))
            ),
            "{first:#x}"
        );
    }
    assert!(matches!(
        decode(&whole(&[0x00, 0]), Version::V5),
        Err(DecodeError::Malformed(_))
    ));
}

#[test]
fn expiry_and_alias_are_taken_out_of_the_properties() {
    let properties = [
        0x01, 0x01, 0x02, 0, 0, 0, 9, 0x23, 0, 1, 0x26, 0, 1, b'k', 0, 1, b'v',
    ];
    let mut bytes = vec![0x30, 0, 0, 1, b't', u8::try_from(properties.len()).unwrap()];
    bytes.extend_from_slice(&properties);
    bytes.push(b'x');
    bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
    let Ok(Packet::Publish(publish)) = decode(&whole(&bytes), Version::V5) else {
        panic!()
    };
    assert_eq!(publish.expiry_s, Some(9));
    assert_eq!(publish.topic_alias, Some(1));
    assert_eq!(
        publish.properties.as_slice(),
        [0x01, 0x01, 0x26, 0, 1, b'k', 0, 1, b'v']
    );
    assert_eq!(publish.payload, b"x");
}

#[test]
fn a_property_given_twice_is_refused() {
    let bytes = [0x30, 8, 0, 1, b't', 4, 1, 1, 1, 1];
    assert!(matches!(
        decode(&whole(&bytes), Version::V5),
        Err(DecodeError::Protocol(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_decoder_panic(first in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..120), v5 in any::<bool>()) {
        let frame = super::Frame { first, body: &body, length: body.len() + 2 };
        let _any: Result<_, _> = decode_connect(&super::Frame { first: 0x10, ..frame });
        let _any: Result<_, _> = decode(&frame, if v5 { Version::V5 } else { Version::V4 });
        let _any: Result<_, _> = super::frame(&body, LIMIT);
    }

    #[test]
    fn a_delivery_names_all_its_subscriptions(ids in prop::collection::vec(1u32..268_435_455, 0..5)) {
        let delivery = Delivery {
            topic: b"t", topic_alias: None, qos: QoS::AtMostOnce, dup: false, retain: false, packet_id: 0, properties: b"",
            expiry_s: None, subscription_ids: &ids, payload: b"",
        };
        let mut out = BytesMut::new();
        put_publish(&mut out, Version::V5, &delivery);
        prop_assert_eq!(out.len(), delivery.packet_len(Version::V5));
        // Behind the header, the topic and the length of the properties.
        let mut rest = &out[6..];
        for &id in &ids {
            prop_assert_eq!(rest[0], 0x0b);
            let (found, width) = super::properties::split_length(&rest[1..]).unwrap();
            prop_assert_eq!(found, id as usize);
            rest = &rest[1 + width..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_connect_with_flipped_bytes_does_not_panic(at in 0usize..40, to in any::<u8>()) {
        let mut bytes = *b"\x00\x04MQTT\x05\xf6\x00\x3c\x05\x11\x00\x00\x00\x0a\x00\x01c\x05\x18\x00\x00\x00\x01\x00\x01w\x00\x01p\x00\x01u\x00\x01p";
        let length = bytes.len();
        bytes[at % length] = to;
        let _any: Result<_, _> = decode_connect(&super::Frame { first: 0x10, body: &bytes, length });
    }

    #[test]
    fn a_delivery_decodes_to_itself(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        qos in 0u8..3,
        retain in any::<bool>(),
        dup in any::<bool>(),
        alias in prop::option::of(1u16..),
        v5 in any::<bool>(),
    ) {
        let version = if v5 { Version::V5 } else { Version::V4 };
        let qos = QoS::from_bits(qos).unwrap();
        let delivery = Delivery {
            topic: b"a/b", topic_alias: alias, qos, dup: dup && qos != QoS::AtMostOnce, retain, packet_id: 7, properties: b"\x01\x01",
            expiry_s: Some(3), subscription_ids: &[], payload: &payload,
        };
        let mut out = BytesMut::new();
        put_publish(&mut out, version, &delivery);
        prop_assert_eq!(out.len(), delivery.packet_len(version));
        let Ok(Packet::Publish(publish)) = decode(&whole(&out), version) else { panic!() };
        prop_assert_eq!(publish.topic, "a/b");
        prop_assert_eq!((publish.qos, publish.retain, publish.payload), (qos, retain, &payload[..]));
        prop_assert_eq!(publish.expiry_s, v5.then_some(3));
        prop_assert_eq!(publish.topic_alias, alias.filter(|_| v5));
        prop_assert_eq!(out[0] & 0b1000 != 0, delivery.dup);
    }
}
