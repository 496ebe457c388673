"""The whole official repository to a diffusers pipeline on disk, once (docs/specs/magi1.md, section 2).

What the official repository has as pickles, the text encoder, is taken from a repository that has it as safetensors
(`spec.TEXT_ENCODER_REPOSITORY`); the special tokens are a file of the official code's repository.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from export.checkpoint.stored import CheckpointError, check_exactly, index_of, shards_of, stored_tensors
from export.families.magi1.convert import convert_transformer, write_sharded
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.sampling.text import SPECIAL_TOKENS_SHA256, MagiSpecialTokens

# Below ckpt/magi of the official repository.
VARIANT_FOLDERS = {
    "4.5b-base": "4.5B_base",
    "4.5b-distill": "4.5B_distill",
    "4.5b-distill-fp8": "4.5B_distill_quant",
    "24b-base": "24B_base",
    "24b-distill": "24B_distill",
    "24b-distill-fp8": "24B_distill_quant",
}
# Names of the autoencoder's official configuration to ours, and what it must say (docs/specs/magi1.md, section 10).
VAE_RENAMED = {"in_chans": "in_channels", "z_chans": "latent_channels"}
VAE_FIXED = {
    "double_z": True,
    "with_cls_token": True,
    "norm_code": False,
    "ln_in_attn": True,
    "conv_last_layer": True,
    "use_rope": False,
}
# The table of words, stored under one or both of these names.
_EMBEDDINGS = {"shared.weight", "encoder.embed_tokens.weight"}
_TOKENIZER_FILES = (".json", ".model", ".txt")


def convert_pipeline(
    official: Path,
    text: Path,
    special_tokens: Path,
    destination: Path,
    variant: str,
    config: Mapping[str, Any] | None = None,
    special_tokens_sha256: str = SPECIAL_TOKENS_SHA256,
) -> None:
    """Write what `MagiPipeline.from_pretrained` reads.

    Args:
        official: the official repository, of which the variant's folder and `ckpt/vae` are needed.
        text: has `text_encoder` and `tokenizer` of T5 v1.1 XXL, safetensors.
        special_tokens: the official `special_tokens.npz`.
        destination: must not exist, and appears when it is whole.
        variant: of `architectures.TRANSFORMERS`.
        config: of the transformer; default: the variant's.
        special_tokens_sha256: digest that the file must have.

    Raises:
        CheckpointError: something is missing, damaged, no safetensors, or not what the variant needs.
        ValueError: the special tokens are not the official ones.
        FileExistsError: there is something at `destination`.
    """
    if destination.exists():
        raise FileExistsError(f"{destination} exists")
    config = TRANSFORMERS[variant] if config is None else config
    channels = config["caption_channels"]
    partial = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # The small parts first: what is wrong with them shows before the large ones are written.
    MagiSpecialTokens.from_official(special_tokens, special_tokens_sha256).save_pretrained(partial / "special_tokens")
    tokenizer = copy_tokenizer(text / "tokenizer", partial / "tokenizer")
    convert_vae(official / "ckpt" / "vae", partial / "vae")
    copy_text_encoder(text / "text_encoder", partial / "text_encoder", channels)
    folder = official / "ckpt" / "magi" / VARIANT_FOLDERS[variant]
    convert_transformer(folder, partial / "transformer", variant, config)
    _write_index(partial, tokenizer)
    partial.rename(destination)


def _write_index(folder: Path, tokenizer: str) -> None:
    index = {
        "_class_name": "MagiPipeline",
        "_diffusers_version": diffusers.__version__,
        "special_tokens": _class(MagiSpecialTokens),
        "split_prompts": False,
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", tokenizer],
        "transformer": _class(MagiTransformer3DModel),
        "vae": _class(AutoencoderKLMagi),
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _class(kind: type) -> list[str]:
    """Where diffusers finds a class: its module and its name."""
    return [kind.__module__, kind.__name__]


def convert_vae(source: Path, destination: Path) -> None:
    """The official autoencoder's folder to ours: the weights as they are, the configuration in our names.

    Raises:
        CheckpointError: weights or configuration are not what they must be.
    """
    described = _read_json(source / "config.json").get("ddconfig")
    if not isinstance(described, dict):
        raise CheckpointError(f"{source / 'config.json'} has no ddconfig")
    for key, value in VAE_FIXED.items():
        if described.get(key, value) != value:
            raise CheckpointError(f"{source / 'config.json'}: {key} is {described[key]}, only {value} is known")
    stored = stored_tensors(source)
    config = {VAE_RENAMED.get(str(key), str(key)): value for key, value in described.items() if key not in VAE_FIXED}
    try:
        vae = _on_meta(lambda: AutoencoderKLMagi(**config))
    except TypeError as error:
        raise CheckpointError(f"{source / 'config.json'}: {error}") from None
    check_exactly(str(source), {name: one.shape for name, one in stored.items()}, _shapes(vae))
    destination.mkdir(parents=True)
    vae.save_config(destination)
    write_sharded(stored, destination)


def copy_text_encoder(source: Path, destination: Path, channels: int) -> None:
    """Copy a T5 encoder that is safetensors, once it is known to be whole and `channels` wide.

    Raises:
        CheckpointError: it is not.
    """
    config = _read_json(source / "config.json")
    if config.get("model_type") != "t5" or config.get("d_model") != channels:
        kind, width = config.get("model_type"), config.get("d_model")
        raise CheckpointError(f"{source} is a {kind} encoder, {width} wide; a t5 encoder {channels} wide is needed")
    files = shards_of(source)
    shapes = {name: one.shape for name, one in stored_tensors(source).items()}
    expected = _shapes(_on_meta(lambda: T5EncoderModel(T5Config(**config))))
    known = _EMBEDDINGS & shapes.keys()
    if not known:
        raise CheckpointError(f"{source} has no table of words: neither {' nor '.join(sorted(_EMBEDDINGS))}")
    check_exactly(str(source), shapes, {name: shape for name, shape in expected.items() if name not in _EMBEDDINGS - known})
    destination.mkdir(parents=True)
    index = index_of(source)
    for path in [source / "config.json", *files, *([index] if index else [])]:
        shutil.copyfile(path, destination / path.name)


def copy_tokenizer(source: Path, destination: Path) -> str:
    """Copy a tokenizer's files, and return the name of its class.

    T5's official files are a SentencePiece model, which transformers reads with the package `sentencepiece` only. Serving has
    no such package, so a `tokenizer.json` is made of it once, here.

    Raises:
        CheckpointError: it has no configuration, or the package is missing.
    """
    name = _read_json(source / "tokenizer_config.json").get("tokenizer_class", "T5Tokenizer")
    destination.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.suffix in _TOKENIZER_FILES:
            shutil.copyfile(path, destination / path.name)
    if not (destination / "tokenizer.json").exists():
        if importlib.util.find_spec("sentencepiece") is None:
            raise CheckpointError(f"{source} has a SentencePiece model only, to read it: pip install sentencepiece")
        AutoTokenizer.from_pretrained(destination).save_pretrained(destination)
    return str(name)


def _on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is no configuration")
    return value
