//! Rows of numbers from a file.

use std::path::Path;

use crate::failure::{Failure, Result};

/// The rows of a file, one after the other, each of `width` numbers: JSON where
/// its name ends in `.json` (an array of arrays), else lines of numbers with
/// commas between them.
pub(super) fn read(path: &Path, width: usize) -> Result<Vec<f32>> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Failure::Input { what: format!("reading {}", path.display()), source })?;
    let rows = if path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("json")) {
        from_json(&text)
    } else {
        from_csv(&text)
    };
    let rows = rows.map_err(|why| Failure::Usage(format!("{}: {why}", path.display())))?;
    for (at, row) in rows.iter().enumerate() {
        if row.len() != width {
            let found = row.len();
            return Err(Failure::Usage(format!(
                "{}: row {at}: expected {width} numbers, found {found}",
                path.display()
            )));
        }
    }
    Ok(rows.concat())
}

fn from_json(text: &str) -> std::result::Result<Vec<Vec<f32>>, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("expected an array of arrays of numbers: {error}"))
}

fn from_csv(text: &str) -> std::result::Result<Vec<Vec<f32>>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let rows = lines.map(|(at, line)| {
        let numbers = line.split(',').map(|cell| {
            let number = cell.trim().parse::<f32>();
            number.map_err(|_| format!("line {}: expected a number, found `{cell}`", at + 1))
        });
        numbers.collect()
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_arrays_are_the_same_rows() {
        let rows = vec![vec![1.0, -2.5], vec![3e-3, 4.0]];
        assert_eq!(from_csv("1, -2.5\n\n3e-3,4\n").unwrap(), rows);
        assert_eq!(from_json("[[1, -2.5], [0.003, 4]]").unwrap(), rows);
        assert_eq!(from_csv("").unwrap(), Vec::<Vec<f32>>::new());
    }

    #[test]
    fn what_is_no_number_is_named_with_its_line() {
        let error = from_csv("1,2\na,4").unwrap_err();
        assert!(error.contains("line 2") && error.contains("`a`"), "{error}");
        assert!(from_json("{\"a\": 1}").is_err());
    }
}
