//! Tables whose columns line up, also with wide characters.

use super::Terminal;
use crate::error::Result;
use crate::name::escape;
use unicode_width::UnicodeWidthStr;

/// Columns that line up. Rows are held back until `HELD` of them have set the widths, then flow.
#[derive(Debug)]
pub struct Table {
    held: Vec<Vec<String>>,
    widths: Vec<usize>,
    right: &'static [bool],
    flowing: bool,
}

impl Table {
    /// How many rows decide the widths.
    const HELD: usize = 500;

    /// A table with these headings; `right` says which columns are numbers.
    pub fn new(headings: &[&str], right: &'static [bool]) -> Table {
        let held = vec![headings.iter().map(|h| (*h).to_owned()).collect()];
        Table { held, widths: vec![0; headings.len()], right, flowing: false }
    }

    /// Add a row of untrusted text.
    ///
    /// # Errors
    /// As [`Terminal::raw`].
    pub fn row(&mut self, out: &Terminal, cells: Vec<String>) -> Result<()> {
        self.held.push(cells.iter().map(|cell| escape(cell)).collect());
        if self.flowing || self.held.len() > Table::HELD { self.flush(out) } else { Ok(()) }
    }

    /// Print what is held back.
    ///
    /// # Errors
    /// As [`Terminal::raw`].
    pub fn flush(&mut self, out: &Terminal) -> Result<()> {
        self.lines().iter().try_for_each(|line| out.line(line))
    }

    fn lines(&mut self) -> Vec<String> {
        self.flowing = true;
        for row in &self.held {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        std::mem::take(&mut self.held).iter().map(|row| self.aligned(row)).collect()
    }

    fn aligned(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&self.widths).enumerate() {
            let gap = " ".repeat(width.saturating_sub(cell.width()));
            let right = self.right.get(column).copied().unwrap_or(false);
            let (before, after) = if right { (gap, String::new()) } else { (String::new(), gap) };
            line.extend([before.as_str(), cell.as_str(), after.as_str(), "  "]);
        }
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_width_not_by_characters() {
        let mut table = Table::new(&["SIZE", "NAME", "END"], &[true]);
        for (size, name) in [("7 B", "plain"), ("1.2 MiB", "文書"), ("0 B", "e\u{301}te")] {
            table.held.push(vec![size.to_owned(), name.to_owned(), "|".to_owned()]);
        }
        let expected = ["   SIZE  NAME   END", "    7 B  plain  |", "1.2 MiB  文書   |", "    0 B  e\u{301}te    |"];
        assert_eq!(table.lines(), expected);
    }
}
