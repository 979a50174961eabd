//! Which modules a new adapter has.

use std::collections::BTreeSet;

use inference_core::{Error, LoraConfig, Result};

use crate::{ModulePattern, ModuleTable};

/// The indices of those of `names` (modules of `table`, such as
/// `layers.0.self_attn.q_proj`) that `config` adapts, ascending. A regular
/// expression is for the module's whole path (`model.layers.0.…`), as with
/// PEFT.
///
/// # Errors
///
/// [`InvalidOption`](inference_core::ErrorKind::InvalidOption) for a target
/// that no module matches, with what there is, or a pattern that is no regular
/// expression.
pub fn target_modules(
    config: &LoraConfig,
    table: &ModuleTable,
    names: &[String],
) -> Result<Vec<usize>> {
    let matching = |pattern: &ModulePattern| -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if pattern.matches(&table.path(name))? {
                found.push(index);
            }
        }
        Ok(found)
    };
    if let Some(pattern) = &config.target_pattern {
        let compiled = ModulePattern::expression("the options", "target_pattern", pattern);
        let compiled = compiled.map_err(|error| {
            let expected = format!("a regular expression: {error}");
            Error::invalid_option("target_pattern", pattern, expected)
        })?;
        let found = matching(&compiled)?;
        if found.is_empty() {
            return Err(unknown("target_pattern", pattern, names));
        }
        return Ok(found);
    }
    let mut found = BTreeSet::new();
    for target in &config.target_modules {
        let some = matching(&ModulePattern::names([target.as_str()]))?;
        if some.is_empty() {
            return Err(unknown("target_modules", target, names));
        }
        found.extend(some);
    }
    Ok(found.into_iter().collect())
}

fn unknown(option: &'static str, value: &str, modules: &[String]) -> Error {
    let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
    let available: BTreeSet<String> = modules.iter().map(last).collect();
    let available = available.into_iter().collect::<Vec<_>>().join(", ");
    Error::invalid_option(option, value, format!("one of the model's modules ({available})"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn find(config: &LoraConfig) -> Result<Vec<usize>> {
        let names = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"];
        let names: Vec<String> =
            (0..2).flat_map(|l| names.map(|name| format!("layers.{l}.{name}"))).collect();
        target_modules(config, &ModuleTable::new(["model."]), &names)
    }

    #[test]
    fn suffixes_are_whole_parts() {
        let config = LoraConfig::new().with_target_modules(["q_proj", "layers.1.mlp.up_proj"]);
        assert_eq!(find(&config).unwrap(), [0, 3, 5]);
        let error = find(&LoraConfig::new().with_target_modules(["proj"])).unwrap_err();
        assert!(error.to_string().contains("q_proj, up_proj, v_proj"), "{error}");
    }

    #[test]
    fn patterns_match_whole_paths() {
        let config = LoraConfig::new().with_target_pattern(r"model\..*\.1\.self_attn\.[qv]_proj");
        assert_eq!(find(&config).unwrap(), [3, 4]);
        for pattern in ["q_proj", "("] {
            assert!(find(&LoraConfig::new().with_target_pattern(pattern)).is_err());
        }
    }
}
