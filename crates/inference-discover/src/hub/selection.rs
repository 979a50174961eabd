//! Which files of a repository a model needs.

use inference_core::{Error, Result};

use super::listing::{Listing, RemoteFile};
use crate::names::{GGUF, SplitName};
use crate::reference::HubRef;
use crate::weight_files::{INDEX, SINGLE};
use crate::{adapter_folder, config};

/// What lies beside weights: description, tokenizer, template, license.
const BESIDE: [&str; 16] = [
    config::CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "quantize_config.json",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
];

/// The files that are needed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection<'a> {
    pub(super) files: Vec<&'a RemoteFile>,
    /// Whether the index among them names further files.
    pub(super) sharded: bool,
}

/// Selects the GGUF file that is wanted, or else a safetensors model or
/// adapter, or else the one GGUF model.
///
/// # Errors
///
/// [`ModelNotFound`](inference_core::ErrorKind::ModelNotFound) where nothing
/// fits, [`InvalidInput`](inference_core::ErrorKind::InvalidInput) where
/// several files do,
/// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) where the
/// weights have another format.
pub(super) fn select<'a>(listing: &'a Listing, wanted: &HubRef) -> Result<Selection<'a>> {
    if wanted.file.is_none() {
        let beside = || listing.files.iter().filter(|file| BESIDE.contains(&&*file.name));
        let mut weights: Vec<&str> = Vec::new();
        let sharded = listing.file(SINGLE).is_none() && listing.file(INDEX).is_some();
        if listing.file(config::CONFIG).is_some() {
            weights.push(if sharded { INDEX } else { SINGLE });
        }
        if listing.file(adapter_folder::CONFIG).is_some() {
            weights.extend([adapter_folder::PEFT, adapter_folder::MLX_LM]);
        }
        let weights: Vec<_> = weights.iter().filter_map(|name| listing.file(name)).collect();
        if !weights.is_empty() {
            let adapter = listing.file(adapter_folder::CONFIG);
            let files = beside().chain(adapter).chain(weights).collect();
            return Ok(Selection { files, sharded });
        }
    }
    let models = gguf_models(listing, wanted);
    match models.as_slice() {
        [one] => Ok(Selection { files: parts(listing, one)?, sharded: false }),
        [] => Err(nothing(listing, wanted)),
        several => {
            let names = several
                .iter()
                .map(|file| HubRef { file: Some(file.name.clone()), ..wanted.clone() }.to_string());
            let expected = format!("one of {}", names.collect::<Vec<_>>().join(", "));
            Err(Error::invalid_input("model", expected, wanted.to_string()))
        }
    }
}

/// The GGUF files that fit, split ones by their first part. What belongs to a
/// model, such as the image part of one that sees, is no model.
fn gguf_models<'a>(listing: &'a Listing, wanted: &HubRef) -> Vec<&'a RemoteFile> {
    let wanted = wanted.file.as_deref().unwrap_or_default();
    if let Some(file) = listing.file(wanted) {
        return vec![file];
    }
    let fits = |file: &&RemoteFile| {
        let name = file.name.to_ascii_lowercase();
        let first = SplitName::parse(&file.name).is_none_or(|split| split.part == 1);
        name.ends_with(GGUF)
            && first
            && !name.contains("mmproj")
            && !wanted.ends_with(GGUF)
            && name.contains(&wanted.to_ascii_lowercase())
    };
    listing.files.iter().filter(fits).collect()
}

/// All parts of a file that may be split.
fn parts<'a>(listing: &'a Listing, file: &'a RemoteFile) -> Result<Vec<&'a RemoteFile>> {
    let Some(split) = SplitName::parse(&file.name) else { return Ok(vec![file]) };
    let part = |number: u32| {
        let name = split.with_part(number);
        let missing = || {
            let what = format!("part `{name}`");
            Error::invalid_model(&*file.name, what, "in the repository", "nothing")
        };
        listing.file(&name).ok_or_else(missing)
    };
    (1..=split.count).map(part).collect()
}

fn nothing(listing: &Listing, wanted: &HubRef) -> Error {
    if wanted.file.is_some() {
        let names = listing.files.iter().map(|file| &*file.name);
        let names: Vec<_> = names.filter(|name| name.ends_with(GGUF)).take(20).collect();
        let hint = match names.as_slice() {
            [] => "the repository has no GGUF file".to_owned(),
            names => format!("the repository has {}", names.join(", ")),
        };
        return Error::model_not_found(wanted.to_string(), hint);
    }
    let weights = [".bin", ".pt", ".pth", ".onnx", ".h5", ".msgpack", ".safetensors", ".npz"];
    let found = listing.files.iter().map(|file| &*file.name);
    let found = found.filter(|name| weights.iter().any(|end| name.ends_with(end))).take(5);
    let found = found.collect::<Vec<_>>().join(", ");
    let supported = format!("{SINGLE}, {INDEX}, *{GGUF}, {}", adapter_folder::PEFT);
    Error::unsupported_model(wanted.to_string(), "weights", found, supported)
}

#[cfg(test)]
mod tests {
    use inference_core::ErrorKind;

    use super::*;
    use crate::ModelRef;
    use crate::hub::checksum::Checksum;

    fn listing(names: &[&str]) -> Listing {
        let file = |name: &&str| RemoteFile {
            name: (*name).to_owned(),
            size: 1,
            checksum: Checksum::git_blob(&"a".repeat(40)).unwrap(),
        };
        Listing { commit: "a".repeat(40), files: names.iter().map(file).collect() }
    }

    fn wanted(text: &str) -> HubRef {
        let ModelRef::Hub(wanted) = text.parse().unwrap() else { unreachable!() };
        wanted
    }

    fn selected(names: &[&str], text: &str) -> Result<Vec<String>> {
        let listing = listing(names);
        let selection = select(&listing, &wanted(text))?;
        Ok(selection.files.iter().map(|file| file.name.clone()).collect())
    }

    #[test]
    fn a_safetensors_model_comes_with_what_it_needs_and_no_more() {
        let names = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model.safetensors",
            "original/consolidated.00.pth",
            "pytorch_model.bin",
            "tokenizer.json",
            "x.gguf",
        ];
        let expected = ["README.md", "config.json", "tokenizer.json", "model.safetensors"];
        assert_eq!(selected(&names, "o/n").unwrap(), expected);
        let names = ["config.json", INDEX, "model-00001-of-00002.safetensors"];
        assert_eq!(selected(&names, "o/n").unwrap(), ["config.json", INDEX]);
        assert!(select(&listing(&names), &wanted("o/n")).unwrap().sharded);
        let names = ["adapter_config.json", "adapter_model.safetensors", "README.md"];
        assert_eq!(
            selected(&names, "o/n").unwrap(),
            ["README.md", "adapter_config.json", "adapter_model.safetensors"]
        );
    }

    #[test]
    fn a_gguf_file_is_chosen_by_name_or_quantization_or_because_it_is_the_only_one() {
        let names = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-f16.gguf", "config.json"];
        assert_eq!(selected(&names, "o/n:m-Q8_0.gguf").unwrap(), ["m-Q8_0.gguf"]);
        assert_eq!(selected(&names, "o/n:q4_k_m").unwrap(), ["m-Q4_K_M.gguf"]);
        let error = selected(&names, "o/n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("o/n:m-Q4_K_M.gguf, o/n:m-Q8_0.gguf"), "{error}");
        let error = selected(&names, "o/n:other.gguf").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelNotFound);
        assert!(error.to_string().contains("m-Q8_0.gguf"), "{error}");
        assert_eq!(selected(&["a.gguf", "mmproj.gguf"], "o/n").unwrap(), ["a.gguf"]);
    }

    #[test]
    fn a_split_file_comes_whole() {
        let (one, two) = ("q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf");
        assert_eq!(selected(&[one, two], "o/n").unwrap(), [one, two]);
        assert_eq!(selected(&[one, two], &format!("o/n:{two}")).unwrap(), [one, two]);
        let error = selected(&[one], "o/n").unwrap_err().to_string();
        assert!(error.contains("00002-of-00002"), "{error}");
    }

    #[test]
    fn other_formats_are_refused_by_their_names() {
        let error = selected(&["config.json", "pytorch_model.bin"], "o/n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
        assert!(error.to_string().contains("pytorch_model.bin"), "{error}");
    }
}
