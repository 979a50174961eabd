"""usage: make_quantized.py [OUTDIR]

Writes a tiny random model for each format of quantized safetensors, and what
transformers computes from its dequantized weights. Codes, scales and zeros
are drawn at random (MLX's come from mlx itself), packed as the format says,
and dequantized here from the unpacked codes with numpy and torch.

Needs torch, transformers 5, safetensors, numpy, mlx[cpu].
"""
import json, pathlib, sys
import numpy as np
import mlx.core as mx
import torch
import transformers
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
BASE = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, rope_theta=10000.0, tie_word_embeddings=True)
PROMPTS = [[1, 5, 9, 33, 2, 60, 17], [63, 0, 4, 4, 21, 8, 13, 55, 40, 7, 3, 30]]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def pack(codes, axis, order=range(8)):
    """Eight 4-bit codes along `axis` to an int32; nibble j holds element order[j]."""
    codes = np.moveaxis(codes.astype(np.uint32), axis, 0)
    words = np.zeros((codes.shape[0] // 8,) + codes.shape[1:], np.uint32)
    for j, element in enumerate(order):
        words |= codes[element::8] << np.uint32(4 * j)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(words, 0, axis)).view(np.int32))


def group_scales(rng, n_in, groups, n_out):
    """f16 scales that make weights of a usual size."""
    return (rng.uniform(0.5, 1.5, (groups, n_out)) * 0.4 / np.sqrt(n_in)).astype(np.float16)


def gptq(rng, w, group, symmetric=False, version=1, permuted=False):
    n_out, n_in = w.shape
    group = n_in if group == -1 else group
    groups = n_in // group
    codes = rng.integers(0, 16, (n_in, n_out))
    zeros = np.full((groups, n_out), 8) if symmetric else rng.integers(0, 16, (groups, n_out))
    scales = group_scales(rng, n_in, groups, n_out)
    index = np.arange(n_in) // group
    if permuted:
        index = rng.permutation(index)
    dense = scales[index].astype(np.float32) * (codes - zeros[index]).astype(np.float32)
    stored = zeros if version == 2 else (zeros - 1) & 15
    return torch.from_numpy(dense.T.copy()), {
        "qweight": pack(codes, 0), "qzeros": pack(stored, 1), "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(index.astype(np.int32))}


def awq(rng, w, group):
    n_out, n_in = w.shape
    groups = n_in // group
    codes, zeros = rng.integers(0, 16, (n_in, n_out)), rng.integers(0, 16, (groups, n_out))
    scales = group_scales(rng, n_in, groups, n_out)
    index = np.arange(n_in) // group
    dense = scales[index].astype(np.float32) * (codes - zeros[index]).astype(np.float32)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return torch.from_numpy(dense.T.copy()), {
        "qweight": pack(codes, 1, order), "qzeros": pack(zeros, 1, order), "scales": torch.from_numpy(scales)}


def mlx(w, bits, group):
    q, s, b = mx.quantize(mx.array(w.numpy()).astype(mx.float16), group_size=group, bits=bits)
    reference = np.array(mx.dequantize(q, s, b, group_size=group, bits=bits).astype(mx.float32))
    q, s, b = np.array(q), np.array(s), np.array(b)
    per_word = 32 // bits
    codes = np.stack([(q >> (bits * j)) & (2**bits - 1) for j in range(per_word)], -1).reshape(w.shape)
    wide = lambda x: np.repeat(x.astype(np.float32), group, 1)
    dense = codes.astype(np.float32) * wide(s) + wide(b)
    assert np.abs(dense - reference).max() < 2e-3  # mlx rounds to f16
    return torch.from_numpy(dense), {
        "weight": torch.from_numpy(q), "scales": torch.from_numpy(s), "biases": torch.from_numpy(b)}


def fp8(w, block, name):
    if block is None:
        # A scale for all in some modules, one per output in the others.
        scale = w.abs().amax() / 448 if name == "up_proj" else w.abs().amax(1, keepdim=True) / 448
        wide, key = scale, "weight_scale"
        if name == "up_proj":
            scale = scale.reshape(1)
    else:
        rows, cols = (w.shape[0] + block[0] - 1) // block[0], (w.shape[1] + block[1] - 1) // block[1]
        scale = torch.zeros(rows, cols)
        for r in range(rows):
            for c in range(cols):
                part = w[r * block[0]:(r + 1) * block[0], c * block[1]:(c + 1) * block[1]]
                scale[r, c] = part.abs().amax() / 448
        wide = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:w.shape[0], :w.shape[1]]
        key = "weight_scale_inv"
    codes = (w / wide).to(torch.float8_e4m3fn)
    return codes.to(torch.float32) * wide, {"weight": codes, key: scale.clone()}


def make(name, cls, quantize, quantization, skip=(), embedding=None, **changes):
    seed = sum(map(ord, name))
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    config = getattr(transformers, cls + "Config")(**dict(BASE, **changes))
    config.architectures = [cls + "ForCausalLM"]
    model = getattr(transformers, cls + "ForCausalLM")(config).float().eval()
    stored = {}
    with torch.no_grad():
        for key, p in model.named_parameters():
            module, kind = key.rsplit(".", 1)
            last = module.rsplit(".", 1)[-1]
            if p.dim() == 1:
                p.copy_((torch.randn_like(p) * 0.2 + (0.0 if kind == "bias" else 1.0)).half().float())
                stored[key] = p.half()
                continue
            p.copy_((torch.randn_like(p) * (0.5 if "embed" in key else 1.5 / p.shape[1] ** 0.5)).half().float())
            if last in LINEARS and last not in skip:
                dense, tensors = quantize(rng, p.clone(), last)
            elif "embed" in key and embedding:
                dense, tensors = embedding(p.clone())
            else:
                dense, tensors = p.clone(), {"weight": p.half()}
            p.copy_(dense)
            stored |= {f"{module}.{k}": v.contiguous() for k, v in tensors.items()}
    expected = []
    for prompt in PROMPTS:
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0]
            ids = list(prompt)
            for _ in range(8):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        rounded = lambda row: [round(float(x), 6) for x in row]
        expected.append(dict(input_ids=prompt, last_logits=rounded(logits[-1]), greedy=ids[len(prompt):]))
    out = OUT / name
    out.mkdir(parents=True, exist_ok=True)
    json_config = config.to_diff_dict()
    json_config.pop("transformers_version", None)
    json_config |= dict(model_type=config.model_type, vocab_size=64, hidden_size=64, num_hidden_layers=1, **quantization)
    (out / "config.json").write_text(json.dumps(json_config, indent=1, default=str) + "\n")
    save_file(stored, out / "model.safetensors")
    (out / "expected.json").write_text(json.dumps(dict(prompts=expected)) + "\n")
    print(name, sum(f.stat().st_size for f in out.iterdir()), "bytes")


def qc(**fields):
    return dict(quantization_config=fields)


WIDE = lambda module: module == "down_proj"
settings = dict(group_size=32, bits=4)
# Other settings for one module, and one that is not quantized.
overrides = {"model.layers.0.mlp.down_proj": dict(group_size=32, bits=8), "model.layers.0.self_attn.o_proj": False}
make("mlx-4bit", "Llama", lambda rng, w, m: mlx(w, 8 if WIDE(m) else 4, 32), dict(quantization=settings | overrides),
     skip=("o_proj",), embedding=lambda w: mlx(w, 4, 32))
make("mlx-8bit", "Qwen2", lambda rng, w, m: mlx(w, 8, 64), dict(quantization=dict(group_size=64, bits=8), quantization_config=dict(group_size=64, bits=8)),
     embedding=lambda w: mlx(w, 8, 64), intermediate_size=64)
make("gptq-sym", "Llama", lambda rng, w, m: gptq(rng, w, -1, symmetric=True),
     qc(quant_method="gptq", bits=4, group_size=-1, sym=True, desc_act=False))
make("gptq-asym", "Qwen2", lambda rng, w, m: gptq(rng, w, 32),
     qc(quant_method="gptq", bits=4, group_size=32, sym=False, desc_act=False, checkpoint_format="gptq"))
make("gptq-v2-act-order", "Llama", lambda rng, w, m: gptq(rng, w, 32, version=2, permuted=True),
     qc(quant_method="gptq", bits=4, group_size=32, sym=False, desc_act=True, checkpoint_format="gptq_v2"))
make("awq", "Qwen2", lambda rng, w, m: awq(rng, w, 32), qc(quant_method="awq", bits=4, group_size=32, zero_point=True, version="GEMM"))
make("fp8-scale", "Llama", lambda rng, w, m: fp8(w, None, m), skip=("k_proj",), quantization=qc(
     quant_method="compressed-tensors", format="float-quantized", ignore=["re:.*k_proj", "lm_head"],
     config_groups=dict(group_0=dict(targets=["Linear"], weights=dict(num_bits=8, type="float", strategy="channel", symmetric=True)))))
make("fp8-block", "Qwen3", lambda rng, w, m: fp8(w, (64, 64), m), head_dim=16, skip=("v_proj",),
     quantization=qc(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[64, 64],
                     modules_to_not_convert=["model.layers.0.self_attn.v_proj"]))

values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).to(torch.float32)
(OUT / "e4m3.json").write_text(json.dumps([None if v != v else v for v in values.tolist()]) + "\n")
