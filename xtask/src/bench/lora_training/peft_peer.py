"""Trains with peft and PyTorch what `xtask bench lora-training` trains; prints JSON."""

import argparse
import json
import resource
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--batch", type=int)
parser.add_argument("--length", type=int)
parser.add_argument("--steps", type=int)
parser.add_argument("--threads", type=int)
parser.add_argument("--gradient-checkpointing", action="store_true")
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
config = LoraConfig(r=8, lora_alpha=16, target_modules=r".*_proj", task_type="CAUSAL_LM")
model = get_peft_model(model, config)
model.train()
if args.gradient_checkpointing:
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
vocab = model.config.vocab_size
rows = range(args.batch)
ids = torch.tensor(
    [[(row * 7919 + i * 104729) % vocab for i in range(args.length)] for row in rows]
)
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0)
seconds, losses = [], []
for step in range(args.steps + 1):
    started = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    losses.append(loss.item())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step > 0:
        seconds.append(time.perf_counter() - started)
seconds.sort()
print(
    json.dumps(
        {
            "tokens_per_second": args.batch * args.length / seconds[len(seconds) // 2],
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "losses": losses,
        }
    )
)
