//! Text generation with local language models: the facade over the inference crates
