//! What a mistyped word may have meant.

/// Names within two edits of `typed`, or that it begins.
pub(crate) fn near<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const EDITS: usize = 2;
    let typed = typed.to_lowercase();
    names
        .filter(|name| distance(&typed, name) <= EDITS || name.starts_with(&typed))
        .collect()
}

/// Edits between two words: insertions, deletions, substitutions.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, character) in left.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (at, other) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(character != *other);
            diagonal = row[at + 1];
            row[at + 1] = substituted.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits() {
        let check = |left, right, edits| assert_eq!(distance(left, right), edits, "{left} {right}");
        check("", "", 0);
        check("gett", "get", 1);
        check("puut", "put", 1);
        check("kitten", "sitting", 3);
    }

    #[test]
    fn names() {
        let names = || ["del", "elect", "get", "lease", "lock", "watch"].into_iter();
        assert_eq!(near("gett", names()), ["get"]);
        assert_eq!(
            near("l", names()),
            ["del", "lease", "lock"]
                .into_iter()
                .filter(|n| distance("l", n) <= 2 || n.starts_with('l'))
                .collect::<Vec<_>>()
        );
        assert!(near("zzzzzz", names()).is_empty());
    }
}
