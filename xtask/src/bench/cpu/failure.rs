//! Why a program ended, in one line.

use std::process::ExitStatus;

/// What the line that tells of a failure has in it, in small letters.
const MARKS: [&str; 7] =
    ["assert", "error", "failed", "panicked", "fatal", "terminate called", "abort"];
/// Characters of a reason; more is no line to put under a table.
const LONGEST: usize = 300;

/// How a program ended, and the first line of its output that tells of a
/// failure; without one, the last line.
pub(super) fn reason(status: ExitStatus, output: &str) -> String {
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let tells = |line: &&str| {
        let line = line.to_lowercase();
        MARKS.iter().any(|mark| line.contains(mark))
    };
    let mut line = lines.clone().find(tells).or_else(|| lines.clone().next_back()).unwrap_or("");
    // A panic says where in its first line and what in the one below.
    if line.contains("panicked at") {
        let mut rest = lines.by_ref().skip_while(|other| *other != line);
        line = rest.nth(1).unwrap_or(line);
    }
    let line: String = line.chars().take(LONGEST).collect();
    match line.is_empty() {
        true => status.to_string(),
        false => format!("{status}: {line}"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_line_that_tells_is_found_among_others() {
        let status = Command::new("sh").args(["-c", "exit 3"]).status().unwrap();
        let end = status.to_string();
        for (output, line) in [
            (
                "load: ok\n\n x.cpp:803: GGML_ASSERT(a%b == 0) failed\nx.cpp:803: again failed\n#0 main",
                "x.cpp:803: GGML_ASSERT(a%b == 0) failed",
            ),
            ("main: Error: no model\nbye", "main: Error: no model"),
            ("thread 'main' panicked at src/a.rs:1:2:\nindex 3 of 2\nnote: x", "index 3 of 2"),
            ("one\ntwo\n", "two"),
        ] {
            assert_eq!(reason(status, output), format!("{end}: {line}"));
        }
        assert_eq!(reason(status, "\n"), end);
        assert!(reason(status, &"error".repeat(1000)).len() < 400);
    }
}
