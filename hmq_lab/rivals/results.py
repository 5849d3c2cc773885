"""What the bench of rivals measured: results in JSON files that come with the package.

>>> found = read("rivals")
>>> found.of("HMQ", target=14)[0].compression >= 14
True

`bench/rivals.py` writes the files, one of them for each of KINDS. Every result names a selection of
bits, what it cost to choose it, and its accuracy after the same fine-tuning as all others.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hmq_lab.data.files import read_json, replacing
from hmq_lab.data.tables import columns
from hmq_lab.runs.shapes import misfit

RECORDED = Path(__file__).parent / "recorded"
# Other ways to choose; one setting of HMQ changed; every choice of a small network.
KINDS = ("rivals", "ablations", "enumeration")
SCHEMA = 1
# The search itself: as its preset has it, and with the whole target from the first step on.
HMQ, AT_ONCE = "HMQ", "HMQ, target at once"

RESULT = {
    "method": str,
    "target": float,
    "seed": int,
    "bits": [int, ...],
    "exponents": [int, ...],
    "compression": float,
    "choosing_seconds": float,
    "choosing_bytes": (float, None),
    "before": float,
    "validation": float,
    "loss": float,
    "test": float,
    "tuning_seconds": float,
}
SHAPE = {
    "header": {"schema": int, "sizes": {...: int}, "float_validation": float, "float_test": float},
    "results": [RESULT],
}


@dataclass(frozen=True)
class Result:
    """One selection, what it cost, and what it is worth.

    Args:
        method: what chose it.
        target: the compression that was asked for.
        seed: of the choice and of the fine-tuning.
        bits: of each weight, in the order of the header's sizes.
        exponents: of their thresholds.
        compression: that the selection has.
        choosing_seconds: CPU time of the choice.
        choosing_bytes: what the process took for it beyond what it held; None where unknown.
        before: accuracy on the validation images before any fine-tuning, in percent.
        validation: the same after the best epoch of the fine-tuning.
        loss: the mean cross-entropy on the validation images after it.
        test: accuracy on the test images after it, in percent.
        tuning_seconds: CPU time of the fine-tuning.
    """

    method: str
    target: float
    seed: int
    bits: tuple[int, ...]
    exponents: tuple[int, ...]
    compression: float
    choosing_seconds: float
    choosing_bytes: float | None
    before: float
    validation: float
    loss: float
    test: float
    tuning_seconds: float


@dataclass
class Results:
    """All results of one kind.

    Args:
        header: schema, model, data, settings, sizes of the weights, accuracies of the float
            network, versions and machine.
        results: in the order in which they were measured.
    """

    header: dict
    results: list[Result] = field(default_factory=list)

    def of(
        self, method: str | None = None, target: float | None = None, seed: int | None = None
    ) -> list[Result]:
        """Return the results of a method, a target and a seed; None takes all."""
        wanted = {"method": method, "target": target, "seed": seed}
        asked = {key: value for key, value in wanted.items() if value is not None}
        found = []
        for result in self.results:
            if all(getattr(result, key) == value for key, value in asked.items()):
                found.append(result)
        return found

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order of their first results."""
        return tuple(dict.fromkeys(result.method for result in self.results))

    @property
    def targets(self) -> tuple[float, ...]:
        """The targets, the smallest first."""
        return tuple(sorted({result.target for result in self.results}))

    def table(self) -> str:
        """Return the `rows` as lines of text."""
        return columns(self.rows())

    def markdown(self) -> str:
        """Return the `rows` as a table in Markdown.

        >>> print(Results({}).markdown())
        | method | CPU seconds | MiB |
        |---|---|---|
        """
        titles, *rows = self.rows()
        lines = [titles, *rows]
        text = ["| " + " | ".join(line) + " |" for line in lines]
        text.insert(1, "|" + "---|" * len(titles))
        return "\n".join(text)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the mean test accuracy of each method at each target, with its spread.

        The spread is from the least to the most accurate seed. Behind them: CPU seconds and memory
        of the choice, as medians.

        Returns:
            Cells, the titles first.
        """
        targets = self.targets
        titles = ("method", *(f"{target:g} times" for target in targets), "CPU seconds", "MiB")
        rows = [titles]
        for method in self.methods:
            cells = [_accuracy(self.of(method, target)) for target in targets]
            of_method = self.of(method)
            seconds = statistics.median(r.choosing_seconds for r in of_method)
            taken = [r.choosing_bytes for r in of_method if r.choosing_bytes is not None]
            memory = f"{statistics.median(taken) / 2**20:.0f}" if taken else "-"
            rows.append((method, *cells, f"{seconds:.1f}", memory))
        return rows


def _accuracy(results: list[Result]) -> str:
    """Return a mean and a spread as text.

    >>> _accuracy([])
    '-'
    """
    # Not every method has every target.
    if not results:
        return "-"
    test = [result.test for result in results]
    return f"{statistics.mean(test):.2f} ({min(test):.2f} to {max(test):.2f})"


def write(found: Results, path: Path) -> None:
    """Write results as JSON, one to a line, whole or not at all."""
    rows = ",\n".join(json.dumps(asdict(r), separators=(",", ":")) for r in found.results)
    text = f'{{"header": {json.dumps(found.header)},\n"results": [\n{rows}\n]}}\n'
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read(source: str | Path) -> Results:
    """Return results, by their kind or from a file.

    >>> read("rivals").header["model"]
    'tiny_resnet8'

    Args:
        source: one of KINDS, or a path.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file that holds no results, naming the fault.
    """
    # A kind stands for the file of the package.
    path = RECORDED / f"{source}.json" if source in KINDS else Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no results at {path}; of the package there are {KINDS}")
    content = read_json(path)
    if said := misfit(content, SHAPE):
        raise ValueError(f"{path} holds no results of rivals: {said}")
    schema = content["header"]["schema"]
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA}")

    # JSON has lists, a result has tuples.
    results = []
    for row in content["results"]:
        lists = {key: tuple(row[key]) for key in ("bits", "exponents")}
        results.append(Result(**{**{key: row[key] for key in RESULT}, **lists}))
    return Results(content["header"], results)
