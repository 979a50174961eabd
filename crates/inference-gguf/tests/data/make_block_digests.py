"""Digests of what the gguf package decodes pseudo-random blocks to.

    python make_block_digests.py > block_digests.json

Per type 2048 blocks of bytes of SplitMix64 (seed: the type's number), enough
to meet every entry of every codebook. The digest is FNV-1a (64 bits) over the
bit patterns of the values as 32-bit words; any NaN counts as 0x7fc00000.
"""

import json

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

BLOCKS = 2048
TYPES = """Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S
IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 NVFP4""".split()


def split_mix(seed, count):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def fnv(words):
    digest = 0xCBF29CE484222325
    for word in words.tolist():
        digest = ((digest ^ word) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return digest


digests = {}
for name in TYPES:
    kind = Type[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    words = split_mix(int(kind), (BLOCKS * size + 7) // 8)
    data = words.astype("<u8").view(np.uint8)[: BLOCKS * size].reshape(BLOCKS, size)
    with np.errstate(all="ignore"):
        values = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(-1)
    bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    digests[name] = f"{fnv(bits):016x}"

result = {"gguf_package": "0.19.0", "blocks": BLOCKS, "digests": digests}
print(json.dumps(result, indent=1))
