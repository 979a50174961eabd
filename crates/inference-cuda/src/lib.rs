//! The CUDA backend: device discovery and Candle's operations on a CUDA device
