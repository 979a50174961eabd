"""usage: make_extra.py [OUTDIR [CASE ...]]

Writes a tiny random checkpoint for each architecture outside the parametric
decoder, and what transformers computes from it: the logits after each of
three prompts, and twelve greedy tokens, every one from the whole sequence.

Needs torch, transformers 5, safetensors.
"""
import json, pathlib, sys
import torch
import transformers
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
ONLY = sys.argv[2:]
PROMPTS = [[5, 17, 2], [33, 1, 60, 9, 9, 14, 50, 27, 41], [63, 0, 4, 4, 21, 8, 13, 55, 40, 7, 3, 30, 11, 62, 19, 44, 8, 2, 37, 25]]
SIZES = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2)
HEADS = dict(SIZES, num_attention_heads=4)
GATED = dict(HEADS, intermediate_size=48, max_position_embeddings=128)

CASES = {
    "falcon": ("Falcon", dict(HEADS, max_position_embeddings=128, activation="gelu_pytorch_tanh")),
    "falcon-bias": ("Falcon", dict(HEADS, max_position_embeddings=128, activation="gelu_pytorch_tanh", bias=True, parallel_attn=False)),
    "starcoder2": ("Starcoder2", dict(GATED, num_key_value_heads=2, sliding_window=96, rope_theta=999999.4420358813)),
    "stablelm": ("StableLm", dict(GATED, num_attention_heads=2, num_key_value_heads=1, partial_rotary_factor=0.25)),
    "stablelm-2": ("StableLm", dict(GATED, num_attention_heads=2, num_key_value_heads=2, use_qkv_bias=True, partial_rotary_factor=0.25)),
    "phi": ("Phi", dict(GATED, partial_rotary_factor=0.5)),
    "mamba": ("Mamba", dict(SIZES)),
    "mamba2": ("Mamba2", dict(SIZES, head_dim=16, num_heads=4, n_groups=1, state_size=16, chunk_size=8, tie_word_embeddings=True)),
    "olmo": ("Olmo", dict(GATED, clip_qkv=1.5)),
    "helium": ("Helium", dict(GATED, num_key_value_heads=2, head_dim=8, rope_theta=100000.0)),
    "gpt_bigcode": ("GPTBigCode", dict(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
}


def make(name, cls, changes):
    torch.manual_seed(sum(map(ord, name)))
    config = getattr(transformers, cls + "Config")(**changes, bos_token_id=1, eos_token_id=2, pad_token_id=None, attn_implementation="eager")
    config.architectures = [cls + "ForCausalLM"]
    model = getattr(transformers, cls + "ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith(("A_log", "dt_bias", "dt_proj.bias", ".D")):
                p.copy_((p + torch.randn_like(p) * 0.1).half().float())
            elif p.dim() == 1:
                p.copy_((torch.randn_like(p) * 0.2 + (1.0 if key.endswith("weight") else 0.0)).half().float())
            elif p.dim() == 3:
                p.copy_((torch.randn_like(p) * 0.5).half().float())
            else:
                embedding = any(part in key for part in ("embed", "wte", "wpe"))
                p.copy_((torch.randn_like(p) * (0.7 if embedding else 1.5 / p.shape[1] ** 0.5)).half().float())
    expected = []
    for prompt in PROMPTS:
        with torch.no_grad():
            ids = list(prompt)
            last = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            for _ in range(12):
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        expected.append(dict(input_ids=prompt, last_logits=[round(float(x), 6) for x in last], greedy=ids[len(prompt):]))
    out = OUT / name
    out.mkdir(parents=True, exist_ok=True)
    json_config = json.loads(config.to_json_string())
    for key in ("transformers_version", "_attn_implementation", "attn_implementation"):
        json_config.pop(key, None)
    json_config |= dict(model_type=config.model_type)
    (out / "config.json").write_text(json.dumps(json_config, indent=1) + "\n")
    tensors = {}
    for key, p in model.named_parameters():
        tensors[key] = p.detach().half().contiguous()
    save_file(tensors, out / "model.safetensors")
    (out / "expected.json").write_text(json.dumps(dict(prompts=expected)) + "\n")
    print(name, sum(f.stat().st_size for f in out.iterdir()), "bytes", "logits", round(float(last.abs().max()), 2))


for name, (cls, changes) in CASES.items():
    if not ONLY or name in ONLY:
        make(name, cls, changes)
