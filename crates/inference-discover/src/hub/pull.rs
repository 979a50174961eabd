//! A whole model from the hub.

use std::path::Path;

use inference_core::{Error, Result};

use super::cache::CacheRepository;
use super::client::Client;
use super::listing::{Listing, RemoteFile};
use super::options::HubOptions;
use super::{download, selection};
use crate::store::StoreKind;
use crate::weight_files::{self, INDEX};
use crate::{HubRef, ModelRef, Resolved, Stores, bounded_file, repository_files};

/// Downloads the model that a text names into the cache of the hub, as far as
/// it is not there.
///
/// Of a repository the files are taken that a model needs: configuration,
/// tokenizer, templates and safetensors, or the GGUF file that is named. A file
/// whose download broke off is resumed. Its content is compared with the hub's
/// checksum before it gets its name, and the branch is set to the commit when
/// all files are there: a snapshot that can be resolved is complete.
///
/// A path that exists is the model already, and the network is left alone. In
/// offline mode, a model that the cache holds is too.
///
/// # Errors
///
/// [`ModelNotFound`](inference_core::ErrorKind::ModelNotFound),
/// [`Network`](inference_core::ErrorKind::Network),
/// [`InvalidModel`](inference_core::ErrorKind::InvalidModel) for content that
/// is not what the hub announced,
/// [`UnsupportedModel`](inference_core::ErrorKind::UnsupportedModel) for other
/// formats, [`InvalidInput`](inference_core::ErrorKind::InvalidInput) for a
/// text that names nothing on the hub,
/// [`InvalidOption`](inference_core::ErrorKind::InvalidOption),
/// [`Io`](inference_core::ErrorKind::Io).
pub fn pull(text: &str, options: &HubOptions) -> Result<Resolved> {
    if !text.is_empty() && std::fs::symlink_metadata(text).is_ok() {
        return Ok(Resolved { path: text.into(), store: None });
    }
    let ModelRef::Hub(wanted) = text.parse()? else {
        let expected = "a repository of the Hugging Face hub, such as hf:ORG/NAME";
        return Err(Error::invalid_input("model", expected, format!("`{text}`")));
    };
    let Some(cache) = &options.cache else {
        let expected = "a folder: HF_HOME or HOME is not set";
        return Err(Error::invalid_option("cache", "none", expected));
    };
    if options.offline {
        let stores = Stores::new().with_store(StoreKind::HuggingFace, cache);
        return stores.find_hub(&wanted).map_err(|error| {
            let hint = format!("offline mode (HF_HUB_OFFLINE) leaves the network alone ({error})");
            Error::model_not_found(wanted.to_string(), hint)
        });
    }
    std::fs::create_dir_all(cache).map_err(|e| Error::io(cache, "create", e))?;
    let client = Client::new(options, cache)?;
    fetch(&client, cache, &wanted)
}

fn fetch(client: &Client<'_>, cache: &Path, wanted: &HubRef) -> Result<Resolved> {
    let listing = Listing::fetch(client, wanted)?;
    let selection = selection::select(&listing, wanted)?;
    let repository = CacheRepository::new(cache, wanted);
    let get = |file: &RemoteFile| {
        let url = client.file_url(&wanted.repository, &listing.commit, &file.name);
        download::fetch(client, &repository, &url, file)?;
        repository.link(&file.checksum, &listing.commit, &file.name)
    };
    selection.files.iter().try_for_each(|file| get(file))?;
    let snapshot = repository.snapshot(&listing.commit);
    if selection.sharded {
        let index = bounded_file::json(&snapshot.join(INDEX))?;
        for shard in weight_files::shards(INDEX, &index)? {
            let missing = || {
                let what = format!("shard `{shard}`");
                Error::invalid_model(INDEX, what, "in the repository", "nothing")
            };
            get(listing.file(&shard).ok_or_else(missing)?)?;
        }
    }
    repository.set_ref(wanted.revision(), &listing.commit)?;
    let found = repository_files::find(&snapshot, wanted)?;
    let missing = || Error::invalid_model(wanted.to_string(), "files", "a model", "none");
    Ok(Resolved { path: found.ok_or_else(missing)?, store: Some(StoreKind::HuggingFace) })
}
