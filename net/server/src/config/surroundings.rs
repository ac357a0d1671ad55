//! Whether what a configuration names can be used on this machine: looks, creates nothing.

use std::path::Path;

use super::url::{Endpoint, Url};
use super::{Config, LogOutput};

/// What stands in the way of a start, one sentence each.
pub fn check(config: &Config) -> Vec<String> {
    let mut mistakes = Vec::new();
    let data_dir = config.data_dir.display();
    match std::fs::metadata(&config.data_dir) {
        Ok(found) if !found.is_dir() => {
            mistakes.push(format!("--data-dir={data_dir} is not a directory"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => mistakes.push(format!("--data-dir={data_dir} cannot be used: {error}")),
    }
    for output in &config.log.outputs {
        if let LogOutput::File(path) = output {
            check_file("--log-outputs", path, &mut mistakes);
        }
    }
    for (flag, urls) in [
        ("--listen-client-urls", &config.listen_client_urls),
        ("--listen-peer-urls", &config.listen_peer_urls),
    ] {
        for path in urls.iter().filter_map(socket) {
            check_file(flag, &path, &mut mistakes);
        }
    }
    mistakes
}

fn socket(url: &Url) -> Option<std::path::PathBuf> {
    match url.endpoint() {
        Ok(Endpoint::Unix(path)) => Some(path),
        _ => None,
    }
}

/// A file that will be created has to stand in a directory.
fn check_file(flag: &str, path: &Path, mistakes: &mut Vec<String>) {
    let shown = path.display();
    if path.is_dir() {
        mistakes.push(format!("{flag}: {shown} is a directory"));
        return;
    }
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => mistakes.push(format!(
            "{flag}: {} is not a directory",
            directory.display()
        )),
        Err(error) => mistakes.push(format!("{flag}: {}: {error}", directory.display())),
    }
}
