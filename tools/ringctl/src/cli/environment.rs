//! Flags from environment variables: `--write-out` is also `ETCDCTL_WRITE_OUT`.

use std::ffi::OsString;

use super::parse::Invocation;
use super::spec::Flag;
use super::tree::GLOBAL;

const PREFIX: &str = "ETCDCTL_";
/// Variables that are no flags; `watch` reads them itself.
const WATCH_VARIABLES: [&str; 2] = ["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];
/// Old clients chose the version of the API by it; there is only one left.
const API_VERSION: &str = "ETCDCTL_API";

/// What is odd about a variable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Oddity {
    /// No flag has this name. Holds `NAME=value`.
    Unrecognized(String),
    /// The value is none that the flag takes.
    Invalid { name: String, error: String },
    /// The flag was given, too.
    Shadowed(String),
}

/// The variable of a flag.
pub(crate) fn variable(flag: &str) -> String {
    PREFIX.to_owned() + &flag.to_uppercase().replace('-', "_")
}

/// Sets the flags that were not given from `variables`; empty ones count as absent.
pub(crate) fn apply(
    invocation: &mut Invocation,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<Oddity> {
    let shared = invocation.path.iter().flat_map(|command| command.shared);
    let flags: Vec<&'static Flag> = shared.chain(GLOBAL).collect();
    let watches = invocation
        .path
        .last()
        .is_some_and(|command| command.name == "watch");
    let given: Vec<bool> = flags
        .iter()
        .map(|flag| invocation.given(flag.name))
        .collect();
    let mut oddities = Vec::new();
    for (name, value) in variables {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        if !name.starts_with(PREFIX) || (watches && WATCH_VARIABLES.contains(&name.as_ref())) {
            continue;
        }
        let unrecognized = || Oddity::Unrecognized(format!("{name}={value}"));
        match flags.iter().position(|flag| variable(flag.name) == name) {
            Some(at) if given[at] => oddities.push(Oddity::Shadowed(name.into_owned())),
            Some(_) if value.is_empty() => oddities.push(unrecognized()),
            Some(at) => {
                if let Err(error) = invocation.set(flags[at], &value) {
                    let name = name.into_owned();
                    oddities.push(Oddity::Invalid { name, error });
                }
            }
            None => oddities.push(unrecognized()),
        }
    }
    oddities
}

/// Whether only a client that is as careful as etcdctl would speak of it.
pub(crate) fn harmless(oddity: &Oddity) -> bool {
    matches!(oddity, Oddity::Unrecognized(text) if text.starts_with(API_VERSION))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::spec::Command;
    use super::super::tree::ROOT;
    use super::*;

    fn applied(line: &str, variables: &[(&str, &str)]) -> (Invocation, Vec<Oddity>) {
        static TREE: Command = ROOT;
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mut invocation = parse(&TREE, GLOBAL, &words).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        let oddities = apply(&mut invocation, variables);
        (invocation, oddities)
    }

    #[test]
    fn variables_stand_in_for_flags() {
        let variables = [
            ("ETCDCTL_WRITE_OUT", "json"),
            ("ETCDCTL_ENDPOINTS", "a,b"),
            ("PATH", "/bin"),
        ];
        let (invocation, oddities) = applied("get k", &variables);
        assert_eq!(oddities, []);
        assert_eq!(invocation.text("write-out"), "json");
        assert_eq!(invocation.list("endpoints"), ["a", "b"]);
        assert!(invocation.given("write-out"));
        let (invocation, _) = applied("endpoint status", &[("ETCDCTL_CLUSTER", "true")]);
        assert!(invocation.truth("cluster"));
    }

    #[test]
    fn oddities() {
        let odd = |line, name, value| applied(line, &[(name, value)]).1.remove(0);
        assert_eq!(
            odd("get -w json k", "ETCDCTL_WRITE_OUT", "table"),
            Oddity::Shadowed("ETCDCTL_WRITE_OUT".to_owned())
        );
        assert_eq!(
            odd("get k", "ETCDCTL_ENDPOINT", "a"),
            Oddity::Unrecognized("ETCDCTL_ENDPOINT=a".to_owned())
        );
        assert!(matches!(
            odd("get k", "ETCDCTL_COMMAND_TIMEOUT", "5"),
            Oddity::Invalid { .. }
        ));
        assert!(applied("watch", &[("ETCDCTL_WATCH_KEY", "a")]).1.is_empty());
        assert!(harmless(&odd("get k", "ETCDCTL_API", "3")));
    }
}
