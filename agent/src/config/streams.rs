//! The `[[stream]]` and `[[model]]` tables.

use std::collections::BTreeSet;
use std::time::Duration;

use lamppost_agent_core::decode::{DecodeLimits, Decoder, SourceSpec};
use lamppost_agent_core::drift::{DriftSpec, PERIODS_MAX};
use lamppost_agent_core::label::{LabelFrom, LabelSpec};
use lamppost_models::{FieldName, StreamName, TopicRoot};

use super::raw::{RawDrift, RawModel, RawStream};
use super::{
    ConfigError, Label, Model, Origin, Outcome, STREAMS_MAX, Stream, refuse, samples, span, within,
};
use crate::filter;

pub(super) fn streams(
    raw: Vec<RawStream>,
    factory: &[RawModel],
    root: &TopicRoot,
    limits: DecodeLimits,
) -> Outcome<(Vec<Model>, Vec<Stream>)> {
    within(
        "the number of [[stream]] tables",
        "",
        raw.len(),
        1,
        STREAMS_MAX,
    )?;
    let names: Vec<StreamName> = raw.iter().map(|stream| stream.name.clone()).collect();
    if let Some((at, name)) = names
        .iter()
        .enumerate()
        .find(|(at, name)| names[..*at].contains(name))
    {
        return refuse(
            format!("stream[{at}].name"),
            format!("{name}, again"),
            "another name for each stream",
        );
    }
    let fields: Vec<(StreamName, BTreeSet<FieldName>)> = raw
        .iter()
        .map(|stream| {
            Ok((
                stream.name.clone(),
                fields(&stream.name, "source", &stream.source, limits)?,
            ))
        })
        .collect::<Outcome<_>>()?;
    let mut models: Vec<Model> = Vec::new();
    let mut streams = Vec::new();
    for raw in raw {
        let model = models
            .iter()
            .position(|model| model.name == raw.model)
            .unwrap_or_else(|| {
                models.push(Model {
                    name: raw.model.clone(),
                    factory: None,
                });
                models.len() - 1
            });
        streams.push(stream(raw, model, &fields, root, limits)?);
    }
    for (at, raw) in factory.iter().enumerate() {
        let Some(model) = models.iter_mut().find(|model| model.name == raw.name) else {
            return refuse(
                format!("model[{at}].name"),
                &raw.name,
                "the model of a stream: no [[stream]] names it",
            );
        };
        if model.factory.replace(raw.bundle.clone()).is_some() {
            return refuse(
                format!("model[{at}].name"),
                format!("{}, again", raw.name),
                "there once",
            );
        }
    }
    check_filters(&streams)?;
    Ok((models, streams))
}

fn stream(
    raw: RawStream,
    model: usize,
    fields: &[(StreamName, BTreeSet<FieldName>)],
    root: &TopicRoot,
    limits: DecodeLimits,
) -> Outcome<Stream> {
    let key = |part: &str| format!("stream {}: {part}", raw.name);
    let decoder = decoder(&raw.name, "source", &raw.source, limits)?;
    if let Some(flat) = &raw.publish.flat {
        let topic = filter::is_valid(flat) && !flat.contains(['+', '#']) && !flat.starts_with('$');
        if !topic || filter::matches(&format!("{root}/#"), flat) {
            return refuse(
                key("publish.flat"),
                format!("{flat:?}"),
                format!("a topic without wildcards, outside {root}"),
            );
        }
        if filter::matches(&raw.source.topic, flat) {
            return refuse(
                key("publish.flat"),
                format!("{flat:?}"),
                "outside the stream's own topic: it would feed itself",
            );
        }
    }
    let label = raw
        .label
        .map(|spec| label(&raw.name, spec, fields, limits))
        .transpose()?;
    let sample = raw
        .sample
        .map(|sample| {
            let own = decoder.fields().into_iter();
            let label = label.as_ref().map(|label: &Label| label.spec.field());
            let known = own.chain(label).cloned().collect();
            samples::sample(&raw.name, sample, &known)
        })
        .transpose()?;
    let stale_after = raw.stale_after.0;
    if let Some(patience) = stale_after {
        let (least, most) = (Duration::from_secs(1), Duration::from_hours(366 * 24));
        span(&key("stale_after"), patience, least, most)?;
    }
    Ok(Stream {
        drift: drift(&raw.name, &raw.drift)?,
        stale_after,
        filter: raw.source.topic,
        decoder,
        window: raw.window,
        model,
        label,
        sample,
        live: raw.publish.live,
        flat: raw.publish.flat,
        name: raw.name,
    })
}

fn drift(stream: &StreamName, raw: &RawDrift) -> Outcome<Option<DriftSpec>> {
    let Some(period) = raw.period.0 else {
        return Ok(None);
    };
    let key = |part: &str| format!("stream {stream}: drift.{part}");
    let (least, most) = (Duration::from_secs(1), Duration::from_hours(366 * 24));
    span(&key("period"), period, least, most)?;
    let (reference, recent) = (raw.reference, raw.recent);
    within(&key("reference"), "periods", reference, 4, PERIODS_MAX)?;
    within(&key("recent"), "periods", recent, 1, reference / 2)?;
    Ok(Some(DriftSpec {
        period,
        reference,
        recent,
    }))
}

fn label(
    stream: &StreamName,
    spec: LabelSpec,
    fields: &[(StreamName, BTreeSet<FieldName>)],
    limits: DecodeLimits,
) -> Outcome<Label> {
    let (origin, known) = match spec.from() {
        LabelFrom::Stream(name) => {
            let Some(at) = fields.iter().position(|(known, _)| known == name) else {
                return refuse(
                    format!("stream {stream}: label.stream"),
                    name,
                    "the name of a [[stream]]",
                );
            };
            (Origin::Stream(at), fields[at].1.clone())
        }
        LabelFrom::Source(source) => {
            let known = self::fields(stream, "label.source", source, limits)?;
            (
                Origin::Topic(
                    source.topic.clone(),
                    decoder(stream, "label.source", source, limits)?,
                ),
                known,
            )
        }
    };
    if !known.contains(spec.field()) {
        let names: Vec<_> = known.iter().map(FieldName::as_str).collect();
        return refuse(
            format!("stream {stream}: label.field"),
            spec.field(),
            format!("one of {}", names.join(", ")),
        );
    }
    Ok(Label { spec, origin })
}

fn fields(
    stream: &StreamName,
    key: &str,
    source: &SourceSpec,
    limits: DecodeLimits,
) -> Outcome<BTreeSet<FieldName>> {
    Ok(decoder(stream, key, source, limits)?
        .fields()
        .into_iter()
        .cloned()
        .collect())
}

fn decoder(
    stream: &StreamName,
    key: &str,
    source: &SourceSpec,
    limits: DecodeLimits,
) -> Outcome<Decoder> {
    if !filter::is_valid(&source.topic) || source.topic.starts_with("$share/") {
        let wanted = "a topic, or a filter in which + fills a whole level and # the last one";
        return refuse(
            format!("stream {stream}: {key}.topic"),
            format!("{:?}", source.topic),
            wanted,
        );
    }
    let made = Decoder::new(&source.decode, limits);
    made.map_err(|source| ConfigError::Source {
        key: format!("stream {stream}: {key}"),
        source,
    })
}

/// The broker hands a message to each filter that selects it. Where one holds the other, only that is subscribed to.
fn check_filters(streams: &[Stream]) -> Outcome<()> {
    let labels = streams.iter().filter_map(|stream| match &stream.label {
        Some(Label {
            origin: Origin::Topic(filter, _),
            ..
        }) => Some(filter.as_str()),
        Some(Label {
            origin: Origin::Stream(_),
            ..
        })
        | None => None,
    });
    let filters = filter::widest(
        streams
            .iter()
            .map(|stream| stream.filter.as_str())
            .chain(labels),
    );
    for (at, a) in filters.iter().enumerate() {
        if let Some(b) = filters[at + 1..].iter().find(|b| filter::overlap(a, b)) {
            return Err(ConfigError::Overlap {
                a: a.clone(),
                b: b.clone(),
            });
        }
    }
    Ok(())
}
