//! Files and flags that a restore refuses: with a clear error, and nothing made or changed.

use std::fs;

use interop::server::TemporaryDirectory;

use crate::server::ringd;
use crate::*;

/// A small snapshot file, and its bytes.
fn file(directory: &TemporaryDirectory) -> (String, Vec<u8>) {
    let path = directory.path().join("sound.db");
    let version = |number: i64| {
        let revision = RevisionKey {
            main: number + 1,
            sub: 0,
            tombstone: false,
        };
        let version = KeyValue {
            key: format!("key/{number:04}").into(),
            create_revision: number + 1,
            mod_revision: number + 1,
            version: 1,
            value: vec![b'v'; 500].into(),
            lease: 0,
        };
        (revision, version)
    };
    let content = Content {
        state: State::default(),
        versions: (1..=200).map(version).collect(),
        leases: Vec::new(),
        status: String::new(),
    };
    write(&path, State::default(), &content);
    let bytes = fs::read(&path).unwrap();
    (path.display().to_string(), bytes)
}

/// Everything below a folder, with what is in files.
fn everything(directory: &TemporaryDirectory) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![directory.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = match path.is_dir() {
                true => Vec::new(),
                false => fs::read(&path).unwrap(),
            };
            found.insert(path.display().to_string(), bytes);
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

#[test]
fn files_that_are_no_sound_snapshots() {
    let directory = TemporaryDirectory::new();
    let (sound, bytes) = file(&directory);
    let path = |name: &str| directory.path().join(name).display().to_string();
    let data = format!("--data-dir={}", path("data"));
    let mut cases = vec![
        ("nowhere.db".to_owned(), None, "No such file"),
        ("folder".to_owned(), None, "it is no file"),
        ("empty.db".to_owned(), Some(Vec::new()), "it is empty"),
        (
            "text.db".to_owned(),
            Some(b"no database at all".repeat(1000)),
            "not a bbolt database",
        ),
        (
            "zeros.db".to_owned(),
            Some(vec![0; 65536]),
            "not a bbolt database",
        ),
    ];
    fs::create_dir(path("folder")).unwrap();
    for cut in [1, 31, 32, 512 + 32, 4096 + 32, bytes.len() - 4096] {
        let kept = bytes[..bytes.len() - cut].to_vec();
        cases.push((format!("cut-{cut}.db"), Some(kept), ""));
    }
    for at in (0..bytes.len()).step_by(bytes.len() / 23) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        cases.push((format!("bit-{at}.db"), Some(flipped), ""));
    }
    for (name, bytes, part) in &cases {
        if let Some(bytes) = bytes {
            fs::write(path(name), bytes).unwrap();
        }
        let before = everything(&directory);
        let output = ringd(&["restore", &path(name), &data]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{name}: {errors}");
        assert!(errors.contains(part), "{name}: {errors}");
        assert!(errors.contains(name.as_str()), "{name}: {errors}");
        assert!(
            everything(&directory) == before,
            "{name} left something behind"
        );
    }
    // Without its hash a file is taken where that is asked for, and only there.
    let bare = path("bare.db");
    fs::write(&bare, &bytes[..bytes.len() - 32]).unwrap();
    let refused = ringd(&["restore", &bare, &data]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("--skip-hash-check"), "{errors}");
    let taken = ringd(&["restore", &bare, &data, "--skip-hash-check"]);
    assert!(taken.status.success());
    let again = ringd(&["restore", &sound, &data]);
    let errors = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(69), "{errors}");
    assert!(errors.contains("not empty"), "{errors}");
}

#[test]
fn places_and_flags_that_do_not_fit() {
    let directory = TemporaryDirectory::new();
    let (sound, _) = file(&directory);
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::create_dir(path("full")).unwrap();
    fs::write(path("full/mine"), "mine").unwrap();
    fs::write(path("file"), "mine").unwrap();
    fs::create_dir(path("half.restoring")).unwrap();
    let long = |name: &str| format!("--data-dir={}", path(name));
    for (code, words, part) in [
        (69, vec![long("full")], "not empty"),
        (69, vec![long("file")], "not empty"),
        (69, vec![long("half")], "remove it"),
        (
            64,
            vec![long("new"), "--wal-dir=x".into()],
            "--wal-dir is not supported",
        ),
        (
            64,
            vec![long("new"), "--bump-revision=5".into()],
            "--mark-compacted is required",
        ),
        (
            64,
            vec![long("new"), "--mark-compacted".into()],
            "--bump-revision above 0",
        ),
        (
            64,
            vec![long("new"), "--initial-cluster=a=http://b:1".into()],
            "couldn't find local name",
        ),
        (
            64,
            vec![
                long("new"),
                format!("--bump-revision={}", i64::MAX),
                "--mark-compacted".into(),
            ],
            "too much",
        ),
        (
            64,
            vec![long("new"), "--nonsense".into()],
            "unknown flag: --nonsense",
        ),
    ] {
        let before = everything(&directory);
        let mut all = vec!["restore", sound.as_str()];
        all.extend(words.iter().map(String::as_str));
        let output = ringd(&all);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {errors}");
        assert!(errors.contains(part), "{words:?}: {errors}");
        assert!(
            everything(&directory) == before,
            "{words:?} changed something"
        );
    }
    // An empty folder is as good as none.
    fs::create_dir(path("none")).unwrap();
    assert!(ringd(&["restore", &sound, &long("none")]).status.success());
}

#[test]
fn what_does_not_follow_is_refused() {
    let directory = TemporaryDirectory::new();
    let path = directory.path().join("odd.db");
    let version = |main, create_revision, version, key_bytes: usize| {
        let revision = RevisionKey {
            main,
            sub: 0,
            tombstone: false,
        };
        let version = KeyValue {
            key: vec![b'k'; key_bytes].into(),
            create_revision,
            mod_revision: main,
            version,
            value: "value".into(),
            lease: 0,
        };
        (revision, version)
    };
    for (name, versions, part) in [
        (
            "a version too far",
            vec![version(2, 2, 1, 3), version(3, 2, 3, 3)],
            "revision 3 0: it does not follow",
        ),
        (
            "a long key",
            vec![version(2, 2, 1, 3000)],
            "a key of 3000 bytes",
        ),
    ] {
        let content = Content {
            state: State::default(),
            versions,
            leases: Vec::new(),
            status: String::new(),
        };
        write(&path, State::default(), &content);
        let before = everything(&directory);
        let data = format!("--data-dir={}", directory.path().join("data").display());
        let output = ringd(&["restore", &path.display().to_string(), &data]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{name}: {errors}");
        assert!(errors.contains(part), "{name}: {errors}");
        assert!(
            everything(&directory) == before,
            "{name} left something behind"
        );
    }
    let state = State {
        auth_enabled: Some(true),
        ..State::default()
    };
    let content = Content {
        state: state.clone(),
        versions: Vec::new(),
        leases: Vec::new(),
        status: String::new(),
    };
    write(&path, state, &content);
    let data = format!("--data-dir={}", directory.path().join("data").display());
    let output = ringd(&["restore", &path.display().to_string(), &data]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("auth disable"), "{errors}");
}
