"""Writes gguf_tokens.json: the ids that llama.cpp gives for hard texts.

    python make_gguf_tokens.py FIXTURES   (needs llama-cpp-python)

`kinds`: GPT-2's vocabulary with each kind of pre-tokenizer, over `texts`.
`files`: other vocabularies, with what goes around a text, over `texts` and `more`,
and the tokens that end a generation.
"""

import json
import pathlib
import sys
import tempfile

import llama_cpp

HERE = pathlib.Path(__file__).parent
FIXTURES = pathlib.Path(sys.argv[1])
FILES = [
    "gguf-vocab/ggml-vocab-llama-bpe",
    "gguf-vocab/ggml-vocab-llama-spm",
    "gguf-vocab/ggml-vocab-phi-3",
    "gguf/llama/llama-f32",
    "gguf/qwen2/qwen2-f32",
    "gguf/gemma3/gemma3-f32",
    "gguf/stories260k/stories260k-q4_0",
]


def with_text(data, key, text):
    """The file with another text under a key."""
    at = data.index(key.encode()) + len(key) + 4
    length = int.from_bytes(data[at : at + 8], "little")
    text = text.encode()
    return data[:at] + len(text).to_bytes(8, "little") + text + data[at + 8 + length :]


def load(path):
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


def encode(model, text, around):
    data = text.encode()
    size = len(data) + 16
    buffer = (llama_cpp.llama_token * size)()
    vocab = model._model.vocab
    count = llama_cpp.llama_tokenize(vocab, data, len(data), buffer, size, around, True)
    assert count >= 0
    return list(buffer[:count])


# The texts are edited in the file itself.
old = json.loads((HERE / "gguf_tokens.json").read_text())
new = {"texts": old["texts"], "kinds": {}, "more": old["more"], "files": {}}
base = (FIXTURES / "gguf-vocab/ggml-vocab-gpt-2.gguf").read_bytes()
for kind in old["kinds"]:
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(with_text(base, "tokenizer.ggml.pre", kind))
        file.flush()
        model = load(file.name)
        new["kinds"][kind] = [encode(model, text, False) for text in new["texts"]]
for name in FILES:
    model = load(FIXTURES / f"{name}.gguf")
    vocab = model._model.vocab
    new["files"][name] = {
        "ids": [encode(model, text, True) for text in new["texts"] + new["more"]],
        "ends": [i for i in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocab, i)],
    }
text = json.dumps(new, ensure_ascii=False, separators=(",", ":"))
(HERE / "gguf_tokens.json").write_text(text.replace("]],", "]],\n") + "\n")
