"""What lessons say of results is true whatever a machine finds, and figures draw."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hmq_lab.plots import lessons, published
from hmq_lab.plots.lessons import (
    lesson00,
    lesson01,
    lesson02,
    lesson03,
    lesson04,
    lesson05,
    lesson06,
    lesson07,
    lesson09,
    lesson10,
    lesson13,
)
from hmq_lab.quantizer import Scheme
from hmq_lab.runs import records

ranks = st.integers(1, 9)
shares = st.floats(0.01, 1.0)
accuracies = st.floats(1, 99)
regrets = st.lists(st.floats(0, 1), min_size=2, max_size=4)


def numbers(text):
    return [float(n.replace(",", "")) for n in re.findall(r"-?\d[\d,]*\.?\d*", text)]


@given(st.dictionaries(st.sampled_from("abcd"), accuracies, min_size=1), accuracies)
def test_where_a_search_loses_is_said_first(others, hmq):
    text = lesson09.gain_sentence(others, hmq, images=2000, compression=10.5)
    first = text.split(". ")[0]
    told = {
        name: float(points) for points, name in re.findall(r"(\d+\.\d) points below ([a-d])", first)
    }
    assert told.keys() == {name for name, value in others.items() if value > hmq}
    assert all(
        points == pytest.approx(others[name] - hmq, abs=0.051) for name, points in told.items()
    )
    assert ("below none of them" in first) == (not told)
    # Two binomial standard errors, of the difference of two independent accuracies.
    p = hmq / 100
    noise = 200 * np.sqrt(2 * p * (1 - p) / 2000)
    close = {name for name, value in others.items() if abs(value - hmq) <= noise}
    last = text.rpartition("points: ")[2]
    assert set(re.findall(r"\b[a-d]\b", last)) == close and "10.5" in first


def test_what_a_search_gains_is_in_the_records():
    found = records.matching(data="cifar10", model="resnet20")
    found = {n: r for n, r in found.items() if n.rstrip("-s1").endswith("a8")}
    gains = lesson09.search_gains(found)
    assert [value.source for value in published.WITHOUT_TRAINING] == ["library"] * 2
    assert not set(published.WITHOUT_TRAINING) & set(published.VALUES)
    at_10 = [found[f"cifar10-resnet20-w10.5-a8{end}"] for end in ("", "-s1")]
    without, searched, minutes = gains[10.5]
    assert without == 82.29 and searched == pytest.approx((91.49 + 91.27) / 2)
    assert minutes == pytest.approx(sum(r.timing["seconds"] for r in at_10) / 120)
    drawing = lesson09.what_a_search_buys(found)
    assert "at 8 a search gains" in drawing.sentence and "9.1 points" in drawing.sentence


def test_every_way_to_compress_is_drawn():
    ways = {
        "uniform": {8.0: 80.0, 16.0: 17.5},
        "by error": {8.0: 93.8},
        "trained uniform": {16.0: 80.5},
    }
    drawing = lesson09.ways_to_compress(ways, (8.02, 93.9))
    curves = {line.get_label(): line for line in drawing.axes[0].lines}
    assert list(curves["uniform"].get_ydata()) == [80.0, 17.5] and len(curves) == 4
    assert numbers(drawing.sentence) == [
        80.0,
        8,
        17.5,
        16,
        93.8,
        8,
        93.8,
        8,
        80.5,
        16,
        80.5,
        16,
        93.9,
        8.02,
    ]
    assert "from 17.5 % to 80.5 % at 16" in lesson09.training_sentence(ways)


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True))
def test_a_list_in_words_has_every_name_once(names):
    text = lessons.listed(names)
    assert [n for n in re.findall(r"\b[abcd]\b", text)] == names
    assert (text == "none") == (not names)


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.integers(1, 8), st.integers(1, 999)), min_size=1
    )
)
def test_the_tensors_with_most_and_fewest_bits_are_named(found):
    weights = [{"name": f"{n}.weight", "bits": b, "size": s} for n, (b, s) in found.items()]
    text = lesson00.kept_sentence(weights)
    bits = {b for b, _ in found.values()}
    if len(bits) == 1:
        assert text.startswith("Every weight tensor has")
        return
    most, fewest = text.split(";")
    for part, wanted in ((most, max(bits)), (fewest, min(bits))):
        assert set(re.findall(r"\b[a-f]\b", part)) == {
            n for n, (b, _) in found.items() if b == wanted
        }
        assert numbers(part)[-1] == sum(s for b, s in found.values() if b == wanted)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_released_range_is_mirrored_or_one_level_longer(bits):
    signed = lesson01.released_levels(Scheme(bits, 0, True))
    assert sorted(-v for v in signed) == sorted(Scheme(bits, 0, True).values)
    unsigned = lesson01.released_levels(Scheme(bits, 0, False))
    assert len(unsigned) == 2**bits + 1 and unsigned[-1] == 1.0


def test_a_surface_is_what_a_quantizer_loses():
    x = torch.randn(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = lesson02.surface(x)
    row, column = 2, 3
    step = 2.0 ** found.exponents[column] / 2 ** (row + 1 - 1)
    code = np.clip(np.rint(x.numpy() / step), -(2**row), 2**row - 1)
    lost = ((code * step - x.numpy()) ** 2).sum() / (x.numpy() ** 2).sum()
    assert found.lost[row, column] == pytest.approx(lost)
    assert 2.0**found.tight >= x.abs().max() > 2.0 ** (found.tight - 1)
    assert found.best(3) == found.exponents[found.lost[2].argmin()]


@given(
    st.lists(
        st.lists(st.tuples(st.floats(1, 50), st.floats(1, 99)), min_size=4, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_how_often_the_least_error_is_the_best_accuracy(rows):
    trials = {f"t{i}": pairs for i, pairs in enumerate(rows)}
    agree = sum(sorted(pairs)[0][1] == sorted(p[1] for p in pairs)[-1] for pairs in rows)
    assert f"accuracy in {agree} of {len(rows)} tensors" in lesson02.agreement_sentence(trials)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.2, 0.2), "all of them"),
        ((0.2, 0.02), "those from above"),
        ((0.9, 0.2), "those from below"),
        ((0.9, 0.02), "none"),
    ],
)
def test_which_descents_arrive(ends, said):
    tied = {
        (2, start): np.array([start, end]) for start, end in zip((1.0, 2.0**-6), ends, strict=True)
    }
    assert lesson03.how_many_arrive(tied, {2: 0.2}) == said


@given(
    st.lists(st.integers(0, 3), min_size=3, max_size=9),
    st.lists(st.integers(0, 3), min_size=3, max_size=9),
)
def test_two_schedules_are_told_apart_beyond_two_standard_errors(one, two):
    landscape = torch.tensor([0.5, 0.3, 0.1, 0.9])
    a, b = landscape[one], landscape[two]
    text = lesson04.compared_sentence("A", "B", a, b)
    noise = np.sqrt(np.var(a.numpy(), ddof=1) / len(one) + np.var(b.numpy(), ddof=1) / len(two))
    difference = float(a.mean() - b.mean())
    if abs(abs(difference) - 2 * noise) < 1e-6:
        return  # on the edge, where rounding decides
    if abs(difference) < 2 * noise:
        assert "may be chance" in text
    else:
        assert f"Here {'B' if difference > 0 else 'A'} is better" in text


@given(st.floats(1, 99), st.floats(1, 99), st.floats(1, 99))
def test_where_half_and_half_lies(eight, half, two):
    said = lesson05.where_half_lies(eight, half, two)
    assert (said == "below both") == (half < min(eight, two))


@given(
    st.dictionaries(st.sampled_from(["uniform", "greedy"]), ranks, min_size=1),
    st.lists(ranks, min_size=1, max_size=4),
)
def test_who_finds_the_optimum(rivals, hmq):
    (text,) = lesson06.choice_sentences({8.0: rivals}, {8.0: hmq})
    assert numbers(text)[:3] == [8, hmq.count(1), len(hmq)]
    behind = text.split("of the rivals, ")[1]
    for name, rank in rivals.items():
        assert (name in behind) == (rank == 1)
    assert lesson06.how_often(hmq) == {0: "with none", len(hmq): "with every seed"}.get(
        hmq.count(1), "with some"
    )


@given(st.dictionaries(st.sampled_from(["cycles", "one decay", "constant"]), regrets, min_size=2))
def test_a_schedule_is_better_only_beyond_its_seeds(lost):
    means = {name: np.mean(values) for name, values in lost.items()}
    within = max(np.ptp(values) for values in lost.values())
    no_difference = max(means.values()) - min(means.values()) <= within
    assert ("show no difference" in lesson06.schedule_sentence(lost)) == no_difference
    best = lesson06.least_regret(lost)
    assert best == "no difference" if no_difference else means[best] == min(means.values())


@given(
    st.dictionaries(
        st.sampled_from("ab"), st.lists(st.floats(0, 100), min_size=1, max_size=3), min_size=1
    )
)
def test_searches_far_below_the_best_are_counted(accuracies):
    best = max(max(values) for values in accuracies.values())
    low = {name: sum(v < best - 5 for v in values) for name, values in accuracies.items()}
    text = lesson06.accuracy_sentence(accuracies)
    for name, count in low.items():
        assert (f"{count} of {len(accuracies[name])} with {name}" in text) == (count > 0)


@given(st.dictionaries(st.sampled_from("abc"), st.floats(-1, 1), min_size=1))
def test_measures_that_go_with_the_bits_are_named(correlation):
    text = lesson09.measures_sentence(correlation)
    good = [what for what, c in correlation.items() if abs(c) >= 0.7]
    assert text.startswith("No measure") if not good else text.startswith(lessons.listed(good))


@given(
    st.lists(st.integers(1, 8), min_size=3, max_size=9),
    st.lists(st.integers(1, 8), min_size=3, max_size=9),
)
def test_rank_correlation_is_scipys(one, two):
    stats = pytest.importorskip("scipy.stats")
    size = min(len(one), len(two))
    one, two = one[:size], two[:size]
    if len(set(one)) == 1 or len(set(two)) == 1:
        assert np.isnan(lesson09.spearman(one, two))
    else:
        assert lesson09.spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic)


@given(
    st.dictionaries(
        st.sampled_from(["x", "y", "z"]), st.tuples(st.floats(0, 90), shares, shares), min_size=1
    )
)
def test_the_worst_fault_is_the_one_with_the_lowest_accuracy(found):
    accuracies = {name: row[0] for name, row in found.items()}
    codes = {name: list(row[1:]) for name, row in found.items()}
    said = lesson10.fault_sentences(95.0, accuracies, codes)
    worst = said[1].split(" ")[0]
    assert accuracies[worst] == min(accuracies.values())
    assert (len(said) == 3) == (said[0].split(" ")[0] != worst)


@given(st.lists(st.floats(0.1, 16), min_size=2, max_size=6))
def test_thresholds_are_settled_from_there_on(theta):
    counts = list(range(1, len(theta) + 1))
    after = lesson13.settled_after(counts, {"relu": theta})
    exponents = [int(np.ceil(np.log2(v))) for v in theta]
    assert len(set(exponents[after - 1 :])) == 1
    assert after == 1 or exponents[after - 2] != exponents[-1]


def test_how_accuracy_falls_is_read_from_a_straight_line():
    assert lesson07.how_it_falls({8.0: 0.0, 12.0: -1.0, 16.0: -2.0}) == "steadily"
    assert lesson07.how_it_falls({8.0: 0.0, 12.0: -1.9, 16.0: -2.0}) == "mostly early"
    assert lesson07.how_it_falls({8.0: 0.0, 12.0: -0.2, 16.0: -3.0}) == "mostly at the end"


def test_figures_draw_with_a_sentence():
    """One of each lesson that needs no search; the others are drawn when the lessons run."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, generator=generator)
    drawings = [
        lesson00.error_by_threshold((0, -1, -2), (0.3, 0.1, 0.2), 0.9, bits=2),
        lesson01.two_ranges(),
        lesson04.triangles(
            torch.tensor([0.6, 0.3, 0.1]), {t: torch.rand(9, 3).softmax(1) for t in (0.1, 1.0)}
        ),
        lesson05.logit_gradient(
            torch.randn(8, 8, generator=generator), list(range(0, -8, -1)), "title"
        ),
        lesson06.shares({"a.weight": 10, "b.weight": 30}),
        lesson10.channels(weight, 2 * weight, "conv"),
        lesson13.running_maxima([1, 2], {"relu": [1.5, 2.5]}, {"relu": 5.0}),
    ]
    for drawing in drawings:
        drawing.draw_without_rendering()
        assert drawing.sentence.endswith(".") and len(drawing.sentence) > 30


@pytest.mark.parametrize("count", [1, 4, 7])
def test_any_number_of_rivals_is_drawn(count):
    """Each rival has its own look, and a mark at its regret for each target."""
    names = [f"rival {k}" for k in range(count)]
    rivals = {target: {name: 0.1 * k for k, name in enumerate(names)} for target in (6.0, 8.0)}
    hmq = dict.fromkeys(rivals, (0.0, 0.1))
    drawing = lesson06.regrets(rivals, hmq, dict.fromkeys(rivals, 1.0))
    (ax,) = drawing.axes
    marks = [line for line in ax.lines if line.get_label() in names]
    looks = {(line.get_color(), line.get_marker()) for line in marks}
    assert len(marks) == len(looks) == count
    assert [line.get_ydata()[0] for line in marks] == [0.1 * k for k in range(count)]
