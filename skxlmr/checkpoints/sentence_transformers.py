"""The settings of a sentence-transformers directory: how the tokens of a text are pooled to a vector."""

from __future__ import annotations

from pathlib import Path

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import parse_json, read_json, read_limited
from skxlmr.checkpoints.layout import check_base_name

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
PROMPTS = "config_sentence_transformers.json"
FILES = (MODULES, POOLING, PROMPTS)

KINDS = ("Transformer", "Pooling", "Normalize")
POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}


def read_pooling(directory: Path) -> tuple[str, bool]:
    """Read how a model pools tokens ("cls", "mean" or "max"), and whether it normalises vectors to length 1.

    A directory without such settings is ("mean", False). Raises CheckpointError if a file is damaged, or a setting is
    not supported.
    """
    path = directory / MODULES
    if not path.is_file():
        return "mean", False
    modules = parse_json(b'{"modules":' + read_limited(path) + b"}", path)["modules"]  # the file is a list
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} is not a list of modules")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise CheckpointError(
            f"{path} has a module {unknown[0]!r}, which is not supported. Set pooling and normalize to use the model "
            f"without it."
        )
    folders = [module.get("path") for module, kind in zip(modules, kinds, strict=True) if kind == "Pooling"]
    modes = [_pooling_mode(directory / check_base_name(folder, path) / "config.json") for folder in folders]
    return modes[0] if modes else "mean", "Normalize" in kinds


def is_sentence_model(directory: Path) -> bool:
    """Whether a directory is that of a model of sentence-transformers."""
    return (directory / MODULES).is_file()


def read_prompt(directory: Path) -> str:
    """Read the prompt that a model expects before each text; "" if there is none."""
    path = directory / PROMPTS
    config = read_json(path) if path.is_file() else {}
    prompts, default = config.get("prompts"), config.get("default_prompt_name")
    prompt = prompts.get(default) if isinstance(prompts, dict) and isinstance(default, str) else None
    return prompt if isinstance(prompt, str) else ""


def _pooling_mode(path: Path) -> str:
    config = read_json(path)
    if config.get("include_prompt") is False:
        raise CheckpointError(
            f"{path} excludes the tokens of the prompt from pooling, which is not supported. Set pooling and normalize "
            f"to include them."
        )
    modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if isinstance(config.get("pooling_mode"), str):  # the newer format
        modes = [mode for mode, name in POOLING_MODES.items() if name == config["pooling_mode"]]
    if len(modes) != 1 or modes[0] not in POOLING_MODES:
        raise CheckpointError(f"{path} asks for a pooling that is not supported. Set pooling and normalize yourself.")
    return POOLING_MODES[modes[0]]
