"""Predictions: committed before a result, kept in the working folder, shown beside it afterwards."""

import json

import pytest

from hmq_lab import checks
from hmq_lab.checks import frame, predict, progress


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A reader's folder, and progress that is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HMQ_LAB_PROGRESS", raising=False)
    return tmp_path


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order."""
    import IPython.display

    outputs = []
    monkeypatch.setattr(IPython.display, "display", outputs.append)
    return outputs


def ask(*choices, **options):
    return checks.predictions("00")("levels", *choices, show=False, **options)


def test_a_choice_is_kept_before_the_result_and_shown_beside_it(shown, folder):
    asked = ask(7, 8, 9)
    buttons, status = asked.widget().children
    assert buttons.options == ("7", "8", "9") and buttons.value is None
    assert status.value == "Not predicted yet."
    buttons.value = "7"
    assert status.value == "Your prediction: 7"
    asked.result(8)
    assert shown[-1].data == "**You predicted: 7. The result: 8.**"
    kept = json.loads((folder / ".hmq_lab" / "progress.json").read_text())
    assert kept["00"]["predictions"]["levels"] == {"prediction": "7", "result": "8"}


def test_a_prediction_can_change_until_its_result_was_shown(shown):
    asked = ask(7, 8, 9)
    buttons, status = asked.widget().children
    buttons.value = "7"
    buttons.value = "9"
    assert asked.value == "9"
    asked.result(8)
    buttons.value = "8"  # too late
    assert asked.value == "9" and status.value == "Your prediction: 9"
    again = ask(7, 8, 9).widget().children[0]
    assert again.disabled and again.value == "9"


def test_a_number_is_kept_by_its_button(shown):
    asked = ask(low=0, high=100)
    row, status = asked.widget().children
    number, keep = row.children
    number.value = 12.5
    assert asked.value is None
    keep.click()
    assert asked.value == "12.5" and status.value == "Your prediction: 12.5"
    number.value = 1000
    assert number.value == 100  # the field keeps within its bounds
    asked.result(0.31415)
    assert "The result: 0.314" in shown[-1].data


def test_a_result_without_a_prediction_locks_the_question(shown):
    asked = ask(7, 8)
    asked.result("8")
    assert shown[-1].data == "**The result: 8.**"
    buttons, status = asked.widget().children
    assert buttons.disabled and "before you made a prediction" in status.value


def test_without_a_kernel_the_choices_are_folded(shown):
    ask("a < b", "b").show()
    folded = shown[0].data
    assert folded.startswith("<details><summary>") and "<li>a &lt; b</li>" in folded
    ask(low=1, high=9).show()
    assert "a number from 1 to 9" in shown[2].data


@pytest.mark.parametrize(("choices", "bounds"), [((7,), {}), ((), {"low": 2, "high": 2})])
def test_a_question_without_an_alternative_is_refused(choices, bounds):
    with pytest.raises(ValueError, match=r"two choices or more, got '7'|got 2 and 2"):
        ask(*choices, **bounds)


def test_progress_survives_a_restart_and_is_counted(shown, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    ask(7, 8).widget().children[0].value = "8"
    now[0] += 90
    checks.largest(lambda bits, threshold: 0.0)._ipython_display_()
    now[0] += 30
    checks.largest(lambda bits, threshold: threshold - 2 * threshold / 2**bits)._ipython_display_()
    now[0] += 5000  # the reader was away
    checks.largest(lambda bits, threshold: 0.0)._ipython_display_()
    row = progress.summary(frame.REGISTERED)[0]
    assert row == {"lesson": "00", "predictions": 1, "passed": 1, "exercises": 2, "minutes": 2}
    assert progress.read()["00"]["checks"]["largest"] == {"passed": True, "attempts": 3}
    checks.progress_table()
    assert "| 00 | 1 | 1 of 2 | 2 |" in shown[-1].data


def test_a_stub_is_no_attempt_to_count(shown):
    def stub(bits, threshold):
        raise NotImplementedError

    checks.largest(stub)._ipython_display_()
    assert progress.read() == {}
    checks.progress_table()
    assert "Nothing is kept yet" in shown[-1].data


def test_the_folder_ignores_itself_in_git(folder):
    progress.keep_prediction("00", "levels", "8")
    assert (folder / ".hmq_lab" / ".gitignore").read_text() == "*\n"


def test_nothing_is_kept_where_it_is_switched_off(folder, monkeypatch):
    monkeypatch.setenv("HMQ_LAB_PROGRESS", "off")
    assert progress.keep_prediction("00", "levels", "8") is True
    assert not (folder / ".hmq_lab").exists() and progress.read() == {}


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_file_counts_as_none(folder, text):
    (folder / ".hmq_lab").mkdir()
    (folder / ".hmq_lab" / "progress.json").write_text(text)
    assert progress.read() == {}
    assert progress.keep_prediction("00", "levels", "8") and ask(7, 8).value == "8"


def test_a_folder_that_cannot_be_written_stops_no_lesson(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(progress, "replacing", refuse)
    assert progress.keep_prediction("00", "levels", "8") is True
    assert predict.Prediction("00", "levels", ("7", "8"), 0, 1).value is None
