"""Batched products of numpy and PyTorch: `threads models width width ...`."""

import os
import sys
import time

threads, models, *widths = map(int, sys.argv[1:])
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(threads)

calls = {}
try:
    import numpy

    rng = numpy.random.default_rng(0)
    inputs = rng.standard_normal((models, 1, widths[0]), dtype=numpy.float32)
    layers = [
        (
            rng.standard_normal((models, a, b), dtype=numpy.float32) / a**0.5,
            rng.standard_normal((models, 1, b), dtype=numpy.float32),
        )
        for a, b in zip(widths, widths[1:])
    ]

    def with_numpy():
        x = inputs
        for index, (weight, bias) in enumerate(layers):
            x = numpy.matmul(x, weight)
            x += bias
            if index + 1 < len(layers):
                numpy.maximum(x, 0, out=x)
        return x

    calls["numpy"] = with_numpy

    import torch

    torch_inputs = torch.from_numpy(inputs)
    torch_layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in layers]

    @torch.inference_mode()
    def with_torch():
        x = torch_inputs
        for index, (weight, bias) in enumerate(torch_layers):
            # The fused form is the faster one where products are large.
            x = torch.baddbmm(bias, x, weight) if fused else torch.bmm(x, weight).add_(bias)
            if index + 1 < len(torch_layers):
                x.relu_()
        return x

    def seconds_of(call):
        call()
        began = time.perf_counter()
        count = 0
        while count < 3 or time.perf_counter() - began < 0.03:
            call()
            count += 1
        return (time.perf_counter() - began) / count

    # Whichever form and number of threads is the fastest here: waking threads
    # can cost more than they compute.
    best = {}
    for count in {1, threads}:
        torch.set_num_threads(count)
        for fused in (False, True):
            best[count, fused] = min(seconds_of(with_torch) for _ in range(3))
    count, fused = min(best, key=best.get)
    torch.set_num_threads(count)
    calls["torch"] = with_torch
except ImportError as error:
    print(error, file=sys.stderr)

print(*calls, flush=True)
for line in sys.stdin:
    name = line.strip()
    if name not in calls:
        break
    call = calls[name]
    call()
    began = time.perf_counter()
    count = 0
    while count < 3 or time.perf_counter() - began < 0.03:
        call()
        count += 1
    print((time.perf_counter() - began) / count, flush=True)
