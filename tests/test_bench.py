"""The bench on a small network: what it times, what it counts, what it says."""

import json
import subprocess
import sys

import pytest

from hmq_lab.block import SearchSpace
from hmq_lab.commands import bench
from hmq_lab.commands.bench import SPACES, Work
from hmq_lab.commands.main import main
from hmq_lab.plots import bench as bench_plots

SMALL = Work("tiny_resnet8", 8, (4, 3, 8, 8))
ROWS = [
    {
        "schemes": schemes,
        "seconds": 0.4 + k / 50,
        "low": 0.35,
        "high": 0.5,
        "bytes": (200 + k) * 2.0**20,
    }
    for k, schemes in enumerate((8, 16, 32, 64, 128))
]


def test_functions_are_timed_in_turn_and_the_median_counts(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def function(name, costs):
        costs = iter(costs)

        def run():
            calls.append(name)
            now[0] += next(costs)

        return run

    first, second = function("a", [9, 9, 1, 100, 2]), function("b", [9, 9, 5, 5, 7])
    assert bench.seconds(first, second, rounds=3) == [2, 5]
    assert "".join(calls) == "aabb" + "ab" * 3


def test_the_block_is_compared_with_a_clone():
    found = bench.block(compiled=False, rounds=2, work=SMALL)
    assert found["over_clone"] == found["block_seconds"] / found["clone_seconds"] > 1


def test_the_spaces_go_from_8_to_128_schemes():
    assert [SearchSpace(*space).schemes for space in SPACES] == [8, 16, 32, 64, 128]
    assert Work() == Work(
        "resnet20", 128, (128, 64, 32, 32)
    )  # what issue and README state ratios for


def test_the_work_can_be_another_network_size_and_precision(monkeypatch):
    """The command's options reach the measured step: it sees those pictures, in that precision."""
    asked = []
    monkeypatch.setattr(
        bench, "report", lambda compiled, quick, work: asked.append(work) or {"spaces": []}
    )
    options = [
        "--model",
        "tiny_resnet8",
        "--batch-size",
        "4",
        "--image-size",
        "48",
        "--precision",
        "bfloat16",
    ]
    assert main(["bench", "--json", "--compile", "off", *options]) == 0
    (work,) = asked
    assert work == Work("tiny_resnet8", 4, size=48, device="cpu", precision="bfloat16")
    seen, build = [], bench.models.build

    def watched(name):
        model = build(name)
        model.register_forward_hook(
            lambda module, inputs, output: seen.append((inputs[0].shape, output.dtype))
        )
        return model

    monkeypatch.setattr(bench.models, "build", watched)
    for searching in (False, True):
        step = bench.training_step(searching, True, work=work)
        seen.clear()
        step()
        assert seen == [((4, 3, 48, 48), bench.torch.bfloat16)]
    assert main(["bench", "--device", "cuda:99"]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_of_a_step_is_what_its_tensors_need():
    """A float step keeps the outputs of its convolutions, of its norms and of its ReLUs for the backward pass."""
    few, many = (bench.memory(False, work=Work("tiny_resnet8", batch)) for batch in (64, 512))
    picture = 4 * (
        5 * 8 * 16**2 + 5 * 16 * 8**2 + 5 * 32 * 4**2
    )  # bytes: conv, norm, relu, conv, norm of each stage
    assert 0.8 * 448 * picture < many - few < 6 * 448 * picture


def test_a_report_is_made_of_what_was_measured(monkeypatch):
    asked = []

    def memory(searching, compiled=False, space=None, work=None):
        asked.append((searching, space and space.schemes))
        return 3.0 if searching and space is None else 2.0 + 0.001 * (space.schemes if space else 0)

    monkeypatch.setattr(bench, "memory", memory)
    found = bench.report(compiled=False, quick=True, work=SMALL)
    assert asked == [(False, None), (True, None)] + [(True, n) for n in (8, 16, 32, 64, 128)]
    assert list(found)[:4] == [
        "block_over_clone",
        "block_eager_over_clone",
        "step_over_float",
        "memory_over_float",
    ]
    assert (
        found["block_over_clone"]
        == found["block_eager_over_clone"]
        == found["block_eager"]["over_clone"]
    )
    assert (
        found["step_over_float"]
        == found["step"]["search_seconds"] / found["step"]["float_seconds"]
        > 1
    )
    assert found["memory_over_float"] == 1.5
    assert found["memory_over_smallest_space"] == pytest.approx(2.128 / 2.008)
    rows = found["spaces"]
    assert [row["schemes"] for row in rows] == [8, 16, 32, 64, 128]
    assert all(0 < row["low"] <= row["seconds"] <= row["high"] for row in rows)
    assert found["time_over_smallest_space"] == max(r["seconds"] for r in rows) / rows[0]["seconds"]
    assert json.loads(json.dumps(found)) == found


def test_the_figure_shows_the_rows():
    drawing = bench_plots.spaces({"spaces": ROWS})
    time, memory = drawing.axes
    assert (
        list(time.lines[0].get_xdata()) == list(memory.lines[0].get_xdata()) == [8, 16, 32, 64, 128]
    )
    assert list(time.lines[0].get_ydata()) == pytest.approx([1e3 * row["seconds"] for row in ROWS])
    assert list(memory.lines[0].get_ydata()) == [200, 201, 202, 203, 204]
    ends = [segment[:, 1].tolist() for segment in time.collections[0].get_segments()]
    assert ends == [pytest.approx([350, 500])] * 5
    assert time.get_ylim()[0] == memory.get_ylim()[0] == 0  # flat is seen as flat
    assert (
        "128 schemes per tensor instead of 8" in drawing.sentence
        and "1.20 times as long" in drawing.sentence
    )
    assert "factor of 1.43" in drawing.sentence and "1.02 times the memory" in drawing.sentence


def test_the_command_prints_json_alone_and_draws(monkeypatch, tmp_path, capsys):
    found = {"block_over_clone": 1.2, "block_eager_over_clone": 4.0, "step_over_float": 1.5, "memory_over_float": 1.3,
             "spaces": ROWS}  # fmt: skip
    monkeypatch.setattr(
        bench,
        "report",
        lambda compiled, quick, work: found | {"compiled": compiled, "quick": quick},
    )
    figure = tmp_path / "deep" / "spaces.svg"
    assert main(["bench", "--json", "--quick", "--compile", "off", "--figure", str(figure)]) == 0
    assert json.loads(capsys.readouterr().out) == found | {"compiled": False, "quick": True}
    assert "<svg" in figure.read_text()
    assert main(["bench", "--compile", "off"]) == 0
    printed = capsys.readouterr().out
    assert (
        "1.20 (no compiler)" in printed and "128 schemes a tensor:    480 ms,   204 MiB" in printed
    )
    assert main(["bench", "--figure", str(tmp_path / "spaces.gif")]) == 2
    assert "--figure must end in .png, .svg or .pdf" in capsys.readouterr().err


def test_the_bench_loads_no_matplotlib():
    code = "import sys, hmq_lab.commands.bench; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("missing", ["matplotlib", "ipywidgets"])
@pytest.mark.parametrize("option", ["--explorers", "--live"])
def test_without_the_lab_the_bench_says_in_a_line_what_to_install(option, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from hmq_lab.commands.main import main; "
    code += f"sys.exit(main(['bench', {option!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    said = f"hmq-lab: error: bench {option} needs {missing}: pip install hmq_lab[lab]\n"
    assert done.stderr == said, done.stderr
