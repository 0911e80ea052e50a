"""Saving models as checkpoints, to a directory or to the hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skxlmr.checkpoints import hub, layout
from skxlmr.checkpoints.decoders import DECODER
from skxlmr.checkpoints.writing import is_replaced, shard_bytes, write_checkpoint
from skxlmr.model.base import ModelBase
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.generation_config import GenerationConfig
from skxlmr.model.quantized import SCALES, bitsandbytes_config, outliers_to_json, quantized_layers

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

OTHER_NAMES = {"BertForCausalLM": "BertLMHeadModel"}  # in transformers


class SavableModel(ModelBase):
    """Base class of models that are written as checkpoints."""

    def save_pretrained(
        self,
        directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        *,
        save_function: Callable[..., Any] | None = None,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> None:
        """Write config.json and model.safetensors, in shards where large, as transformers reads them.

        A model that generates and has defaults for it, `generation_config`, also gets a generation_config.json.

        Parameters
        ----------
        directory : str or path
            Created if missing. An existing checkpoint is replaced as a whole when the new one is complete; see
            `XLMRXLClassifier.export_pretrained`. Weights of other variants are kept. A model in 8 bits is written in
            8 bits, and transformers loads it with bitsandbytes.
        is_main_process : bool, default=True
            With False nothing is written: for all processes but one of a distributed training.
        state_dict : dict of str to Tensor, default=None
            Weights to save in place of those of the model, such as those that a distributed training has gathered. All
            of them, by their names here or in checkpoints.
        save_function : callable, default=None
            Accepted for scripts of accelerate, which pass `accelerator.save`. Whatever it is, the files are written as
            a whole, by this process.
        max_shard_size : int or str, default="5GB"
            Bytes of one file, unless one tensor is larger; a string such as "200MB" or "1GiB".
        safe_serialization : bool, default=True
            With False, write pytorch_model.bin with torch.save, for programs that do not read safetensors.
        variant : str, default=None
            Comes into the names of the weight files, as in model.fp16.safetensors. `from_pretrained` has the same
            parameter.

        Raises
        ------
        ValueError
            If the model is in 4 bits, `max_shard_size` or `variant` is invalid, or `state_dict` does not have all
            weights of the model, or others.
        OSError
            If the disk is full or not writable; an existing checkpoint is then unchanged.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from skxlmr.model import XLMRobertaXLModel
        >>> model = XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False).half()
        >>> directory = tempfile.mkdtemp()
        >>> model.save_pretrained(directory, variant="fp16")
        >>> sorted(path.name for path in Path(directory).iterdir())
        ['config.json', 'model.fp16.safetensors', 'skxlmr.json']
        """
        max_shard_bytes = shard_bytes(max_shard_size)
        if is_main_process:
            self.write(
                directory, {}, state_dict=state_dict, max_shard_bytes=max_shard_bytes, variant=variant,
                pickle=not safe_serialization,
            )  # fmt: skip

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
    ) -> CommitInfo:
        """Upload the files of `save_pretrained` to a model of the hub, in one commit.

        Weights that it replaces, and an old generation_config.json, are deleted there; other files are kept.

        Parameters
        ----------
        repo_id : str
            "name" or "organisation/name". The model is created if it does not exist.
        commit_message : str, default=None
            None is "Upload" and the name of the class.
        private : bool, default=None
            Whether a new model is private; None is the setting of its owner.
        token : str or bool, default=None
            Token with the right to write; None or True is the one of `hf auth login`.
        revision : str, default=None
            Branch to upload to, which is created if it does not exist; None is the main branch.
        create_pr : bool, default=False
            Whether to open a pull request in place of a commit on the branch.
        max_shard_size : int or str, default="5GB"
        safe_serialization : bool, default=True
        variant : str, default=None
            The last three as in `save_pretrained`.

        Returns
        -------
        huggingface_hub.CommitInfo
            Among others `commit_url` and `pr_url`.

        Raises
        ------
        huggingface_hub.errors.HfHubHTTPError
            If the hub refuses: an invalid token, or no right to write. It is an OSError.
        ValueError
            As in `save_pretrained`.
        """
        with TemporaryDirectory() as directory:
            self.save_pretrained(
                directory, max_shard_size=max_shard_size, safe_serialization=safe_serialization, variant=variant
            )
            return hub.upload(
                directory,
                repo_id,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                is_obsolete=lambda name: name == layout.GENERATION_CONFIG or is_replaced(name, variant),
            )

    def write(
        self,
        directory: str | os.PathLike,
        other_files: Mapping[str, bytes],
        *,
        obsolete: Collection[str] = (),
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_bytes: int | None = None,
        variant: str | None = None,
        pickle: bool = False,
    ) -> None:
        """Write the files of `save_pretrained`, and others whose content is given by name, all at once.

        Files with the names in `obsolete` are removed, if there are no new ones.
        """
        eight_bit = bitsandbytes_config(self) if quantized_layers(self) else None
        tensors = self.in_their_names(self.state_dict())
        if state_dict is not None:
            tensors = self._checked_state(state_dict, tensors)
        for weight in filter(DECODER.fullmatch, [*tensors]):  # its bias has two names in the reference
            bias = weight.removesuffix("weight") + "bias"
            tensors[bias] = tensors[bias.replace(".decoder.", ".")]
        dtype = str(self.base_model.dtype).removeprefix("torch.")
        config = {
            **self.config.to_dict(),
            "architectures": [their_class(type(self), self.config)],
            "torch_dtype": dtype,
        }
        for outdated in ("quantization_config", "dtype"):  # of the checkpoint that was loaded; dtype is torch_dtype
            config.pop(outdated, None)
        generation_config = self._generation_config_file()
        obsolete = {*obsolete, layout.GENERATION_CONFIG}  # of another model, or replaced
        extra_files = {}
        if eight_bit is not None:
            config["quantization_config"] = eight_bit
            extra_files[layout.OUTLIERS] = outliers_to_json(self)
            scaled = [key.removesuffix(SCALES) for key in tensors if key.endswith(SCALES)]
            tensors |= {f"{key}.weight_format": torch.tensor(0, dtype=torch.uint8) for key in scaled}  # 0: row-major
        write_checkpoint(
            directory, tensors, config, extra_files=extra_files, unlisted_files={**generation_config, **other_files},
            obsolete=obsolete, variant=variant, pickle=pickle,
            **({} if max_shard_bytes is None else {"max_shard_bytes": max_shard_bytes}),
        )  # fmt: skip

    def _generation_config_file(self) -> dict[str, bytes]:
        """Return generation_config.json by name, if the model has defaults of `generate` that config.json has not."""
        own: GenerationConfig | None = getattr(self, "generation_config", None)
        if own is None or own == GenerationConfig.from_model_config(self.config):
            return {}
        return {layout.GENERATION_CONFIG: own.to_json()}

    def _checked_state(self, state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict by names in checkpoints, in the order of the model's; raise ValueError if they differ."""
        given = self.in_their_names(state_dict)
        wrong = [f"{name} is missing" for name in own if name not in given]
        wrong += [f"{name} is not a weight of the model" for name in given if name not in own]
        wrong += [
            f"{name} has shape {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in given and given[name].shape != tensor.shape
        ]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(f"state_dict does not fit the model: {'; '.join(wrong[:5])}{more}.")
        return {name: given[name] for name in own}


def their_class(cls: type, config: XLMRobertaXLConfig) -> str:
    """Return the name that a model class has in transformers, for the architecture of a config."""
    name = cls.__name__.replace("XLMRobertaXL", config.architecture)
    return OTHER_NAMES.get(name, name)
