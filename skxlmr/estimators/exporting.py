"""Exports of fitted estimators to transformers and peft."""

from __future__ import annotations

import copy
import os
from typing import Any

from sklearn.utils.validation import check_is_fitted

from skxlmr.estimators.cards import facts_of
from skxlmr.estimators.exporting_served import ServingMixin
from skxlmr.runtime.backbone import find_checkpoint
from skxlmr.runtime.torch_state import default_torch_state
from skxlmr.saving.merged import FittedWeights
from skxlmr.saving.peft import export_adapter
from skxlmr.saving.serving.directory import Served
from skxlmr.saving.serving.graph import HeadResults
from skxlmr.saving.transformers import ExportedModel, export_pretrained


class ExportMixin(ServingMixin):
    """Mixin of the estimators that are trained: writes what they learned in the formats of transformers and peft."""

    @default_torch_state()
    def export_pretrained(self, directory: str | os.PathLike, *, dtype: str = "float32") -> None:
        """Write what was fitted as a whole model that others load without skxlmr; `skxlmr.load` reads it, too.

        Transformers loads it as its `...For...` class. A classifier or regressor whose head is on a pooled vector (all
        but `pooling="cls"`) is written for sentence-transformers: `SentenceTransformer(directory).encode(texts)`
        returns the logits, or the numbers of a regressor, and adds the prompt itself. A skxlmr_head.json, which it
        ignores, tells `skxlmr.load` what they are. The checkpoint's own modules that
        the head was trained on (Dense, LayerNorm, Normalize) are written between the pooling and the head.

        The adapter is merged into the checkpoint's own weights, in float32, and the mean and scale of a regressor's
        targets into its head. The outputs are those of this estimator if it runs in float32, too; if it runs in 8 or 4
        bits, or in half precision, they differ by the rounding of that. For transformers, put the prompt before texts
        yourself; a config_sentence_transformers.json, which it ignores, tells it to `skxlmr.load`. Of texts longer than
        the model reads at once transformers takes the beginning.

        Parameters
        ----------
        directory : str or path
            A model that is there already is replaced as a whole when the new one is complete; other files in the
            directory are kept. A model card, README.md, is written with it; one that you have written or changed is
            kept. On Linux all programs find the old or the new files, at every moment and after a kill.
            On other systems and network disks, in the current directory, and in one with other folders in it, the new
            files are moved to their places one by one: a kill just then leaves a mixture to other programs, until
            skxlmr reads the directory or exports to it again, which completes the move.
        dtype : {"float32", "bfloat16", "float16"}, default="float32"
            Of the weights that are written.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        NotImplementedError
            If neither of them has a class for what it learned; the message names a parameter with which there is one.
        ValueError
            If `model` is another checkpoint now than it was fitted on, or one whose weights are in 8 bits; or if
            `directory` is where it lies.
        FileExistsError
            If `directory` holds a saved estimator or an adapter.
        OSError
            If the disk is full or not writable; an earlier model is then unchanged.

        Examples
        --------
        >>> import tempfile
        >>> from skxlmr import XLMRXLClassifier
        >>> clf = XLMRXLClassifier("nano", pooling="cls", max_epochs=1, random_state=0)
        >>> clf = clf.fit(["good", "bad"], ["yes", "no"])
        >>> directory = tempfile.mkdtemp()
        >>> clf.export_pretrained(directory)
        >>> from skxlmr.model import XLMRobertaXLForSequenceClassification
        >>> XLMRobertaXLForSequenceClassification.from_pretrained(directory).config.id2label
        {0: 'no', 1: 'yes'}
        """
        export_pretrained(self._exported(), directory, dtype)

    @default_torch_state()
    def export_adapter(self, directory: str | os.PathLike) -> None:
        """Write a LoRA and its head in peft's format: adapter_config.json and adapter_model.safetensors.

        `peft.PeftModel.from_pretrained(model, directory)` puts it on transformers' model of the same checkpoint, and
        `skxlmr.load` reads it. A labels.json beside them, which peft ignores, has the names of the labels, and a
        config_sentence_transformers.json the prompt. The head of a regressor maps its outputs to the unit of y.

        Parameters
        ----------
        directory : str or path
            An adapter that is there already is replaced as `export_pretrained` replaces a model.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        NotImplementedError
            If peft has no format for the head, or transformers no class for what it learned.
        ValueError
            If it was not fitted with LoRA, `model` is another checkpoint now or itself an adapter, or `directory` is
            where it lies.
        FileExistsError
            If `directory` holds a saved estimator or a whole model.
        OSError
            If the disk is full or not writable; an earlier adapter is then unchanged.
        """
        export_adapter(self._exported(), directory)

    def _exported(self: Any) -> ExportedModel:
        check_is_fitted(self, "_finetuned")
        fitted = self._snapshot()  # of one fit, also if another thread ends one meanwhile
        task = fitted._task()
        export, windows = task.export, task.windows
        if export is None:
            raise NotImplementedError(f"transformers has no class for what {type(self).__name__} learns; use save.")
        files = find_checkpoint(self.model)
        fitted._base.check(files.fingerprint_as(fitted._base.fingerprint), self)
        return ExportedModel(
            files,
            fitted._base.pieces,
            fitted._finetuned,
            facts_of(fitted, files.directory),
            export,
            str(self.model),
            windows.max_length or windows.limit,
        )

    def _served(self: Any) -> Served:
        check_is_fitted(self, "_finetuned")
        fitted = self._snapshot()
        task, finetuned = fitted._task(), fitted._finetuned
        serving, windows = task.serving, task.windows
        if serving is None:
            raise NotImplementedError(
                f"{type(self).__name__} cannot be exported as a graph. Use export_pretrained if it has that, and "
                f"convert the result with optimum; or serve the estimator itself, with save and skxlmr.load."
            )
        files = find_checkpoint(self.model)
        fitted._base.check(files.fingerprint_as(fitted._base.fingerprint), self)
        head = copy.deepcopy(finetuned.head).float().cpu()
        return Served(
            FittedWeights(files, fitted._base.pieces, finetuned, facts_of(fitted, files.directory)),
            serving.kind,
            serving.output,
            lambda width: HeadResults(head, serving.finish),
            serving.pooling,
            serving.prompt,
            serving.include_prompt,
            serving.pairs,
            windows.max_length or windows.limit,
            entries=serving.entries,
        )
