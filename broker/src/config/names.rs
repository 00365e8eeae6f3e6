//! Which user names there may be: rules put them into topics.

/// Bytes of a user name: it is held for each connection, and goes into rules and logs.
pub(crate) const USER_NAME_BYTES_MAX: usize = 1_024;

/// Whether `name` can stand for `%u` without changing the shape of a topic, and in a line of its own.
pub(crate) fn is_user_name(name: &str) -> bool {
    name.len() <= USER_NAME_BYTES_MAX
        && !name.split('/').any(str::is_empty)
        && !name.contains(['+', '#'])
        && !name.contains(char::is_control)
}

/// Whether `name` begins with the whole name of another user and `/`: in a rule such as `home/%u/#`, user `a` would
/// reach what is `a/b`'s.
pub(crate) fn nests(name: &str, exists: impl Fn(&str) -> bool) -> bool {
    name.match_indices('/').any(|(end, _)| exists(&name[..end]))
}
