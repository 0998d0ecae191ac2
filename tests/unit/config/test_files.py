"""The files that a configuration names, as `check` looks at them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trustme
from certificates import KEYS, issue

from gpustack_fast.commands.check import load_tls
from gpustack_fast.config import Config, ModelConfig, ServerConfig
from gpustack_fast.config.files import check_files
from gpustack_fast.config.reading.toml_lines import Places
from gpustack_fast.config.settings import load
from gpustack_fast.errors import ConfigError, Mistakes

TLS = '[server]\ntls_certificate = "c.pem"\ntls_key = "k.pem"\n'


def look(folder: Path, text: str, **files: bytes) -> None:
    """Checks a configuration beside these files: `c`, `k` are of TLS."""
    for name, content in files.items():
        (folder / f"{name}.pem").write_bytes(content)
    file = folder / "c.toml"
    file.write_text(text)
    loaded = load(file, {}, {})
    loaded.mistakes.raise_any()
    check_files(loaded.config, loaded.places, load_tls)


CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 4,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
}


def model(folder: Path, *more: str) -> str:
    """A model of ours with its folder, whose weights are one file and an index."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text(json.dumps(CONFIG))
    index = {"metadata": {"total_size": 2**20}, "weight_map": {"a": "model-1.safetensors"}}
    (folder / "model/model.safetensors.index.json").write_text(json.dumps(index))
    head = b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    weights = len(head).to_bytes(8, "little") + head + b"12"
    (folder / "model/model-1.safetensors").write_bytes(weights)
    table = '[[models]]\nname = "m"\nbackend = "vllm"\nsource = "local_path"\n'
    return f'{table}local_path = "{folder}/model"\n' + "\n".join(more)


def test_a_model_whose_settings_fit_its_files_is_right(tmp_path: Path) -> None:
    look(tmp_path, model(tmp_path, 'backend_parameters = ["-tp=4"]'))


def test_what_a_start_finds_wrong_with_a_models_files_is_told(tmp_path: Path) -> None:
    """By the code of the start: settings that do not fit the model, and files that are not all."""
    with pytest.raises(ConfigError, match=r"c.toml:6: .* cannot be divided over 3 GPUs"):
        look(tmp_path, model(tmp_path, 'backend_parameters = ["-tp=3"]'))
    text = model(tmp_path)
    (tmp_path / "model/model-1.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"c.toml:5: The folder .* lacks model-1.safetensors"):
        look(tmp_path, text)
    (tmp_path / "model/config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"c.toml:5: .*config.json"):
        look(tmp_path, text)


def test_what_local_path_leads_to_is_called_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    table = '[[models]]\nname = "m"\nbackend = "llama_cpp"\nsource = "local_path"\nlocal_path = '
    for path, told in (
        (tmp_path, "it is a directory, and no file"),
        (tmp_path / "pipe", "it is a pipe, and no file"),
        (Path("/dev/zero"), "it is a device, and no file"),
        (tmp_path / "none", "is not there, or this user may not read it"),
    ):
        with pytest.raises(ConfigError, match=f"c.toml:5: .* {told}"):
            look(tmp_path, f'{table}"{path}"\n')


def test_a_folder_is_right_for_a_backend_that_is_misspelt(tmp_path: Path) -> None:
    folder = ModelConfig(name="m", backend="vLLM", source="local_path", local_path=str(tmp_path))
    config = Config(models=[folder], server=ServerConfig(data_dir=tmp_path / "data"))
    check_files(config, Places(), load_tls)


def test_an_adapter_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    text = model(tmp_path, f'lora_list = [{{ lora_name = "a", local_path = "{tmp_path}" }}]')
    with pytest.raises(ConfigError, match=r"c.toml:6: The folder .* has no adapter_config.json"):
        look(tmp_path, text)


def pair() -> tuple[bytes, bytes]:
    made = trustme.CA().issue_cert("localhost")
    chain = b"".join(one.bytes() for one in made.cert_chain_pems)
    return chain, made.private_key_pem.bytes()


def test_a_certificate_and_its_key_are_right(tmp_path: Path) -> None:
    certificate, key = pair()
    look(tmp_path, TLS, c=certificate, k=key)


@pytest.mark.parametrize(
    ("wrong", "line", "message"),
    [
        ("another key", 3, "does not belong to the certificate in"),
        ("no certificate", 2, "c.pem of `tls_certificate` holds no certificate in PEM form."),
        ("no key", 3, "k.pem of `tls_key` holds no private key in PEM form."),
        ("encrypted", 3, "has a password, which nobody could type at a start."),
        ("cut-off certificate", 2, "c.pem is no valid PEM: it is cut off"),
        ("cut-off key", 3, "k.pem is no valid PEM: it is cut off"),
        ("missing", 3, "k.pem of `tls_key` cannot be read: No such file or directory."),
    ],
)
def test_files_for_tls_that_cannot_serve_are_told_with_their_line(
    tmp_path: Path, wrong: str, line: int, message: str
) -> None:
    certificate, key = pair()
    files = {"c": certificate, "k": key}
    if wrong == "another key":
        files["k"] = pair()[1]
    elif wrong == "no certificate":
        files["c"] = b"hush"
    elif wrong == "no key":
        files["k"] = b"hush"
    elif wrong == "cut-off certificate":
        files["c"] = certificate[:200]
    elif wrong == "cut-off key":
        files["k"] = key[:200]
    elif wrong == "encrypted":
        files["k"] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nhush\n"
    else:
        del files["k"]
    with pytest.raises(ConfigError) as raised:
        look(tmp_path, TLS, **files)
    told = str(raised.value)
    assert told.startswith(f"{tmp_path}/c.toml:{line}: ") and message in told
    assert "hush" not in told and "[" not in told and len(raised.value.each()) == 1


@pytest.mark.parametrize("kind", KEYS)
def test_keys_are_right_that_serve_can_use_and_no_others(tmp_path: Path, kind: str) -> None:
    issue(tmp_path, kind)
    if kind in ("P-521", "secp256k1", "RSA-1024"):
        with pytest.raises(ConfigError, match=r"c\.toml:3: .*Supported are RSA keys of 2048 bits"):
            look(tmp_path, TLS)
    else:
        look(tmp_path, TLS)


def test_all_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    (tmp_path / "empty").touch()
    text = (
        '[server]\ndata_dir = "data"\nmodels_dir = "empty"\n'
        '[[models]]\nname = "a"\nbackend = "llama_cpp"\nsource = "local_path"\n'
        'local_path = "none.gguf"\n'
        '[[models]]\nname = "b"\nbackend = "external"\nurls = ["http://h:1"]\n'
        'api_key_file = "empty"\n'
    )
    with pytest.raises(Mistakes) as raised:
        look(tmp_path, text)
    data, models, model, key = map(str, raised.value.each())
    assert data.startswith(f"{tmp_path}/c.toml:2: ") and "is a file and no directory" in data
    assert models.startswith(f"{tmp_path}/c.toml:3: `models_dir` is {tmp_path}/empty, which is a")
    assert model.startswith(f"{tmp_path}/c.toml:8: ") and "Correct `local_path`" in model
    assert key.startswith(f"{tmp_path}/c.toml:13: ") and "should hold the key" in key
