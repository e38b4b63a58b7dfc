"""A log of the examples of a training run: their fingerprint, kinds, marks, prompt style, trajectories, lineages."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

import orjson

from eexp.errors import InputError, UsageError
from eexp.prompts import PromptStyle
from eexp.records.imagination import imagined_by
from eexp.records.record import answers_of
from eexp.training.example_style import style_of_examples
from eexp.training.job import ExampleSource


class ExampleLog:
    """Checks the examples that are read, and keeps what eexp.json is to say about them."""

    def __init__(
        self,
        style: str | None = None,
        excluded_groups: Collection[str] = (),
        given_style: PromptStyle | None = None,
    ) -> None:
        """Open an empty log.

        Args:
            style: The only prompt style allowed; None for that of the first example that names one.
            excluded_groups: Trajectories of which no example is allowed.
            given_style: The prompt style given on the command line; None for the built-in one that the examples name.
        """
        self.style = style  # label of the examples' prompt style; None while no example has named one
        self._given_style = given_style
        self._styles: dict[str, PromptStyle | None] = {}  # by the labels that examples name
        self._excluded_groups = excluded_groups
        self._digest = hashlib.sha256()
        self._kinds: dict[str, int] = {}
        self._n_imagined = 0
        self._groups: set[str] = set()
        self._lineages: dict[tuple[str, ...], None] = {}

    def read(self, source: ExampleSource) -> Iterator[dict]:
        """Yield the examples of a source, and log each; those that are not allowed go to the source's `on_error`."""
        for example in source.examples:
            style, group = example.get("prompt_style"), example.get("group")
            if self.style and style and style != self.style:
                same_name = self.style.partition("@")[0] == style.partition("@")[0]
                hint = "; two styles have the same name: give your own another one" if same_name else ""
                error = InputError(f"examples of two prompt styles: {self.style} and {style}{hint}", "$.prompt_style")
                source.on_error(example, error)
                continue
            if group in self._excluded_groups:
                error = InputError(f"{group} is trained on, too; validate with other trajectories", "$.group")
                source.on_error(example, error)
                continue
            if style and (prompt_style := self._style_named(style)):
                try:
                    for answer in answers_of(example) if "chosen" in example else [example]:
                        prompt_style.check_completion(answer)
                except InputError as e:
                    source.on_error(example, e.at("$.completion" if "completion" in example else ""))
                    continue
            self.style = self.style or style
            if group is not None:
                self._groups.add(group)
            content = [example["completion"]] if "completion" in example else [example["chosen"], example["rejected"]]
            self._digest.update(
                orjson.dumps(
                    [
                        example["prompt"],
                        *content,
                        example.get("weight", 1.0),
                        group,
                        _kind(example),
                        example.get("spans"),
                        *([example["tools"]] if example.get("tools") else []),
                    ]
                )
            )
            self._kinds[_kind(example)] = self._kinds.get(_kind(example), 0) + 1
            self._n_imagined += imagined_by(example) is not None
            self._lineages[tuple(example.get("lineage", []))] = None
            yield example

    def discount(self, example: dict) -> None:
        """Take an example that has been read out of the counts, since it cannot be used."""
        self._kinds[_kind(example)] -= 1
        self._n_imagined -= imagined_by(example) is not None

    def for_validation(self) -> ExampleLog:
        """Return a log for the examples to validate with, once those to train on have been read."""
        return ExampleLog(self.style, self._groups, self._given_style)

    def _style_named(self, label: str) -> PromptStyle | None:
        """Return the style that examples name; None where it is another one, which `style_of_examples` refuses."""
        if label not in self._styles:
            try:
                self._styles[label] = style_of_examples(label, self._given_style)
            except UsageError:
                self._styles[label] = None
        return self._styles[label]

    @property
    def sha256(self) -> str:
        """The fingerprint of all examples read."""
        return self._digest.hexdigest()

    def counts(self) -> dict:
        """Return the fingerprint, the number of examples, that of each kind and, if there are any, of imagined ones."""
        kinds = {kind: n for kind, n in self._kinds.items() if n}
        imagined = {"imagined": self._n_imagined} if self._n_imagined else {}
        return {"sha256": self.sha256, "examples": sum(kinds.values()), "kinds": kinds, **imagined}

    def lineages(self, most: int) -> list[list[str]]:
        """Return the first `most` distinct lineages."""
        return [list(lineage) for lineage in list(self._lineages)[:most]]


def _kind(example: dict) -> str:
    """Return the kind of an example; "preference" for a preference, which has none."""
    return example.get("kind") or example["type"]
