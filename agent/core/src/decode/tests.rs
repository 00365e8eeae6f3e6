use lamppost_models::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: &str = "2026-11-24T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn decoder(spec: serde_json::Value) -> Decoder {
    let source: SourceSpec = serde_json::from_value(spec).unwrap();
    Decoder::new(&source.decode, DecodeLimits::default()).unwrap()
}

#[track_caller]
fn expect_refused(spec: &serde_json::Value, wanted: &str) {
    let found = match serde_json::from_value::<SourceSpec>(spec.clone()) {
        Ok(source) => Decoder::new(&source.decode, DecodeLimits::default())
            .unwrap_err()
            .to_string(),
        Err(error) => error.to_string(),
    };
    assert!(
        found.contains(wanted),
        "{spec}: {found:?} should say {wanted:?}"
    );
}

fn decode(decoder: &Decoder, payload: impl AsRef<[u8]>) -> Result<Reading, DecodeError> {
    decoder.decode(payload.as_ref(), at(NOW))
}

/// The kind of error that a payload gives.
fn kind(decoder: &Decoder, payload: impl AsRef<[u8]>) -> &'static str {
    decode(decoder, payload).unwrap_err().kind()
}

fn reading(ts: &str, fields: &[(&str, Value)]) -> Reading {
    let fields = fields
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.clone()))
        .collect();
    Reading { ts: at(ts), fields }
}

fn number(value: f64) -> Value {
    Value::Number(value)
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn json_decoder() -> Decoder {
    decoder(json!({
        "topic": "sensors/i94", "decode": "json", "time": "/ts",
        "fields": {
            "volume": "/volume",
            "temp": { "at": "/air/0/temp~1c", "scale": 0.1, "offset": -10, "min": -60, "max": 60 },
            "sky": "/sky",
        },
        "optional": ["sky", "temp"],
    }))
}

#[test]
fn json_is_read_by_pointer() {
    let decoder = json_decoder();
    let found = decode(
        &decoder,
        r#"{"ts":"2026-11-24T08:00:00-06:00","volume":12,"air":[{"temp/c":215}],"sky":"Clouds","x":[{}]}"#,
    );
    // 08:00 six hours behind UTC is 14:00, which is two hours ahead of now.
    assert_eq!(found.unwrap_err().kind(), "ahead");
    let found = decode(
        &decoder,
        r#"{"ts":"2026-11-24T02:00:00-06:00","volume":12,"air":[{"temp/c":215}],"sky":"Clouds","x":[{}]}"#,
    );
    let wanted = [
        ("volume", number(12.0)),
        ("temp", number(11.5)),
        ("sky", text("Clouds")),
    ];
    assert_eq!(found, Ok(reading("2026-11-24T08:00:00Z", &wanted)));
    let found = decode(
        &decoder,
        r#"{"ts":"2026-11-24T08:00:00Z","volume":true,"sky":null}"#,
    );
    assert_eq!(
        found,
        Ok(reading("2026-11-24T08:00:00Z", &[("volume", number(1.0))]))
    );
}

#[test]
fn json_that_does_not_suit_is_refused() {
    let decoder = json_decoder();
    for (payload, wanted) in [
        ("", "syntax"),
        ("{", "syntax"),
        ("NaN", "syntax"),
        (r#"{"ts":"2026-11-24T08:00:00Z","volume":NaN}"#, "syntax"),
        (r#"{"ts":"2026-11-24T08:00:00Z","volume":1e999}"#, "syntax"),
        (r#"{"volume":1}"#, "time-missing"),
        (r#"{"ts":null,"volume":1}"#, "time-missing"),
        (r#"{"ts":"yesterday","volume":1}"#, "time"),
        (r#"{"ts":1764000000,"volume":1}"#, "time"),
        (r#"{"ts":"2026-11-24T12:05:01Z","volume":1}"#, "ahead"),
        (r#"{"ts":"2026-11-24T08:00:00Z"}"#, "missing"),
        (r#"{"ts":"2026-11-24T08:00:00Z","volume":{}}"#, "kind"),
        (r#"{"ts":"2026-11-24T08:00:00Z","volume":[1,"2"]}"#, "kind"),
        (
            r#"{"ts":"2026-11-24T08:00:00Z","volume":[1e300]}"#,
            "not-finite",
        ),
        (
            r#"{"ts":"2026-11-24T08:00:00Z","volume":1,"air":[{"temp/c":701}]}"#,
            "range",
        ),
        (
            r#"{"ts":"2026-11-24T08:00:00Z","volume":1,"air":[{"temp/c":-501}]}"#,
            "range",
        ),
    ] {
        assert_eq!(kind(&decoder, payload), wanted, "{payload}");
    }
    let deep = format!(
        r#"{{"ts":"2026-11-24T08:00:00Z","volume":{}}}"#,
        "[".repeat(10_000)
    );
    assert_eq!(kind(&decoder, deep), "syntax");
    assert_eq!(kind(&decoder, vec![b' '; 256 * 1024 + 1]), "too-large");
    assert!(
        decode(&decoder, r#"{"ts":"2026-11-24T12:05:00Z","volume":1}"#).is_ok(),
        "five minutes ahead are let pass"
    );
}

#[test]
fn an_error_names_the_value_the_limit_and_the_field() {
    let decoder = json_decoder();
    let error = decode(
        &decoder,
        r#"{"ts":"2026-11-24T08:00:00Z","volume":1,"air":[{"temp/c":1000}]}"#,
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "field temp is 90, it must be -60 to 60");
    let error = decode(&decoder, r#"{"ts":1764000000,"volume":1}"#).unwrap_err();
    assert!(
        error.to_string().contains("set time_unit to s or ms"),
        "{error}"
    );
}

#[test]
fn numbers_are_times_in_the_configured_unit() {
    for (unit, value, wanted) in [
        ("s", json!(1_500_000_000), "2017-07-14T02:40:00Z"),
        ("s", json!(1_500_000_000.25), "2017-07-14T02:40:00.250Z"),
        (
            "ms",
            json!(1_500_000_000_250_u64),
            "2017-07-14T02:40:00.250Z",
        ),
        ("ms", json!("1500000000250"), "2017-07-14T02:40:00.250Z"),
        ("s", json!(0), "1970-01-01T00:00:00Z"),
    ] {
        let decoder = decoder(
            json!({"topic": "t", "decode": "json", "time": "/t", "time_unit": unit, "fields": {"x": "/x"}}),
        );
        let found = decode(&decoder, json!({"t": value, "x": 1}).to_string()).unwrap();
        assert_eq!(found.ts, at(wanted), "{value} {unit}");
    }
    let decoder = decoder(
        json!({"topic": "t", "decode": "json", "time": "/t", "time_unit": "s", "fields": {"x": "/x"}}),
    );
    for value in [
        json!(1e300),
        json!(-1e300),
        json!(1e14),
        json!("1e400"),
        json!("NaN"),
        json!("now"),
        json!([1]),
    ] {
        assert_eq!(
            kind(&decoder, json!({"t": value, "x": 1}).to_string()),
            "time",
            "{value}"
        );
    }
}

#[test]
fn times_without_an_offset_are_those_of_the_zone() {
    let decoder = decoder(
        json!({"topic": "t", "decode": "json", "time": "/t", "zone": "Europe/Berlin", "fields": {"x": "/x"}}),
    );
    for (given, wanted) in [
        ("2026-07-01T12:00:00", "2026-07-01T10:00:00Z"),
        ("2026-01-01 12:00:00", "2026-01-01T11:00:00Z"),
        ("2026-01-01T12:00:00Z", "2026-01-01T12:00:00Z"),
    ] {
        assert_eq!(
            decode(&decoder, json!({"t": given, "x": 1}).to_string())
                .unwrap()
                .ts,
            at(wanted),
            "{given}"
        );
    }
}

#[test]
fn without_a_time_it_is_the_time_of_arrival() {
    let decoder = decoder(json!({"topic": "t", "decode": "json", "fields": {"x": "/x"}}));
    assert_eq!(
        decode(&decoder, r#"{"x":-1.5}"#),
        Ok(reading(NOW, &[("x", number(-1.5))]))
    );
}

#[test]
fn a_kind_holds_values_to_it() {
    let decoder = decoder(json!({"topic": "t", "decode": "json", "fields": {
        "n": {"at": "/n", "kind": "number"}, "t": {"at": "/t", "kind": "text"}, "v": {"at": "/v", "kind": "vector", "scale": 2},
    }}));
    let found = decode(&decoder, r#"{"n":" 1.5 ","t":"a","v":[1,2.5]}"#);
    assert_eq!(
        found,
        Ok(reading(
            NOW,
            &[
                ("n", number(1.5)),
                ("t", text("a")),
                ("v", Value::Vector(vec![2.0, 5.0]))
            ]
        ))
    );
    for payload in [
        r#"{"n":"x","t":"a","v":[]}"#,
        r#"{"n":[1],"t":"a","v":[]}"#,
        r#"{"n":1,"t":1,"v":[]}"#,
        r#"{"n":1,"t":"a","v":1}"#,
    ] {
        assert_eq!(kind(&decoder, payload), "kind", "{payload}");
    }
    assert_eq!(
        kind(&decoder, r#"{"n":"inf","t":"a","v":[]}"#),
        "not-finite"
    );
}

fn csv_decoder() -> Decoder {
    decoder(json!({
        "topic": "t", "decode": "csv", "columns": ["ts", "volume", "sky", "temp"], "time": "ts",
        "fields": {"volume": "volume", "sky": {"at": "sky", "kind": "text"}, "temp": {"at": 3, "scale": 2}},
        "optional": ["temp"],
    }))
}

#[test]
fn csv_is_read_by_column() {
    let decoder = csv_decoder();
    let ts = "2016-12-25T06:00:00Z";
    for (line, sky) in [
        ("2016-12-25T00:00:00-06:00,900,Clouds,0.5\r\n", "Clouds"),
        (
            "2016-12-25T00:00:00-06:00,\"900\",\"a, \"\"b\"\"\",0.5",
            "a, \"b\"",
        ),
        (
            "2016-12-25T00:00:00-06:00, 900 ,\"two\nlines\",0.5\n",
            "two\nlines",
        ),
        ("2016-12-25T00:00:00-06:00,900,\"\"\"\",0.5\n", "\""),
    ] {
        let wanted = [
            ("volume", number(900.0)),
            ("sky", text(sky)),
            ("temp", number(1.0)),
        ];
        assert_eq!(decode(&decoder, line), Ok(reading(ts, &wanted)), "{line:?}");
    }
    let wanted = [("volume", number(900.0)), ("sky", text("x"))];
    assert_eq!(
        decode(&decoder, "2016-12-25T06:00:00Z,900,x,"),
        Ok(reading(ts, &wanted))
    );
}

#[test]
fn csv_that_does_not_suit_is_refused() {
    let decoder = csv_decoder();
    for (line, wanted) in [
        ("", "cells"),
        ("2016-12-25T06:00:00Z,900,x", "cells"),
        ("2016-12-25T06:00:00Z,900,x,1,2", "cells"),
        (",900,x,1", "time-missing"),
        ("ts,volume,sky,temp", "time"),
        ("2016-12-25T06:00:00Z,,x,1", "missing"),
        ("2016-12-25T06:00:00Z,9oo,x,1", "kind"),
        ("2016-12-25T06:00:00Z,NaN,x,1", "not-finite"),
        ("2016-12-25T06:00:00Z,-inf,x,1", "not-finite"),
        ("2016-12-25T06:00:00Z,1e308,x,1e308", "not-finite"),
        ("2016-12-25T06:00:00Z,900,\"x,1", "syntax"),
        ("2016-12-25T06:00:00Z,900,\"x\"y,1", "syntax"),
        ("2016-12-25T06:00:00Z,900,x\"y,1", "syntax"),
        (
            "2016-12-25T06:00:00Z,900,x,1\n2016-12-25T07:00:00Z,900,x,1",
            "syntax",
        ),
    ] {
        assert_eq!(kind(&decoder, line), wanted, "{line:?}");
    }
    assert_eq!(kind(&decoder, b"\xff,1,2,3"), "syntax");
}

#[test]
fn csv_without_a_header_goes_by_number() {
    let decoder = decoder(json!({
        "topic": "t", "decode": "csv", "delimiter": ";", "time": 0, "time_unit": "s", "fields": {"x": 2},
    }));
    assert_eq!(
        decode(&decoder, "0;;7"),
        Ok(reading("1970-01-01T00:00:00Z", &[("x", number(7.0))]))
    );
    assert_eq!(kind(&decoder, "0;7"), "missing");
}

fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

#[test]
fn raw_numbers_are_a_vector_or_interleaved_fields() {
    let burst = decoder(json!({"topic": "t", "decode": "f32", "fields": ["burst"]}));
    assert_eq!(
        decode(&burst, f32s(&[1.0, -2.5])),
        Ok(reading(NOW, &[("burst", Value::Vector(vec![1.0, -2.5]))]))
    );
    for bytes in [vec![], vec![0; 3], vec![0; 9]] {
        assert_eq!(kind(&burst, bytes), "length");
    }
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(kind(&burst, f32s(&[0.0, number])), "not-finite");
    }
    let axes = decoder(json!({"topic": "t", "decode": "f32", "fields": ["x", "y"], "length": 2}));
    let wanted = [
        ("x", Value::Vector(vec![1.0, 3.0])),
        ("y", Value::Vector(vec![2.0, 4.0])),
    ];
    assert_eq!(
        decode(&axes, f32s(&[1.0, 2.0, 3.0, 4.0])),
        Ok(reading(NOW, &wanted))
    );
    let error = decode(&axes, f32s(&[1.0, 2.0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "payload has 8 bytes, it must have 16 of numbers"
    );
    let scalars = decoder(
        json!({"topic": "t", "decode": "f32", "fields": ["y", "x"], "length": 1, "time": "prefix-ms"}),
    );
    let payload = [&1_500_000_000_250_i64.to_le_bytes()[..], &f32s(&[1.5, 2.5])].concat();
    let wanted = [("x", number(2.5)), ("y", number(1.5))];
    assert_eq!(
        decode(&scalars, payload),
        Ok(reading("2017-07-14T02:40:00.250Z", &wanted))
    );
    assert_eq!(kind(&scalars, [0; 7]), "length");
    assert_eq!(
        kind(
            &scalars,
            [&i64::MAX.to_le_bytes()[..], &f32s(&[1.5, 2.5])].concat()
        ),
        "time"
    );
}

#[test]
fn raw_pixels_are_a_vector() {
    let decoder = decoder(
        json!({"topic": "t", "decode": "image", "field": "frame", "width": 2, "height": 1, "channels": 3}),
    );
    let wanted = Value::Vector(vec![0.0, 1.0, 2.0, 253.0, 254.0, 255.0]);
    assert_eq!(
        decode(&decoder, [0, 1, 2, 253, 254, 255]),
        Ok(reading(NOW, &[("frame", wanted)]))
    );
    assert_eq!(kind(&decoder, [0; 5]), "length");
    assert_eq!(kind(&decoder, [0; 7]), "length");
}

#[test]
fn a_configuration_of_json_that_cannot_be_is_refused() {
    for (spec, wanted) in [
        (
            json!({"topic": "t", "decode": "json", "fields": {}}),
            "name at least one",
        ),
        (
            json!({"topic": "t", "decode": "json", "fields": {"x": "x"}}),
            "is no JSON pointer",
        ),
        (
            json!({"topic": "t", "decode": "json", "time": "ts", "fields": {"x": "/x"}}),
            "is no JSON pointer",
        ),
        (
            json!({"topic": "t", "decode": "json", "fields": {"x": "/x"}, "optional": ["y"]}),
            "none of the fields",
        ),
        (
            json!({"topic": "t", "decode": "json", "fields": {"x": "/x"}, "colour": 1}),
            "unknown field `colour`",
        ),
        (
            json!({"topic": "t", "decode": "json", "fields": {"x": {"at": "/x", "unit": "m"}}}),
            "unknown field `unit`",
        ),
        (
            json!({"topic": "t", "decode": "json", "fields": {"x": {"at": "/x", "scale": 0}}}),
            "scale of 0",
        ),
        (
            json!({"topic": "t", "decode": "json", "fields": {"x": {"at": "/x", "min": 2, "max": 1}}}),
            "min 2 is above max 1",
        ),
        (
            json!({"topic": "t", "decode": "json", "fields": {"x": {"at": "/x", "kind": "text", "min": 2}}}),
            "a text has no",
        ),
        (
            json!({"topic": "t", "decode": "json", "fields": {"x y": "/x"}}),
            "' '",
        ),
        (
            json!({"topic": "t", "decode": "xml", "fields": {"x": "/x"}}),
            "unknown variant `xml`",
        ),
        (
            json!({"topic": "t", "decode": "json", "zone": "Mars", "fields": {"x": "/x"}}),
            "Mars",
        ),
    ] {
        expect_refused(&spec, wanted);
    }
}

#[test]
fn a_configuration_of_lines_or_bytes_that_cannot_be_is_refused() {
    for (spec, wanted) in [
        (
            json!({"topic": "t", "decode": "csv", "fields": {"x": "x"}}),
            "no columns are configured",
        ),
        (
            json!({"topic": "t", "decode": "csv", "columns": ["a"], "fields": {"x": "x"}}),
            "is not among the columns",
        ),
        (
            json!({"topic": "t", "decode": "csv", "columns": ["a"], "fields": {"x": 1}}),
            "is not among the columns",
        ),
        (
            json!({"topic": "t", "decode": "csv", "fields": {"x": -1}}),
            "its name or its number",
        ),
        (
            json!({"topic": "t", "decode": "csv", "delimiter": "\"", "fields": {"x": 0}}),
            "neither a quote",
        ),
        (
            json!({"topic": "t", "decode": "csv", "fields": {"x": {"at": 0, "kind": "vector"}}}),
            "not a vector",
        ),
        (
            json!({"topic": "t", "decode": "f32", "fields": []}),
            "name at least one",
        ),
        (
            json!({"topic": "t", "decode": "f32", "fields": ["x", "y", "x"]}),
            "twice",
        ),
        (
            json!({"topic": "t", "decode": "f32", "fields": ["x"], "length": 0}),
            "length = 0",
        ),
        (
            json!({"topic": "t", "decode": "image", "field": "x", "width": 0, "height": 1}),
            "0 bytes",
        ),
        (
            json!({"topic": "t", "decode": "image", "field": "x", "width": 1000, "height": 1000}),
            "1 to 262144",
        ),
        (
            json!({"topic": "t", "decode": "image", "field": "x", "width": u32::MAX, "height": u32::MAX, "channels": 9}),
            "image of",
        ),
    ] {
        expect_refused(&spec, wanted);
    }
}

#[test]
fn a_configuration_reads_back_as_it_was_written() {
    for spec in [
        json!({"topic": "t", "decode": "csv", "columns": ["a", "b"], "time": "a", "fields": {"x": {"at": "b", "scale": 0.5}}}),
        json!({"topic": "t", "decode": "json", "time": "/t", "time_unit": "ms", "fields": {"x": "/x"}, "optional": ["x"]}),
        json!({"topic": "t", "decode": "f32", "fields": ["x"], "time": "prefix-ms"}),
        json!({"topic": "t", "decode": "image", "field": "x", "width": 2, "height": 3}),
    ] {
        let read: SourceSpec = serde_json::from_value(spec).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(serde_json::from_value::<SourceSpec>(written).unwrap(), read);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        for decoder in [
            json_decoder(),
            csv_decoder(),
            decoder(json!({"topic": "t", "decode": "f32", "fields": ["x", "y"], "time": "prefix-ms"})),
        ] {
            if let Ok(reading) = decode(&decoder, &payload) {
                let finite = reading.fields.values().all(|value| match value {
                    Value::Number(number) => number.is_finite(),
                    Value::Text(_) => true,
                    Value::Vector(numbers) => numbers.iter().all(|number| number.is_finite()),
                });
                prop_assert!(finite);
            }
        }
    }

    #[test]
    fn cells_come_back_as_they_were_quoted(cells in proptest::collection::vec("[a-z,\"\n ]{0,6}", 2..5)) {
        let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        let last = cells.len() - 1;
        let decoder = decoder(json!({
            "topic": "t", "decode": "csv", "fields": {"x": {"at": last, "kind": "text"}}, "optional": ["x"],
        }));
        let found = decode(&decoder, quoted.join(",")).unwrap();
        let wanted = (!cells[last].trim().is_empty()).then(|| text(&cells[last]));
        prop_assert_eq!(found.fields.into_values().next(), wanted);
    }
}
