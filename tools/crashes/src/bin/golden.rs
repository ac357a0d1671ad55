//! Writes the golden data directory of this build; see `crashes::golden`.

use std::path::Path;
use std::process::ExitCode;

use crashes::golden::{build, describe, dump};

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!(
            "golden: name the directory, as in: cargo run -p crashes --bin golden -- format-2"
        );
        return ExitCode::from(2);
    };
    match write(&name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("golden: {what}");
            ExitCode::FAILURE
        }
    }
}

fn write(name: &str) -> Result<(), String> {
    let disk = build().map_err(|violation| violation.to_string())?;
    let state = describe(&disk)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = [("image", dump(&disk)), ("state", state)];
    for (kind, _) in &files {
        let path = folder.join(format!("{name}.{kind}"));
        if path.exists() {
            return Err(format!(
                "{} exists and has to be read for ever; choose another name",
                path.display()
            ));
        }
    }
    for (kind, text) in files {
        let path = folder.join(format!("{name}.{kind}"));
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
