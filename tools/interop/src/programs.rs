//! The programs that take part: built or installed once, on first use.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Which server a test runs against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The pinned etcd release.
    Etcd,
    /// The server of this repository.
    Ringd,
}

impl Kind {
    /// The server under test: ringd, unless `INTEROP_SERVER=etcd`.
    ///
    /// # Panics
    /// `INTEROP_SERVER` names something else.
    pub fn under_test() -> Self {
        match std::env::var("INTEROP_SERVER").as_deref() {
            Err(_) | Ok("ringd") => Self::Ringd,
            Ok("etcd") => Self::Etcd,
            Ok(other) => panic!("INTEROP_SERVER={other}: choose ringd or etcd"),
        }
    }

    /// The server's program.
    pub fn program(self) -> PathBuf {
        match self {
            Self::Etcd => etcd_program("etcd"),
            Self::Ringd => ringd(),
        }
    }
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where built programs and environments of the foreign clients lie.
pub fn directory() -> PathBuf {
    root().join("target/interop")
}

/// A program of the pinned etcd release: `etcd`, `etcdctl` or `etcdutl`.
pub fn etcd_program(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| run(&mut Command::new(root().join("bench/etcd/build"))));
    root().join("bench/etcd/bin").join(name)
}

/// The distribution's etcdctl, an old release.
pub fn old_etcdctl() -> PathBuf {
    install();
    PathBuf::from("/usr/bin/etcdctl")
}

/// The Python interpreter that has the `etcd3` package.
pub fn python() -> PathBuf {
    install();
    directory().join("python/bin/python")
}

/// The Go test program of this crate.
pub fn go_scenarios() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    install();
    BUILT.get_or_init(|| run(&mut Command::new(root().join("tools/interop/go/build"))));
    directory().join("scenarios")
}

/// The Rust test program of this crate, a package of its own.
pub fn rust_scenarios() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    install();
    let target = directory().join("rust");
    BUILT.get_or_init(|| {
        let manifest = root().join("tools/interop/rust/Cargo.toml");
        let mut command = Command::new(cargo());
        command
            .args(["build", "--quiet", "--locked", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target);
        run(&mut command);
    });
    target.join("debug/scenarios")
}

/// A program of the distribution's Prometheus: `prometheus` or `promtool`.
pub fn prometheus(name: &str) -> PathBuf {
    install();
    directory().join("prometheus/usr/bin").join(name)
}

/// The API server of Kubernetes.
pub fn kube_apiserver() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    install();
    BUILT.get_or_init(|| {
        run(&mut Command::new(
            root().join("tools/interop/kubernetes/build"),
        ))
    });
    directory().join("kube-apiserver")
}

/// ringd: `RINGD_BINARY`, or the release build of this checkout.
fn ringd() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| named_or_built("RINGD_BINARY", "ringd"))
        .clone()
}

/// ringctl: `RINGCTL_BINARY`, or the release build of this checkout.
pub fn ringctl() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| named_or_built("RINGCTL_BINARY", "ringctl"))
        .clone()
}

fn named_or_built(variable: &str, package: &str) -> PathBuf {
    if let Some(program) = std::env::var_os(variable) {
        return PathBuf::from(program);
    }
    run(Command::new(cargo()).current_dir(root()).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        package,
    ]));
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target).join("release").join(package)
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| run(&mut Command::new(root().join("tools/interop/install"))));
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "{command:?} failed with {status}");
}
