"""Exports of fitted estimators as graphs that serve without torch and skxlmr."""

from __future__ import annotations

import os

from skxlmr.runtime.torch_state import default_torch_state
from skxlmr.saving.serving.directory import Served, write_served
from skxlmr.saving.serving.onnx_file import ONNX
from skxlmr.saving.serving.openvino_file import OPENVINO


class ServingMixin:
    """Mixin of the estimators that are exported as graphs."""

    def _served(self) -> Served:
        raise NotImplementedError

    @default_torch_state()
    def export_onnx(self, directory: str | os.PathLike, *, int8: bool = False) -> None:
        """Write what was fitted as one graph of ONNX, for servers without torch and skxlmr.

        The graph computes what `transform` (embedder), `predict_proba` (classifier) and `predict` (regressor) return,
        up to 1e-4 with `int8=False`; that of a tagger returns logits of pieces, (n_texts, n_tokens, n_tags). What was
        trained is merged into the weights, in float32. Its inputs are `input_ids` and `attention_mask`, int64, of any
        number of texts, padded to any length. examples/serve.py has a loader of some 20 lines; it needs
        numpy, tokenizers, and onnxruntime or openvino.

        Of texts longer than `max_length` tokens the beginning is read, where the estimator averages over windows.
        Of an embedder with objective="pairs" the graph returns one vector per text.

        Parameters
        ----------
        directory : str or path
            For model.onnx, with the weights (those of more than 1.9 GB are in model.onnx.data); tokenizer.json, which
            cuts and pads texts; and serving.json, which says what the graph computes: kind, classes, prompt,
            max_length, names of inputs and output. An earlier export is replaced as a whole when the new one is
            complete; see `XLMRXLClassifier.export_pretrained`.
        int8 : bool, default=False
            Store the linear layers and the word embedding in 8 bits, a quarter of the size, and multiply in 8 bits.
            CPUs without VNNI (before 2019) may saturate, and lose accuracy.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ImportError
            If a package is missing: ``pip install skxlmr[onnx]``.
        NotImplementedError
            If an estimator of this kind cannot be exported as a graph; the message says what to do instead.
        ValueError
            If `model` is another checkpoint now than it was fitted on; or if `directory` is where it lies.
        FileExistsError
            If `directory` holds a model of another format.
        OSError
            If the disk is full or not writable; an earlier export is then unchanged.
        """
        write_served(directory, self._served(), ONNX, int8)

    @default_torch_state()
    def export_openvino(self, directory: str | os.PathLike, *, int8: bool = False) -> None:
        """Write what was fitted as one graph of OpenVINO, for servers without torch and skxlmr.

        As `export_onnx`, but OpenVINO reads it, which is the faster runtime on x86 CPUs.

        Parameters
        ----------
        directory : str or path
            For openvino_model.xml, openvino_model.bin, tokenizer.json and serving.json; see `export_onnx`.
        int8 : bool, default=False
            Store all weights in 8 bits, a quarter of the size. OpenVINO then quantises the inputs of linear layers in
            groups, and multiplies in 8 bits where the CPU can.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ImportError
            If a package is missing: ``pip install skxlmr[openvino]``.
        NotImplementedError, ValueError, FileExistsError, OSError
            As in `export_onnx`.
        """
        write_served(directory, self._served(), OPENVINO, int8)
