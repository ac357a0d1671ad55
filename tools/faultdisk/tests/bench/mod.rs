//! What the tests of the real binary on the faulty disk share. The binary is `RINGD_BINARY`, or the release build
//! of this workspace.

// Not every test uses all of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use faultdisk::member::{IoDriver, Member};
use faultdisk::mount::FaultyMount;

const DISK_BYTES: usize = 192 << 20;

/// Checkpoints, passes and collections all the time.
pub(crate) const SMALL_DISTANCES: &[&str] = &[
    "--checkpoint-requests=400",
    "--checkpoint-log-bytes=524288",
    "--log-segment-bytes=5242880",
    "--event-segment-bytes=131072",
    "--event-tail-bytes=4096",
    "--page-cache-bytes=4194304",
    "--value-cache-bytes=1048576",
    "--scrub-interval=5s",
];
/// Work with a beginning and an end in the log.
pub(crate) const KINDS: [&str; 3] = ["checkpoint", "compaction", "segment collection"];

/// Flags for so many cores, whose shards move all the time.
pub(crate) fn on_cores(cores: u64) -> [String; 2] {
    [format!("--cores={cores}"), "--placement=random".to_owned()]
}

/// Whether the log says that `kind` has begun and not ended.
fn is_under_way(log: &str, kind: &str) -> bool {
    let count = |end: &str| log.matches(&format!("\"msg\":\"{kind} {end}\"")).count();
    count("begins") > count("ends")
}

/// Counts what was under way at the end of a log, by kind.
pub(crate) fn note_under_way(log: &str, met: &mut BTreeMap<&'static str, u64>) {
    let mut nothing = true;
    for kind in KINDS {
        let under_way = is_under_way(log, kind);
        *met.entry(kind).or_default() += u64::from(under_way);
        nothing &= !under_way;
    }
    *met.entry("nothing").or_default() += u64::from(nothing);
}

pub(crate) fn binary() -> PathBuf {
    match std::env::var_os("RINGD_BINARY") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/ringd"),
    }
}

/// What multiplies the work of a test.
pub(crate) fn budget() -> u64 {
    let text = std::env::var("RINGD_TEST_BUDGET").unwrap_or_default();
    text.parse().unwrap_or(1).max(1)
}

/// A directory of this test that is removed at its end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("faultdisk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A mount that could not be taken down stays visible.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A server's disk and how it is started.
pub(crate) struct Bench {
    scratch: Scratch,
    pub(crate) mount: FaultyMount,
    driver: IoDriver,
    flags: &'static [&'static str],
}

impl Bench {
    pub(crate) fn new(name: &str, driver: IoDriver, seed: u64) -> Bench {
        Bench::with_flags(name, driver, seed, &[])
    }

    pub(crate) fn with_flags(
        name: &str,
        driver: IoDriver,
        seed: u64,
        flags: &'static [&'static str],
    ) -> Bench {
        let scratch = Scratch::new(name);
        let mount = FaultyMount::create(&scratch.0, DISK_BYTES, seed).expect("a faulty mount");
        Bench {
            scratch,
            mount,
            driver,
            flags,
        }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.mount.directory().join("data")
    }

    pub(crate) fn start(&self) -> Member {
        self.start_with(&[])
    }

    /// On so many cores, whose shards move all the time.
    pub(crate) fn start_on(&self, cores: u64) -> Member {
        self.start_with(&on_cores(cores))
    }

    fn start_with(&self, more: &[String]) -> Member {
        let log = self.scratch.0.join("ringd.log");
        let more = more.iter().map(String::as_str);
        let flags: Vec<&str> = self.flags.iter().copied().chain(more).collect();
        let member = Member::start_with(&binary(), &self.data_dir(), &log, self.driver, &flags);
        member.unwrap_or_else(|error| panic!("start: {error}"))
    }

    pub(crate) fn fresh_data(&self) {
        if self.data_dir().exists() {
            std::fs::remove_dir_all(self.data_dir()).expect("the old data");
        }
    }
}
