//! The license of a model, from the files beside it.

use std::path::Path;

use crate::bounded_file;

/// How much of a model card is looked at.
const CARD_BYTES: u64 = 16 << 10;

/// The license that the folder's model card or license file names.
pub(crate) fn of_folder(folder: &Path) -> Option<String> {
    let card = bounded_file::head(&folder.join("README.md"), CARD_BYTES);
    card.as_deref().and_then(of_card).or_else(|| {
        let names = ["LICENSE", "LICENSE.txt", "LICENSE.md"];
        let text = names.iter().find_map(|name| bounded_file::head(&folder.join(name), 1 << 10))?;
        of_license_text(&text)
    })
}

/// The license in the front matter of a model card.
fn of_card(card: &str) -> Option<String> {
    let mut lines = card.trim_start_matches('\u{feff}').lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut license = None;
    for line in lines.take_while(|line| line.trim_end() != "---") {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim().trim_matches(['"', '\'']);
        match key {
            "license" if !value.is_empty() => license = Some(value.to_owned()),
            // What `license: other` stands for.
            "license_name" if !value.is_empty() => return Some(value.to_owned()),
            _ => {}
        }
    }
    license
}

/// The name of a license whose text begins like this: the common ones by
/// their identifiers, others by their first line.
pub(crate) fn of_license_text(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next()?.trim_start_matches('#').trim();
    let known = [("Apache License", "apache-2.0"), ("MIT License", "mit")];
    if let Some((_, name)) = known.iter().find(|(start, _)| first.starts_with(start)) {
        return Some((*name).to_owned());
    }
    Some(first.chars().take(80).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_names_it_in_its_front_matter_only() {
        assert_eq!(of_card("---\nlicense: mit\n---\n"), Some("mit".to_owned()));
        let other = "---\nlicense: other\nlicense_name: \"gemma\"\nlanguage:\n- en\n---\n";
        assert_eq!(of_card(other), Some("gemma".to_owned()));
        assert_eq!(of_card("---\nlanguage: en\n---\nlicense: mit\n"), None);
        assert_eq!(of_card("# Model\nlicense: mit\n"), None);
        assert_eq!(of_card(""), None);
    }

    #[test]
    fn a_license_text_is_known_by_its_first_line() {
        let apache = "\n\n     Apache License\n   Version 2.0, January 2004\n";
        assert_eq!(of_license_text(apache), Some("apache-2.0".to_owned()));
        let llama = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n";
        assert_eq!(of_license_text(llama), Some("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT".into()));
        assert_eq!(of_license_text(" \n"), None);
    }
}
