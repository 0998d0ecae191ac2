"""Which of a folder's files are read, and what is said when they do not do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from sizing.generated import LLAMA, Generated, gguf_bytes, models, write_head
from sizing.test_config_json import DENSE
from sizing.test_gguf import TENSORS, VALUES

from gpustack_fast.sizing import FactsError, read_facts

SHAPES = {"a": (10, 10), "b": (5, 20)}
"""200 values in each file."""


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a configuration."""
    write(tmp_path, "config.json", DENSE)
    return tmp_path


def index(folder: Path, *names: str, total: object = 800) -> None:
    places = {f"tensor{number}": name for number, name in enumerate(names)}
    content = {"metadata": {"total_size": total}, "weight_map": places}
    write(folder, "model.safetensors.index.json", content)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


@given(model=models())
def test_the_files_of_a_generated_model_and_its_configuration_agree(
    generated: Path, model: Generated
) -> None:
    write(generated, "config.json", model.config)
    alone = generated / "model.safetensors"
    alone.unlink(missing_ok=True)
    reckoned = read_facts(generated)
    write_head(alone, model.tensors)
    read = read_facts(generated)
    assert (read.parameters, read.weight_bytes) == (reckoned.parameters, reckoned.weight_bytes)
    assert read.assumptions == []


def test_all_files_of_an_index_are_added_up(model: Path) -> None:
    index(model, "model-1.safetensors", "model-2.safetensors", total=5)
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        write_head(model / name, SHAPES)
    found = read_facts(model)
    assert (found.weight_bytes, found.parameters, found.assumptions) == (800, 400, [])


@pytest.mark.parametrize("total", [800, 800.0])
def test_an_index_tells_the_size_of_files_that_are_not_there(model: Path, total: object) -> None:
    index(model, "model-1.safetensors", "model-2.safetensors", total=total)
    found = read_facts(model, sizes={"model-1.safetensors": 500})
    assert found.weight_bytes == 800
    assert any("what their index says" in one for one in found.assumptions)


@pytest.mark.parametrize("total", [5, 5000, None, -5, 0, "800", 1 << 80, True])
def test_the_sizes_of_files_are_believed_before_an_index(model: Path, total: object) -> None:
    """Many an index was not written anew when its weights were quantised."""
    index(model, "model-1.safetensors", "model-2.safetensors", total=total)
    found = read_facts(model, sizes={"model-1.safetensors": 500, "model-2.safetensors": 500})
    assert found.weight_bytes == 1000


def test_sizes_alone_will_do(model: Path) -> None:
    found = read_facts(model, sizes={"model.safetensors": 1234, "tokenizer.json": 99})
    assert found.weight_bytes == 1234


def test_files_of_pytorch_will_do(model: Path) -> None:
    sizes = {"pytorch_model-1.bin": 100, "pytorch_model-2.bin": 200, "training_args.bin": 7}
    found = read_facts(model, sizes=sizes)
    assert found.weight_bytes == 300
    assert any("PyTorch" in one for one in found.assumptions)


def test_a_configuration_alone_will_do(model: Path) -> None:
    found = read_facts(model)
    assert found.weight_bytes == 2 * found.parameters
    assert any("reckoned from the configuration" in one for one in found.assumptions)


def test_the_type_of_the_weights_is_that_of_most_values_where_nothing_says_it(
    model: Path,
) -> None:
    plain = {name: value for name, value in DENSE.items() if name != "torch_dtype"}
    write(model, "config.json", plain)
    write_head(model / "model.safetensors", SHAPES, "F32", 4)
    assert read_facts(model).dtype_bytes == 4


def test_a_folder_of_sentence_transformers_embeds(model: Path) -> None:
    write(model, "modules.json", [])
    assert not read_facts(model).generates


def test_a_pipeline_is_the_sum_of_its_files(tmp_path: Path) -> None:
    write(tmp_path, "model_index.json", {"_class_name": "FluxPipeline"})
    (tmp_path / "transformer").mkdir()
    size = write_head(tmp_path / "transformer" / "model.safetensors", SHAPES)
    found = read_facts(tmp_path, sizes={"vae/model.safetensors": 50, "flux.safetensors": 999})
    assert (found.architecture, found.weight_bytes) == ("FluxPipeline", size + 50)
    assert not found.generates and found.kv_bytes_per_token == 0


# ---- GGUF


def gguf(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(gguf_bytes(LLAMA, TENSORS) + bytes(2 * VALUES))


def test_the_only_gguf_file_is_the_model(tmp_path: Path) -> None:
    gguf(tmp_path, "model-Q4_K_M.gguf")
    gguf(tmp_path, "mmproj-model-f16.gguf")
    assert read_facts(tmp_path).weight_bytes == 2 * VALUES


@pytest.mark.parametrize("filename", ["b-Q8_0.gguf", "*Q8_0*", "*q8_0*", "below/*"])
def test_a_gguf_file_is_chosen_by_its_name_or_a_pattern(tmp_path: Path, filename: str) -> None:
    gguf(tmp_path, "a-Q4_K_M.gguf")
    gguf(tmp_path, "below/b-Q8_0.gguf")
    if filename == "*q8_0*":
        with pytest.raises(FactsError, match=r"No GGUF file in .* is named \*q8_0\*"):
            read_facts(tmp_path, filename)
    else:
        name = "below/b-Q8_0.gguf" if filename.endswith(".gguf") else filename
        assert read_facts(tmp_path, name).format == "gguf"


def test_several_gguf_files_are_an_error_that_names_them(tmp_path: Path) -> None:
    gguf(tmp_path, "a.gguf")
    gguf(tmp_path, "b.gguf")
    with pytest.raises(FactsError, match=r"several GGUF models \(a\.gguf, b\.gguf\)\. Say which"):
        read_facts(tmp_path)


def test_the_parts_of_a_model_are_added_up(tmp_path: Path) -> None:
    gguf(tmp_path, "m-00001-of-00003.gguf")
    gguf(tmp_path, "m-00002-of-00003.gguf")
    found = read_facts(tmp_path, sizes={"m-00003-of-00003.gguf": 1000})
    assert (found.weight_bytes, found.parameters) == (4 * VALUES + 1000, 0)
    gguf(tmp_path, "m-00003-of-00003.gguf")
    assert read_facts(tmp_path / "m-00001-of-00003.gguf").parameters == 3 * VALUES


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    gguf(tmp_path, "m-00001-of-00002.gguf")
    with pytest.raises(FactsError, match=r"m-00002-of-00002\.gguf is missing\. .* fetch it again"):
        read_facts(tmp_path)


def test_a_part_of_none_is_no_model_of_no_size(tmp_path: Path) -> None:
    gguf(tmp_path, "m-00001-of-00000.gguf")
    with pytest.raises(FactsError, match=r"calls itself a part of none\. Name the file"):
        read_facts(tmp_path)


def test_another_part_than_the_first_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    gguf(tmp_path, "m-00002-of-00002.gguf")
    with pytest.raises(FactsError, match=r"Name the part m-00001-of-00002\.gguf"):
        read_facts(tmp_path / "m-00002-of-00002.gguf")
    with pytest.raises(FactsError, match="fetch the first part, too"):
        read_facts(tmp_path)


def test_a_gguf_file_that_is_not_there_yet_says_so(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match="Fetch its beginning, or the whole"):
        read_facts(tmp_path, sizes={"m.gguf": 1000})


# ---- what will not do


def test_a_folder_with_nothing_in_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match=r"has no config\.json and no GGUF file, .* gated"):
        read_facts(tmp_path)


@pytest.mark.parametrize("name", ["absent", "a" * 300, "a/" * 3000, "loop"])
def test_a_path_that_leads_nowhere_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FactsError, match=r"does not exist, or may not be read"):
        read_facts(tmp_path / name)


def test_a_folder_that_may_not_be_read_says_so(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs this may be root
    with pytest.raises(FactsError, match=r"does not exist, or may not be read"):
        read_facts(model)


def test_a_file_that_is_no_gguf_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(FactsError, match=r"is a file, but no GGUF file"):
        read_facts(tmp_path / "model.pt")


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    write(tmp_path, "adapter_config.json", {})
    with pytest.raises(FactsError, match=r"holds an adapter \(LoRA\) and no model"):
        read_facts(tmp_path)


def test_mistrals_own_format_says_what_to_fetch(tmp_path: Path) -> None:
    write(tmp_path, "params.json", {})
    with pytest.raises(FactsError, match=r"params\.json\. Fetch the version"):
        read_facts(tmp_path)


def test_a_file_that_the_index_names_and_nobody_has_is_named(model: Path) -> None:
    index(model, "model-1.safetensors", total=None)
    with pytest.raises(FactsError, match=r"model-1\.safetensors is missing"):
        read_facts(model)


def test_a_file_that_was_fetched_in_part_is_named(model: Path) -> None:
    size = write_head(model / "model.safetensors", SHAPES)
    os.truncate(model / "model.safetensors", size - 1)
    with pytest.raises(FactsError, match=rf"fetched in part: {size - 1} of {size} bytes"):
        read_facts(model)
    assert read_facts(model, sizes={"model.safetensors": size}).weight_bytes == 400


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", ".hidden"])
def test_an_index_leads_nowhere_else(model: Path, name: str) -> None:
    index(model, name)
    with pytest.raises(FactsError, match="elsewhere than beside it"):
        read_facts(model)


@pytest.mark.parametrize("places", [None, [], {}, 5])
def test_an_index_without_files_is_an_error(model: Path, places: object) -> None:
    write(model, "model.safetensors.index.json", {"weight_map": places})
    with pytest.raises(FactsError, match="names no files of weights"):
        read_facts(model)


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_a_pipe_or_a_device_where_weights_should_be_is_not_waited_for(
    tmp_path: Path, name: str
) -> None:
    if name.endswith("safetensors"):
        write(tmp_path, "config.json", DENSE)
    os.mkfifo(tmp_path / name)
    with pytest.raises(FactsError, match=r"cannot be read: it is a pipe, .* Fetch it again\."):
        read_facts(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(FactsError, match="cannot be read: it is a device"):
        read_facts(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_a_model_that_is_nothing_but_heads_is_not_read_to_its_end(
    model: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    names = [f"m-{number:05}-of-00009.{kind}" for number in range(1, 10)]
    if kind == "gguf":
        gguf(model, names[0])
    else:
        index(model, *names)
        write_head(model / names[0], SHAPES)
    for name in names[1:]:
        (model / name).symlink_to(names[0])
    assert read_facts(model, names[0] if kind == "gguf" else "").weight_bytes
    monkeypatch.setattr("gpustack_fast.sizing.facts._MOST_HEADS", 1000)
    with pytest.raises(FactsError, match=r"The heads of the files in .* Fetch the model again"):
        read_facts(model, names[0] if kind == "gguf" else "")


def test_a_pipe_where_a_configuration_should_be_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FactsError, match="cannot be read: it is a pipe"):
        read_facts(tmp_path)
