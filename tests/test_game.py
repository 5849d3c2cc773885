"""The game: every number against a full forward pass with fixed schemes; moves, files, hints and the board."""

import copy
import csv
import dataclasses
import functools
import json
import os
import random
import threading
import time

import matplotlib
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rivals import computed_layers
from torch import nn

matplotlib.use("agg")

from hmq_lab import SearchSpace, attach, explorers, plots
from hmq_lab.commands import bench_explorers as bench
from hmq_lab.data.files import digest
from hmq_lab.placement import blocks, calibrate
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals import game, scores
from hmq_lab.rivals.arena import Arena
from hmq_lab.rivals.scores import Outcome
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


class Net(nn.Module):
    """A shortcut with a weight of its own: the first layer, two beside each other, the last."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.side = (
            nn.Conv2d(3, 6, 3),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Conv2d(6, 6, 1),
        )
        self.relu, self.fc = nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        x = self.relu(self.a(x))
        return self.fc(self.relu(self.b(x) + self.side(x)).mean((2, 3)))


def network():
    torch.manual_seed(1)
    return Net()


@functools.cache
def attached():
    model = attach(network(), SearchSpace(), X[:2])
    calibrate(model, [X])
    return model


def fixed(choice=None, bits=8):
    """The network with activations calibrated and a scheme on every weight: nothing of a game in it."""
    model = copy.deepcopy(attached())
    for name, block in blocks(model, "weight").items():
        block.fix(Scheme(*choice[name], True) if choice else block.select(bits))
    return model.eval()


def whole_pass(choice):
    """(accuracy, loss) of a full forward pass."""
    with torch.no_grad():
        logits = fixed(choice)(X)
    return 100 * (logits.argmax(1) == Y).double().mean().item(), F.cross_entropy(logits, Y).item()


def record(**header):
    """A record as a search on this network would leave it: 8, 5, 3 and 6 bits."""
    model = fixed()
    for bits, block in zip((8, 5, 3, 6), blocks(model, "weight").values(), strict=True):
        block.fix(Scheme(bits, int(block.exponent) - 1, True))
    for block in blocks(model, "activation").values():
        block.fix(Scheme(8, int(block.exponent) - 1, block.signed))
    tensors, floats = records.describe(model)
    for t in tensors:
        block = blocks(model)[t["name"]]
        t["space"] = {"bits": block.bits.tolist(), "exponents": block.exponents.tolist()}
        t["bits_before_repair"] = t["bits"]
    about = {
        "schema": 1,
        "model": "net",
        "weights": digest({}, network().state_dict()),
        "target": {"weights": 6.0},
    }
    return Record(
        about | {"space": {"bits": list(range(1, 9)), "thresholds": 8}} | header, tensors, floats
    )


@pytest.fixture(scope="module")
def arena():
    return Arena(network(), X, Y, "net", few=20)


@pytest.fixture
def play(arena, tmp_path):
    return game.Game(arena, target=8, folder=tmp_path, player="ada")


def state(play):
    return play.choice, play.outcome, play.locked


# --- outcomes


def test_outcomes_are_those_of_a_full_forward_pass(play):
    seen = set()
    for layer, bits, threshold in (("fc.weight", 2, None), ("a.weight", 3, None), ("side.weight", 1, -3),
                                   ("a.weight", None, -3), ("b.weight", 8, None), ("fc.weight", 5, None)):  # fmt: skip
        outcome = play.play(layer, bits, threshold)
        accuracy, loss = whole_pass(play.choice)
        assert outcome.accuracy == accuracy and outcome.loss == loss
        sizes = {"a.weight": 162, "b.weight": 324, "side.weight": 36, "fc.weight": 18}
        used = sum(n * play.choice[name][0] for name, n in sizes.items())
        assert outcome.rate == 32 * 540 / used and outcome.weight_bytes == used / 8
        macs = {"a.weight": 36 * 162, "b.weight": 36 * 324, "side.weight": 36 * 36, "fc.weight": 18}
        inputs = {
            "a.weight": 32,
            "b.weight": 8,
            "side.weight": 8,
            "fc.weight": 32,
        }  # float: the picture, the mean
        expected = sum(macs[name] * play.choice[name][0] * inputs[name] for name in macs)
        assert outcome.bit_operations == expected
        seen.add(loss)
    assert len(seen) == 6


def test_the_threshold_follows_the_bits_unless_it_is_given(play, arena):
    weight = network().b.weight.detach().double()
    for bits in (1, 2, 3, 6):
        play.play("b.weight", bits)
        error = {}
        for e in arena.exponents("b.weight"):
            step = 2.0 ** (e - bits + 1)
            q = (weight / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
            error[e] = (q - weight).square().sum().item()
        assert error[play.choice["b.weight"][1]] == min(error.values())
    play.play("b.weight", 6, threshold=-4)
    assert play.choice["b.weight"] == (6, -4)
    play.play("b.weight", 6)
    assert play.choice["b.weight"] == (6, -4)  # the same bits: nothing to follow


MOVES = st.one_of(
    st.tuples(st.just("play"), st.sampled_from(["a.weight", "b.weight", "side.weight", "fc.weight"]),
              st.integers(1, 8), st.one_of(st.none(), st.integers(0, 7))),
    st.tuples(st.sampled_from(["undo", "redo", "uniform", "lock", "unlock"])),
)  # fmt: skip


@given(st.lists(MOVES, min_size=3, max_size=12))
@settings(max_examples=10)
def test_any_moves_undone_give_the_beginning_and_the_cache_is_right(tmp_path_factory, arena, moves):
    play = game.Game(arena, target=8, folder=tmp_path_factory.mktemp("any"))
    first, history, at = play.choice, [play.choice], 0
    for move in moves:
        if move[0] == "play":
            _, layer, bits, octave = move
            threshold = None if octave is None else arena.exponents(layer)[octave]
            if layer in play.locked:
                with pytest.raises(ValueError, match="locked"):
                    play.play(layer, bits, threshold)
            else:
                play.play(layer, bits, threshold)
        elif move[0] == "uniform":
            play.start("uniform")
        elif move[0] in ("lock", "unlock"):
            play.lock("b.weight", move[0] == "lock")
        else:
            step = 1 if move[0] == "redo" else -1
            there = 0 <= at + step < len(history)
            if there and any(history[at + step][name] != play.choice[name] for name in play.locked):
                with pytest.raises(ValueError, match=f"{move[0]} would change b.weight, locked"):
                    getattr(play, move[0])()
                assert play.choice == history[at]
            elif not there:
                with pytest.raises(ValueError, match=f"nothing to {move[0]}"):
                    getattr(play, move[0])()
            else:
                getattr(play, move[0])()
                at += step
                assert play.choice == history[at]
            continue
        if play.choice != history[at]:
            history = [*history[: at + 1], play.choice]
            at += 1
    assert (play.outcome.accuracy, play.outcome.loss) == whole_pass(play.choice)
    play.lock("b.weight", False)
    for _ in range(at):
        play.undo()
    assert play.choice == first
    with pytest.raises(ValueError, match="nothing to undo"):
        play.undo()


def test_what_was_measured_is_not_measured_again_and_a_late_move_computes_late_layers(
    arena, tmp_path, monkeypatch
):
    play = game.Game(arena, folder=tmp_path, player="counting")
    assert arena.references  # or the first move would measure them
    play.start(
        {name: (7, arena.exponents(name)[-1]) for name in arena.layers}
    )  # as no other test does
    calls = computed_layers(monkeypatch)
    play.play("fc.weight", threshold=-5)
    play.undo()
    play.redo()
    assert calls == ["fc"]
    play.play("b.weight", threshold=-6)
    assert calls == ["fc", "b", "fc"]


# --- starts, locks, hints


def test_starts_keep_what_is_locked(play):
    assert play.choice == play.arena.fitting(
        dict.fromkeys(play.layers, 4)
    )  # the most at a target of 8
    play.play("a.weight", 7)
    play.lock("a.weight")
    kept = play.choice["a.weight"]
    for what in (
        "uniform",
        "greedy",
        dict.fromkeys(play.layers, 2),
        {n: (3, -4) for n in play.layers},
    ):
        play.start(what)
        assert play.choice["a.weight"] == kept
    assert all(play.choice[n] == (3, -4) for n in play.layers[1:])
    with pytest.raises(ValueError, match=r"a.weight is locked: unlock it first"):
        play.play("a.weight", 2)
    hint = play.hint()
    assert "a.weight" not in {**hint.less, **hint.more} and hint.layer != "a.weight"
    for name in play.layers:
        play.lock(name)
    assert play.hint().layer is None and "Every layer is locked" in play.hint().sentence
    play.lock("a.weight", locked=False)
    play.play("a.weight", 2)
    assert play.choice["a.weight"][0] == 2


def test_a_hint_is_the_best_of_all_changes_by_one_bit(play):
    few = torch.arange(20) * 2
    for start in (
        dict.fromkeys(play.layers, 4),
        dict.fromkeys(play.layers, 6),
        dict.fromkeys(play.layers, 2),
    ):
        play.start(start)

        def loss(choice):
            with torch.no_grad():
                return F.cross_entropy(fixed(choice)(X[few]), Y[few]).item()

        base, found = loss(play.choice), play.hint()
        for by, told in ((-1, found.less), (1, found.more)):
            for name in play.layers:
                bits = play.choice[name][0] + by
                expected = loss(play.choice | {name: play.arena.pair(name, bits)}) - base
                assert told[name] == pytest.approx(expected, abs=1e-6)
        n = play.arena.sizes
        rate = {name: 32 * 540 / (8 * play.outcome.weight_bytes + n[name]) for name in n}
        gains = {name: c / n[name] for name, c in found.more.items() if c < 0 and rate[name] >= 8}
        table = gains or {name: c / n[name] for name, c in found.less.items()}
        assert found.layer == min(table, key=table.get)
        assert found.bits == play.choice[found.layer][0] + (1 if gains else -1)
        now = play.choice[found.layer][0]
        assert f"{found.bits} instead of {now} bits for {found.layer}" in found.sentence


def test_where_not_every_width_is_there_hints_go_to_the_next(tmp_path):
    found = record(space={"bits": [2, 4, 8], "thresholds": 8})
    for t in found.tensors:
        if t["kind"] == "weight":
            t["bits"] = 4
    play = game.Game(Arena(network(), X, Y, "net", found, few=8), target=8, folder=tmp_path)
    with pytest.raises(ValueError, match=r"among \(2, 4, 8\), got 3"):
        play.play("a.weight", 3)
    hint = play.hint()
    assert hint.less.keys() == hint.more.keys() == set(play.layers) and hint.bits == 2
    play.start(dict.fromkeys(play.layers, 2))
    assert not play.hint().less
    view = explorers.beat(play)
    view.controls["bits"].value = 8
    assert play.choice[view.state.layer][0] == 8


def test_greedy_reaches_the_target_and_takes_the_cheapest_rises(play):
    outcome = play.start("greedy")
    assert outcome.rate >= 8 and not play.scores
    most = dict.fromkeys(play.layers, 8)
    few = torch.arange(20) * 2

    def loss(bits):
        with torch.no_grad():
            return F.cross_entropy(fixed(play.arena.fitting(bits))(X[few]), Y[few]).item()

    rises = {n: {b: loss(most | {n: b}) - loss(most) for b in range(1, 9)} for n in play.layers}
    bits, n = most, play.arena.sizes
    while 32 * 540 / sum(bits[k] * n[k] for k in n) < 8:
        price = {
            (k, b): (rises[k][b] - rises[k][bits[k]]) / n[k] / (bits[k] - b)
            for k in n
            for b in range(1, bits[k])
        }
        name, b = min(price, key=price.get)
        bits = bits | {name: b}
    assert {name: pair[0] for name, pair in play.choice.items()} == bits


# --- HMQ's selection


def test_hmqs_selection_is_judged_on_the_same_weights_pictures_and_activations(tmp_path):
    found = record()
    play = game.Game(Arena(network(), X, Y, "net", found, few=8), target=6, folder=tmp_path)
    model = attach(network(), SearchSpace(), X[:2])
    for t in found.tensors:
        block = blocks(model)[t["name"]]
        block.exponent.fill_(t["space"]["exponents"][0])
        block.fix(Scheme(t["bits"], t["threshold_exponent"], t["signed"]))
    with torch.no_grad():
        logits = model.eval()(X)
    hmq = play.arena.hmq
    assert hmq.loss == F.cross_entropy(logits, Y).item()
    assert [pair[0] for pair in hmq.choice.values()] == [8, 5, 3, 6]
    play.start("HMQ")
    assert play.choice == hmq.choice and not play.scores and not play.won
    with pytest.raises(ValueError, match="no score at the target 6 yet"):
        play.start("best")
    play.play("a.weight", 7)
    assert play.scores == (play.outcome,)
    assert play.won == play.outcome.beats(hmq)
    play.play("a.weight", 8, threshold=hmq.choice["a.weight"][1])
    assert play.choice == hmq.choice and all(s.choice != hmq.choice for s in play.scores)


def test_records_that_do_not_belong_are_refused(tmp_path):
    with pytest.raises(ValueError, match="other weights"):
        Arena(network(), X, Y, "net", record(weights="0"))
    odd = record()
    odd.tensors.pop()
    with pytest.raises(ValueError, match="same quantized tensors"):
        Arena(network(), X, Y, "net", odd)
    odd = record()
    odd.tensors[0]["threshold_exponent"] += 9
    with pytest.raises(ValueError, match=r"threshold exponent of a.weight must be"):
        _ = Arena(network(), X, Y, "net", odd).hmq


def test_the_shipped_game_has_the_recorded_selection(tmp_path):
    play = game.shipped(images=60, few=10, folder=tmp_path)
    described = {
        t["name"]: t
        for t in records.recorded("builtin-tiny_resnet8-w8-a8").tensors
        if t["kind"] == "weight"
    }
    assert play.arena.hmq.choice == {
        n: (t["bits"], t["threshold_exponent"]) for n, t in described.items()
    }
    assert play.arena.hmq.rate == pytest.approx(8.0169, abs=1e-4) and play.target == 8
    assert play.arena.hmq.accuracy > play.arena.references["uniform 2"].accuracy
    assert not list(tmp_path.iterdir())  # looking leaves no file


# --- files


def test_scores_are_kept_and_found_again(play, arena, tmp_path):
    assert not play.file.exists()
    play.play("a.weight", 2)
    play.play("b.weight", 3)
    play.lock("fc.weight")
    again = game.Game(arena, target=8, folder=tmp_path, player="ada")
    assert state(again) == state(play) and again.scores == play.scores and again.scores
    assert again.start(play.file) == play.best
    assert game.Game(arena, target=8, folder=tmp_path, player="ben").scores == ()


def test_two_windows_lose_nothing_to_each_other(play, arena, tmp_path):
    play.play("a.weight", 1)
    other = game.Game(arena, target=8, folder=tmp_path, player="ada")
    other.play("b.weight", 2)
    play.play("a.weight", 8)
    kept = scores.read(play.file).scores
    every = [*play.arena.tried]
    for one in kept:
        assert one in every and not any(two.beats(one) for two in kept)
    assert scores.front([*kept, *other.scores]) == kept == play.scores


def test_two_windows_that_save_at_once_lose_nothing(play, arena, tmp_path, monkeypatch):
    other = game.Game(arena, target=8, folder=tmp_path, player="ada")
    play.scores, other.scores = (outcome(9.0, 10.0),), (outcome(4.0, 90.0),)
    assert arena.references  # measured before
    write = scores.write
    monkeypatch.setattr(
        scores, "write", lambda *saved: (time.sleep(0.2), write(*saved))
    )  # both have read by then
    both = [threading.Thread(target=one.lock, args=("a.weight",)) for one in (play, other)]
    [thread.start() for thread in both]
    [thread.join() for thread in both]
    assert scores.read(play.file).scores == (*other.scores[:1], *play.scores[-1:])
    assert [score.rate for score in scores.read(play.file).scores] == [4.0, 9.0]


def test_a_start_is_no_score_after_a_reload_either(play, arena, tmp_path):
    play.start("greedy")
    greedy = play.choice
    assert greedy != play.arena.fitting(dict.fromkeys(play.layers, 4))

    def back_to_greedy(again):
        for layer in ("fc.weight", "a.weight"):
            again.play(layer, greedy[layer][0] % 8 + 1)
            again.play(layer, *greedy[layer])
        assert again.choice == greedy
        return [score.choice for score in again.scores]

    again = game.Game(arena, target=8, folder=tmp_path, player="ada")
    again.play("b.weight", greedy["b.weight"][0] % 8 + 1)
    again = game.Game(
        arena, target=8, folder=tmp_path, player="ada"
    )  # it stands elsewhere than at the start
    again.play("b.weight", *greedy["b.weight"])
    assert greedy not in back_to_greedy(again) and greedy not in [
        s.choice for s in scores.read(play.file).scores
    ]
    own = game.Game(
        arena, target=8, folder=tmp_path, player="ben"
    )  # who finds it without the start has it
    own.play("b.weight", *greedy["b.weight"])
    own.play("side.weight", *greedy["side.weight"])
    back_to_greedy(own)
    assert any(o.beats(arena.evaluate(greedy)) or o.choice == greedy for o in own.scores)


def test_files_from_before_there_were_given_starts_are_read(play, arena, tmp_path):
    play.play("a.weight", 2)

    def old(content):
        content.pop("given")
        signed(content, schema=1)

    altered(play.file, old)
    again = game.Game(arena, target=8, folder=tmp_path, player="ada")
    assert state(again) == state(play) and again.scores == play.scores
    again.play("b.weight", 3)
    assert json.loads(play.file.read_text())["schema"] == 2 and scores.read(play.file).given


def test_undo_and_redo_leave_what_is_locked(play, view):
    for one in (play, view.game):
        one.play("a.weight", 7)
        one.play("b.weight", 3)
        one.lock("a.weight")
        one.undo()  # changes another layer
        before = one.choice
        with pytest.raises(
            ValueError, match=r"undo would change a.weight, locked: unlock it first"
        ):
            one.undo()
        assert one.choice == before
    view.buttons["undo"].click()
    assert (
        "undo would change a.weight, locked" in view.view.text.value and view.game.choice == before
    )
    play.lock("a.weight", False)
    play.undo()
    play.lock("a.weight")
    with pytest.raises(ValueError, match=r"redo would change a.weight, locked"):
        play.redo()
    play.lock("a.weight", False)
    play.redo()
    assert play.choice["a.weight"][0] == 7


def test_a_failed_write_leaves_the_file_as_it_was(play, monkeypatch, tmp_path):
    play.play("a.weight", 2)
    before = play.file.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        play.play("b.weight", 2)
    assert play.file.read_bytes() == before and {f.name for f in tmp_path.iterdir()} == {
        play.file.name,
        ".lock",
    }


def altered(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def signed(content, **values):
    """Changed by hand, with the SHA-256 of what it is now."""
    content.update(values)
    content["sha256"] = digest({key: value for key, value in content.items() if key != "sha256"})


@pytest.mark.parametrize("change, said", [
    (lambda c: c["scores"][0].update(accuracy=100.0), "was altered"),
    (lambda c: c.update(schema=99), "has schema 99, this version reads 1 and 2"),
    (lambda c: c.pop("sha256"), "is no saved game"),
    (lambda c: signed(c, scores=[{"accuracy": 100.0}]), "is no saved game: scores.0.choice is missing"),
    (lambda c: signed(c, references=[]), "is no saved game: references must be an object, got a list"),
])  # fmt: skip
def test_altered_files_are_refused_by_name(play, arena, tmp_path, change, said):
    play.play("a.weight", 2)
    altered(play.file, change)
    for read in (lambda: game.Game(arena, folder=tmp_path, player="ada"), lambda: game.board(tmp_path),
                 lambda: play.start(play.file)):  # fmt: skip
        with pytest.raises(ValueError, match=f"ada-net-.*{said}"):
            read()


def test_files_of_other_games_are_refused(play, arena, tmp_path):
    play.play("a.weight", 2)
    torch.manual_seed(9)
    others = [
        (Arena(Net(), X, Y, "net"), "other trained weights"),
        (Arena(network(), X[:9], Y[:9], "net"), "other images"),
        (Arena(network(), X, Y, "big"), "the model 'big', not 'net'"),
        (Arena(network(), X, Y, "net", record()), "other activations"),
    ]
    for other, said in others:
        file = game.Game(other, folder=tmp_path / "others", player="ada")
        file.play("a.weight", 2)
        with pytest.raises(ValueError, match=f"is a game on {said}"):
            play.start(file.file)
        board = game.board([play.file, file.file])
        assert [player.setting for player in board.players] == [arena.setting]
        assert (
            f"is a game on {said}: its scores cannot be compared" in board.skipped[str(file.file)]
        )
    assert len(list((tmp_path / "others").glob("*.json"))) == 4  # none of them took another's place
    found = record()
    found.tensors[0]["bits"] = 2
    one, other = (Arena(network(), X, Y, "net", r) for r in (record(), found))
    files = []
    for arena in (one, other):
        files.append(game.Game(arena, target=6, folder=tmp_path / "rivals").file)
        game.Game(arena, target=6, folder=tmp_path / "rivals").play("b.weight", 2)
    assert "is a game on another selection to beat" in game.board(files).skipped[str(files[1])]


@pytest.mark.parametrize("call, said", [
    (lambda p: p.play("c.weight", 2), "no weight 'c.weight'; there are a.weight, b.weight"),
    (lambda p: p.play("a.weight", 9), r"bits of a.weight must be among \(1, 2, .*got 9"),
    (lambda p: p.play("a.weight", True), "got True"),
    (lambda p: p.play("a.weight", threshold=50), "must be a whole number from .* got 50"),
    (lambda p: p.lock("x"), "no weight 'x'"),
    (lambda p: p.start("random"), "a start is one of uniform, greedy, HMQ, best, a saved .json file .*'random'"),
    (lambda p: p.start("HMQ"), "no record"),
    (lambda p: p.start({"a.weight": 2}), "missing or unknown: b.weight"),
    (lambda p: p.export("scores.xls"), ".csv or .json, got scores.xls"),
    (lambda p: game.Game(p.arena, player="../ben"), "name is a letter or digit, then"),
    (lambda p: game.Game(p.arena, player="_ben"), "name is a letter or digit, then.*'_ben'"),
    (lambda p: Arena(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), X, Y, "net"), "no weight that is quantized"),
    (lambda p: game.Game(p.arena, target=40), "target lies between 1 and 32"),
    (lambda p: Arena(network(), X, Y, "net", few=0), "few must be a whole number"),
    (lambda p: game.shipped(images=10**6), "images must be a whole number from 1 to 2,000"),
    (lambda p: game.board([]), "at least one saved file"),
    (lambda p: explorers.beat("shipped"), "beat takes a Game"),
    (lambda p: explorers.beat(p, layer="x"), "no weight 'x'"),
])  # fmt: skip
def test_bad_input_is_named(play, call, said):
    before = state(play)
    with pytest.raises(ValueError, match=said):
        call(play)
    assert state(play) == before and not play.file.exists()
    with pytest.raises(ValueError, match="at least one saved game: no saved game at"):
        game.board([play.file])


def test_exports_hold_the_scores(play, tmp_path):
    play.play("a.weight", 2)
    play.play("fc.weight", 8)
    play.play("b.weight", 2, threshold=-3)
    with play.export(tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    others = json.loads(play.export(tmp_path / "s.json").read_text())
    assert len(rows) == len(others) == len(play.scores) > 0
    for row, other, score in zip(rows, others, play.scores, strict=True):
        assert row == {key: str(value) for key, value in other.items()}
        assert float(row["accuracy"]) == score.accuracy and row["player"] == "ada"
        assert (int(row["b.weight bits"]), int(row["b.weight exponent"])) == score.choice[
            "b.weight"
        ]


SPOILED = {
    "a name that is a formula": (
        lambda c: c.update(player="=1+1"),
        "a player's name is a letter or digit",
    ),
    "a name with a newline": (
        lambda c: c.update(player="ada\n=1+1"),
        "a player's name is a letter or digit",
    ),
    "a name that is a number": (lambda c: c.update(player=3), "player must be a text, got 3"),
    "no player": (lambda c: c.pop("player"), "it must hold schema, sha256, choice"),
    "scores that are none": (lambda c: c.update(scores=None), "scores must be a list, got None"),
    "a score that is none": (
        lambda c: c.update(scores=[None]),
        "scores.0 must be an object, got None",
    ),
    "an accuracy in words": (
        lambda c: c["scores"][0].update(accuracy="high"),
        "scores.0.accuracy must be a finite number, got 'high'",
    ),
    "an accuracy of NaN": (
        lambda c: c["scores"][0].update(accuracy=float("nan")),
        "scores.0.accuracy must be a finite number, got nan",
    ),
    "bits in words": (
        lambda c: c["choice"].update({"a.weight": ["two", 0]}),
        "choice.a.weight.0 must be a whole number, got 'two'",
    ),
    "bits that no weight has": (
        lambda c: c["references"]["uniform 2"]["choice"].update({"a.weight": [99, 0]}),
        "integers from 1 to 16, got 99",
    ),
    "a choice without a weight": (
        lambda c: c["choice"].pop("a.weight"),
        "a choice must name each weight of the setting",
    ),
    "a pair of three": (
        lambda c: c["choice"].update({"a.weight": [1, 2, 3]}),
        "a choice must give a.weight bits and an exponent, got [1, 2, 3]",
    ),
    "a target out of reach": (
        lambda c: c.update(target=99),
        "lies between 1 and 32, got weights=99",
    ),
    "a target that is a list": (
        lambda c: c.update(target=[8]),
        "target must be a finite number, got a list",
    ),
    "locks that are numbers": (lambda c: c.update(locked=[1]), "locked.0 must be a text, got 1"),
    "no references": (lambda c: c.update(references={}), "references must hold an outcome"),
    "sizes of a list": (
        lambda c: c["setting"].update(sizes=[1]),
        "setting.sizes must be an object, got a list",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_board_leaves_out_a_file_that_is_spoiled_says_which_and_goes_on(
    play, arena, tmp_path, what
):
    change, said = SPOILED[what]
    play.play("a.weight", 2)
    game.Game(arena, target=8, folder=tmp_path, player="ben").play("b.weight", 3)
    altered(play.file, lambda c: (change(c), signed(c)))
    board = game.board(tmp_path)
    assert [player.player for player in board.players] == ["ben"]
    assert list(board.skipped) == [str(play.file)] and said in board.skipped[str(play.file)]
    last = board.table().splitlines()[-1]
    assert last.startswith(f"left out: {play.file} is no saved game: ") and said in last


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", "[" * 200_000, '{"a":' * 200_000, "\xff\x00", "9" * 5000]
)
def test_a_board_goes_on_after_any_other_file(play, tmp_path, text):
    play.play("a.weight", 2)
    (tmp_path / "aaa.json").write_text(text, encoding="latin-1")
    board = game.board(tmp_path)
    assert [player.player for player in board.players] == ["ada"] and list(board.skipped) == [
        str(tmp_path / "aaa.json")
    ]
    assert len(board.table().splitlines()) == 3


def test_the_game_of_most_files_counts_on_a_board(play, arena, tmp_path):
    for player in ("ada", "ben"):
        game.Game(arena, folder=tmp_path, player=player).play("a.weight", 2)
    other = Arena(network(), X[:9], Y[:9], "net")
    game.Game(other, folder=tmp_path, player="Aaron").play("a.weight", 2)  # the first by name
    board = game.board(tmp_path)
    assert {player.player for player in board.players} == {"ada", "ben"}
    assert "is a game on other images" in next(iter(board.skipped.values()))


@pytest.mark.parametrize("beginning", ["=", "+", "-", "@", "\t", "\r", "\n="])
def test_no_text_of_a_table_is_a_formula(play, tmp_path, beginning):
    """Names of weights come from a file, too: a network may call its layers as it likes."""
    play.play("a.weight", 2)
    saved = play.saved()
    name = f"{beginning}cmd|' /C calc'!A0"
    sizes = {
        name if key == "a.weight" else key: size for key, size in saved.setting["sizes"].items()
    }
    renamed = [
        dataclasses.replace(
            score, choice={name if key == "a.weight" else key: p for key, p in score.choice.items()}
        )
        for score in saved.scores
    ]
    spoiled = dataclasses.replace(
        saved,
        player=f"{beginning}1+1",
        setting=saved.setting | {"sizes": sizes},
        scores=tuple(renamed),
    )
    with scores.export(spoiled, tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert len(table) == 1 + len(saved.scores)
    for row in table:
        for text in row:
            assert "\n" not in text and "\r" not in text
            assert text[:1] not in "=+@\t\r" and (text[:1] != "-" or float(text) < 0), text


def test_an_export_spares_saved_games(play, tmp_path):
    play.play("a.weight", 2)
    before = play.file.read_bytes()
    with pytest.raises(ValueError, match="is a saved game: export to another file"):
        play.export(play.file)
    assert play.file.read_bytes() == before
    assert play.export(tmp_path / "s.json") == play.export(
        tmp_path / "s.json"
    )  # an export may replace an export


# --- scores beside each other


def outcome(rate, accuracy):
    choice = {f"{name}.weight": (2, 0) for name in ("a", "b", "side", "fc")}
    return Outcome(choice, rate, accuracy, 1.0, 10.0, 100)


@given(
    st.lists(
        st.tuples(st.sampled_from([4.0, 6.0, 8.0, 9.0]), st.sampled_from([10.0, 50.0, 90.0])),
        max_size=9,
    )
)
def test_the_front_is_what_nothing_beats(points):
    found = [outcome(*point) for point in points]
    kept = scores.front(found)
    expected = {
        p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)
    }
    assert [(o.rate, o.accuracy) for o in kept] == sorted(expected)


def test_the_board_ranks_at_the_target_and_is_drawn(arena, tmp_path):
    for player, moves in (
        ("ada", [("a.weight", 2)]),
        ("ben", [("b.weight", 3), ("a.weight", 7)]),
        ("eve", []),
    ):
        play = game.Game(arena, target=8, folder=tmp_path, player=player)
        play.lock("fc.weight")
        for layer, bits in moves:
            play.play(layer, bits)
    board = game.board(tmp_path)
    at = [p.best(8).accuracy if p.best(8) else -1 for p in board.players]
    assert len(at) == 3 and at == sorted(at, reverse=True) and board.players[-1].player == "eve"
    assert "eve     not at the target" in board.table()
    drawing = plots.pareto(board)
    labels = [text.get_text() for text in drawing.axes[0].get_legend().get_texts()]
    assert labels == ["target 8", "uniform bits", *(p.player for p in board.players)]
    best = board.players[0].best(8)
    assert (
        f"the best there is {board.players[0].player} with {best.accuracy:.1f} %"
        in drawing.sentence
    )
    shown = [line for line in drawing.axes[0].lines if line.get_label() == board.players[0].player]
    assert [tuple(p) for p in shown[0].get_xydata()] == [
        (o.rate, o.accuracy) for o in board.players[0].scores
    ]
    twice = game.board([next(tmp_path.glob("ada*"))] * 2)
    assert [p.player for p in twice.players] == ["ada (1)", "ada (2)"]
    assert (
        "none of them at the target compression of 30"
        in plots.pareto(game.board(tmp_path, target=30)).sentence
    )
    for target in (float("nan"), 40, 0.5, "8"):
        with pytest.raises(ValueError, match="a target lies between 1 and 32, got"):
            game.board(tmp_path, target=target)


def test_a_target_that_the_widths_cannot_reach_is_refused(tmp_path):
    found = record(space={"bits": [4, 8], "thresholds": 8})
    for t in found.tensors:
        if t["kind"] == "weight":
            t["bits"] = 4
    play = game.Game(Arena(network(), X, Y, "net", found, few=8), target=6, folder=tmp_path)
    play.play("a.weight", 8)
    assert game.board(tmp_path, target=8).target == 8
    with pytest.raises(
        ValueError,
        match=r"compression of the weights of 9 cannot be reached with bits \(4, 8\): the largest is 8",
    ):
        game.board(tmp_path, target=9)


def test_a_board_on_an_arena_measures_again(play, arena, tmp_path):
    play.play("a.weight", 2)
    play.play("b.weight", 3)
    plain = game.board(tmp_path)
    teacher = Arena(network(), X, Y, "net", few=4)
    assert game.board(tmp_path, arena=teacher) == plain
    honest = play.file.read_text()

    def forge(**values):
        play.file.write_text(honest)
        altered(play.file, lambda c: signed(c, scores=[c["scores"][0] | values, *c["scores"][1:]]))
        assert game.board(tmp_path).players  # the digest is right

    for values in ({"accuracy": 100.0}, {"rate": 30.0}, {"weight_bytes": 1.0}):
        forge(**values)
        with pytest.raises(
            ValueError, match=rf"{play.file.name} holds a score of .* not give: measured again"
        ):
            game.board(tmp_path, arena=teacher)
    forge(choice={name: (9, 0) for name in play.layers})
    with pytest.raises(
        ValueError, match=rf"{play.file.name} holds a score that cannot be: bits of a.weight"
    ):
        game.board(tmp_path, arena=teacher)
    other = game.Game(
        arena, target=8, folder=tmp_path, player="zoe"
    )  # the rest of the class goes on
    other.play("b.weight", 3)
    board = game.board(tmp_path, arena=teacher)
    assert [player.player for player in board.players] == ["zoe"]
    assert (
        board.table()
        .splitlines()[-1]
        .startswith(f"left out: {play.file} holds a score that cannot be: bits of")
    )
    other.file.unlink()
    play.file.write_text(honest)
    altered(
        play.file,
        lambda c: [o.update(accuracy=0.0) for o in c["references"].values()] and signed(c),
    )
    assert (
        game.board(tmp_path).references
        != arena.references
        == game.board(tmp_path, arena=teacher).references
    )
    with pytest.raises(ValueError, match="is a game on other images"):
        game.board(tmp_path, arena=Arena(network(), X[:9], Y[:9], "net"))


# --- the view


@pytest.fixture
def view(tmp_path):
    arena = Arena(network(), X, Y, "net", record(), few=8)
    return explorers.beat(
        game.Game(arena, target=6, folder=tmp_path, player="ada"), layer="b.weight"
    )


def test_sliders_and_buttons_play_the_game(view):
    play = view.game
    view.controls["bits"].value = 3
    assert (
        play.choice["b.weight"][0] == 3
        and view.controls["exponent"].value == play.choice["b.weight"][1]
    )
    view.controls["exponent"].value = play.choice["b.weight"][1] - 1
    assert view.result.outcome == play.outcome
    assert (
        f"{play.outcome.rate:.2f} times fewer" in view.sentence
        and f"{play.outcome.accuracy:.1f} %" in view.sentence
    )
    assert "HMQ's selection, not fine-tuned, on the same images" in view.sentence
    view.controls["layer"].value = "fc.weight"
    assert view.controls["bits"].value == play.choice["fc.weight"][0]
    assert [e for _, e in view.controls["exponent"].options] == sorted(
        play.arena.exponents("fc.weight")
    )
    view.controls["locked"].value = True
    assert play.locked == {"fc.weight"}
    before = play.choice
    view.controls["bits"].value = 1  # of a locked layer: said in words, and the slider is back
    assert play.choice == before and "locked" in view.view.text.value
    assert view.controls["bits"].value == before["fc.weight"][0]
    view.buttons["undo"].click()
    assert view.state.layer == "b.weight" and play.choice["b.weight"] == (
        3,
        play.arena.pair("b.weight", 3)[1],
    )
    view.buttons["redo"].click()
    assert play.choice == before == view.state.choice
    view.buttons["hint"].click()
    assert view.sentence.startswith(play.hint().sentence) and view.state.layer == play.hint().layer
    view._start.value = "HMQ"
    view.buttons["start"].click()
    assert play.choice == play.arena.hmq.choice | {"fc.weight": before["fc.weight"]}
    assert view.sentence.startswith("A start does not count")
    view.buttons["export"].click()
    assert (
        play.file.with_suffix(".csv").is_file()
        and str(play.file.with_suffix(".csv")) in view.sentence
    )
    assert [bar.get_width() for bar in view.artists["bars"]] == [
        pair[0] for pair in play.choice.values()
    ]
    assert list(view.artists["now"].get_xdata()) == [play.outcome.rate]
    assert [tuple(p) for p in view.artists["scores"].get_xydata()] == [
        (o.rate, o.accuracy) for o in play.scores
    ]


def test_buttons_say_what_cannot_be_done(view):
    for name in ("undo", "redo"):
        view.buttons[name].click()
        assert f"nothing to {name}" in view.view.text.value
    view._start.value = "best"
    view.buttons["start"].click()
    assert "no score at the target" in view.view.text.value


def test_a_score_that_cannot_be_saved_is_said(view, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    view.controls["bits"].value = 2
    assert (
        "could not be saved: no space left" in view.sentence
        and view.game.choice["b.weight"][0] == 2
    )
    monkeypatch.undo()
    view.controls["bits"].value = 3
    assert len(scores.read(view.game.file).scores) == len(view.game.scores) > 0


def test_a_file_that_was_altered_meanwhile_is_said_and_the_view_shows_the_move(view):
    view.controls["bits"].value = 2
    view.game.file.write_text("[]")
    view.controls["bits"].value = 3
    assert "could not be saved" in view.sentence and "is no saved game" in view.sentence
    assert view.state.choice == view.game.choice and view.game.choice["b.weight"][0] == 3
    view.set(locked=True)
    assert view.state.locked and view.game.locked == {"b.weight"}


def test_a_layer_can_be_unlocked_and_moved_at_once(view):
    view.set(bits=3, locked=True)
    view.set(bits=5, locked=False)
    assert view.game.choice["b.weight"][0] == 5 and not view.game.locked and not view.state.locked
    before = view.state
    for name in ("note", "kept", "choice", "game"):  # what follows from the moves is not set
        with pytest.raises(
            ValueError, match=f"a move sets layer, bits, exponent or locked, got {name}"
        ):
            view.set(**{name: getattr(before, name)})
    assert view.state == before


def test_a_network_that_changes_its_input_is_measured_on_the_pictures_as_they_are():
    class Shifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x.sub_(0.5))

    x = X.clone()
    arena = Arena(Shifting(), x, Y, "net", few=4)
    for bits in (2, 5, 2, 3):
        outcome = arena.evaluate(arena.fitting(dict.fromkeys(arena.layers, bits)))
        with torch.no_grad():
            logits = arena.network(outcome.choice)(X.clone())
        assert outcome.loss == F.cross_entropy(logits, Y).item()
        assert torch.equal(x, X) and torch.equal(arena.x, X)


def test_set_sets_all_or_nothing_and_pictures_do_not_depend_on_the_way(view, tmp_path):
    view.set(layer="a.weight", bits=5, exponent=-2, locked=True)
    assert view.game.choice["a.weight"] == (5, -2) and view.game.locked == {"a.weight"}
    before = copy.copy(view.state)
    for bad, said in (({"bits": 9}, "bits must be one of"), ({"exponent": -99}, "exponent must be one of"),
                      ({"bits": 2}, "a.weight is locked"), ({"colour": 1}, "has no 'colour'")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            view.set(**bad)
        assert view.state == before and view.game.choice["a.weight"] == (5, -2)
    fresh = explorers.beat(view.game, layer="a.weight")
    assert fresh.sentence == view.sentence and fresh.picture.png() == view.picture.png()


def test_the_bench_measures_moves_beside_a_forward_pass():
    found = bench.moves(images=20, rounds=1)
    for name in ("first", "last"):
        assert 0 < found[f"{name}_seconds"] < 30
        assert found[f"{name}_over_forward"] == found[f"{name}_seconds"] / found["forward_seconds"]
    assert len(bench.text_of_moves(found).splitlines()) == 2


def test_a_board_survives_any_other_value_in_a_file(play, arena, tmp_path):
    play.play("a.weight", 2)
    game.Game(arena, target=8, folder=tmp_path, player="ben").play("b.weight", 3)
    whole, rng, left_out = json.loads(play.file.read_text()), random.Random(0), 0
    for _ in range(150):
        play.file.write_text(json.dumps(mutated(whole, rng)))
        for teacher in (None, arena):
            board = game.board(tmp_path, arena=teacher)
            assert "ben" in [player.player for player in board.players] or teacher is None
            assert all("\n" not in said for said in board.skipped.values())
            assert board.table() and plots.pareto(board).sentence
            left_out += len(board.skipped)
    assert left_out > 150


def mutated(content, rng):
    """A copy in which one value is another one, or gone, with the SHA-256 of what it is now."""

    def places(node, at=()):
        if at:
            yield at
        inner = (
            node.items()
            if isinstance(node, dict)
            else enumerate(node)
            if isinstance(node, list)
            else ()
        )
        for key, value in inner:
            yield from places(value, (*at, key))

    content = json.loads(json.dumps(content))
    del content["sha256"]
    *way, last = rng.choice(list(places(content)))
    node = content
    for key in way:
        node = node[key]
    if rng.random() < 0.25 and isinstance(node, dict):
        del node[last]
    else:
        node[last] = rng.choice(
            (None, [], {}, "=x", -1, 0, 1.5, True, 10**12, [None], {"a": None}, float("nan"))
        )
    return content | {"sha256": digest(content)}
