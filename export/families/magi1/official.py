"""The official checkpoints: of 172 GB in one repository one variant's files are fetched, and converted once."""

from pathlib import Path

from export.checkpoint import reading
from export.checkpoint.download import download, fetch
from export.checkpoint.stored import CheckpointError
from export.families.magi1.convert import weights_folder
from export.families.magi1.convert_pipeline import VARIANT_FOLDERS, convert_pipeline
from export.run.errors import ExportError, require_space
from export.run.stages import Workshop
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.sampling.text import OFFICIAL_SPECIAL_TOKENS, SPECIAL_TOKENS_SHA256
from videosdgx.families.magi1.spec import REPOSITORY, TEXT_ENCODER_REPOSITORY

SPECIAL_TOKENS_URL = f"https://raw.githubusercontent.com/SandAI-org/MAGI-1/main/{OFFICIAL_SPECIAL_TOKENS}"
_TEXT_FOLDERS = ("text_encoder", "tokenizer")


def folders(variant: str) -> tuple[str, ...]:
    """What a variant needs of the official repository: its own folder and the autoencoder's."""
    return (f"ckpt/magi/{VARIANT_FOLDERS[variant]}", "ckpt/vae")


def resolve(wanted: str, variant: str, home: Path) -> Path:
    """The directory in diffusers' layout of the checkpoint `wanted` (a directory or a repository), converted if official.

    Raises:
        ExportError: it is not usable.
    """
    return converted(variant, home) if wanted == REPOSITORY else reading.resolve(wanted)


def converted(variant: str, home: Path) -> Path:
    """The directory below `home` of an official variant in diffusers' layout; fetched and converted if it is not there.

    Raises:
        ExportError: it cannot be fetched, is not what it should be, or there is no room for it.
    """
    directory = home / "checkpoints" / "magi1" / variant
    if directory.is_dir():
        return directory
    with Workshop(directory.parent / f"{variant}.work").locked() as place:
        text = download(TEXT_ENCODER_REPOSITORY, _TEXT_FOLDERS)
        special_tokens = place / Path(OFFICIAL_SPECIAL_TOKENS).name
        fetch(SPECIAL_TOKENS_URL, special_tokens, SPECIAL_TOKENS_SHA256)
        official = download(REPOSITORY, folders(variant))
        try:
            weights = weights_folder(official / folders(variant)[0], TRANSFORMERS[variant])
            sources = (weights, official / "ckpt" / "vae", text / "text_encoder")
            require_space(directory.parent, sum(path.stat().st_size for one in sources for path in one.glob("*.safetensors")))
            convert_pipeline(official, text, special_tokens, directory, variant, special_tokens_sha256=SPECIAL_TOKENS_SHA256)
        except (CheckpointError, ValueError) as error:
            raise ExportError(str(error)) from None
    return directory
