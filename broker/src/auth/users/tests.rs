use super::{FILE_BYTES_MAX, Line, LineProblem, USERS_MAX, UsersFile, UsersFileError, parse};
use crate::auth::PasswordHash;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

/// A hash that costs nothing to make; the letter tells it from others.
fn hash(letter: char) -> String {
    let output: String = std::iter::repeat_n(letter, 42).collect();
    format!("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ${output}A")
}

fn parsed(letter: char) -> PasswordHash {
    PasswordHash::parse(&hash(letter)).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let file = UsersFile::read(path).unwrap();
    file.names().map(str::to_owned).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn lines_that_are_wrong_are_named() {
    let (a, weak) = (hash('A'), "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAA");
    for (text, line, wanted) in [
        (format!("# users\n\nada:{a}\nada:{a}\n"), 4, "on line 3"),
        (format!("ada {a}"), 1, "expected NAME:HASH"),
        ("ada:secret".to_owned(), 1, "\"ada\" is not accepted"),
        (format!("ada:{weak}"), 1, "\"ada\" is not accepted"),
        (format!("ada:{a} "), 1, "not accepted"),
        (format!(" \nada:{a}"), 1, "expected NAME:HASH"),
        (format!(":{a}"), 1, "user name \"\""),
        (format!("a+b:{a}"), 1, "a+b"),
        (format!("a//b:{a}"), 1, "a//b"),
        (format!("a\tb:{a}"), 1, "a\\tb"),
        (format!("{}:{a}", "x".repeat(1_025)), 1, "1,024"),
        (format!("a/b/c:{a}\n#\na/b:{a}\n"), 1, "a/b/c"),
    ] {
        let (at, problem) = parse(&text).unwrap_err();
        assert_eq!(at, line, "{text}");
        assert!(problem.to_string().contains(wanted), "{text}: {problem}");
    }
    let lines = parse(&format!("# x\r\n\r\na/b:c:{a}\r\n")).unwrap();
    assert_eq!(lines[2], Line::User("a/b:c".to_owned(), parsed('A')));
}

#[test]
fn the_number_of_users_is_bounded() {
    let a = hash('A');
    let text = |count| {
        let lines: Vec<_> = (0..count).map(|n| format!("u{n}:{a}")).collect();
        lines.join("\n")
    };
    let (line, problem) = parse(&text(USERS_MAX + 1)).unwrap_err();
    assert_eq!(line, USERS_MAX + 1);
    assert_eq!(problem, LineProblem::TooMany(USERS_MAX));
    let mut file = UsersFile {
        lines: parse(&text(USERS_MAX)).unwrap(),
        mode: 0,
    };
    assert!(file.set("u1", parsed('B')).unwrap());
    let error = file.set("new", parsed('B')).unwrap_err();
    assert!(matches!(
        error,
        UsersFileError::Add(LineProblem::TooMany(_))
    ));
}

#[test]
fn a_file_is_made_changed_and_kept_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let add = |name: &str| UsersFile::edit(&path, |users| users.set(name, parsed('A')));
    assert!(!add("ada").unwrap());
    assert_eq!(mode(&path), 0o600);
    assert!(!UsersFile::read(&path).unwrap().is_readable_by_others());
    // Comments and order stay; a crash's leftover is no obstacle.
    let text = format!("# lamps\n\n{}# end\n", fs::read_to_string(&path).unwrap());
    fs::write(&path, &text).unwrap();
    fs::write(directory.path().join("users.new"), "half").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(UsersFile::read(&path).unwrap().is_readable_by_others());
    assert!(!add("bob").unwrap() && add("bob").unwrap());
    let now = fs::read_to_string(&path).unwrap();
    assert_eq!(now, format!("{text}bob:{}\n", hash('A')));
    // The group keeps what it had, the others do not.
    assert_eq!(mode(&path), 0o640);
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(UsersFile::edit(&link, |users| Ok(users.remove("ada"))).unwrap());
    assert!(!UsersFile::edit(&path, |users| Ok(users.remove("ada"))).unwrap());
    assert_eq!(names(&path), ["bob"]);
    assert!(link.is_symlink());
    let mut left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["link", "users"]);
}

#[test]
fn what_goes_wrong_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let add = |name: &str| UsersFile::edit(&path, |users| users.set(name, parsed('A')));
    add("a/b").unwrap();
    let before = fs::read(&path).unwrap();
    for name in ["", "x+", "a", "a/b/c", "a\nb"] {
        let refused = add(name);
        assert!(matches!(refused, Err(UsersFileError::Add(_))), "{name}");
    }
    let folder = File::open(directory.path()).unwrap();
    folder.lock().unwrap();
    assert!(matches!(add("bob"), Err(UsersFileError::Locked(_))));
    drop(folder);
    assert_eq!(fs::read(&path).unwrap(), before);
    add("bob").unwrap();
    fs::write(&path, "broken").unwrap();
    assert!(matches!(add("eve"), Err(UsersFileError::Line { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"broken");
}

#[test]
fn what_is_no_file_of_users_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    for path in [&*missing, directory.path(), Path::new("/dev/zero")] {
        let read = UsersFile::read(path);
        assert!(matches!(read, Err(UsersFileError::Read { .. })), "{path:?}");
    }
    let long = directory.path().join("long");
    let file = File::create(&long).unwrap();
    file.set_len(FILE_BYTES_MAX + 1).unwrap();
    let read = UsersFile::read(&long);
    assert!(matches!(read, Err(UsersFileError::TooLong { .. })));
    fs::write(&long, b"\xff\n").unwrap();
    let read = UsersFile::read(&long);
    assert!(matches!(read, Err(UsersFileError::Read { .. })));
}

#[derive(Debug, Clone)]
enum Edit {
    Set(String, char),
    Remove(String),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/b", "a/b/c", "ab", "b:c", "", "x+", "b/"])
        .prop_map(str::to_owned)
}

fn edit() -> impl Strategy<Value = Edit> {
    let letter = prop::sample::select(vec!['A', 'B', 'C']);
    prop_oneof![
        3 => (name(), letter).prop_map(|(name, letter)| Edit::Set(name, letter)),
        1 => name().prop_map(Edit::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_agree_with_a_map(edits in prop::collection::vec(edit(), 0..30)) {
        let mut file = UsersFile { lines: vec![Line::Note("# top".to_owned())], mode: 0 };
        let mut oracle = BTreeMap::new();
        for edit in edits {
            match edit {
                Edit::Set(name, letter) => {
                    let is_name = !matches!(&*name, "" | "x+" | "b/");
                    let meets = |known: &&String| {
                        known.starts_with(&format!("{name}/")) || name.starts_with(&format!("{known}/"))
                    };
                    let fits = is_name && !oracle.keys().any(|known| meets(&known));
                    match file.set(&name, parsed(letter)) {
                        Ok(replaced) => {
                            prop_assert!(fits, "{}", name);
                            prop_assert_eq!(replaced, oracle.insert(name, letter).is_some());
                        }
                        Err(_) => prop_assert!(!fits, "{}", name),
                    }
                }
                Edit::Remove(name) => prop_assert_eq!(file.remove(&name), oracle.remove(&name).is_some()),
            }
            let again = UsersFile { lines: parse(&file.to_text()).unwrap(), mode: 0 };
            prop_assert_eq!(&again.lines, &file.lines);
            let users: BTreeMap<_, _> = again.into_users().collect();
            let wanted: BTreeMap<_, _> =
                oracle.iter().map(|(name, letter)| (name.clone(), parsed(*letter))).collect();
            prop_assert_eq!(users, wanted);
        }
    }

    #[test]
    fn any_text_is_read_as_it_is_or_refused(
        lines in prop::collection::vec(prop_oneof![
            "[a-c/:#+ \r]{0,6}",
            ("[a-c/:]{0,4}", prop::sample::select(vec!['A', 'B'])).prop_map(|(name, letter)| format!("{name}:{}", hash(letter))),
            any::<String>(),
        ], 0..6),
    ) {
        let text = lines.join("\n");
        match parse(&text) {
            Ok(lines) => {
                let file = UsersFile { lines, mode: 0 };
                prop_assert_eq!(parse(&file.to_text()).unwrap(), file.lines);
            }
            Err((line, _)) => prop_assert!(line >= 1 && line <= text.lines().count()),
        }
    }
}
