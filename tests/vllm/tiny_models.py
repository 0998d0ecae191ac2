"""Writes tiny models with random weights for a real vLLM in the tests. Nothing is downloaded.

    .vllm/venv/bin/python tests/vllm/tiny_models.py FOLDER

`text` is a Qwen3 of 0.3 million parameters, `chat` the same one behind a small CLIP, as LLaVA puts
the two together, so that it takes images, and `adapter` a LoRA for it; `reranker` is a Qwen3 with a
classification head of one label, and `speech` a Whisper of two small layers. `experts`, `mla` and
`window` are there for their sizes: a mixture of experts with a layer that is dense (Qwen3), experts
that share one with MLA (DeepSeek V2), and layers with a window (Gemma 3). `slow` is a Qwen3 of 243
million, at some twenty tokens a second, so that streams are still open when something else ends.
Their tokens are single bytes and a few marks, their weights come from a fixed seed: they write
nonsense, the same each time, at some hundred tokens a second on one core.

It runs in vLLM's own environment, never in the project's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)
from transformers.utils import logging

CONTEXT = 16_384
"""Long enough for a stream that is still running when a test looks for it."""

CHAT_TEMPLATE = """
{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] -%}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}
""".strip()


def byte_tokenizer(marks: list[str]) -> Tokenizer:
    """One token for each byte, and one for each mark."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in marks]
    )
    return tokenizer


def save(model: Any, folder: Path, *beside: Any) -> None:
    """Writes a model in bfloat16, and what belongs to it."""
    model.to(torch.bfloat16).save_pretrained(folder)
    for one in beside:
        one.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600
    print(
        f"{folder.name}: {sum(one.numel() for one in model.parameters())} parameters",
        file=sys.stderr,
    )


def text_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and the marks of the chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
    )


SMALLEST = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
"""The smallest shape that vLLM's attention on a CPU takes."""


def text_config(**more: Any) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=260,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=258,
        pad_token_id=256,
        **(SMALLEST | more),
    )


def write_text(folder: Path) -> None:
    torch.manual_seed(0)
    save(Qwen3ForCausalLM(text_config()), folder, text_tokenizer())


def write_slow(folder: Path) -> None:
    torch.manual_seed(8)
    config = text_config(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
    )
    save(Qwen3ForCausalLM(config), folder, text_tokenizer())


def write_chat(folder: Path) -> None:
    """LLaVA: an image becomes four tokens, whatever its size."""
    torch.manual_seed(3)
    tokenizer = text_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=64,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=vision, text_config=text_config(), image_token_index=image, image_seq_length=4
    )
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    save(LlavaForConditionalGeneration(config), folder, processor)
    # transformers 5 drops a level of names that vLLM looks for, as older checkpoints have it.
    file = folder / "model.safetensors"
    weights = {
        name.replace("vision_tower.", "vision_tower.vision_model."): one
        for name, one in load_file(file).items()
    }
    save_file(weights, file, {"format": "pt"})


def write_adapter(folder: Path) -> None:
    """A LoRA for `chat` that changes what it says, as the peft library would write it."""
    torch.manual_seed(4)
    weights = {}
    for layer in range(2):
        for name, width in (("q_proj", 128), ("v_proj", 64)):
            place = f"base_model.model.language_model.model.layers.{layer}.self_attn.{name}"
            weights[f"{place}.lora_A.weight"] = torch.randn(8, 128) / 2
            weights[f"{place}.lora_B.weight"] = torch.randn(width, 8) / 2
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 16,
        "bias": "none",
    }
    config["target_modules"] = ["q_proj", "v_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_reranker(folder: Path) -> None:
    torch.manual_seed(1)
    save(Qwen3ForSequenceClassification(text_config(num_labels=1)), folder, text_tokenizer())


def write_speech(folder: Path) -> None:
    """A Whisper with the real marks of languages and tasks, which vLLM's prompt for it needs."""
    torch.manual_seed(2)
    marks = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|en|>",
        "<|de|>",
        "<|translate|>",
        "<|transcribe|>",
    ]
    marks += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", "<|0.00|>"]
    tokenizer = WhisperTokenizerFast(
        tokenizer_object=byte_tokenizer(marks),
        unk_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    config = WhisperConfig(
        vocab_size=256 + len(marks),
        num_mel_bins=80,
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_source_positions=1500,
        max_target_positions=448,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        begin_suppress_tokens=None,
        suppress_tokens=None,
    )
    save(
        WhisperForConditionalGeneration(config),
        folder,
        tokenizer,
        WhisperFeatureExtractor(feature_size=80),
    )


SHAPE = {
    "vocab_size": 260,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 256,
    "eos_token_id": 258,
    "pad_token_id": 256,
}


def write_experts(folder: Path) -> None:
    torch.manual_seed(5)
    config = Qwen3MoeConfig(
        **SHAPE,
        num_hidden_layers=3,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        mlp_only_layers=[1],
    )
    save(Qwen3MoeForCausalLM(config), folder, text_tokenizer())


def write_mla(folder: Path) -> None:
    torch.manual_seed(6)
    config = DeepseekV2Config(
        **SHAPE,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        n_routed_experts=8,
        n_shared_experts=2,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        kv_lora_rank=512,
        q_lora_rank=None,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
    )
    save(DeepseekV2ForCausalLM(config), folder, text_tokenizer())


def write_window(folder: Path) -> None:
    """13 layers: 2 keep every token, 11 a window, so that a group of them has a gap."""
    torch.manual_seed(7)
    config = Gemma3TextConfig(**SHAPE, num_hidden_layers=13, head_dim=32, sliding_window=256)
    save(Gemma3ForCausalLM(config), folder, text_tokenizer())


SIZED = (write_experts, write_mla, write_window)


def main(folder: str) -> None:
    logging.disable_progress_bar()
    served = (write_chat, write_adapter, write_text, write_reranker, write_speech, write_slow)
    for write in (*served, *SIZED):
        write(Path(folder, write.__name__.removeprefix("write_")))


if __name__ == "__main__":
    main(*sys.argv[1:])
