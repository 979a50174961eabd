//! The CPU backend: fused kernels whose results are the same bits whatever the batch and the thread count
