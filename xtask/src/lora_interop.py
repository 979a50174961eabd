"""What transformers and peft make of a model and an adapter.

widen MODEL OUT: writes the model in float32.
logits MODEL ADAPTER REQUEST REPLY: all logits of the ids in REQUEST, flat.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

command, model, *rest = sys.argv[1:]
base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
base.eval()
if command == "widen":
    import pathlib
    import shutil

    base.save_pretrained(rest[0])
    for file in pathlib.Path(model).glob("tokenizer*"):
        shutil.copy(file, rest[0])
elif command == "logits":
    from peft import PeftModel

    adapter, request, reply = rest
    with open(request) as file:
        ids = torch.tensor([json.load(file)["ids"]])
    adapted = PeftModel.from_pretrained(base, adapter)
    adapted.eval()
    with torch.no_grad():
        logits = adapted(input_ids=ids).logits[0].float()
    with open(reply, "w") as file:
        json.dump(logits.flatten().tolist(), file)
else:
    sys.exit(f"unknown command {command}")
