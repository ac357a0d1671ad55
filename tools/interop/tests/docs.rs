//! The examples of the documentation do what their pages say.

use std::fs;
use std::path::{Path, PathBuf};

use interop::console::{Session, Step, is_shown, steps};
use interop::programs::root;
use interop::server::TemporaryDirectory;

/// Pages that must have examples: a typo in the kind of a block must not hide them.
const STEPS_MIN: [(&str, usize); 3] = [
    ("docs/QUICKSTART.md", 25),
    ("docs/OPERATIONS.md", 30),
    ("docs/FROM-ETCD.md", 15),
];

fn pages() -> Vec<(PathBuf, Vec<Step>)> {
    let listed = fs::read_dir(root().join("docs")).unwrap();
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.push(root().join("README.md"));
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "md"));
    paths.sort();
    let found = paths.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path, steps(&text))
    });
    found.filter(|(_, steps)| !steps.is_empty()).collect()
}

/// Runs a page in a session and returns what is not as it says.
fn wrong(page: &Path, steps: &[Step]) -> Vec<String> {
    let home = TemporaryDirectory::new();
    let mut session = Session::new(home.path());
    let mut wrong = Vec::new();
    for step in steps {
        let place = format!("{}:{}: $ {}", page.display(), step.line, step.command);
        match session.run(&step.command) {
            Err(problem) => {
                wrong.push(format!("{place}\n{problem}"));
                break;
            }
            Ok((output, code)) if step.output.is_empty() && code != 0 => {
                wrong.push(format!("{place}\nends with {code}:\n{}", output.join("\n")));
            }
            Ok((output, _)) if !step.output.is_empty() && !is_shown(&step.output, &output) => {
                let (shown, printed) = (step.output.join("\n"), output.join("\n"));
                wrong.push(format!(
                    "{place}\n--- the page\n{shown}\n--- printed\n{printed}"
                ));
            }
            Ok(_) => {}
        }
    }
    wrong
}

#[test]
fn every_example_holds() {
    let pages = pages();
    for (name, steps_min) in STEPS_MIN {
        let found = pages.iter().find(|(path, _)| path.ends_with(name));
        let count = found.map_or(0, |(_, steps)| steps.len());
        assert!(count >= steps_min, "{name} has {count} examples");
    }
    // Each page has its own network, so all of them can run at once.
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = pages
            .iter()
            .map(|(page, steps)| scope.spawn(|| wrong(page, steps)))
            .collect();
        let ended = running.into_iter().flat_map(|page| page.join().unwrap());
        ended.collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
