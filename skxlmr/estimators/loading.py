"""Loading of fitted estimators: of what `save` wrote, and of trained models of transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from skxlmr.checkpoints.errors import CheckpointError, SavedEstimatorError
from skxlmr.checkpoints.layout import below, hint_at
from skxlmr.checkpoints.peft_adapter import CONFIG as ADAPTER
from skxlmr.checkpoints.peft_adapter import base_name
from skxlmr.checkpoints.sentence_transformers import MODULES, is_sentence_model, sentence_directory
from skxlmr.estimators.base import NOT_SAVED_PARAMETERS, XLMRXLEstimator, estimators
from skxlmr.estimators.loading_places import Place, check_names
from skxlmr.runtime.backbone import use_hub_options
from skxlmr.runtime.torch_state import default_torch_state
from skxlmr.saving.checkpoints_with_heads import EMBEDDING, GivenLabels, TrainedModel, read_trained_model
from skxlmr.saving.estimators import NAME, damaged, read_estimator
from skxlmr.saving.trained_adapter import read_adapted_model

# The estimator of what a model was trained for; see `TrainedModel.task`.
ESTIMATORS_OF_TASKS = {
    "classification": "XLMRXLClassifier",
    "regression": "XLMRXLRegressor",
    "tagging": "XLMRXLTagger",
    "question answering": "XLMRXLQA",
    "multiple choice": "XLMRXLMultipleChoice",
    "masked language modeling": "XLMRXLMaskedLM",
    "causal language modeling": "XLMRXLGenerator",
    EMBEDDING: "XLMRXLEmbedder",
}


class Options(NamedTuple):
    """What a user passes to `load` beside the parameters of the estimator."""

    place: Place
    labels: GivenLabels


class DirectoryKind(NamedTuple):
    """A kind of directory that `load` reads.

    To add one, write a function that reads it, and put the kind into `KINDS`. The function is given what the user
    passed to `load`: the directory, the parameters of the estimator by their names, and the options. For a trained
    model it makes a
    `skxlmr.saving.checkpoints_with_heads.TrainedModel` and returns `estimator_of(trained, model, parameters)`.

    Attributes
    ----------
    marker : str
        The file by which such a directory is recognised.
    description : str
        What it is, for error messages.
    read : callable
        Returns the fitted estimator.
    """

    marker: str
    description: str
    read: Callable[[str | os.PathLike, dict[str, Any], Options], XLMRXLEstimator]


@default_torch_state()
def load(
    directory: str | os.PathLike,
    *,
    revision: str | None = None,
    subfolder: str = "",
    variant: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    problem_type: str | None = None,
    id2label: Mapping[int, str] | Sequence[str] | None = None,
    **parameters: Any,
) -> XLMRXLEstimator:
    """Return a fitted estimator: one that `save` has written, or a trained model of transformers or peft.

    No base model is loaded until the first prediction, and nothing in the files is executed.

    A saved estimator comes back as it was. `memory` is None: a folder of pickles that a file names is not to be
    trusted. So is `tokenizer`: set it again where there was one.

    A checkpoint of transformers, XLM-RoBERTa-XL, XLM-RoBERTa or BERT with XLM-RoBERTa's vocabulary, becomes the
    estimator for its head, by the class in its config.json: `ForSequenceClassification` an `XLMRXLClassifier`, or an
    `XLMRXLRegressor` if its `problem_type` is "regression" or it has one output; `ForTokenClassification` an
    `XLMRXLTagger`, `ForQuestionAnswering` an `XLMRXLQA`, `ForMultipleChoice` an `XLMRXLMultipleChoice`, `ForMaskedLM`
    an `XLMRXLMaskedLM`, `ForCausalLM` an `XLMRXLGenerator`. An encoder without a head, or a directory of
    sentence-transformers, becomes an `XLMRXLEmbedder`; a CrossEncoder is one of sequences, whose activation and default
    prompt are applied. A classifier or regressor that `export_pretrained` has written for sentence-transformers comes
    back as one, with its labels, which are in a skxlmr_head.json that sentence-transformers ignores. Their outputs are
    those of transformers; texts that are longer than the model reads at once are read in windows and not cut off. See
    Notes.

    An adapter of peft, a LoRA, becomes the estimator for its `task_type`. `model` is then the base that the adapter
    names, or that you pass as `model` if it lies elsewhere now; it stays unchanged and is shared with other estimators.
    `tuning` is the `LoRA` with the same settings. One that no `LoRA` makes (DoRA, or a LoRA with trained LayerNorms,
    embeddings or tokens, or with a vocabulary of another size) is merged into a base model of its own, and `model` is
    the directory of the adapter; if it has a tokenizer there with tokens of its own, that reads the texts. peft stores
    neither the names of labels nor whether a row may have several labels: both are read from a labels.json or
    config.json beside the adapter, or else from the base, if it has as many labels, unless you pass `id2label` and
    `problem_type`. Adapters of other types are refused: merge them in peft, with `merge_and_unload` and
    `save_pretrained`.

    Parameters
    ----------
    directory : str or path
        A directory, a file of weights in one, such as "model.fp16.safetensors", or the id of a model on the hub
        ("name@revision" pins a branch, tag or commit).
    revision : str, default=None
        Branch, tag or commit of a model on the hub, which becomes a part of `model`. The base model of an adapter has
        its own, in adapter_config.json.
    subfolder : str, default=""
        Folder of the model, on the hub or local, that has the files. For one on the hub, `model` is the directory on
        this machine.
    variant : str, default=None
        Comes in the names of the weight files, such as "fp16" for model.fp16.safetensors; `model` is then that file. Of
        an adapter it is that of its base model.
    cache_dir : str or path, default=None
        Where models of the hub are kept; None is the cache of huggingface_hub.
    token : str or bool, default=None
        Token for private models of the hub; None or True is the one of `hf auth login`, False none.
    local_files_only : bool, default=False
        Use only what the hub cache holds. The last three hold for the base model of an adapter or saved estimator, too,
        and as long as this process runs; they are not saved. For other processes, set the environment variables
        HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE.
    problem_type : {"regression", "single_label_classification", "multi_label_classification"}, default=None
        What a model of sequences was trained for; None is what its files say.
    id2label : dict of int to str, or list of str, default=None
        Names of the outputs of a classifier or tagger; None is what its files say.
    **parameters
        Parameters of the estimator to set, such as `device="cpu"`, `load_in_8bit=True` or `scheme="IOB1"`, as
        `set_params` takes them. Of a saved estimator they replace those that were saved.

    Returns
    -------
    estimator
        Fitted, of the class that was saved, or that belongs to the head.

    Raises
    ------
    FileNotFoundError
        If the directory has neither a saved estimator nor a checkpoint, or there is no such directory, and no such
        model on the hub; the latter is a ModelNotFoundError.
    CheckpointError
        If the files are damaged, from a newer version, or not what this library writes; or if the weights of a
        checkpoint have not the head that its config.json says.
    ValueError
        If the estimator has no such parameter, or the value is not valid for it or for the head; or if an option does
        not apply to what lies there, as `variant` and `problem_type` do not to a saved estimator.

    Warns
    -----
    UserWarning
        If nothing says whether the rows of an adapter's classifier have one label or several; it is then one.

    Notes
    -----
    Labels are those of `id2label` ("LABEL_0" where there are none), sorted in `classes_`; those of several labels per
    row are in the order of the checkpoint, and `predict` returns an indicator matrix of them. Numbers are returned as
    the model computes them: `target_mean_` is 0 and `target_scale_` 1.

    As transformers does, a classifier or regressor takes one text per row, or two, which are read together. It has no
    `n_features_in_` before `fit`, since the checkpoint does not tell which. A classifier that was trained on natural
    language inference has `zero_shot`. A tagger reads the first piece of each token (`aggregation="first"`), and infers
    `scheme_` from its tags. A model for question answering always answers, as transformers' pipeline does by default;
    of one that was trained on unanswerable questions, too, set `null_threshold=0.0`.

    `fit` trains a new head. With `warm_start=True` it continues from the weights that were loaded, on the same labels,
    as does `partial_fit`. As no training has been done here, `n_iter_` is 0.

    Examples
    --------
    >>> import tempfile
    >>> import skxlmr
    >>> clf = skxlmr.XLMRXLClassifier("nano", tuning="head", pooling="cls", random_state=0)
    >>> clf = clf.fit(["good", "bad"], ["yes", "no"])
    >>> directory = tempfile.mkdtemp()
    >>> clf.save(directory)
    >>> skxlmr.load(directory).predict(["good"])
    array(['yes'], dtype='<U3')

    A model of transformers:

    >>> directory = tempfile.mkdtemp()
    >>> clf.export_pretrained(directory)
    >>> skxlmr.load(directory, device="cpu").predict(["good"])
    array(['yes'], dtype='<U3')
    """
    place = Place(revision, subfolder, variant, cache_dir, token, local_files_only)
    options = Options(place, GivenLabels(problem_type, id2label))
    if (path := place.local_directory(directory)) is None:
        try:
            return _load_checkpoint(directory, parameters, options)
        except SavedEstimatorError as saved:
            return _load_saved(saved.directory, parameters, options)
    if subfolder:
        directory, options = path, options._replace(place=replace(place, subfolder=""))
    for kind in KINDS:
        if os.path.lexists(path / kind.marker):
            return kind.read(directory, parameters, options)
    expected = "; ".join(f"{kind.marker} ({kind.description})" for kind in KINDS)
    there = sorted(entry.name for entry in path.iterdir())
    found = f"It has {', '.join(there[:5])}{', ...' * (len(there) > 5)}" if there else "It is empty"
    raise FileNotFoundError(
        f"{path} holds no saved estimator and no checkpoint. {found}; expected is one of: {expected}"
        f"{hint_at(below(path))}."
    )


def _load_saved(directory: str | os.PathLike, parameters: dict[str, Any], options: Options) -> XLMRXLEstimator:
    """Read an estimator that `save` has written."""
    of_checkpoints = {"variant": options.place.variant, **vars(options.labels)}
    for name, value in of_checkpoints.items():
        if value is not None:
            raise ValueError(
                f"{name}={value!r:.60} is for checkpoints, and {os.fspath(directory)} holds a saved estimator, which "
                f"knows its labels and its base model. Leave it; a base model that lies elsewhere now is model=..."
            )
    saved = read_estimator(directory)
    known = estimators()
    cls = known.get(saved.class_name)
    if cls is None:
        raise CheckpointError(
            f"{Path(directory)} holds a {saved.class_name!r}, which is not one of {', '.join(sorted(known))}."
        )
    with damaged(where := Path(directory).expanduser() / NAME):
        estimator = cls(**{name: value for name, value in saved.parameters.items() if name not in NOT_SAVED_PARAMETERS})
        estimator._check_parameters()
    if parameters:
        check_names(parameters, estimator.get_params(deep=False))
        estimator.set_params(**parameters)._check_parameters()
    with damaged(where):
        estimator._restore(saved)
    use_hub_options(os.fspath(estimator.model), options.place.hub_options)
    return estimator


def _load_checkpoint(model: str | os.PathLike, parameters: dict[str, Any], options: Options) -> XLMRXLEstimator:
    """Read a checkpoint of transformers or sentence-transformers, or an adapter of peft."""
    place, given = options.place, parameters.get("model", model)
    others = {name: value for name, value in parameters.items() if name != "model"}
    files = place.find(model, None if given == model else lambda named: place.find_base(given))
    adapter = files.adapter
    if adapter is not None and not is_sentence_model(sentence_directory(adapter.directory)):
        trained = read_adapted_model(files, options.labels)
        if trained.files.adapter is None:
            base = base_name(adapter.config) if given == model else given
            return estimator_of(trained, place.name_of_base(base, trained.files), {"tuning": trained.tuning, **others})
        if given != model or place.variant is not None:
            base = given if place.variant is None else place.name_of_base("", files)
            option = f"model={str(given)!r}" if given != model else f"variant={place.variant!r}"
            raise ValueError(
                f"The adapter {str(model)!r} is merged into its base model, which its own files must name. Set "
                f"base_model_name_or_path in its {ADAPTER} to {str(base)!r}, and leave {option}."
            )
        place.name_of_base(base_name(adapter.config), files)
        return estimator_of(trained, place.name(model, adapter.directory, files), others)
    if given != model:
        raise ValueError(f"model={given!r} is another one than the checkpoint {str(model)!r}. Leave it.")
    name = place.name(model, files.directory, files)
    return estimator_of(read_trained_model(name, options.labels), name, others)


def estimator_of(trained: TrainedModel, model: str | os.PathLike, parameters: dict[str, Any]) -> XLMRXLEstimator:
    """Return a trained model as a fitted estimator.

    Parameters
    ----------
    trained : TrainedModel
    model : str or path
        The parameter `model` of the estimator: where its base lies.
    parameters : dict
        Other parameters of the estimator, from the user.
    """
    cls = estimators()[ESTIMATORS_OF_TASKS[trained.task]]
    of_checkpoint = dict(cls._pretrained_parameters)
    if trained.vectors is not None:  # it reads texts as its own files say
        of_checkpoint = {}
    elif "prompt" in of_checkpoint:
        of_checkpoint["prompt"] = trained.prompt
    estimator = cls(model=model, **of_checkpoint)
    check_names(parameters, estimator.get_params(deep=False))
    estimator.set_params(**parameters)._check_parameters()
    try:
        estimator._restore_pretrained(trained)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{trained.where} cannot be loaded as {cls.__name__}: {error}") from error
    return estimator


# In this order: the first whose marker a directory has is taken.
KINDS = [
    DirectoryKind(NAME, "an estimator that `save` has written", _load_saved),
    DirectoryKind(ADAPTER, "an adapter of peft", _load_checkpoint),
    DirectoryKind("config.json", "a checkpoint of transformers", _load_checkpoint),
    DirectoryKind(MODULES, "a model of sentence-transformers", _load_checkpoint),
]
