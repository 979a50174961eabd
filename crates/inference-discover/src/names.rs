//! What files and folders are called.

use std::path::{Component, Path};

use crate::reference::{HubRef, ModelRef};

/// What to call a model by its place: `org/name` (`hf:name` where there is no
/// organisation), with `:file` behind it for a file, in the cache of the
/// Hugging Face hub, and the last part of the path elsewhere; for a split file
/// without the number of the part.
pub(crate) fn of_path(path: &Path) -> String {
    if let Some((repository, file)) = in_hub_cache(path) {
        let file = Some(file).filter(|file| !file.is_empty());
        return HubRef { repository, revision: None, file }.to_string();
    }
    let last = path.file_name().or_else(|| path.components().next_back().map(Component::as_os_str));
    let name =
        last.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into());
    match SplitName::parse(&name) {
        Some(split) => split.stem.to_owned(),
        None => name.strip_suffix(GGUF).map_or(name.clone(), str::to_owned),
    }
}

/// `name` where it names a model wherever it is written, else the path.
pub(crate) fn resolvable(name: String, path: &Path) -> String {
    match name.parse() {
        Ok(ModelRef::Hub(_) | ModelRef::Ollama(_)) => name,
        _ => path.display().to_string(),
    }
}

/// The repository of a path below `models--org--name/snapshots/REVISION`, and
/// the rest of the path.
fn in_hub_cache(path: &Path) -> Option<(String, String)> {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_str()).collect();
    let at = parts.windows(2).rposition(
        |pair| matches!(pair, [Some(folder), Some("snapshots")] if folder.starts_with(HUB_PREFIX)),
    )?;
    let repository = repository_of_folder((*parts.get(at)?)?)?;
    // The revision has to be there, the file need not.
    let rest: Option<Vec<&str>> = parts.get(at + 3..)?.iter().copied().collect();
    Some((repository, rest?.join("/")))
}

/// How folders of models begin in the cache of the hub.
pub(crate) const HUB_PREFIX: &str = "models--";

/// The id of a repository by its folder in the cache of the hub.
pub(crate) fn repository_of_folder(folder: &str) -> Option<String> {
    folder.strip_prefix(HUB_PREFIX).map(|id| id.replace("--", "/"))
}

/// How GGUF files end.
pub(crate) const GGUF: &str = ".gguf";

/// The name of a part of a split GGUF file: `STEM-00001-of-00003.gguf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitName<'a> {
    pub(crate) stem: &'a str,
    /// From 1.
    pub(crate) part: u32,
    pub(crate) count: u32,
}

impl<'a> SplitName<'a> {
    /// `None` where the name is not that of a part.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(GGUF)?.rsplit_once("-of-")?;
        let (stem, part) = rest.rsplit_once('-')?;
        let number = |text: &str| {
            let digits = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let (part, count) = (number(part)?, number(count)?);
        (part >= 1 && part <= count).then_some(Self { stem, part, count })
    }

    /// The name of another part.
    pub(crate) fn with_part(self, part: u32) -> String {
        format!("{}-{part:05}-of-{:05}{GGUF}", self.stem, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_cache_of_the_hub_is_called_by_its_repository() {
        let of = |path: &str| of_path(Path::new(path));
        assert_eq!(of("/hub/models--org--name/snapshots/abc"), "org/name");
        assert_eq!(of("/hub/models--org--name/snapshots/abc/q/x.gguf"), "org/name:q/x.gguf");
        assert_eq!(of("/hub/models--gpt2/snapshots/abc"), "hf:gpt2");
        assert_eq!(of("/hub/models--org--name/snapshots"), "snapshots");
        assert_eq!(of("models/llama"), "llama");
        assert_eq!(of("models/llama.Q4_K_M.gguf"), "llama.Q4_K_M");
        assert_eq!(of("models/llama-00001-of-00002.gguf"), "llama");
        assert_eq!(of("."), ".");
    }

    #[test]
    fn parts_of_split_files_are_known_by_their_names() {
        let split = SplitName::parse("a-b-00002-of-00003.gguf").unwrap();
        assert_eq!((split.stem, split.part, split.count), ("a-b", 2, 3));
        assert_eq!(split.with_part(1), "a-b-00001-of-00003.gguf");
        for other in [
            "a.gguf",
            "a-00002-of-00003.bin",
            "a-2-of-3.gguf",
            "a-00000-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "-of-.gguf",
        ] {
            assert_eq!(SplitName::parse(other), None, "{other}");
        }
    }
}
