//! `lamppost keys`: what it makes and signs stays in files; a coordinator only ever gets the chain.

use std::path::{Path, PathBuf};

use lamppost_models::key::{PublicKey, Role, SecretKey};
use lamppost_models::trust::{CHAIN_BYTES_MAX, Chain, Trust, TrustError};
use lamppost_models::{Timestamp, V1};

use super::args::Global;
use super::client::Client;
use super::{Exit, Failure, block_on, show};
use crate::clock::now;
use crate::files;
use crate::key::{make_secret, read_secret};
use crate::trust::edit::{self, Change, RoleName, Tally};

pub(super) mod args;

use args::{Expiry, Init, Keys, RoleArg, Rotate, Sign};

pub(super) fn run(keys: Keys, global: &Global) -> Result<(), Failure> {
    match keys {
        Keys::Init(init) => make(init, global),
        Keys::Show { chain: Some(path) } => show_chain(&read(&path)?, global),
        Keys::Show { chain: None } => block_on(async {
            let chain: Chain = Client::new(global)?.get("/v1/trust").await?;
            show_chain(&chain, global)
        }),
        Keys::Rotate(rotate) => replace(rotate, global),
        Keys::Revoke {
            chain: path,
            key,
            threshold,
            sign,
        } => {
            let chain = read(&path)?;
            let newest = edit::newest(&chain).map_err(|error| Failure::failed(&error))?;
            let id = key.parse::<PublicKey>().map_or(key, |key| key.id());
            let changes = edit::revocation(&newest, &id, threshold)
                .map_err(|error| Failure::failed(&error))?;
            append(&path, chain, &changes, &sign, global)
        }
        Keys::Sign { chain: path, with } => {
            let mut chain = read(&path)?;
            for key in secrets(&with)? {
                edit::sign(&mut chain, &key).map_err(|error| Failure::failed(&error))?;
            }
            write(&path, &chain)?;
            show_chain(&chain, global)
        }
        Keys::Install {
            chain: path,
            data_dir,
        } => install(&path, data_dir.as_deref(), global),
    }
}

fn make(init: Init, global: &Global) -> Result<(), Failure> {
    let Init {
        root_dir,
        roots,
        threshold,
        mut release,
        release_threshold,
        expiry,
    } = init;
    if roots == 0
        || roots > lamppost_models::key::ROLE_KEYS_MAX
        || threshold == 0
        || threshold > roots
    {
        let text = format!(
            "--roots {roots} --threshold {threshold}: choose 1 to 16 root keys, and a threshold of 1 to their number"
        );
        return Err(Failure::new(Exit::Usage, text));
    }
    std::fs::create_dir_all(&root_dir)?;
    let path = root_dir.join("trust.json");
    if path.exists() {
        let text = format!(
            "{} is there already: choose another --root-dir, or use `lamppost keys rotate`",
            path.display()
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    let secret =
        |name: String| make_secret(&root_dir.join(name)).map_err(|error| Failure::failed(&error));
    let made: Vec<SecretKey> = (1..=roots)
        .map(|number| secret(format!("root-{number}.key")))
        .collect::<Result<_, _>>()?;
    if release.is_empty() {
        release.push(secret("release-1.key".to_owned())?.public());
    }
    let role =
        |keys, threshold| Role::new(keys, threshold).map_err(|error| Failure::failed(&error));
    let root = role(made.iter().map(SecretKey::public).collect(), threshold)?;
    let trust = edit::first(
        root,
        role(release, release_threshold)?,
        now(),
        expires_at(&expiry),
    );
    let sealed = trust.seal(&made).map_err(|error| Failure::failed(&error))?;
    let chain = Chain {
        v: V1,
        chain: vec![sealed],
    };
    write(&path, &chain)?;
    show(global, &chain, || {
        let keys: Vec<String> = trust
            .root
            .keys()
            .iter()
            .map(|key| format!("\"{key}\""))
            .collect();
        format!(
            "{}\n\nwritten to {}\nfor agent.toml, in [coordinator], with keys = []:\n  root = {{ keys = [{}], threshold = {threshold} }}",
            describe(&chain).unwrap_or_default(),
            root_dir.display(),
            keys.join(", "),
        )
    })
}

fn replace(rotate: Rotate, global: &Global) -> Result<(), Failure> {
    let Rotate {
        chain: path,
        role,
        make,
        mut add,
        keep,
        threshold,
        sign,
    } = rotate;
    if make.is_empty() && add.is_empty() && threshold.is_none() && sign.expiry.expires_in.is_none()
    {
        return Err(Failure::new(
            Exit::Usage,
            "nothing to change: name new keys with --make or --add, or a --threshold",
        ));
    }
    let chain = read(&path)?;
    let newest = edit::newest(&chain).map_err(|error| Failure::failed(&error))?;
    let (name, before) = match role {
        RoleArg::Release => (RoleName::Release, &newest.release),
        RoleArg::Root => (RoleName::Root, &newest.root),
    };
    for file in &make {
        add.push(
            make_secret(file)
                .map_err(|error| Failure::failed(&error))?
                .public(),
        );
    }
    // Without new keys there is nothing to replace the old ones with.
    let drop = if keep || add.is_empty() {
        Vec::new()
    } else {
        before.ids()
    };
    let change = Change {
        add,
        drop,
        threshold,
    };
    append(&path, chain, &[(name, change)], &sign, global)
}

fn append(
    path: &Path,
    mut chain: Chain,
    changes: &[(RoleName, Change)],
    sign: &Sign,
    global: &Global,
) -> Result<(), Failure> {
    let with = secrets(&sign.with)?;
    let appended = edit::append(&mut chain, changes, now(), expires_at(&sign.expiry), &with);
    appended.map_err(|error| Failure::failed(&error))?;
    write(path, &chain)?;
    show_chain(&chain, global)
}

fn install(path: &Path, data_dir: Option<&Path>, global: &Global) -> Result<(), Failure> {
    let chain = read(path)?;
    // What lacks signatures is found here, in words, and not by the nodes.
    edit::newest(&chain).map_err(|error| Failure::failed(&error))?;
    let newest: Trust = match data_dir {
        Some(dir) => {
            if !dir.is_dir() {
                return Err(Failure::new(
                    Exit::NotFound,
                    format!("there is no data directory {}", dir.display()),
                ));
            }
            let installed = crate::trust::install(dir, &chain, None);
            installed.map_err(|error| Failure::failed(&error))?.newest
        }
        None => block_on_value(async { Client::new(global)?.post("/v1/trust", &chain).await })?,
    };
    show(global, &newest, || {
        format!(
            "trust document {} is installed; it names the release keys {}",
            newest.version,
            newest.release.ids().join(", ")
        )
    })
}

fn block_on_value<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut value = None;
    block_on(async {
        value = Some(command.await?);
        Ok(())
    })?;
    value.ok_or_else(|| Failure::new(Exit::Failed, "the command gave no answer"))
}

fn expires_at(expiry: &Expiry) -> Option<Timestamp> {
    expiry.expires_in.map(|span| now().after(span))
}

fn secrets(files: &[PathBuf]) -> Result<Vec<SecretKey>, Failure> {
    let read = |file: &PathBuf| read_secret(file).map_err(|error| Failure::failed(&error));
    files.iter().map(read).collect()
}

fn read(path: &Path) -> Result<Chain, Failure> {
    use std::io::Read as _;
    let mut json = Vec::new();
    let file = std::fs::File::open(path)
        .and_then(|file| file.take(CHAIN_BYTES_MAX as u64 + 1).read_to_end(&mut json));
    file.map_err(|error| {
        let failure = Failure::from(error);
        Failure::new(
            failure.exit,
            format!("{}: {}", path.display(), failure.text),
        )
    })?;
    Chain::read(&json).map_err(|error| Failure::failed(&error))
}

fn write(path: &Path, chain: &Chain) -> Result<(), Failure> {
    let json = serde_json::to_vec(chain).map_err(|error| Failure::failed(&error))?;
    if json.len() > CHAIN_BYTES_MAX
        || chain.chain.len() > lamppost_models::trust::CHAIN_DOCUMENTS_MAX
    {
        let text = "the chain is full: begin a new one with `lamppost keys init`, and give its first document to all nodes";
        return Err(Failure::new(Exit::Failed, text));
    }
    Ok(files::write_whole(path, &json, 0o644)?)
}

fn show_chain(chain: &Chain, global: &Global) -> Result<(), Failure> {
    let text = describe(chain).map_err(|error| Failure::failed(&error))?;
    show(global, chain, || text)
}

/// The newest document in words, and what it lacks.
fn describe(chain: &Chain) -> Result<String, edit::EditError> {
    let last = chain
        .chain
        .last()
        .ok_or(TrustError::Documents { documents: 0 })?;
    let trust = Trust::peek(last)?;
    let expires = trust.expires_at.map(|at| format!(", expires {at}"));
    let mut lines = vec![format!(
        "trust document {}, of {}{}",
        trust.version,
        trust.issued_at,
        expires.unwrap_or_default()
    )];
    for (name, role) in [
        (RoleName::Root, &trust.root),
        (RoleName::Release, &trust.release),
    ] {
        let (name, threshold, keys) = (name.word(), role.threshold(), role.keys());
        lines.push(format!(
            "{name} keys, {threshold} of {} must sign:",
            keys.len()
        ));
        lines.extend(keys.iter().map(|key| format!("  {}  {key}", key.id())));
    }
    let tallies = edit::tallies(chain)?;
    if tallies.iter().all(Tally::complete) {
        chain.check()?;
        lines.push("signed by enough root keys".to_owned());
    }
    for Tally {
        of,
        signed,
        waiting,
        threshold,
    } in tallies.iter().filter(|tally| !tally.complete())
    {
        let missing = threshold - signed.len();
        let keys = waiting.join(", ");
        lines.push(format!(
            "lacks {missing} of the root keys of document {of}: {keys}"
        ));
    }
    Ok(lines.join("\n"))
}
