"""Predictions: a reader commits a choice or a number before a result shows.

In a lesson:

    predict = checks.predictions("00")
    levels = predict("levels", 7, 8, 9)         # one button for each choice
    share = predict("share", low=0, high=100)   # or a number, and a button that keeps it
    ...
    levels.result(scheme.levels)                # "You predicted 7. The result is 8."

The prediction is kept in the notebook's folder (see `progress`). Once its result was shown it
cannot be changed.
"""

from __future__ import annotations

import html
from collections.abc import Callable

from hmq_lab.checks import progress


def predictions(lesson: str) -> Callable[..., Prediction]:
    """Return the function that asks for the predictions of one lesson.

    >>> predict = predictions("00")
    >>> predict("levels", 7, 8, 9, show=False).choices
    ('7', '8', '9')

    Args:
        lesson: two digits, such as "00".

    Returns:
        The function to call once for each prediction.
    """

    # The function that a lesson calls, once for each prediction.
    def predict(name: str, *choices, low: float = 0, high: float = 100, show=True) -> Prediction:
        asked = Prediction(lesson, name, tuple(map(str, choices)), low, high)
        if show:
            asked.show()
        return asked

    return predict


class Prediction:
    """A question's choices, or the range of its number, and what the reader committed to.

    Args:
        lesson: two digits.
        name: the question, in one word; unique in its lesson.
        choices: the answers to choose from; empty for a number.
        low: least number.
        high: largest number.

    Raises:
        ValueError: for a single choice, or a range that is empty.
    """

    def __init__(self, lesson: str, name: str, choices: tuple[str, ...], low: float, high: float):
        # A prediction that cannot fail teaches nothing.
        if len(choices) == 1:
            raise ValueError(f"a prediction has two choices or more, got {choices[0]!r} alone")
        if not choices and low >= high:
            raise ValueError(f"a number lies between low and high, got {low:g} and {high:g}")
        # What was asked stays as it was asked.
        self.lesson = lesson
        self.name = name
        self.choices = choices
        self.low = low
        self.high = high

    @property
    def value(self) -> str | None:
        """What was committed to, or None.

        Returns:
            The prediction as text, or None.
        """
        return progress.prediction(self.lesson, self.name).get("prediction")

    def show(self) -> None:
        """Show the choices folded, as a page without a kernel keeps them, and the widget."""
        from IPython.display import HTML, display

        # The choices are folded away on a page without a kernel.
        if self.choices:
            asked = "".join(f"<li>{html.escape(choice)}</li>" for choice in self.choices)
        else:
            asked = f"<li>a number from {self.low:g} to {self.high:g}</li>"
        folded = "<details><summary>Predict before you read on</summary>"
        folded += f"<ul>{asked}</ul></details>"
        # With a kernel the widget takes the answer.
        display(HTML(folded))
        display(self.widget())

    def widget(self):
        """Return the widget: buttons for choices, a number field and a button for a number."""
        # Only a notebook needs this.
        import ipywidgets

        # Once the result was shown, nothing can be changed.
        shown = "result" in progress.prediction(self.lesson, self.name)
        said = ipywidgets.Label(self._status())

        # Each change is kept at once, and said below the widget.
        def commit(text: str) -> None:
            progress.keep_prediction(self.lesson, self.name, text)
            said.value = self._status()

        # Choices are buttons.
        if self.choices:
            kept = self.value if self.value in self.choices else None
            buttons = ipywidgets.ToggleButtons(
                options=self.choices,
                value=kept,
                disabled=shown,
                tooltips=[f"predict {choice}" for choice in self.choices],
                style={"button_width": "auto"},
            )
            buttons.observe(lambda change: commit(change["new"]), "value")
            return ipywidgets.VBox([buttons, said])

        # A number is a field with a button that keeps it.
        number = ipywidgets.BoundedFloatText(
            value=float(self.value or self.low),
            min=self.low,
            max=self.high,
            disabled=shown,
            layout={"width": "8em"},
        )
        keep = ipywidgets.Button(description="keep", tooltip="keep this number", disabled=shown)
        keep.on_click(lambda _: commit(f"{number.value:g}"))
        return ipywidgets.VBox([ipywidgets.HBox([number, keep]), said])

    def _status(self) -> str:
        kept = progress.prediction(self.lesson, self.name)
        if "prediction" in kept:
            return f"Your prediction: {kept['prediction']}"
        if "result" in kept:
            return "The result was shown before you made a prediction."
        return "Not predicted yet."

    def sentence(self, result: str) -> str:
        """Return the result beside the prediction, in words.

        Args:
            result: what came out.

        Returns:
            The sentence to show.
        """
        if self.value is None:
            return f"The result: {result}."
        return f"You predicted: {self.value}. The result: {result}."

    def result(self, result) -> None:
        """Show the result beside the prediction, and keep both.

        Args:
            result: the choice that turned out to be right, or the number; any text will do.
        """
        from IPython.display import Markdown, display

        text = f"{result:.3g}" if isinstance(result, float) else str(result)
        progress.keep_result(self.lesson, self.name, text)
        display(Markdown(f"**{self.sentence(text)}**"))


def progress_table() -> None:
    """Show a table of the reader's progress: predictions, checks passed and minutes a lesson."""
    # Only a notebook needs these.
    from IPython.display import Markdown, display

    from hmq_lab.checks.frame import REGISTERED

    # Lessons that were not begun are left out.
    rows = progress.summary(REGISTERED)
    begun = [row for row in rows if row["predictions"] or row["passed"] or row["minutes"]]
    if not begun:
        display(Markdown("Nothing is kept yet: no prediction was made and no check passed here."))
        return
    # One line of the table for each lesson.
    lines = ["| lesson | predictions made | checks passed | minutes |", "|---|---|---|---|"]
    for row in begun:
        passed = f"{row['passed']} of {row['exercises']}"
        lines.append(f"| {row['lesson']} | {row['predictions']} | {passed} | {row['minutes']} |")
    display(Markdown("\n".join(lines)))
