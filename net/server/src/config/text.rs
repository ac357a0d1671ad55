//! What is shown of the configuration: `--help`, `--version`, and the tables of `docs/CONFIGURATION.md`.

use super::flags::{FILE_ONLY, FLAGS, Flag, Support};
use super::gates::{GATES, Meaning};

/// The name under which the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Its own.
    Ringd,
    /// etcd's: whatever parses its first line finds what it expects.
    Etcd,
}

impl Program {
    /// By the first word of the command line.
    pub fn of(word: &str) -> Program {
        match word.rsplit('/').next() {
            Some("etcd") => Program::Etcd,
            _ => Program::Ringd,
        }
    }
}

/// The text of `--version`.
pub fn version(program: Program) -> String {
    let etcd = crate::services::ETCD_VERSION;
    let ringd = env!("CARGO_PKG_VERSION");
    let rust = env!("CARGO_PKG_RUST_VERSION");
    let system = std::env::consts::OS;
    // Go's name of the processor.
    let processor = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    match program {
        Program::Etcd => format!(
            "etcd Version: {etcd}\nGit SHA: ringd {ringd}\nGo Version: none (Rust {rust})\n\
             Go OS/Arch: {system}/{processor}\n"
        ),
        Program::Ringd => format!(
            "ringd Version: {ringd}\netcd Version: {etcd}\nRust Version: {rust}\n\
             OS/Arch: {system}/{processor}\n"
        ),
    }
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = String::from(
        "ringd: a durable, strongly consistent key-value store that speaks etcd's v3 API\n\n\
         usage:\n  ringd [flags]                      run a node (no flags: loopback, ports 2379 and 2380)\n  \
         ringd check-config [flags]         tell everything that is wrong with flags, variables and file\n  \
         ringd inspect [--json] DATA-DIR    show superblock and log of a stopped node\n  \
         ringd salvage DATA-DIR             accept a loss that a start refused, by name\n  \
         ringd --version\n\n\
         Every flag has its variable: --data-dir is ETCD_DATA_DIR. A file that --config-file names replaces both.\n\n\
         flags:\n",
    );
    for flag in FLAGS.iter().filter(|flag| flag.support == Support::Works) {
        let default = if flag.default.is_empty() {
            String::new()
        } else {
            format!(" [{}]", flag.default)
        };
        text.push_str(&format!("  --{:<32} {}{default}\n", flag.name, flag.help));
    }
    text.push_str("\nwithout effect here:\n");
    for flag in FLAGS {
        if let Support::NoEffect(why) = flag.support {
            text.push_str(&format!("  --{:<36} {why}\n", flag.name));
        }
    }
    text.push_str(
        "\nAll other flags of etcd 3.7 pass with their defaults; docs/CONFIGURATION.md tells why not with others.\n\
         \nexamples:\n  ringd --data-dir /var/lib/ringd\n  \
         ringd --listen-client-urls http://127.0.0.1:0 --advertise-client-urls http://127.0.0.1:0\n  \
         etcdctl --endpoints 127.0.0.1:2379 put greeting hello\n",
    );
    text
}

/// The tables of `docs/CONFIGURATION.md`, in Markdown.
pub fn tables() -> String {
    let is_ringds = |flag: &&Flag| flag.help.starts_with("ringd");
    let mut text = String::from("### Flags of etcd 3.7\n\n");
    text.push_str(&flag_table(
        FLAGS
            .iter()
            .filter(|flag| !is_ringds(flag) && !is_former(flag)),
    ));
    text.push_str("\n### Flags of ringd\n\n");
    text.push_str(&flag_table(FLAGS.iter().filter(is_ringds)));
    text.push_str("\n### Feature gates\n\n| gate | default | here |\n|---|---|---|\n");
    for gate in GATES {
        let here = match gate.meaning {
            Meaning::NoEffect(why) => format!("no effect: {why}"),
            Meaning::Later(why) => format!("later: {why}"),
        };
        text.push_str(&format!(
            "| `{}` | {} | {here} |\n",
            gate.name, gate.default
        ));
    }
    text.push_str("\n### Keys that only the file has\n\n| key | here |\n|---|---|\n");
    for (key, why) in FILE_ONLY {
        text.push_str(&format!("| `{key}` | later: {why} |\n"));
    }
    text.push_str("\n### Flags of former releases\n\n| flag | here |\n|---|---|\n");
    for flag in FLAGS.iter().filter(is_former) {
        let here = match flag.support {
            Support::Removed(why) => format!("refused: {why}; its key in a file is ignored"),
            _ => "ignored with a warning, as in etcd".to_owned(),
        };
        text.push_str(&format!("| `--{}` | {here} |\n", flag.name));
    }
    text
}

fn is_former(flag: &&Flag) -> bool {
    matches!(flag.support, Support::IgnoredByEtcd | Support::Removed(_))
}

fn flag_table<'a>(flags: impl Iterator<Item = &'a Flag>) -> String {
    let mut text = String::from(
        "| flag | variable | key in the file | default | here |\n|---|---|---|---|---|\n",
    );
    for flag in flags {
        let key = match flag.file_key() {
            Some(key) => format!("`{key}`"),
            None => "none".to_owned(),
        };
        let default = match flag.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let here = match flag.support {
            Support::Works => match flag.help.strip_prefix("ringd") {
                Some(help) => help.trim_start_matches([':', ',', ' ']).to_owned(),
                None => format!("same: {}", flag.help),
            },
            Support::NoEffect(why) => format!("no effect: {why}"),
            Support::Later(why) => format!("later: {why}"),
            Support::Refused(why) => format!("refused: {why}"),
            Support::IgnoredByEtcd | Support::Removed(_) => continue,
        };
        let (name, variable) = (flag.name, flag.variable());
        text.push_str(&format!(
            "| `--{name}` | `{variable}` | {key} | {default} | {here} |\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands between the tables and the rest of the page.
    const BEGIN: &str = "<!-- tables made of the code: begin -->\n";
    const END: &str = "<!-- tables made of the code: end -->\n";

    /// With `RINGD_REWRITE` set the page is written anew.
    #[test]
    fn the_page_has_these_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md");
        let page = std::fs::read_to_string(path).expect("docs/CONFIGURATION.md");
        let (before, rest) = page.split_once(BEGIN).expect("the mark of the beginning");
        let (tables, after) = rest.split_once(END).expect("the mark of the end");
        let made = format!("\n{}\n", super::tables());
        if std::env::var_os("RINGD_REWRITE").is_some() {
            let page = format!("{before}{BEGIN}{made}{END}{after}");
            std::fs::write(path, page).expect("a page that can be written");
            return;
        }
        assert!(
            tables == made,
            "docs/CONFIGURATION.md does not show the flags as they are; RINGD_REWRITE=1 writes it anew"
        );
    }

    /// The names stand in etcd 3.7.3's own help.
    #[test]
    fn every_flag_of_etcd_has_its_row() {
        let names = include_str!("../../tests/data/etcd-3.7.3-flags.txt");
        let names: Vec<&str> = names
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert!(names.len() > 100, "{}", names.len());
        for name in names {
            assert!(super::super::flags::find(name).is_some(), "--{name}");
        }
    }

    #[test]
    fn versions() {
        let etcd = version(Program::of("/usr/bin/etcd"));
        assert!(etcd.starts_with("etcd Version: 3.7.3\nGit SHA: "), "{etcd}");
        assert_eq!(etcd.lines().count(), 4);
        let ringd = version(Program::of("ringd"));
        assert!(ringd.starts_with("ringd Version: "), "{ringd}");
    }
}
