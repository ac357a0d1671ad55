//! What is known of a flag, and how rows are found. The rows are in [`super::table`].
//!
//! A flag that *works* has its effect. One that has *no effect* tunes something that ringd has not got: every
//! well-formed value passes and the log says why it does nothing. *Later* and *refused* flags ask for something that
//! would be missed: only the default passes.

pub use super::table::FLAGS;

/// Type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag`, `--flag=true`, `--flag=false`; takes no separate argument.
    Bool,
    /// Free text.
    Text,
    /// Texts with commas between them; a list in the configuration file.
    List,
    /// A decimal integer.
    Integer,
    /// A Go duration; nanoseconds in the configuration file.
    Duration,
}

/// What ringd does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Has its effect.
    Works,
    /// Any well-formed value passes and does nothing; the text says why.
    NoEffect(&'static str),
    /// Only the default passes; the text says what is not there yet.
    Later(&'static str),
    /// Only the default passes, and that stays so; the text says why.
    Refused(&'static str),
    /// etcd itself ignores it with a warning, and so does ringd.
    IgnoredByEtcd,
    /// etcd 3.7 no longer has it; the text names the successor or says so.
    Removed(&'static str),
}

/// Where a flag stands in the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKey {
    /// Under its own name.
    Name,
    /// Elsewhere: keys of nested mappings with dots between them.
    Path(&'static str),
    /// Nowhere.
    Nowhere,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// Type of the value.
    pub kind: Kind,
    /// etcd's default, as text.
    pub default: &'static str,
    /// What ringd does with it.
    pub support: Support,
    /// One line for `--help`; empty for flags that do not work.
    pub help: &'static str,
    /// Where it stands in the configuration file.
    pub file_key: FileKey,
    /// The only values of a flag without effect; empty: every well-formed one.
    pub allowed: &'static [&'static str],
}

impl Flag {
    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        support: Support,
        help: &'static str,
    ) -> Flag {
        Flag {
            name,
            kind,
            default,
            support,
            help,
            file_key: FileKey::Name,
            allowed: &[],
        }
    }

    /// The same flag with another key in the configuration file.
    pub(super) const fn key(self, path: &'static str) -> Flag {
        let file_key = FileKey::Path(path);
        Flag { file_key, ..self }
    }

    /// The same flag, which the configuration file has not got.
    pub(super) const fn no_key(self) -> Flag {
        let file_key = FileKey::Nowhere;
        Flag { file_key, ..self }
    }

    /// The same flag, which takes only these values.
    pub(super) const fn allowed(self, allowed: &'static [&'static str]) -> Flag {
        Flag { allowed, ..self }
    }

    /// Its key in the configuration file: keys of nested mappings with dots between them.
    pub fn file_key(&self) -> Option<&'static str> {
        match self.file_key {
            FileKey::Name => Some(self.name),
            FileKey::Path(path) => Some(path),
            FileKey::Nowhere => None,
        }
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("ETCD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        self.name.ends_with("password") || self.name.ends_with("-token")
    }
}

pub(super) const fn works(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag::new(name, kind, default, Support::Works, help)
}

pub(super) const fn no_effect(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    why: &'static str,
) -> Flag {
    Flag::new(name, kind, default, Support::NoEffect(why), "")
}

pub(super) const fn later(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    why: &'static str,
) -> Flag {
    Flag::new(name, kind, default, Support::Later(why), "")
}

pub(super) const fn refused(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    why: &'static str,
) -> Flag {
    Flag::new(name, kind, default, Support::Refused(why), "")
}

pub(super) const fn ignored(name: &'static str) -> Flag {
    Flag::new(name, Kind::Text, "", Support::IgnoredByEtcd, "").no_key()
}

pub(super) const fn removed(name: &'static str, instead: &'static str) -> Flag {
    Flag::new(name, Kind::Text, "", Support::Removed(instead), "")
}

/// Keys that etcd's configuration file has and its command line has not, with the reason why no value passes.
pub const FILE_ONLY: &[(&str, &str)] = &[
    (
        "client-transport-security.allowed-cn",
        "TLS is not supported yet",
    ),
    (
        "client-transport-security.skip-client-san-verification",
        "TLS is not supported yet",
    ),
    (
        "discovery-config.client.max-request-bytes",
        "discovery is not supported yet",
    ),
    (
        "discovery-config.client.max-recv-bytes",
        "discovery is not supported yet",
    ),
    (
        "discovery-config.client.secure.server-name",
        "discovery is not supported yet",
    ),
    (
        "discovery-config.client.auth.token",
        "discovery is not supported yet",
    ),
];

/// The row of `name`.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The row with this key in the configuration file.
pub fn find_key(key: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.file_key() == Some(key))
}

/// The known flag nearest to a name that is not known, if one is near enough to be meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    nearest_of(name, FLAGS.iter().map(|flag| flag.name))
}

/// The same for keys of the configuration file.
pub fn nearest_key(key: &str) -> Option<&'static str> {
    nearest_of(key, FLAGS.iter().filter_map(Flag::file_key))
}

fn nearest_of(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    known
        .map(|known| (distance(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 1 + name.len() / 3)
        .map(|(_, known)| known)
}

/// Levenshtein distance in bytes; flag names are ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_unique() {
        let unique = |mut names: Vec<&str>| {
            names.sort_unstable();
            let before = names.len();
            names.dedup();
            assert_eq!(names.len(), before);
        };
        unique(FLAGS.iter().map(|flag| flag.name).collect());
        let only = FILE_ONLY.iter().map(|(key, _)| *key);
        unique(
            FLAGS
                .iter()
                .filter_map(Flag::file_key)
                .chain(only)
                .collect(),
        );
    }

    #[test]
    fn nearest_name() {
        assert_eq!(nearest("data-dirr"), Some("data-dir"));
        assert_eq!(nearest("listen-client-url"), Some("listen-client-urls"));
        assert_eq!(nearest("qqqqqqqqqq"), None);
        assert_eq!(nearest_key("data_dir"), Some("data-dir"));
        let key = nearest_key("client-transport-security.cert");
        assert_eq!(key, Some("client-transport-security.cert-file"));
    }
}
