//! The command line of a restore: the flags of `etcdutl snapshot restore`, and what has to fit together.

use std::path::PathBuf;

use crate::config::url::Url;
use crate::exit::Exit;
use crate::identity::Identity;

/// How the command is used.
pub(super) const USAGE: &str = "\
usage: ringd restore SNAPSHOT [flags]

Builds a data directory from a snapshot file of ringd or etcd.

  --data-dir DIR                       the directory to make (default NAME.etcd); there must be nothing in it
  --name NAME                          the member's name (default \"default\")
  --initial-advertise-peer-urls URLS   the member's peer URLs (default \"http://localhost:2380\")
  --initial-cluster NAME=URL           the cluster: this member (default \"NAME=PEER-URLS\")
  --initial-cluster-token TOKEN        the cluster's token (default \"etcd-cluster\")
  --skip-hash-check                    take a file without the hash at its end, such as a copied database
  --bump-revision N                    raise the revision by so much; with --mark-compacted
  --mark-compacted                     compact everything up to the new revision; with --bump-revision
";

const NAME_DEFAULT: &str = "default";
const PEER_URLS_DEFAULT: &str = "http://localhost:2380";
const TOKEN_DEFAULT: &str = "etcd-cluster";

/// What is wanted.
#[derive(Debug)]
pub(super) struct Flags {
    pub(super) snapshot: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) identity: Identity,
    pub(super) peer_urls: Vec<String>,
    pub(super) name: String,
    pub(super) skip_hash_check: bool,
    /// Added to the revision; everything up to there is compacted.
    pub(super) bump_revision: Option<i64>,
}

/// The words after the command's name.
#[derive(Debug, Default)]
struct Words {
    snapshots: Vec<String>,
    data_dir: Option<String>,
    name: Option<String>,
    peer_urls: Option<String>,
    cluster: Option<String>,
    token: Option<String>,
    bump: Option<String>,
    skip_hash_check: bool,
    mark_compacted: bool,
}

impl Flags {
    /// Reads the words after the command's name; none if help is wanted.
    pub(super) fn parse(arguments: &[String]) -> Result<Option<Flags>, Exit> {
        match Words::read(arguments)? {
            Some(words) => words.check().map(Some),
            None => Ok(None),
        }
    }
}

impl Words {
    fn read(arguments: &[String]) -> Result<Option<Words>, Exit> {
        let mut words = Words::default();
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            let Some(flag) = word.strip_prefix("--") else {
                match word.as_str() {
                    "-h" => return Ok(None),
                    _ if word.starts_with('-') => return Err(unknown(word)),
                    _ => words.snapshots.push(word.clone()),
                }
                continue;
            };
            let (flag, value) = match flag.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (flag, None),
            };
            let switch = match flag {
                "help" => return Ok(None),
                "skip-hash-check" => Some(&mut words.skip_hash_check),
                "mark-compacted" => Some(&mut words.mark_compacted),
                _ => None,
            };
            if let Some(switch) = switch {
                *switch = match value.as_deref() {
                    None | Some("true") => true,
                    Some("false") => false,
                    Some(value) => {
                        let what = format!("--{flag}={value} is neither true nor false");
                        return Err(Exit::config(what));
                    }
                };
                continue;
            }
            let into = match flag {
                "data-dir" => &mut words.data_dir,
                "name" => &mut words.name,
                "initial-advertise-peer-urls" => &mut words.peer_urls,
                "initial-cluster" => &mut words.cluster,
                "initial-cluster-token" => &mut words.token,
                "bump-revision" => &mut words.bump,
                "wal-dir" => return Err(wal_dir()),
                "initial-memory-map-size" => return Err(memory_map()),
                _ => return Err(unknown(word)),
            };
            let value = value.or_else(|| rest.next().cloned());
            let missing = || Exit::config(format!("--{flag} needs a value"));
            *into = Some(value.ok_or_else(missing)?);
        }
        Ok(Some(words))
    }

    fn check(self) -> Result<Flags, Exit> {
        let [snapshot] = &self.snapshots[..] else {
            return Err(Exit::config(
                "snapshot restore requires exactly one argument: the snapshot file",
            ));
        };
        let name = self.name.as_deref().unwrap_or(NAME_DEFAULT);
        let peer_urls = self.peer_urls.as_deref().unwrap_or(PEER_URLS_DEFAULT);
        let peer_urls = parse_urls("--initial-advertise-peer-urls", peer_urls)?;
        if let Some(cluster) = &self.cluster {
            check_cluster(cluster, name, &peer_urls)?;
        }
        let token = self.token.as_deref().unwrap_or(TOKEN_DEFAULT);
        let data_dir = match self.data_dir {
            Some(directory) if directory.is_empty() => {
                return Err(Exit::config("--data-dir is empty; name a directory"));
            }
            Some(directory) => directory,
            None => format!("{name}.etcd"),
        };
        Ok(Flags {
            snapshot: PathBuf::from(snapshot),
            data_dir: PathBuf::from(data_dir),
            identity: Identity::of_new_cluster(&peer_urls, token),
            peer_urls: peer_urls
                .iter()
                .map(|url| url.as_str().to_owned())
                .collect(),
            name: name.to_owned(),
            skip_hash_check: self.skip_hash_check,
            bump_revision: bump(self.bump.as_deref(), self.mark_compacted)?,
        })
    }
}

fn bump(text: Option<&str>, mark_compacted: bool) -> Result<Option<i64>, Exit> {
    let by = match text {
        None => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(by) if by >= 0 => by,
            _ => {
                let what = format!("--bump-revision={text} is no number from 0 to {}", i64::MAX);
                return Err(Exit::config(what));
            }
        },
    };
    match (by, mark_compacted) {
        (0, false) => Ok(None),
        (1.., true) => Ok(Some(by)),
        (_, true) => Err(Exit::config(
            "--mark-compacted goes with --bump-revision above 0: without it what was compacted stays as it is",
        )),
        (_, false) => Err(Exit::config(
            "--mark-compacted is required if --bump-revision is above 0: watchers have to see that revisions are missing",
        )),
    }
}

fn parse_urls(flag: &str, text: &str) -> Result<Vec<Url>, Exit> {
    let urls = text.split(',').map(Url::parse);
    urls.collect::<Result<_, _>>()
        .map_err(|what| Exit::config(format!("{flag}={text}: {what}")))
}

/// The cluster has to be this member, at its peer URLs.
fn check_cluster(cluster: &str, name: &str, peer_urls: &[Url]) -> Result<(), Exit> {
    let mut found = Vec::new();
    for part in cluster.split(',') {
        let Some((member, url)) = part.split_once('=') else {
            return Err(Exit::config(format!(
                "--initial-cluster={cluster}: \"{part}\" is not NAME=URL"
            )));
        };
        if member != name && cluster.contains(&format!("{name}=")) {
            return Err(Exit::config(format!(
                "--initial-cluster={cluster} has several members; clusters of more than one are not supported yet"
            )));
        }
        if member == name {
            found.extend(parse_urls("--initial-cluster", url)?);
        }
    }
    if found.is_empty() {
        return Err(Exit::config(format!(
            "couldn't find local name \"{name}\" in the initial cluster configuration"
        )));
    }
    let sorted = |urls: &[Url]| {
        let mut urls: Vec<String> = urls.iter().map(|url| url.as_str().to_owned()).collect();
        urls.sort_unstable();
        urls
    };
    let (found, expected) = (sorted(&found), sorted(peer_urls));
    if found != expected {
        let found = found.join(",");
        let expected = expected.join(",");
        return Err(Exit::config(format!(
            "--initial-cluster has {name} at {found}, --initial-advertise-peer-urls at {expected}; they have to be the same"
        )));
    }
    Ok(())
}

fn unknown(flag: &str) -> Exit {
    Exit::config(format!("unknown flag: {flag}"))
}

fn wal_dir() -> Exit {
    Exit::config(
        "--wal-dir is not supported: the log stands in the data directory, whose device has to be the fast one",
    )
}

fn memory_map() -> Exit {
    Exit::config("--initial-memory-map-size is not supported: nothing is mapped; leave it out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Flags>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Flags::parse(&words).map_err(|exit| exit.message)
    }

    #[test]
    fn defaults_are_etcdutls() {
        let flags = parse("a.db").unwrap().unwrap();
        assert_eq!(flags.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(flags.identity.member_id, 0x8e9e_05c5_2164_694d);
        assert!(!flags.skip_hash_check);
        assert_eq!(flags.bump_revision, None);
        assert!(parse("--help").unwrap().is_none());
    }

    #[test]
    fn flags_come_in_any_order_and_form() {
        let line = "--name one --data-dir=d a.db --initial-cluster one=http://a:1,one=http://b:1 \
                    --initial-advertise-peer-urls http://b:1,http://a:1 --skip-hash-check \
                    --bump-revision 7 --mark-compacted=true --initial-cluster-token t";
        let flags = parse(line).unwrap().unwrap();
        assert_eq!(flags.data_dir, PathBuf::from("d"));
        assert_eq!(flags.bump_revision, Some(7));
        assert!(flags.skip_hash_check);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (line, part) in [
            ("", "exactly one argument"),
            ("a b", "exactly one argument"),
            ("a --nope", "unknown flag: --nope"),
            ("a -x", "unknown flag: -x"),
            ("a --name", "--name needs a value"),
            ("a --data-dir=", "--data-dir is empty"),
            ("a --wal-dir x", "--wal-dir is not supported"),
            ("a --initial-memory-map-size=0", "not supported"),
            ("a --mark-compacted", "--bump-revision above 0"),
            ("a --bump-revision=1", "--mark-compacted is required"),
            ("a --bump-revision=-1 --mark-compacted", "no number"),
            ("a --skip-hash-check=maybe", "neither true nor false"),
            (
                "a --initial-cluster x=http://a:1",
                "couldn't find local name",
            ),
            ("a --initial-cluster default", "not NAME=URL"),
            (
                "a --initial-cluster default=http://a:1",
                "they have to be the same",
            ),
            (
                "a --initial-cluster default=http://localhost:2380,b=http://b:1",
                "several members",
            ),
            ("a --initial-advertise-peer-urls nothing", "nothing"),
        ] {
            let refused = parse(line).expect_err(line);
            assert!(refused.contains(part), "{line}: {refused}");
        }
    }
}
