"""Which files of a repository are taken."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpustack_fast.errors import UsageError
from gpustack_fast.model_store.documents import ModelStoreError, RemoteFile
from gpustack_fast.model_store.repositories import parse
from gpustack_fast.model_store.selection import check_files, choose, model_file


def files(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name=name, size=1) for name in names]


def chosen(pattern: str, *names: str) -> list[str]:
    return [file.name for file in choose("org/m", files(*names), pattern)]


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (
            ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.json", "tokenizer.model", "merges.txt", "chat.jinja"],
            ["pytorch_model.bin", "README.md", "original/consolidated.00.pth", ".gitattributes",
             "consolidated.safetensors", "onnx/model.onnx", "metal/model.bin", "tf_model.h5"],
        ),
        (["config.json", "pytorch_model.bin"], ["training_args.bin", "optimizer.pt", "model.onnx"]),
        (["params.json", "consolidated.safetensors"], ["image.png"]),
        (["config.json", "model.pth"], []),
        (
            ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/pytorch_model.bin",
             "config.json", "model.safetensors", "modules.json"],
            ["2_Dense/README.md", "openvino/openvino_model.bin"],
        ),
        (["adapter_config.json", "adapter_model.safetensors"], ["checkpoint-10/adapter_model.bin"]),
        (["config.json", "rank0.engine"], ["notes.md"]),
        (["config.json", "m.gguf"], ["mmproj-x.bin.txt.png"]),
    ],
)  # fmt: skip
def test_a_whole_model_comes_in_one_format(names: list[str], left_out: list[str]) -> None:
    assert chosen("", *left_out, *names) == sorted(names)


PARTS = ["q4/m-00001-of-00002.gguf", "q4/m-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        ("*Q8*", ["m-Q8_0.gguf"]),
        ("q4/*", PARTS),
        ("*00001-of*", PARTS),
        ("m-00001-of-00002.gguf", PARTS),
        ("model.safetensors", ["model.safetensors"]),
    ],
)
def test_a_pattern_takes_one_model_with_all_parts(pattern: str, expected: list[str]) -> None:
    assert chosen(pattern, "m-Q8_0.gguf", "model.safetensors", "config.json", *PARTS) == expected


def test_the_file_for_an_engine_is_the_first_part_and_no_projector() -> None:
    assert model_file(files(*PARTS)) == PARTS[0]
    assert model_file(files("mmproj-f16.gguf", "qwen.gguf")) == "qwen.gguf"
    assert model_file(files("config.json", "model.safetensors")) == ""


@pytest.mark.parametrize(
    ("pattern", "names", "words"),
    [
        ("*.gguf", ["a.gguf", "b.gguf"], "fits several models .* There are: `a.gguf`, `b.gguf`."),
        (
            "c.gguf",
            ["a.gguf"],
            "No file of the repository org/m fits `c.gguf`. There are: `a.gguf`",
        ),
        ("", ["a.gguf", "b.gguf"], "Say which one with `huggingface_filename`"),
        ("", ["README.md", "config.json"], "has no weights in a format"),
        ("*", PARTS[:1], "has 1 of the 2 parts of `q4/m.gguf`"),
    ],
)
def test_what_is_nothing_or_may_be_several_is_told(
    pattern: str, names: list[str], words: str
) -> None:
    with pytest.raises(ModelStoreError, match=words):
        chosen(pattern, *names)


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/./b", "a\\b", "a\0", "", "x" * 2000])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ModelStoreError, match="cannot be kept on this machine"):
        check_files("org/m", files("config.json", name))


@pytest.mark.parametrize(
    "hashes",
    [
        {"sha256": "../../../x"},
        {"sha256": "/etc/x"},
        {"sha256": "0" * 63},
        {"sha256": "0" * 64 + "\n"},
        {"sha256": "A" * 64},
        {"git_sha1": "../x"},
        {"sha256": "0" * 64, "git_sha1": "0" * 41},
    ],
)
def test_a_hash_that_is_none_becomes_no_name_of_a_file(hashes: dict[str, str]) -> None:
    with pytest.raises(ModelStoreError, match="a hash that is none"):
        check_files("org/m", [RemoteFile(name="a.json", size=1, **hashes)])
    check_files("org/m", [RemoteFile(name="a.json", size=1, sha256="a" * 64, git_sha1="1" * 40)])


@given(st.lists(st.sampled_from(["a", "..", ".", "", "/", "\\", "\0", "b.json"]), max_size=6))
def test_no_name_that_is_taken_leads_out_of_its_folder(parts: list[str]) -> None:
    name = "".join(parts) if "/" in parts else "/".join(parts)
    try:
        check_files("org/m", files(name))
    except ModelStoreError:
        return
    path = os.path.normpath(f"/store/files/{name}")
    assert path == f"/store/files/{name}" and path.startswith("/store/files/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("huggingface:org/m", ("org/m", "main", "")),
        ("huggingface:gpt2", ("gpt2", "main", "")),
        ("model_scope:org/m", ("org/m", "master", "")),
        ("huggingface:org/m@v1.0:*Q4*.gguf", ("org/m", "v1.0", "*Q4*.gguf")),
        ("huggingface:org/m@refs/pr/1", ("org/m", "refs/pr/1", "")),
    ],
)
def test_a_reference_says_repository_revision_and_files(
    text: str, expected: tuple[str, str, str]
) -> None:
    found = parse(text)
    assert found is not None and (found.name, found.revision, found.files) == expected


@pytest.mark.parametrize("text", ["qwen", "Qwen/Qwen3-8B", "https://huggingface.co/org/m"])
def test_other_texts_are_no_references(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "name", ["../m", "org/../m", "a/b/c", "org/m--x", "org/.m", "org/m@../x", "org/m@a/../x"]
)
def test_a_name_that_no_repository_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a re"):
        parse(f"huggingface:{name}")
