//! `--help`, and command lines that make no sense.

use crate::run::inference;

const COMMANDS: [&str; 14] = [
    "generate", "chat", "classify", "tokenize", "template", "logits", "bench", "models", "pull",
    "inspect", "quantize", "lora", "batched", "backends",
];

#[test]
fn the_help_lists_every_command_and_the_exit_codes() {
    let help = inference(["--help"]).text();
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command} ")), "{command} in {help}");
    }
    for part in ["Examples:", "Exit codes:", "130"] {
        assert!(help.contains(part), "{part} in {help}");
    }
}

#[test]
fn the_help_of_every_command_shows_an_example() {
    for command in COMMANDS {
        for flag in ["-h", "--help"] {
            let help = inference([command, flag]).text();
            assert!(help.contains("Examples:\n  "), "{command} {flag}: {help}");
            assert!(help.contains(&format!("inference {command}")), "{command} {flag}: {help}");
            assert!(help.contains("--json"), "{command} {flag}: {help}");
        }
        let long = inference([command, "--help"]).text();
        assert!(long.contains("Exit codes:"), "{command}: {long}");
    }
}

#[test]
fn help_fits_100_columns_where_there_is_no_terminal() {
    for command in COMMANDS {
        let help = inference([command, "-h"]).text();
        // Examples are command lines: they are not broken.
        let body = help.split("Examples:").next().unwrap();
        let widest = body.lines().max_by_key(|line| line.chars().count()).unwrap();
        assert!(widest.chars().count() <= 100, "{command}: {widest}");
    }
}

#[test]
fn a_senseless_command_line_is_a_usage_error() {
    for args in [
        &["frobnicate"][..],
        &["generate", "--no-such-option", "x"],
        &["generate", "--max-tokens", "many", "x"],
        &["generate", "--kv-dtype", "f64", "x"],
        &["generate", "--max-wait", "-1", "x"],
        &["generate", "--lag-timeout", "0", "x"],
        &["generate", "--ids", "1,x"],
        &["generate", "--ids", "1", "and a prompt"],
        &["generate", "--logit-bias", "5", "x"],
        &["logits", "--ids", ""],
        &["template", "--set", "key=no json", "m.json"],
        &["template"],
    ] {
        let stderr = inference(args).error(2);
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    }
}

#[test]
fn no_command_shows_the_help() {
    let run = inference::<&str>([]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("Usage: inference"), "{}", run.stderr);
}

#[test]
fn the_version_is_the_packages() {
    let version = inference(["--version"]).text();
    assert_eq!(version, format!("inference {}\n", env!("CARGO_PKG_VERSION")));
}
