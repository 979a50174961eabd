//! Aligned columns for terminals.

/// The width that help and tables keep to.
const MAX_WIDTH: usize = 120;

/// Columns of the terminal, 80 where there is none.
pub(crate) fn terminal_width() -> usize {
    let detected = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    detected.unwrap_or(80).clamp(40, MAX_WIDTH)
}

/// Rows of cells, aligned; the last column wraps at `width`, with the
/// continuation under its own start. Columns are two spaces apart.
pub(crate) fn render(rows: &[Vec<String>], width: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.saturating_sub(1))
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let indent: usize = widths.iter().map(|width| width + 2).sum();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        let last = row.get(columns.saturating_sub(1)).map_or("", String::as_str);
        let room = width.saturating_sub(indent).max(20);
        for (index, part) in wrap(last, room).iter().enumerate() {
            if index > 0 {
                line = " ".repeat(indent);
            }
            line.push_str(part);
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    text
}

/// Breaks at spaces; a longer word keeps a line of its own. At least one line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A number of bytes in the unit that suits it.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A text as it fits on one line of `width` columns.
pub(crate) fn excerpt(text: &str, width: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= width {
        return line;
    }
    let mut short: String = line.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_align_and_the_last_one_wraps_under_itself() {
        let rows =
            [row(&["cpu", "ready", "a machine"]), row(&["metal", "no", "one two three four five"])];
        assert_eq!(
            render(&rows, 36),
            "cpu    ready  a machine\nmetal  no     one two three four\n              five\n"
        );
    }

    #[test]
    fn a_word_longer_than_the_line_is_kept_whole() {
        assert_eq!(wrap("ab abcdefgh c", 4), ["ab", "abcdefgh", "c"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn bytes_take_a_unit_that_suits() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(8 << 30), "8.0 GiB");
    }

    #[test]
    fn an_excerpt_is_one_line_and_no_wider_than_asked() {
        assert_eq!(excerpt("a\n b", 9), "a b");
        assert_eq!(excerpt("abcdef", 4), "abc…");
    }
}
