"""usage: make_encoded.py LIBGGML_BASE.so > encoded.json

What ggml's own quantization (ggml_quantize_chunk) makes of two rows of 512
values, with and without importance. The values follow from their index, so
that the test computes them too."""
import ctypes, json, sys
import numpy as np

TYPES = dict(Q4_0=(2, 18, 32), Q4_1=(3, 20, 32), Q5_0=(6, 22, 32), Q5_1=(7, 24, 32), Q8_0=(8, 34, 32),
             Q2_K=(10, 84, 256), Q3_K=(11, 110, 256), Q4_K=(12, 144, 256), Q5_K=(13, 176, 256),
             Q6_K=(14, 210, 256), IQ4_NL=(20, 18, 32), IQ4_XS=(23, 136, 256))
COLUMNS, ROWS = 512, 2


def noise(i, seed):
    return ((i * 2654435761 + seed * 40503 + 12345) % 2**32) / 2**31 - 1.0


lib = ctypes.CDLL(sys.argv[1])
lib.ggml_quantize_chunk.restype = ctypes.c_size_t
f = ctypes.POINTER(ctypes.c_float)
lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, f, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, f]
lib.ggml_quantize_init.argtypes = [ctypes.c_int]
values = np.array([noise(i, 0) ** 3 + 0.2 * noise(i, 1) for i in range(ROWS * COLUMNS)], dtype=np.float32)
importance = np.array([0.01 + noise(i, 2) ** 2 for i in range(COLUMNS)], dtype=np.float32)
result = {}
for name, (kind, size, block) in TYPES.items():
    lib.ggml_quantize_init(kind)
    for key, weights in ("plain", None), ("weighted", importance):
        out = np.zeros(ROWS * COLUMNS // block * size, dtype=np.uint8)
        pointer = weights.ctypes.data_as(f) if weights is not None else None
        lib.ggml_quantize_chunk(kind, values.ctypes.data_as(f), out.ctypes.data, 0, ROWS, COLUMNS, pointer)
        result.setdefault(name, {})[key] = out.tobytes().hex()
json.dump(result, sys.stdout, indent=1)
print()
