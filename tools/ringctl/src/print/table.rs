//! Tables with lines around their cells: heads centred in capitals, cells to the right.

/// A head and rows of as many cells.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn width(text: &str) -> usize {
    text.chars().count()
}

impl Table {
    /// A table.
    pub(crate) fn new(head: &[&str], rows: Vec<Vec<String>>) -> Self {
        let head = head
            .iter()
            .map(|name| name.to_uppercase().replace('_', " "))
            .collect();
        Self { head, rows }
    }

    /// The drawing.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(&row[column]));
                cells
                    .chain([width(&self.head[column])])
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        let line = |left: &str, middle: &str, right: &str| {
            let cells: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
            format!("{left}{}{right}\n", cells.join(middle))
        };
        let row = |cells: &[String], centred: bool| {
            let cells = cells.iter().zip(&widths).map(|(cell, column)| {
                let free = column - width(cell);
                let left = if centred { free / 2 } else { free };
                format!(" {}{cell}{} ", " ".repeat(left), " ".repeat(free - left))
            });
            format!("│{}│\n", cells.collect::<Vec<_>>().join("│"))
        };
        let mut drawing = line("┌", "┬", "┐") + &row(&self.head, true);
        if !self.rows.is_empty() {
            drawing += &line("├", "┼", "┤");
        }
        for cells in &self.rows {
            drawing += &row(cells, false);
        }
        drawing + &line("└", "┴", "┘")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let table = Table::new(
            &["endpoint", "hash_revision"],
            vec![vec!["127.0.0.1:2379".into(), "1".into()]],
        );
        let expected = "\
┌────────────────┬───────────────┐
│    ENDPOINT    │ HASH REVISION │
├────────────────┼───────────────┤
│ 127.0.0.1:2379 │             1 │
└────────────────┴───────────────┘
";
        assert_eq!(table.render(), expected);
    }
}
