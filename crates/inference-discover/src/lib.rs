//! Finds local language models, and fetches them from the Hugging Face hub.

#![cfg_attr(docsrs, feature(doc_cfg))]
