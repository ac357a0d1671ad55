//! Whether what a configuration names can be used on this machine: looks, creates nothing.
//!
//! A look is no promise, and what a start meets later is told by whoever meets it; but here it has its flag.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::url::{Endpoint, Url};
use super::{Config, LogOutput};
use crate::exit::{self, Exit};

/// The folder of etcd's own data.
const ETCD_FOLDER: &str = "member";

/// What stands in the way of a start.
pub fn check(config: &Config) -> Vec<Exit> {
    let mut problems = Vec::new();
    if let Err(problem) = check_data_dir(&config.data_dir) {
        problems.push(problem);
    }
    for output in &config.log.outputs {
        if let LogOutput::File(path) = output {
            problems.extend(check_file("--log-outputs", path).err());
        }
    }
    for (flag, urls) in [
        ("--listen-client-urls", &config.listen_client_urls),
        ("--listen-peer-urls", &config.listen_peer_urls),
        ("--listen-metrics-urls", &config.listen_metrics_urls),
    ] {
        for path in urls.iter().filter_map(socket) {
            problems.extend(check_file(flag, &path).err());
        }
    }
    problems
}

fn socket(url: &Url) -> Option<PathBuf> {
    match url.endpoint() {
        Ok(Endpoint::Unix(path)) => Some(path),
        _ => None,
    }
}

fn check_data_dir(path: &Path) -> Result<(), Exit> {
    let shown = path.display();
    let refuse = |what: String| Err(Exit::system(format!("--data-dir={shown} {what}")));
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => return refuse("is not a directory".to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return check_parent(path),
        Err(error) => return refuse(format!("cannot be used: {error}")),
    }
    if let Err(error) = may(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        return refuse(format!(
            "cannot be read and written by this user: {error}; it needs the rights rwx"
        ));
    }
    let is_etcds = path.join(ETCD_FOLDER).is_dir() && !path.join("superblock").exists();
    if is_etcds {
        return Err(Exit {
            code: exit::DATA,
            message: format!(
                "--data-dir={shown} holds the data of etcd ({ETCD_FOLDER}/), which is not read and was not \
                 touched. Choose another directory; etcd's keys come over by a snapshot of it"
            ),
        });
    }
    Ok(())
}

/// A directory that will be created: the nearest one around it has to take it.
fn check_parent(path: &Path) -> Result<(), Exit> {
    let mut around = path.ancestors().skip(1);
    let existing = around.find(|directory| directory.as_os_str().is_empty() || directory.exists());
    let directory = match existing {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    if !directory.is_dir() || may(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Err(Exit::system(format!(
            "--data-dir={} cannot be created: this user cannot write to {}",
            path.display(),
            directory.display()
        )));
    }
    Ok(())
}

/// Whether this user may do that.
fn may(path: &Path, access: Access) -> io::Result<()> {
    Ok(accessat(CWD, path, access, AtFlags::EACCESS)?)
}

/// A file that will be created has to stand in a directory.
fn check_file(flag: &str, path: &Path) -> Result<(), Exit> {
    let refuse = |path: &Path, what: &str| {
        let path = path.display();
        Err(Exit::config(format!("{flag}: {path}: {what}")))
    };
    if path.is_dir() {
        return refuse(path, "is a directory, not a file");
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => refuse(directory, "is not a directory"),
        Err(error) => refuse(directory, &error.to_string()),
    }
}
