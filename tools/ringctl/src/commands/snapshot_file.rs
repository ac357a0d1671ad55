//! `snapshot status` and `snapshot restore`: what is done with a file, without a server.

use std::env;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use bolt::Source;
use bolt::etcd::{Snapshot, StatusFormat};

use crate::cli::tree::RESTORE;
use crate::client::channel::os_text;
use crate::context::Context;
use crate::exit::{self, Exit, arguments};
use crate::out;
use crate::print::{Format, Printer};

/// The program that makes data directories.
const SERVER: &str = "ringd";

struct SnapshotFile(File);

impl Source for SnapshotFile {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }
}

pub(super) fn status(mut context: Context) -> Result<(), Exit> {
    context.read_environment()?;
    let [path] = context.arguments() else {
        return arguments("snapshot status requires exactly one argument");
    };
    let printer = Printer::new(&context.invocation.text("write-out"), false)?;
    let format = match printer.format {
        Format::Simple => StatusFormat::Simple,
        Format::Fields => StatusFormat::Fields,
        Format::Json => StatusFormat::Json,
        Format::Table => StatusFormat::Table,
        Format::Protobuf => {
            let text = "protobuf not supported as output format";
            return Err(Exit::new(exit::FEATURE, text));
        }
    };
    let failed = |what: String| Exit::new(exit::ERROR, format!("snapshot {path}: {what}"));
    let file = File::open(path).map_err(|error| failed(os_text(&error)))?;
    let metadata = file.metadata().map_err(|error| failed(os_text(&error)))?;
    if !metadata.is_file() {
        return Err(failed("it is no file".to_owned()));
    }
    let status = Snapshot::open(SnapshotFile(file), metadata.len())
        .and_then(|mut snapshot| snapshot.status())
        .map_err(|error| failed(error.to_string()))?;
    out::write(status.shown(format).as_bytes());
    Ok(())
}

/// Becomes the server program, which has the code.
pub(super) fn restore(context: &Context) -> Result<(), Exit> {
    let [path] = context.arguments() else {
        return arguments("snapshot restore requires exactly one argument");
    };
    let beside = env::current_exe().ok().and_then(|program| {
        let program = program.canonicalize().ok()?;
        Some(program.parent()?.join(SERVER))
    });
    let program = beside.filter(|program| program.is_file());
    let program = program.unwrap_or_else(|| PathBuf::from(SERVER));
    let given = RESTORE.iter().map(|flag| flag.name);
    let given = given.filter(|name| context.invocation.given(name));
    let flags = given.map(|name| format!("--{name}={}", context.invocation.shown(name)));
    let error = Command::new(&program)
        .arg("restore")
        .args(flags)
        .arg(path)
        .exec();
    let program = program.display();
    Err(Exit::new(
        exit::ERROR,
        format!(
            "cannot start {program}: {}; it has to stand in the folder of this program or of PATH",
            os_text(&error)
        ),
    ))
}
