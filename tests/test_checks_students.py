"""Answers as students type them: other words for the right thing pass, slips of the pen do not.

They stand beside those of `test_checks_NN.py`: NumPy where the lesson has torch and the other way round, loops, float32,
comprehensions, a library's own function; and for each exercise mistakes that somebody makes.
"""

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from scipy import stats

from hmq_lab import checks
from hmq_lab.checks import frame


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    monkeypatch.setattr(frame, "DRAWING", False)


def array(value):
    return np.asarray(value, dtype=np.float64)


def first_best_bits(costs, sizes, target):
    """By recursion, the bits of the first tensor outside."""
    found = (math.inf, None)

    def go(number, chosen, cost):
        nonlocal found
        if number == len(costs):
            left = sum(b * n for b, n in zip(chosen, sizes, strict=True))
            if 32 * sum(sizes) >= target * left and cost < found[0]:
                found = cost, list(chosen)
            return
        for bits in costs[number]:
            go(number + 1, [*chosen, bits], cost + costs[number][bits])

    go(0, [], 0.0)
    return found[1]


def autograd_of_logits(logits, losses):
    logits = torch.as_tensor(logits).detach().clone().requires_grad_()
    (torch.softmax(logits, -1) * torch.as_tensor(losses)).sum().backward()
    return logits.grad


def jacobian_of_logits(logits, losses):
    p = np.exp(array(logits) - array(logits).max())
    p /= p.sum()
    return (np.diag(p) - np.outer(p, p)) @ array(losses)


def bisected_logit(others, probability):
    low, high = -60.0, 60.0
    rest = torch.logsumexp(torch.as_tensor(others, dtype=torch.float64), 0).item()
    for _ in range(200):
        middle = (low + high) / 2
        share = 1 / (1 + math.exp(rest - middle))
        low, high = (middle, high) if share < probability else (low, middle)
    return middle


def einsum_parameters(probabilities, bits, exponents, signed):
    p, t = array(probabilities), 2.0 ** array(exponents)
    steps = 2.0 ** -(array(bits) - bool(signed))
    return np.einsum("bt,b,t->", p, steps, t), np.einsum("bt,t->", p, t)


def looped_selection(probabilities):
    sums = [sum(row) for row in probabilities.tolist()]
    row = sums.index(max(sums))
    values = probabilities.tolist()[row]
    return [row, values.index(max(values))]


def looped_front(points):
    kept = []
    for rate, accuracy in points:
        beaten = False
        for r, a in points:
            if (r > rate and a >= accuracy) or (r >= rate and a > accuracy):
                beaten = True
        kept.append(beaten is False)
    return kept


def looped_rates(tables, bits, sizes):
    expected = chosen = 0.0
    for table, size in zip(tables, sizes, strict=True):
        marginal = [sum(row) for row in np.asarray(table).tolist()]
        expected += size * sum(p * b for p, b in zip(marginal, bits, strict=True))
        chosen += size * bits[max(range(len(bits)), key=marginal.__getitem__)]
    return [32 * sum(sizes) / expected, 32 * sum(sizes) / chosen]


def packed_in_text(codes, bits):
    text = "".join(format(code % 2**bits, f"0{bits}b")[::-1] for code in codes)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8)]


def register_of(weight, bias, largest):
    """From the least and the most that each output can be, in Python's integers."""
    need = 1
    for row, start in zip(weight.tolist(), bias.tolist(), strict=True):
        ends = [start, start]
        for w in row:
            ends[w > 0] += w * largest
        for end in ends:
            need = max(need, 1 + (end if end >= 0 else -end - 1).bit_length())
    return need


RIGHT = {
    "largest": [
        lambda bits, threshold: threshold * (1 - 2.0 ** (1 - bits)),
        lambda bits, threshold: threshold * (2 ** (bits - 1) - 1) / 2 ** (bits - 1),
        lambda bits, threshold: np.float32(threshold) - np.float32(threshold) / 2 ** (bits - 1),
        lambda bits, threshold: torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))[-1] * threshold / 2 ** (bits - 1),
    ],
    "mean_bits": [
        lambda bits, sizes: np.dot(bits, sizes) / np.sum(sizes),
        lambda bits, sizes: np.average(bits, weights=sizes),
        lambda bits, sizes: torch.dot(torch.tensor(bits).float(), torch.tensor(sizes).float()) / sum(sizes),
        lambda bits, sizes: statistics.fmean(bits, sizes),
    ],
    "step": [
        lambda bits, threshold, signed: threshold * 2.0 ** (int(signed) - bits),
        lambda bits, threshold, signed: math.ldexp(threshold, signed - bits),
        lambda bits, threshold, signed: (threshold - (-threshold if signed else 0)) / (1 << bits),
    ],
    "hinge": [
        lambda rate, target: max(0.0, 1 - rate / target) ** 2,
        lambda rate, target: torch.clamp(torch.tensor(1 - rate / target, dtype=torch.float32), min=0).pow(2),
        lambda rate, target: np.maximum((target - rate) / target, 0) ** 2,
        lambda rate, target: ((target - rate) / target) ** 2 if rate < target else 0,
    ],
    "regret": [
        lambda losses, rates, chosen, target: losses[chosen] - min(l for l, r in zip(losses, rates, strict=True) if not r < target),
        lambda losses, rates, chosen, target: losses[chosen] - array(losses)[array(rates) >= target].min(),
        lambda losses, rates, chosen, target: float(np.float32(losses[chosen]) - np.float32(min(losses[i] for i in range(len(losses)) if rates[i] >= target))),
    ],
    "best_bits": [
        first_best_bits,
        lambda costs, sizes, target: tuple(first_best_bits(costs, sizes, target)),
        lambda costs, sizes, target: torch.tensor(first_best_bits(costs, sizes, target)),
    ],
    "expected_gradient": [
        autograd_of_logits,
        jacobian_of_logits,
        lambda logits, losses: (p := torch.softmax(logits, 0)) * losses - p * (p @ losses),
        lambda logits, losses: jacobian_of_logits(logits, losses).tolist(),
    ],
    "first_logit": [
        bisected_logit,
        lambda others, probability: torch.logsumexp(others, 0) + math.log(probability / (1 - probability)),
        lambda others, probability: np.log(np.exp(array(others)).sum() / (1 / probability - 1)),
    ],
    "expected_parameters": [
        einsum_parameters,
        lambda probabilities, bits, exponents, signed: list(einsum_parameters(probabilities, bits, exponents, signed)),
        lambda probabilities, bits, exponents, signed: torch.tensor(einsum_parameters(probabilities, bits, exponents, signed)),
    ],
    "selection": [
        looped_selection,
        lambda probabilities: np.array(looped_selection(probabilities)),
        lambda probabilities: (r := probabilities.sum(1).argmax(), probabilities[r].argmax()),
    ],
    "cycle_temperature": [
        lambda step, steps_per_epoch: max(0.5, 2.718281828459045 ** (-0.01 * round(25 * (step % (5 * steps_per_epoch)) / steps_per_epoch))),
        lambda step, steps_per_epoch: np.clip(np.exp(-0.01 * np.round((step % (5 * steps_per_epoch)) / (steps_per_epoch / 25))), 0.5, None),
        lambda step, steps_per_epoch: torch.tensor(0.01 * round(math.fmod(step, 5 * steps_per_epoch) / (steps_per_epoch / 25))).neg().exp().clamp(min=0.5),
    ],
    "both_rates": [
        looped_rates,
        lambda tables, bits, sizes: tuple(looped_rates(tables, bits, sizes)),
        lambda tables, bits, sizes: np.float32(looped_rates(tables, bits, sizes)),
    ],
    "one_bit_share": [
        lambda target: max(0, (2 * target - 32) / target),
        lambda target: 0 if target <= 16 else 2 - 32 / target,
        lambda target: np.clip(2 - 32 / target, 0, 1),
        lambda target: torch.relu(2 - 32 / torch.tensor(float(target))),
    ],
    "standard_error": [
        lambda accuracy, images: 100 * math.sqrt(accuracy / 100 * (1 - accuracy / 100) / images),
        lambda accuracy, images: np.sqrt(accuracy * (100 - accuracy)) / np.sqrt(images),
        lambda accuracy, images: 100 * stats.binom(images, accuracy / 100).std() / images,
    ],
    "inverted": [
        lambda inputs, outputs, expansion, kernel: [
            sum(p.numel() for p in layers.parameters()) if layers else 0
            for layers in (
                torch.nn.Conv2d(inputs, inputs * expansion, 1, bias=False) if expansion != 1 else None,
                torch.nn.Conv2d(inputs * expansion, inputs * expansion, kernel, groups=inputs * expansion, bias=False),
                torch.nn.Conv2d(inputs * expansion, outputs, 1, bias=False),
            )
        ],
        lambda inputs, outputs, expansion, kernel: (
            (expansion > 1) * expansion * inputs**2, expansion * inputs * kernel * kernel, expansion * inputs * outputs),
        lambda inputs, outputs, expansion, kernel: np.array([
            0 if expansion == 1 else inputs * inputs * expansion, inputs * expansion * kernel**2, inputs * expansion * outputs]),
    ],
    "rest_rate": [
        lambda rate, elements, kept, bits: (
            math.inf if 32 * elements / rate <= kept * bits else 32 / ((32 * elements / rate - kept * bits) / (elements - kept))),
        lambda rate, elements, kept, bits: (
            np.inf if (left := 32 * elements - rate * kept * bits) <= 0 else 32 * rate * (elements - kept) / left),
        lambda rate, elements, kept, bits: (
            torch.tensor(float("inf")) if kept * bits * rate >= 32 * elements
            else torch.tensor(32.0 * (elements - kept)) / (32 * elements / rate - kept * bits)),
    ],
    "peak_bytes": [
        lambda sizes, bits: max((a * x + b * y) / 8 for a, x, b, y in zip(sizes, bits, sizes[1:], bits[1:], strict=False)),
        lambda sizes, bits: max(map(sum, itertools.pairwise(n * b for n, b in zip(sizes, bits, strict=True)))) / 8,
        lambda sizes, bits: np.convolve(np.multiply(sizes, bits), [1, 1], "valid").max() / 8,
    ],
    "agreement": [
        lambda one, two, sizes: np.average(np.equal(one, two), weights=sizes),
        lambda one, two, sizes: 1 - sum(n for a, b, n in zip(one, two, sizes, strict=True) if a != b) / sum(sizes),
        lambda one, two, sizes: (torch.tensor(sizes).float() * (torch.tensor(one) == torch.tensor(two))).sum() / sum(sizes),
    ],
    "rank_correlation": [
        lambda one, two: stats.spearmanr(one, two).statistic,
        lambda one, two: stats.pearsonr(stats.rankdata(one), stats.rankdata(two)).statistic,
        lambda one, two: np.float32(np.corrcoef(stats.rankdata(one), stats.rankdata(two))[0, 1]),
    ],
    "kept": [
        lambda selections, least: (np.array(selections) >= least).all(0),
        lambda selections, least: [all(s[i] >= least for s in selections) for i in range(len(selections[0]))],
        lambda selections, least: (torch.tensor(selections).min(0).values >= least).tolist(),
    ],
    "wcr": [
        lambda sizes, bits: 32 / np.average(bits, weights=sizes),
        lambda sizes, bits: sum(32 * n for n in sizes) / sum(map(lambda n, b: n * b, sizes, bits)),
        lambda sizes, bits: torch.tensor(sizes).float().sum() * 32 / (torch.tensor(sizes).float() @ torch.tensor(bits).float()),
    ],
    "best_rate": [
        lambda results, points: max([r for r, a, f in results if a >= f - points], default=0),
        lambda results, points: max([0, *(r for r, a, f in results if not f - a > points)]),
    ],
    "pareto": [looped_front, lambda points: np.array(looped_front(points)), lambda points: torch.tensor(looped_front(points))],
    "recount": [
        lambda rate, quantized, left_float: 32 * (quantized + left_float) / (32 / rate * quantized + 32 * left_float),
        lambda rate, quantized, left_float: 1 / ((quantized / (quantized + left_float)) / rate + left_float / (quantized + left_float)),
        lambda rate, quantized, left_float: np.float32(quantized + left_float) / np.float32(quantized / rate + left_float),
    ],
    "beats": [
        lambda mine, other: all(m >= o for m, o in zip(mine, other, strict=True)) and any(m > o for m, o in zip(mine, other, strict=True)),
        lambda mine, other: bool(np.all(np.array(mine) >= other) and np.any(np.array(mine) > other)),
        lambda mine, other: not (mine[0] < other[0] or mine[1] < other[1] or tuple(mine) == tuple(other)),
    ],
    "cheapest_bit": [
        lambda changes, sizes: int(np.argmin(np.array(changes) / np.array(sizes))),
        lambda changes, sizes: min(range(len(sizes)), key=lambda i: changes[i] / sizes[i]),
        lambda changes, sizes: (torch.tensor(changes) / torch.tensor(sizes)).argmin(),
    ],
    "bit_operations": [
        lambda macs, weight_bits, input_bits: np.einsum("i,i,i->", macs, weight_bits, input_bits),
        lambda macs, weight_bits, input_bits: sum(macs[i] * weight_bits[i] * input_bits[i] for i in range(len(macs))),
        lambda macs, weight_bits, input_bits: (torch.tensor(macs) * torch.tensor(weight_bits) * torch.tensor(input_bits)).sum(),
    ],
    "activation_bits": [
        lambda sizes, rate: [int(np.clip(32 * max(sizes) // (rate * n), 4, 8)) for n in sizes],
        lambda sizes, rate: np.clip(np.floor(32 * max(sizes) / (rate * np.array(sizes))), 4, 8).astype(int),
        lambda sizes, rate: sorted_in(sizes, rate),
    ],
    "aligned_sum": [
        lambda a, a_exponent, b, b_exponent: (
            a * 2 ** max(0, a_exponent - b_exponent) + b * 2 ** max(0, b_exponent - a_exponent)),
        lambda a, a_exponent, b, b_exponent: (
            (a << (a_exponent - b_exponent)) + b if a_exponent > b_exponent else a + (b << (b_exponent - a_exponent))),
        lambda a, a_exponent, b, b_exponent: (
            a.numpy() * 2 ** max(0, a_exponent - b_exponent) + b.numpy() * 2 ** max(0, b_exponent - a_exponent)),
    ],
    "accumulator_bits": [register_of, lambda *a: torch.tensor(register_of(*a)), lambda *a: np.int64(register_of(*a))],
    "pack": [packed_in_text, lambda codes, bits: bytes(packed_in_text(codes, bits)), lambda codes, bits: np.array(packed_in_text(codes, bits), np.uint8)],
}  # fmt: skip


def sorted_in(sizes, rate):
    bits = []
    for size in sizes:
        found = 8
        while found > 4 and found * size * rate > 32 * max(sizes):
            found -= 1
        bits.append(found)
    return bits


WRONG = {
    "largest": [
        lambda bits, threshold: threshold,
        lambda bits, threshold: threshold - threshold / 2**bits,
        lambda bits, threshold: 2**bits - 1,
    ],
    "mean_bits": [
        lambda bits, sizes: sum(bits) / len(bits),
        lambda bits, sizes: sum(b * n for b, n in zip(bits, sizes, strict=True)) / len(bits),
        lambda bits, sizes: 32 * sum(sizes) / sum(b * n for b, n in zip(bits, sizes, strict=True)),
    ],
    "hinge": [
        lambda rate, target: abs(target - rate) / target,
        lambda rate, target: max(target - rate, 0) ** 2 / target**2 * 32,
        lambda rate, target: max((rate - target) / target, 0) ** 2,
    ],
    "regret": [
        lambda losses, rates, chosen, target: losses[chosen] - min(l for l, r in zip(losses, rates, strict=True) if r <= target),
        lambda losses, rates, chosen, target: losses[chosen] - losses[rates.index(max(rates))],
        lambda losses, rates, chosen, target: losses[chosen],
    ],
    "best_bits": [
        lambda costs, sizes, target: [min(row) for row in costs],
        lambda costs, sizes, target: [max(row) for row in costs],
        lambda costs, sizes, target: [min(row, key=row.__getitem__) for row in costs],
    ],
    "expected_gradient": [
        lambda logits, losses: losses - (torch.softmax(logits, 0) * losses).sum(),
        lambda logits, losses: torch.softmax(logits, 0) * losses,
        lambda logits, losses: torch.softmax(logits, 0) * ((torch.softmax(logits, 0) * losses).sum() - losses),
        lambda logits, losses: torch.softmax(logits, 0) * (losses - losses.mean()),
    ],
    "first_logit": [
        lambda others, probability: math.log(probability * len(others) / (1 - probability)),
        lambda others, probability: math.log(probability * others.sum().abs() / (1 - probability)),
        lambda others, probability: math.log((1 - probability) * others.exp().sum() / probability),
    ],
    "expected_parameters": [
        lambda p, b, e, s: ((p * 2.0 ** (e - b[:, None])).sum(), (p * 2.0**e).sum()),
        lambda p, b, e, s: einsum_parameters(p, b, e, s)[::-1],
        lambda p, b, e, s: (2.0 ** (p.sum(0) @ e.to(p)) / 2.0 ** (p.sum(1) @ b.to(p) - int(s)), 2.0 ** (p.sum(0) @ e.to(p))),
    ],
    "selection": [
        lambda p: divmod(int(p.argmax()), p.shape[1]),
        lambda p: looped_selection(p)[::-1],
        lambda p: (int(p.sum(1).argmax()), int(p.sum(0).argmax())),
    ],
    "cycle_temperature": [
        lambda step, steps_per_epoch: max(0.5, math.exp(-0.01 * round(step / (steps_per_epoch / 25)))),
        lambda step, steps_per_epoch: math.exp(-0.01 * round(step % (5 * steps_per_epoch) / (steps_per_epoch / 25))),
        lambda step, steps_per_epoch: max(0.5, math.exp(-0.01 * (step % (5 * steps_per_epoch)))),
    ],
    "both_rates": [
        lambda t, b, s: looped_rates(t, b, s)[::-1],
        lambda t, b, s: looped_rates(t, b, [1] * len(s)),
        lambda t, b, s: [looped_rates(t, b, s)[0]] * 2,
    ],
    "one_bit_share": [
        lambda target: 2 - 32 / target,
        lambda target: max(0, 1 - 16 / target),
        lambda target: max(0, 32 / target - 1),
    ],
    "standard_error": [
        lambda accuracy, images: accuracy * (100 - accuracy) / images,
        lambda accuracy, images: (accuracy * (100 - accuracy)) ** 0.5 / images,
        lambda accuracy, images: (accuracy / 100 * (1 - accuracy / 100) / images) ** 0.5,
    ],
    "rest_rate": [
        lambda rate, elements, kept, bits: rate,
        lambda rate, elements, kept, bits: rate * elements / (elements - kept),
        lambda rate, elements, kept, bits: 32 * (elements - kept) / (32 * elements / rate - kept * bits + 1e-12),
    ],
    "peak_bytes": [
        lambda sizes, bits: max(n * b for n, b in zip(sizes, bits, strict=True)) / 8,
        lambda sizes, bits: sum(n * b for n, b in zip(sizes, bits, strict=True)) / 8,
        lambda sizes, bits: sum(sorted(n * b for n, b in zip(sizes, bits, strict=True))[-2:]) / 8,
    ],
    "agreement": [
        lambda one, two, sizes: sum(a == b for a, b in zip(one, two, strict=True)) / len(one),
        lambda one, two, sizes: sum(n for a, b, n in zip(one, two, sizes, strict=True) if a == b),
        lambda one, two, sizes: float(np.corrcoef(one, two)[0, 1]),
    ],
    "rank_correlation": [
        lambda one, two: np.corrcoef(one, two)[0, 1],
        lambda one, two: stats.kendalltau(one, two).statistic,
        lambda one, two: np.corrcoef(np.argsort(one), np.argsort(two))[0, 1],
        lambda one, two: np.corrcoef(stats.rankdata(one, "min"), stats.rankdata(two, "min"))[0, 1],
    ],
    "kept": [
        lambda selections, least: [max(c) >= least for c in zip(*selections, strict=True)],
        lambda selections, least: [min(c) > least for c in zip(*selections, strict=True)],
        lambda selections, least: [min(row) >= least for row in selections],
    ],
    "wcr": [
        lambda sizes, bits: 32 / (sum(bits) / len(bits)),
        lambda sizes, bits: sum(n * b for n, b in zip(sizes, bits, strict=True)) / sum(sizes),
        lambda sizes, bits: sum(n * 32 / b for n, b in zip(sizes, bits, strict=True)) / sum(sizes),
    ],
    "best_rate": [
        lambda results, points: max((r for r, a, f in results if f - a < points), default=0),
        lambda results, points: max((r for r, a, f in results if max(x[1] for x in results) - a <= points), default=0),
        lambda results, points: min((r for r, a, f in results if f - a <= points), default=0),
    ],
    "recount": [
        lambda rate, quantized, left_float: (rate * quantized + left_float) / (quantized + left_float),
        lambda rate, quantized, left_float: quantized / (quantized / rate + left_float),
        lambda rate, quantized, left_float: (quantized + left_float) / (quantized / rate),
    ],
    "beats": [
        lambda mine, other: mine > other,
        lambda mine, other: mine[0] > other[0] and mine[1] > other[1],
        lambda mine, other: sum(mine) > sum(other),
        lambda mine, other: mine[0] >= other[0] and mine[1] >= other[1],
    ],
    "cheapest_bit": [
        lambda changes, sizes: changes.index(min(changes)),
        lambda changes, sizes: sizes.index(max(sizes)),
        lambda changes, sizes: int(np.argmin(np.abs(np.array(changes) / np.array(sizes)))),
    ],
    "activation_bits": [
        lambda sizes, rate: [min(8, max(4, round(32 * max(sizes) / (rate * n)))) for n in sizes],
        lambda sizes, rate: [min(8, max(4, math.floor(32 / rate))) for n in sizes],
        lambda sizes, rate: [max(4, math.floor(32 * max(sizes) / (rate * n))) for n in sizes],
    ],
    "aligned_sum": [
        lambda a, a_exponent, b, b_exponent: a + b,
        lambda a, a_exponent, b, b_exponent: (a << max(0, b_exponent - a_exponent)) + (b << max(0, a_exponent - b_exponent)),
        lambda a, a_exponent, b, b_exponent: (a >> max(0, b_exponent - a_exponent)) + (b >> max(0, a_exponent - b_exponent)),
    ],
    "accumulator_bits": [
        lambda weight, bias, largest: 32,
        lambda weight, bias, largest: 1 + int((weight.abs().sum(1) * largest + bias.abs()).max()).bit_length(),
        lambda weight, bias, largest: int((weight.abs().sum(1) * largest).max()).bit_length(),
    ],
    "pack": [
        lambda codes, bits: [code & (2**bits - 1) for code in codes],
        lambda codes, bits: packed_in_text(codes[::-1], bits),
        lambda codes, bits: packed_in_text([abs(c) for c in codes], bits),
    ],
}  # fmt: skip


def cases(table):
    return [
        pytest.param(name, answer, id=f"{name}-{number}")
        for name, answers in table.items()
        for number, answer in enumerate(answers)
    ]


@pytest.mark.filterwarnings("ignore:To copy construct", "ignore:divide by zero")
@pytest.mark.parametrize(("name", "answer"), cases(RIGHT))
def test_a_right_answer_in_other_words_passes(name, answer):
    verdict = getattr(checks, name)(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(("name", "answer"), cases(WRONG))
def test_a_slip_does_not_pass(name, answer):
    verdict = getattr(checks, name)(answer)
    assert verdict.passed is False, f"{name} passed"
    # A student reads the message: it is not Python's.
    assert verdict.message and "Traceback" not in verdict.message
