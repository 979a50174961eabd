//! The Metal backend: device discovery and Candle's operations on a Metal device
