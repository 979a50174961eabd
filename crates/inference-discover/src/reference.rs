//! What users write to name a model.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use inference_core::{Error, Result};

/// The scheme of models of the Hugging Face hub.
const HUB: &str = "hf:";

/// The scheme of models of Ollama.
const OLLAMA: &str = "ollama:";

/// What users write to name a model.
///
/// | text | meaning |
/// |---|---|
/// | `hf:org/name`, `org/name` | a repository of the Hugging Face hub |
/// | `hf:org/name@REVISION` | at a branch, tag or commit |
/// | `hf:org/name:FILE.gguf` | a GGUF file in it |
/// | `hf:org/name:Q4_K_M` | its one GGUF file whose name has this part |
/// | `ollama:name`, `ollama:name:tag` | a model of Ollama; the tag is `latest` unless said |
/// | anything else | a path |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelRef {
    /// A path on this machine.
    Path(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub(HubRef),
    /// A model of Ollama.
    Ollama(OllamaRef),
}

/// A repository of the Hugging Face hub, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubRef {
    /// `org/name`, or `name` for the oldest ones.
    pub repository: String,
    /// A branch, tag or commit; unset: `main`.
    pub revision: Option<String>,
    /// A file in it, or a part of the name of a GGUF file.
    pub file: Option<String>,
}

/// A model of Ollama.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OllamaRef {
    /// `name`, `namespace/name` or `host/namespace/name`.
    pub name: String,
    /// The tag.
    pub tag: String,
}

impl FromStr for ModelRef {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](inference_core::ErrorKind::InvalidInput) for a text
    /// that begins with `hf:` or `ollama:` and does not go on well.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix(HUB) {
            let parsed = HubRef::parse(rest, false);
            return parsed.map(Self::Hub).ok_or_else(|| {
                let expected = "hf:ORG/NAME, with @REVISION or :FILE behind it";
                Error::invalid_input("model", expected, format!("`{text}`"))
            });
        }
        if let Some(rest) = text.strip_prefix(OLLAMA) {
            let parsed = OllamaRef::parse(rest);
            return parsed.map(Self::Ollama).ok_or_else(|| {
                Error::invalid_input("model", "ollama:NAME:TAG", format!("`{text}`"))
            });
        }
        Ok(HubRef::parse(text, true).map_or_else(|| Self::Path(text.into()), Self::Hub))
    }
}

impl HubRef {
    fn parse(text: &str, with_organisation: bool) -> Option<Self> {
        let (id, file) = match text.split_once(':') {
            Some((id, file)) => (id, Some(file)),
            None => (text, None),
        };
        let (repository, revision) = match id.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (id, None),
        };
        let parts: Vec<&str> = repository.split('/').collect();
        let slashes = parts.len() == 2 || (parts.len() == 1 && !with_organisation);
        let valid = slashes
            && parts.iter().all(|part| is_name(part))
            && revision.is_none_or(is_relative)
            && file.is_none_or(is_relative);
        valid.then(|| Self {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    /// The branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The folder of the repository in the cache of the hub.
    pub(crate) fn folder(&self) -> String {
        format!("{}{}", crate::names::HUB_PREFIX, self.repository.replace('/', "--"))
    }
}

impl fmt::Display for HubRef {
    /// As it can be parsed again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.repository.contains('/') {
            f.write_str(HUB)?;
        }
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

impl OllamaRef {
    fn parse(text: &str) -> Option<Self> {
        // A host may bear a port, so the tag is looked for in the last part.
        let (parent, last) = match text.rsplit_once('/') {
            Some((parent, last)) => (Some(parent), last),
            None => (None, text),
        };
        let (last, tag) = last.split_once(':').unwrap_or((last, "latest"));
        let parents = parent.map_or(Vec::new(), |parent| parent.split('/').collect());
        let valid_parents = match parents[..] {
            [] => true,
            [namespace] => is_name(namespace),
            [host, namespace] => is_host(host) && is_name(namespace),
            _ => false,
        };
        let valid = is_name(last) && is_name(tag) && valid_parents;
        let name = parent.map_or_else(|| last.to_owned(), |parent| format!("{parent}/{last}"));
        valid.then(|| Self { name, tag: tag.to_owned() })
    }

    /// Where its manifest lies, below `manifests`.
    pub(crate) fn manifest(&self) -> PathBuf {
        let parts: Vec<&str> = self.name.split('/').collect();
        let (host, namespace, name) = match parts[..] {
            [host, namespace, name] => (host, namespace, name),
            [namespace, name] => (OLLAMA_HOST, namespace, name),
            _ => (OLLAMA_HOST, OLLAMA_NAMESPACE, &*self.name),
        };
        [host, namespace, name, &self.tag].iter().collect()
    }

    /// The model of a manifest below `manifests`.
    pub(crate) fn of_manifest(host: &str, namespace: &str, name: &str, tag: &str) -> Self {
        let name = match (host, namespace) {
            (OLLAMA_HOST, OLLAMA_NAMESPACE) => name.to_owned(),
            (OLLAMA_HOST, namespace) => format!("{namespace}/{name}"),
            (host, namespace) => format!("{host}/{namespace}/{name}"),
        };
        Self { name, tag: tag.to_owned() }
    }
}

impl fmt::Display for OllamaRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OLLAMA}{}:{}", self.name, self.tag)
    }
}

/// Where Ollama's own models come from.
const OLLAMA_HOST: &str = "registry.ollama.ai";
const OLLAMA_NAMESPACE: &str = "library";

/// Whether a text can be one part of a repository's id.
fn is_name(text: &str) -> bool {
    let characters = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(characters) && !text.starts_with(['.', '-'])
}

/// Whether a text can be a registry's host, with or without a port.
fn is_host(text: &str) -> bool {
    match text.split_once(':') {
        Some((host, port)) => is_name(host) && port.parse::<u16>().is_ok(),
        None => is_name(text),
    }
}

/// Whether a text is a path that stays below where it is applied, on every
/// system.
pub(crate) fn is_relative(path: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && !part.contains(['\\', ':', '\0'])
            && !part.chars().any(char::is_control)
    };
    path.len() <= 1024 && path.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repository: &str, revision: Option<&str>, file: Option<&str>) -> ModelRef {
        ModelRef::Hub(HubRef {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    #[test]
    fn repositories_have_an_organisation_unless_the_scheme_says_so() {
        for (text, expected) in [
            ("org/name", hub("org/name", None, None)),
            ("hf:org/name", hub("org/name", None, None)),
            ("hf:gpt2", hub("gpt2", None, None)),
            ("org/name-1.5:x.gguf", hub("org/name-1.5", None, Some("x.gguf"))),
            ("hf:org/name:Q4/x.gguf", hub("org/name", None, Some("Q4/x.gguf"))),
            ("hf:org/name@refs/pr/1:x", hub("org/name", Some("refs/pr/1"), Some("x"))),
            ("gpt2", ModelRef::Path("gpt2".into())),
            ("./org/name", ModelRef::Path("./org/name".into())),
            ("../name", ModelRef::Path("../name".into())),
            ("/a/b", ModelRef::Path("/a/b".into())),
            ("a/b/c", ModelRef::Path("a/b/c".into())),
            ("models/", ModelRef::Path("models/".into())),
            (r"C:\models\x", ModelRef::Path(r"C:\models\x".into())),
            ("", ModelRef::Path("".into())),
        ] {
            assert_eq!(text.parse::<ModelRef>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_scheme_that_does_not_go_on_well_is_refused() {
        for bad in [
            "hf:",
            "hf:a/b/c",
            "hf:../x",
            "hf:org/name:",
            "hf:org/name:../../x",
            "hf:org/name:/etc/x",
            "hf:org/name@",
            "hf:org/name@../../x",
            r"hf:org/name:a\b",
            "ollama:",
            "ollama:a/b/c/d",
            "ollama:../x",
            "ollama:x:../y",
        ] {
            let error = bad.parse::<ModelRef>().unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn models_of_ollama_lie_below_host_and_namespace() {
        for (text, manifest, shown) in [
            (
                "ollama:llama3.2",
                "registry.ollama.ai/library/llama3.2/latest",
                "ollama:llama3.2:latest",
            ),
            ("ollama:llama3.2:1b", "registry.ollama.ai/library/llama3.2/1b", "ollama:llama3.2:1b"),
            ("ollama:me/x:1", "registry.ollama.ai/me/x/1", "ollama:me/x:1"),
            ("ollama:hf.co/me/x:1", "hf.co/me/x/1", "ollama:hf.co/me/x:1"),
        ] {
            let ModelRef::Ollama(parsed) = text.parse().unwrap() else { unreachable!() };
            assert_eq!(parsed.manifest(), PathBuf::from(manifest));
            assert_eq!(parsed.to_string(), shown);
            let parts: Vec<_> = manifest.split('/').collect();
            let [host, namespace, name, tag] = parts[..] else { unreachable!() };
            assert_eq!(OllamaRef::of_manifest(host, namespace, name, tag), parsed);
        }
    }

    #[test]
    fn what_is_shown_can_be_parsed_again() {
        for text in ["org/name", "hf:gpt2", "org/name@v1:x.gguf"] {
            let ModelRef::Hub(parsed) = text.parse().unwrap() else { unreachable!() };
            assert_eq!(parsed.to_string(), text);
        }
    }
}
