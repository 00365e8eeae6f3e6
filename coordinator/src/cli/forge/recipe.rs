//! Recipes: what is typed goes over what a file says.

use serde_json::{Map, Value, json};

use super::args::{OptimizerArg, RecipeArgs};
use crate::cli::{Exit, Failure};

/// Largest recipe: it has a dozen keys.
const RECIPE_BYTES_MAX: u64 = 64 * 1024;

/// The recipe file, if one is named.
pub(super) fn file(args: &RecipeArgs) -> Result<Option<Map<String, Value>>, Failure> {
    let Some(path) = &args.recipe else {
        return Ok(None);
    };
    let bytes = crate::cli::model::read_file(path, RECIPE_BYTES_MAX)?;
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Failed,
            format!("{} is no recipe: {error}", path.display()),
        )
    };
    let text = String::from_utf8(bytes).map_err(|error| wrong(&error))?;
    toml::from_str(&text)
        .map_err(|error| wrong(&error))
        .map(Some)
}

/// What is typed, as the keys of a recipe; `file` is what it goes over.
pub(super) fn typed(
    args: &RecipeArgs,
    file: Option<&Map<String, Value>>,
) -> Result<Map<String, Value>, Failure> {
    let mut typed = Map::new();
    let numbers = [
        ("seed", args.seed.map(|seed| json!(seed))),
        ("epochs", args.epochs.map(|epochs| json!(epochs))),
        ("batch", args.batch.map(|batch| json!(batch))),
        ("rate", args.rate.map(|rate| json!(rate))),
        ("clip_norm", args.clip.map(|clip| json!(clip))),
        (
            "patience",
            args.patience
                .map(|patience| json!((patience > 0).then_some(patience))),
        ),
        ("optimizer", optimizer(args, file)?),
        ("loss", words("--loss", args.loss.as_deref(), loss)?),
        (
            "schedule",
            words("--schedule", args.schedule.as_deref(), schedule)?,
        ),
        (
            "class_weights",
            words("--class-weights", args.class_weights.as_deref(), weights)?,
        ),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            typed.insert(key.to_owned(), value);
        }
    }
    Ok(typed)
}

/// The optimiser with what belongs to it: a number that it has no use for is a mistake.
fn optimizer(
    args: &RecipeArgs,
    file: Option<&Map<String, Value>>,
) -> Result<Option<Value>, Failure> {
    if (args.optimizer, args.momentum, args.decay) == (None, None, None) {
        return Ok(None);
    }
    let kind = args.optimizer.map(|kind| match kind {
        OptimizerArg::Sgd => "sgd",
        OptimizerArg::Adam => "adam",
        OptimizerArg::AdamW => "adamw",
    });
    let in_file = file.and_then(|file| file.get("optimizer"));
    let of_file = || in_file.and_then(|optimizer| optimizer["kind"].as_str());
    let kind = kind.or_else(of_file).unwrap_or("adam");
    let mut optimizer = match in_file {
        Some(Value::Object(found)) if found.get("kind").and_then(Value::as_str) == Some(kind) => {
            found.clone()
        }
        Some(_) | None => [("kind".to_owned(), json!(kind))].into_iter().collect(),
    };
    if let Some(momentum) = args.momentum {
        if kind != "sgd" {
            return Err(usage("--momentum", kind, "goes with --optimizer sgd"));
        }
        optimizer.insert("momentum".to_owned(), json!(momentum));
    }
    if let Some(decay) = args.decay {
        let key = if kind == "adamw" { "decay" } else { "l2" };
        optimizer.insert(key.to_owned(), json!(decay));
    }
    Ok(Some(Value::Object(optimizer)))
}

fn words(
    option: &str,
    text: Option<&str>,
    read: fn(&str) -> Option<Value>,
) -> Result<Option<Value>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match read(text) {
        Some(value) => Ok(Some(value)),
        None => Err(usage(option, text, "is none of what --help lists")),
    }
}

fn usage(option: &str, text: &str, wrong: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{option} ({text}) {wrong}"))
}

fn loss(text: &str) -> Option<Value> {
    match text.split_once(':') {
        None if ["mse", "mae", "bce", "cross_entropy"].contains(&text) => {
            Some(json!({ "kind": text }))
        }
        Some(("huber", delta)) => {
            Some(json!({"kind": "huber", "delta": delta.parse::<f64>().ok()?}))
        }
        _ => None,
    }
}

fn schedule(text: &str) -> Option<Value> {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [kind @ ("constant" | "cosine")] => Some(json!({ "kind": kind })),
        ["step", epochs, factor] => Some(json!({
            "kind": "step", "epochs": epochs.parse::<usize>().ok()?, "factor": factor.parse::<f64>().ok()?,
        })),
        _ => None,
    }
}

fn weights(text: &str) -> Option<Value> {
    if ["equal", "balanced"].contains(&text) {
        return Some(json!(text));
    }
    let numbers = text.split(',').map(|number| number.parse::<f64>().ok());
    Some(json!({ "given": numbers.collect::<Option<Vec<_>>>()? }))
}
