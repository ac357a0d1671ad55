//! Every data directory in `golden` is opened and read, whatever this build would write itself.

use std::fs;
use std::path::Path;

use crashes::golden::{build, describe, dump, load};

#[test]
fn directories_of_every_format_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut formats = 0;
    for entry in fs::read_dir(folder).expect("the folder of golden directories") {
        let path = entry.expect("an entry of it").path();
        if path
            .extension()
            .is_none_or(|extension| extension != "image")
        {
            continue;
        }
        formats += 1;
        let image = fs::read_to_string(&path).expect("a text");
        let state = fs::read_to_string(path.with_extension("state")).expect("its state");
        let disk = load(&image).unwrap_or_else(|what| panic!("{}: {what}", path.display()));
        assert_eq!(describe(&disk), Ok(state), "{}", path.display());
    }
    assert!(formats >= 1, "no directory is there");
}

#[test]
fn a_directory_is_the_same_behind_its_text() {
    let disk = build().expect("no promise is broken");
    let text = dump(&disk);
    let again = load(&text).expect("a dump");
    assert_eq!(dump(&again), text);
    assert_eq!(describe(&again), describe(&disk));
    assert!(load("file nonsense 1").is_err());
    assert!(load("0 00").is_err());
}

#[test]
fn a_changed_byte_does_not_pass() {
    let disk = build().expect("no promise is broken");
    let (state, text) = (describe(&disk), dump(&disk));
    let value = "726f756e642032";
    assert!(text.contains(value), "the value of a key");
    let changed = load(&text.replace(value, "726f756e642033")).expect("a dump");
    assert_ne!(describe(&changed), state);
}
