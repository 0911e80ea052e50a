"""Vectors of queries and of documents: the prompts that a model was trained with, by their names."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skxlmr.columns import check_n_features
from skxlmr.runtime.sentence_settings import has_route_of_task, read_sentence_settings
from skxlmr.runtime.torch_state import default_torch_state
from skxlmr.system.warn import warn

# The prompts of `encode_query` and of `encode_document`. sentence-transformers does not use the others for documents,
# since its models always have a prompt of the name "document", which may be empty.
QUERY, DOCUMENT = "query", "document"
OTHER_NAMES_OF_DOCUMENTS = ("passage", "corpus")


class NamedPrompts:
    """Mixin of the embedder: prompts by their names.

    Attributes
    ----------
    prompt_ : str
        The prompt of texts without a task.
    prompts_ : dict of str
        The prompts of the checkpoint by their names.
    """

    model: Any
    prompt_: str
    prompts_: dict[str, str]

    @default_torch_state()
    def encode_query(self, X: Any, *, prompt_name: str | None = None) -> np.ndarray:
        """Return the vectors of queries, such as questions, with the prompt that the model has for them.

        Parameters
        ----------
        X : text column of shape (n_samples,)
            Names of columns are not compared with those that `fit` saw.
        prompt_name : str, default=None
            Another one of `prompts_`.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If `prompt_name` is not one of `prompts_`; the message lists them.
        NotImplementedError
            If sentence-transformers reads queries with other modules of this checkpoint (a Router).

        See Also
        --------
        encode_document : The vectors of what is searched.
        skxlmr.search.search : Find the documents nearest to each query.

        Notes
        -----
        With `prompt="auto"`, the vectors are those of `SentenceTransformer.encode_query`: the prompt is the one named
        "query", and empty if the checkpoint has others only. If it has none at all, or if an `objective` has
        trained the model, which then read all texts with `prompt_`, the vectors are those of `transform`.

        Examples
        --------
        >>> from skxlmr import XLMRXLEmbedder
        >>> from skxlmr.search import search
        >>> documents = ["Cats sleep a lot.", "The bank raised its rates."]
        >>> embedder = XLMRXLEmbedder("e5-small").fit(documents)
        >>> embedder.prompts_
        {'query': 'query: ', 'document': 'passage: ', 'passage': 'passage: '}
        >>> queries = embedder.encode_query(["What do cats do?"])
        >>> scores, indices = search(queries, embedder.encode_document(documents), k=1)
        >>> documents[indices[0, 0]]
        'Cats sleep a lot.'
        """
        return self._encode(X, QUERY, prompt_name)

    @default_torch_state()
    def encode_document(self, X: Any, *, prompt_name: str | None = None) -> np.ndarray:
        """Return the vectors of documents, in which queries are searched, with the prompt that the model has for them.

        Parameters
        ----------
        X : text column of shape (n_samples,)
            Names of columns are not compared with those that `fit` saw.
        prompt_name : str, default=None
            Another one of `prompts_`.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If `prompt_name` is not one of `prompts_`; the message lists them.
        NotImplementedError
            If sentence-transformers reads documents with other modules of this checkpoint (a Router).

        Warns
        -----
        UserWarning
            If the prompt named "document" is empty, but there is one named "passage" or "corpus":
            `SentenceTransformer.encode_document` does not use it, so neither does this method, unless `prompt_name`
            asks for it.

        See Also
        --------
        encode_query : The vectors of queries; its notes are true of documents, too.
        """
        return self._encode(X, DOCUMENT, prompt_name)

    def _encode(self, X: Any, task: str, prompt_name: str | None) -> np.ndarray:
        check_is_fitted(self)
        if not hasattr(self, "n_iter_") and has_route_of_task(self.model, task):
            raise NotImplementedError(
                f"{str(self.model)!r} has a Router: it reads the texts of the task {task!r} with modules of their own, "
                f"and this estimator reads those of the default route. Give the folder of the transformer of the task "
                f"as `model`, or use `transform`."
            )
        column = self._check_column(X)  # type: ignore[attr-defined]
        if self._needs_all_features(column.n_features):  # type: ignore[attr-defined]
            check_n_features(self, column)
        if task == DOCUMENT and prompt_name is None:
            self._warn_of_other_prompts()
        prompt = self._prompt_of_task(task) if prompt_name is None else self._named_prompt(prompt_name)
        return self._vectors(column, prompt)  # type: ignore[attr-defined]

    def _prompt_of_task(self, task: str) -> str:
        prompts = self._known_prompts()
        if not prompts or hasattr(self, "n_iter_"):
            return self.prompt_
        return prompts[task]

    def _warn_of_other_prompts(self) -> None:
        """Warn if documents get no prompt, although there is one that is meant for them."""
        prompts = self._known_prompts()
        others = [name for name in OTHER_NAMES_OF_DOCUMENTS if prompts.get(name)]
        if others and not prompts[DOCUMENT] and not hasattr(self, "n_iter_"):
            warn(
                f"encode_document puts nothing before the texts, as sentence-transformers does, since the prompt "
                f"'document' of {self.model!r} is empty. It has the prompt {others[0]!r}: pass "
                f"prompt_name={others[0]!r} to use it, or prompt_name='document' to read texts as they are."
            )

    def _named_prompt(self, name: str) -> str:
        prompts = self._known_prompts()
        if not isinstance(name, str):
            raise TypeError(f"prompt_name must be a str or None, got {name!r}.")
        if name in prompts:
            return prompts[name]
        known = f"Its prompts are {', '.join(map(repr, sorted(prompts)))}." if prompts else "It has no named prompts."
        raise ValueError(
            f"prompt_name={name!r}, but {self.model!r} has no prompt of this name. {known} The parameter `prompt` of "
            f"the estimator takes the words of any prompt."
        )

    def _known_prompts(self) -> dict[str, str]:
        """Return the prompts by their names; estimators that earlier versions have saved do not hold them."""
        return self.prompts_ if hasattr(self, "prompts_") else self._prompts_of_model()

    def _prompts_of_model(self) -> dict[str, str]:
        return read_sentence_settings(self.model, needs_pooling=False).prompts

    def _exported_prompts(self, default_name: str) -> dict[str, str]:
        """Return the prompts for a directory of sentence-transformers, whose methods then use the same."""
        named = {default_name: self.prompt_} if self.prompt_ else {}
        others = self._known_prompts().keys() - {default_name, QUERY, DOCUMENT}
        named |= {name: self._named_prompt(name) for name in sorted(others)}
        tasks = {task: self._prompt_of_task(task) for task in (QUERY, DOCUMENT)}
        return named | tasks if any({**named, **tasks}.values()) else {}
