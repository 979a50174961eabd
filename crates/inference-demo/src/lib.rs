//! A small language model trained by this repository and embedded in the binary
