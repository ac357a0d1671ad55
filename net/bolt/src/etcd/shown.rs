//! A snapshot's figures as `etcdutl snapshot status` prints them.

use super::status::Status;

/// How figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFormat {
    /// One line with commas.
    Simple,
    /// One field per line.
    Fields,
    /// One object.
    Json,
    /// A table of one row.
    Table,
}

const HEADS: [&str; 5] = ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];

impl Status {
    /// The figures with a newline at the end.
    pub fn shown(&self, format: StatusFormat) -> String {
        let Self {
            hash,
            revision,
            total_keys,
            total_bytes,
            version,
        } = self;
        match format {
            StatusFormat::Simple => format!("{}\n", self.cells().join(", ")),
            StatusFormat::Fields => format!(
                "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {total_keys}\n\
                 \"Size\" : {total_bytes}\n\"Version\" : {version}\n"
            ),
            StatusFormat::Json => format!(
                "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{total_keys},\
                 \"totalSize\":{total_bytes},\"version\":\"{version}\"}}\n"
            ),
            StatusFormat::Table => table(&self.cells()),
        }
    }

    /// The figures for people.
    fn cells(&self) -> [String; 5] {
        [
            format!("{:x}", self.hash),
            self.revision.to_string(),
            self.total_keys.to_string(),
            readable(self.total_bytes),
            self.version.clone(),
        ]
    }
}

/// One row below its heads.
fn table(cells: &[String; 5]) -> String {
    let columns = || HEADS.iter().zip(cells);
    let widths = columns().map(|(head, cell)| head.len().max(cell.chars().count()));
    let widths: Vec<usize> = widths.collect();
    let line = |left: &str, middle: &str, right: &str| {
        let parts: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", parts.join(middle))
    };
    let row = |cells: Vec<String>| format!("│{}│\n", cells.join("│"));
    let heads = HEADS.iter().zip(&widths);
    let heads = heads.map(|(head, width)| format!(" {head:^width$} "));
    let cells = cells.iter().zip(&widths);
    let cells = cells.map(|(cell, width)| format!(" {cell:>width$} "));
    let heads = row(heads.collect());
    let cells = row(cells.collect());
    let (top, middle, bottom) = (
        line("┌", "┬", "┐"),
        line("├", "┼", "┤"),
        line("└", "┴", "┘"),
    );
    format!("{top}{heads}{middle}{cells}{bottom}")
}

/// `20 kB`, `2.1 GB`: powers of 1000, one digit behind the point below ten.
fn readable(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let unit = bytes.ilog(1000) as usize;
    let value = (bytes as f64 / 1000f64.powi(unit as i32) * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What etcdutl 3.7.3 prints for `tests/golden/etcd-3.7.3.db`.
    #[test]
    fn the_formats_are_etcdutls() {
        let status = Status {
            hash: 923_101_797,
            revision: 37,
            total_keys: 33,
            total_bytes: 40_960,
            version: "3.7.0".to_owned(),
        };
        let simple = "37056a65, 37, 33, 41 kB, 3.7.0\n";
        assert_eq!(status.shown(StatusFormat::Simple), simple);
        let json = "{\"hash\":923101797,\"revision\":37,\"totalKey\":33,\"totalSize\":40960,\"version\":\"3.7.0\"}\n";
        assert_eq!(status.shown(StatusFormat::Json), json);
        let fields = "\"Hash\" : 923101797\n\"Revision\" : 37\n\"Keys\" : 33\n\"Size\" : 40960\n\"Version\" : 3.7.0\n";
        assert_eq!(status.shown(StatusFormat::Fields), fields);
        let table = "\
┌──────────┬──────────┬────────────┬────────────┬─────────┐
│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────────┼──────────┼────────────┼────────────┼─────────┤
│ 37056a65 │       37 │         33 │      41 kB │   3.7.0 │
└──────────┴──────────┴────────────┴────────────┴─────────┘
";
        assert_eq!(status.shown(StatusFormat::Table), table);
    }
}
