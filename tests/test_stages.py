"""The search on a handful of pictures: what it reaches, that it can be repeated, stopped and resumed."""

import contextlib
import copy
import dataclasses
import json
import math
import signal

import pytest
import torch
from torch import nn

from hmq_lab import SearchSpace, models, stages
from hmq_lab.budget import Target
from hmq_lab.data.datasets import Data, load
from hmq_lab.placement import blocks
from hmq_lab.runs import checkpoints, records, runner
from hmq_lab.runs.runner import CHECKPOINT, NETWORK, RECORD, search
from hmq_lab.settings import PRESETS, Settings, preset
from hmq_lab.stages import class_scores

SETTINGS = Settings(
    search_epochs=2, final_epochs=2, batch_size=32, network_learning_rate=1e-3, final_learning_rate=1e-3,
    final_schedule="cosine", logit_learning_rate=0.1, cycles=2, target_steps=2, calibration_images=64,
    compile="off", log_every=1, snapshots=4,
)  # fmt: skip
STEPS = 5 * 4


@pytest.fixture(scope="module")
def pictures() -> Data:
    """160 training, 40 validation and 40 test pictures of the built-in data."""
    full = load("builtin")
    cut = {}
    for name, count in (("train", 160), ("validation", 40), ("test", 40)):
        split = getattr(full, name)
        cut[name] = dataclasses.replace(
            split, images=split.images[:count], labels=split.labels[:count]
        )
    return dataclasses.replace(full, **cut)


def network():
    torch.manual_seed(0)
    return models.build("tiny_resnet8")


def run(pictures, model=None, **options):
    options = {"settings": SETTINGS, "progress": False, "name": "tiny_resnet8"} | options
    return search(
        model or network(), pictures, options.pop("target", Target(weights=12)), **options
    )


def content(record):
    """Everything of a record that must be the same again."""
    parts = dataclasses.asdict(record)
    parts.pop("timing")
    return json.loads(json.dumps(parts))


@pytest.fixture(scope="module")
def whole(pictures):
    """An uninterrupted run."""
    return run(pictures)


def test_the_search_reaches_its_target_and_says_what_it_did(whole, pictures):
    results = whole.results
    assert results["status"] == "complete"
    assert results["rates"]["weights"] >= 12
    weights = [t for t in whole.tensors if t["kind"] == "weight"]
    by_hand = 32 * sum(t["size"] for t in weights) / sum(t["size"] * t["bits"] for t in weights)
    assert results["rates"]["weights"] == pytest.approx(by_hand)
    assert {t["bits"] for t in whole.tensors if t["kind"] == "activation"} == {8}
    assert set(results["accuracy"]) == {
        "float_validation",
        "float_test",
        "after_search",
        "validation",
        "test",
    }
    steps = whole.of("step")
    assert [e["step"] for e in steps] == list(range(STEPS))
    assert all(
        e["loss"] == pytest.approx(e["task_loss"] + 32 * e["hinge"])
        for e in steps
        if e["stage"] == 1
    )
    assert [e["stage"] for e in whole.of("epoch")] == [1, 1, 2, 2]
    (repair,) = whole.of("repair")
    assert repair["rate_after"] >= 12 and repair["rate_before"] == pytest.approx(
        results["rates_before_repair"]["weights"]
    )
    changed = [t for t in weights if t["bits"] != t["bits_before_repair"]]
    assert {m["name"] for m in repair["moves"]} == {t["name"] for t in changed}
    for tables in whole.of("tables"):
        assert set(tables["tables"]) == {t["name"] for t in whole.tensors}
        for t in whole.tensors:
            table = torch.tensor(tables["tables"][t["name"]])
            assert table.shape == (len(t["space"]["bits"]), len(t["space"]["exponents"]))
            assert table.sum() == pytest.approx(1, abs=0.05)


def test_temperature_and_target_follow_their_schedules(whole):
    steps = [e for e in whole.of("step") if e["stage"] == 1]
    assert [e["temperature"] for e in steps] == [SETTINGS.temperature(5)(e["step"]) for e in steps]
    assert steps[0]["temperature"] == steps[5]["temperature"] == 1 > steps[4]["temperature"]
    assert [e["target_rate"] for e in steps] == [4.0] * 5 + [12.0] * 5
    rates = [e["learning_rate"] for e in whole.of("step") if e["stage"] == 2]
    assert rates == sorted(rates, reverse=True) and rates[0] == 1e-3
    assert rates[5] == pytest.approx(5e-4)


def test_the_same_seed_gives_the_same_record_and_another_seed_another(whole, pictures):
    assert content(run(pictures)) == content(whole)
    assert content(run(pictures, seed=1)) != content(whole)


def test_the_network_keeps_the_selected_schemes(pictures, whole):
    model = network()
    record = run(pictures, model)
    model.eval()
    for t in (t for t in record.tensors if t["kind"] == "weight"):
        weight = model.get_submodule(t["name"].removesuffix(".weight")).weight
        step = 2.0 ** (t["threshold_exponent"] - t["bits"] + 1)
        codes = weight / step
        assert torch.equal(codes, codes.round())
        assert -(2 ** (t["bits"] - 1)) <= codes.min() and codes.max() <= 2 ** (t["bits"] - 1) - 1


def test_without_stage_1_or_stage_2(pictures):
    settings = dataclasses.replace(SETTINGS, search_epochs=0, final_epochs=1)
    record = run(pictures, settings=settings, target=Target(weights=4))
    assert record.results["rates"]["weights"] == 4 and not record.of("repair")[0]["moves"]
    record = run(pictures, settings=dataclasses.replace(SETTINGS, final_epochs=0, search_epochs=1))
    assert record.results["rates"]["weights"] >= 12


class Stop(BaseException):
    """A process that dies."""


@pytest.mark.parametrize("step", [0, 3, 5, 9, 10, 13, 15, 19])
def test_a_killed_run_resumes_to_the_same_record(step, pictures, whole, tmp_path):
    def kill(event):
        if event["kind"] == "step" and event["step"] == step:
            raise Stop

    with pytest.raises(Stop):
        run(pictures, out=tmp_path, on_event=kill)
    assert not (tmp_path / RECORD).exists()
    resumed = run(pictures, out=tmp_path, resume=True)
    assert content(resumed) == content(whole)
    assert content(records.read(tmp_path)) == content(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([RECORD, NETWORK])


@pytest.mark.parametrize("step", [2, 4, 12])
def test_a_signal_finishes_the_step_saves_and_the_run_resumes(step, pictures, whole, tmp_path):
    def interrupt(event):
        if event["kind"] == "step" and event["step"] == step:
            signal.raise_signal(signal.SIGINT)

    model = network()
    stopped = run(pictures, model, out=tmp_path, on_event=interrupt)
    assert stopped.results["status"] == "interrupted"
    assert len(stopped.of("step")) == step + 1
    assert torch.isfinite(model(next(pictures.test.batches(8))[0])).all()
    assert (tmp_path / CHECKPOINT).exists()
    assert content(run(pictures, out=tmp_path, resume=True)) == content(whole)


def test_resuming_what_is_complete_gives_its_record_and_network(pictures, whole, tmp_path):
    model, again = network(), network()
    run(pictures, model, out=tmp_path)
    assert content(run(pictures, again, out=tmp_path, resume=True)) == content(whole)
    x = next(pictures.test.batches(8))[0]
    assert torch.equal(model.eval()(x), again.eval()(x))


def test_a_checkpoint_of_another_configuration_or_altered_is_refused(pictures, tmp_path):
    def kill(event):
        if event["step"] == 7:
            raise Stop

    with pytest.raises(Stop):
        run(pictures, out=tmp_path, on_event=kill)
    with pytest.raises(
        ValueError, match=r"another configuration \(target.weights: 12.0 there, 8.0 here\)"
    ):
        run(pictures, out=tmp_path, resume=True, target=Target(weights=8))
    with pytest.raises(ValueError) as error:  # what differs, not all there is
        run(pictures, out=tmp_path, resume=True, settings=dataclasses.replace(SETTINGS, gamma=5.0))
    assert "configuration (settings.gamma: 32.0 there, 5.0 here)" in str(error.value)
    path = tmp_path / CHECKPOINT
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        run(pictures, out=tmp_path, resume=True)
    path.write_bytes(content[:-100] + bytes(100))
    with pytest.raises(ValueError, match="was altered"):
        run(pictures, out=tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_search_and_names_the_tensor(pictures, tmp_path):
    model = network()

    def poison(event):
        if event["kind"] == "step" and event["step"] == 7:
            with torch.no_grad():
                model.conv1.parametrizations.weight.original[0, 0, 0, 0] = math.nan

    with pytest.raises(
        FloatingPointError, match=r"at step 8 .*conv1\.parametrizations\.weight\.original"
    ):
        run(pictures, model, out=tmp_path, on_event=poison)
    assert (tmp_path / CHECKPOINT).exists()  # of the last good epoch


def test_bad_input_is_refused_early(pictures):
    with pytest.raises(ValueError, match=r"cannot be reached with bits .*the largest is 8"):
        run(pictures, target=Target(weights=9), space=SearchSpace(bits=(4, 8)))
    with pytest.raises(TypeError, match=r"space must be a SearchSpace.*got \(2, 4\)"):
        run(pictures, space=(2, 4))
    with pytest.raises(
        ValueError, match="batch_size must be at most the 160 training images, got 256"
    ):
        run(pictures, settings="paper")
    with pytest.raises(ValueError, match="the network has 5 outputs, the data 10 classes"):
        run(pictures, models.build("tiny_resnet8", classes=5))
    with pytest.raises(ValueError, match=r"no preset 'quick/cifar': did you mean quick/cifar10"):
        preset("quick/cifar")
    with pytest.raises(TypeError, match="no setting 'search_epoch': did you mean search_epochs"):
        preset("quick/builtin", search_epoch=3)
    with pytest.raises(
        TypeError, match="no setting 'zzz': there are search_epochs, final_epochs, batch_size"
    ):
        preset("quick/builtin", zzz=3)
    with pytest.raises(TypeError, match="seed must be a whole number, got 'a'"):
        run(pictures, seed="a")
    for change in (
        {"batch_size": 0},
        {"search_epochs": 2.5},
        {"gamma": math.nan},
        {"precision": "int8"},
    ):
        with pytest.raises(ValueError, match=next(iter(change))):
            preset("paper", **change)


def test_the_paper_preset_is_the_papers():
    paper = PRESETS["paper"]
    assert (paper.search_epochs, paper.final_epochs, paper.batch_size, paper.gamma) == (
        30,
        20,
        256,
        32,
    )
    assert (paper.network_learning_rate, paper.logit_learning_rate, paper.weight_decay) == (
        1e-5,
        0.01,
        1e-4,
    )
    assert paper.cycle_steps(100) == 500
    assert [round(paper.target_at(i * 500, 100, 16.0), 6) for i in range(6)] == [
        4,
        8,
        12,
        16,
        16,
        16,
    ]
    schedule = paper.temperature(100)
    assert schedule(0) == 1 and schedule(278) == 0.5 and schedule(499) == 0.5 and schedule(500) == 1


def test_an_output_folder_that_holds_a_run_is_kept_unless_asked(pictures, whole, tmp_path):
    def interrupt(event):
        if event["kind"] == "step" and event["step"] == 7:
            signal.raise_signal(signal.SIGINT)

    run(pictures, out=tmp_path, seed=3)
    with pytest.raises(FileExistsError, match="holds a run already"):
        run(pictures, out=tmp_path)
    stopped = run(pictures, out=tmp_path, overwrite=True, on_event=interrupt)
    assert stopped.results["status"] == "interrupted" and stopped.results["steps"] == 8
    assert not (tmp_path / RECORD).exists()  # the old one: resuming must not find it
    assert content(run(pictures, out=tmp_path, resume=True)) == content(whole)


def test_a_lone_network_in_the_output_folder_is_kept_unless_asked(pictures, tmp_path):
    """Also with resume: a run that could go on has a checkpoint or a record."""
    (tmp_path / NETWORK).write_bytes(b"mine")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"already \(network\.safetensors\)"):
            run(pictures, out=tmp_path, resume=resume)
    assert (tmp_path / NETWORK).read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == [NETWORK]


def test_two_searches_do_not_write_into_one_folder(pictures, tmp_path):
    def another(event):
        if event["kind"] == "step" and event["step"] == 3:
            with pytest.raises(BlockingIOError, match=f"another search writes to {tmp_path}"):
                run(pictures, out=tmp_path, overwrite=True, seed=1)
            raise Stop

    with pytest.raises(Stop):
        run(pictures, out=tmp_path, on_event=another)
    run(pictures, out=tmp_path, resume=True)  # who stopped has let go


def test_a_folder_of_pictures_takes_no_run(pictures, tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(
        ValueError, match=r"out must be a folder for the run, got .* which has a folder train"
    ):
        run(pictures, out=tmp_path)


@pytest.mark.parametrize(("rate", "steps", "told"), [(0.05, 10, True), (2.5, 10, False)])
def test_too_few_steps_are_told_before_the_first(rate, steps, told, pictures, capsys):
    settings = dataclasses.replace(SETTINGS, logit_learning_rate=rate)
    assert settings.search_epochs * (len(pictures.train) // settings.batch_size) == steps
    run(pictures, settings=settings, progress=True)
    said = capsys.readouterr().err
    assert (f"10 steps at a logit_learning_rate of {rate} choose next to nothing" in said) == told
    assert ("next to nothing" in said) == told


def test_hardware_mode_names_what_integers_cannot_run_before_it_searches(pictures):
    class Seen(Exception):
        pass

    def stop(event):
        raise Seen

    def build(activation):
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), activation, *head)

    with pytest.raises(Seen):  # and says nothing
        run(pictures, build(nn.ReLU()), hardware=True, on_event=stop)
    model = build(nn.Hardswish())
    with (
        pytest.warns(UserWarning, match="2: Hardswish has no rule on integers"),
        pytest.raises(Seen),
    ):
        run(pictures, model, hardware=True, on_event=stop)
    assert not any(block.is_fixed for block in blocks(model).values())


def test_resuming_compiles_as_the_whole_run_did(pictures, tmp_path, monkeypatch):
    """The choice depends on the work of the whole run, and what is left of it is less."""
    from hmq_lab import _kernels as kernels

    asked = []
    monkeypatch.setattr(
        kernels, "compiled", lambda enable: asked.append(enable) or contextlib.nullcontext()
    )
    monkeypatch.setattr(kernels, "compiler_found", lambda: True)
    elements = sum(
        t["size"] for t in run(pictures, settings=SETTINGS).tensors if t["kind"] == "activation"
    )
    monkeypatch.setattr(runner, "WORTH_COMPILING", STEPS * SETTINGS.batch_size * elements)
    auto = dataclasses.replace(SETTINGS, compile="auto")

    def interrupt(event):
        if event["kind"] == "step" and event["step"] == 7:
            signal.raise_signal(signal.SIGINT)

    run(pictures, settings=auto, out=tmp_path, on_event=interrupt)
    run(pictures, settings=auto, out=tmp_path, resume=True)
    assert asked == [False, True, True]


def test_what_cannot_be_searched_is_refused_before_anything_is_changed(pictures):
    model = network()
    empty = dataclasses.replace(pictures, validation=pictures.validation.subset(range(0)))
    with pytest.raises(ValueError, match="needs validation images, got a data set with 0"):
        run(empty, model)
    with pytest.raises(ValueError, match=r"device must be one that computes.*got meta"):
        run(pictures, model, device="meta")
    assert not any("hmq" in name for name, _ in model.named_modules())


def test_the_record_says_the_size_of_its_pictures(whole):
    assert whole.header["picture"] == [3, 32, 32]


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True, "2"])
def test_parts_of_a_step_are_a_whole_number(accumulate):
    with pytest.raises(
        ValueError, match=f"accumulate must be a whole number from 1 on, got {accumulate!r}"
    ):
        search(models.build("tiny_resnet8"), "builtin", accumulate=accumulate)


@pytest.mark.parametrize(
    ("output", "said"),
    [({"out": torch.zeros(2, 3)}, "dict"), (torch.zeros(2, 3, 4, 4), r"shape \(2, 3, 4, 4\)")],
)
def test_what_is_no_class_scores_is_named(output, said):
    with pytest.raises(ValueError, match=rf"class scores, \(images, classes\), got {said}"):
        class_scores(output)


# ------------------------------------------------------------------------------------- the recipe


RECIPE = dataclasses.replace(
    SETTINGS, search_loss="distillation", final_loss="distillation", final_weights="float", renew_statistics=True,
    refill=True, margin=0.03, final_learning_rate=3e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(pictures):
    """An uninterrupted run with every lever of the recipe."""
    return run(pictures, settings=RECIPE)


@pytest.mark.parametrize("step", [4, 9, 10, 16])
def test_a_killed_run_of_the_recipe_resumes_to_the_same_record(step, pictures, recipe, tmp_path):
    def kill(event):
        if event["kind"] == "step" and event["step"] == step:
            raise Stop

    with pytest.raises(Stop):
        run(pictures, settings=RECIPE, out=tmp_path, on_event=kill)
    assert content(run(pictures, settings=RECIPE, out=tmp_path, resume=True)) == content(recipe)


@pytest.mark.parametrize("step", [7, 12])
def test_an_interrupted_run_of_the_recipe_resumes_to_the_same_record(
    step, pictures, recipe, tmp_path
):
    def interrupt(event):
        if event["kind"] == "step" and event["step"] == step:
            signal.raise_signal(signal.SIGINT)

    run(pictures, settings=RECIPE, out=tmp_path, on_event=interrupt)
    assert content(run(pictures, settings=RECIPE, out=tmp_path, resume=True)) == content(recipe)


def floats(model):
    """An attached network's own parameters by their names before blocks were attached."""
    named = (
        (n.replace("parametrizations.weight.original", "weight"), p)
        for n, p in model.named_parameters()
    )
    return {n: p.detach().clone() for n, p in named if not n.endswith("logits")}


@pytest.mark.parametrize("start", ["searched", "float"])
def test_stage_2_starts_from_the_weights_the_settings_name(start, pictures):
    model = network()
    given = {n: p.detach().clone() for n, p in model.named_parameters()}
    after_search = {}

    def look(event):
        if event["kind"] == "epoch" and event["stage"] == 1:
            after_search.update(floats(model))

    frozen = dataclasses.replace(
        SETTINGS, final_learning_rate=0.0, weight_decay=0.0, final_weights=start
    )
    run(pictures, model, settings=frozen, on_event=look)
    expected = given if start == "float" else after_search
    assert set(expected) == set(floats(model))
    assert all(torch.equal(value, expected[name]) for name, value in floats(model).items())
    assert not torch.equal(given["conv1.weight"], after_search["conv1.weight"])
    assert any(
        t.scheme.bits < 8 for t in blocks(model, "weight").values()
    )  # the schemes stay the search's


def test_a_network_that_learns_from_itself_alone_needs_no_labels(pictures):
    """Distillation looks at no label of a training image, in either stage; cross-entropy does."""
    shifted = dataclasses.replace(pictures.train, labels=(pictures.train.labels + 1) % 10)
    wrong = dataclasses.replace(pictures, train=shifted)

    def losses(data, settings):
        return [e["task_loss"] for e in run(data, settings=settings).of("step")]

    assert losses(wrong, RECIPE) == losses(pictures, RECIPE)
    first = dataclasses.replace(RECIPE, search_loss="cross-entropy", final_loss="distillation")
    assert losses(wrong, first)[:10] != losses(pictures, first)[:10]
    last = dataclasses.replace(RECIPE, search_epochs=0, final_loss="cross-entropy")
    assert losses(wrong, last) != losses(pictures, last)


class NoNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 10)

    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)))


def test_the_teacher_is_the_float_network(pictures):
    """At 16 bits, without batch norm, both compute nearly the same: the first loss is next to nothing."""
    torch.manual_seed(0)
    settings = dataclasses.replace(RECIPE, search_epochs=0)
    options = {
        "space": SearchSpace((16,)),
        "target": Target(weights=2, activation_bits=16),
        "settings": settings,
    }
    first = run(pictures, NoNorm(), **options).of("step")[0]
    assert abs(first["task_loss"]) < 1e-5
    options["settings"] = dataclasses.replace(settings, final_loss="cross-entropy")
    assert run(pictures, NoNorm(), **options).of("step")[0]["task_loss"] > 1


def test_renewed_statistics_are_means_over_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.2), nn.Dropout(0.5))
    unreached = nn.BatchNorm2d(4)
    unreached.running_mean.fill_(7)
    model.append(nn.Identity())
    model[3].aside = unreached
    model[2].eval()
    batches = [torch.randn(8, 3, 6, 6) * k for k in (1, 2, 3)]
    stages.renew_statistics(model, batches)
    inputs = [model[0](x).detach().double().numpy() for x in batches]
    mean = sum(x.mean((0, 2, 3)) for x in inputs) / 3
    variance = sum(x.var((0, 2, 3), ddof=1) for x in inputs) / 3
    assert model[1].running_mean.tolist() == pytest.approx(mean.tolist(), abs=1e-5)
    assert model[1].running_var.tolist() == pytest.approx(variance.tolist(), rel=1e-4)
    assert model[1].momentum == 0.2 and model[1].training and not model[2].training
    assert unreached.running_mean.tolist() == [7] * 4 and unreached.momentum == 0.1


def test_a_frozen_batch_norm_keeps_its_statistics_while_others_are_measured():
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(2)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), first, nn.ReLU(), nn.Conv2d(4, 2, 3), second)
    first.running_mean.copy_(torch.randn(4))
    first.running_var.copy_(torch.rand(4) + 0.5)
    first.eval()
    kept = copy.deepcopy(first)
    x = torch.randn(8, 3, 8, 8)
    stages.renew_statistics(model, [x])
    assert torch.equal(first.running_mean, kept.running_mean)
    assert torch.equal(first.running_var, kept.running_var)
    with torch.no_grad():
        inputs = model[3](torch.relu(kept(model[0](x)))).double().numpy()
    assert second.running_mean.tolist() == pytest.approx(inputs.mean((0, 2, 3)).tolist(), abs=1e-5)
    variance = inputs.var((0, 2, 3), ddof=1)
    assert second.running_var.tolist() == pytest.approx(variance.tolist(), rel=1e-4)


@pytest.mark.parametrize("renew, augment", [(True, True), (True, False), (False, False)])
def test_renewed_statistics_fit_the_selection(renew, augment, pictures):
    """With the statistics of one batch, evaluation computes for that batch what training does."""
    model = network()
    settings = dataclasses.replace(
        RECIPE, final_epochs=0, calibration_images=32, renew_statistics=renew, augment=augment
    )
    run(pictures, model, settings=settings)
    batch = next(pictures.train.batches(32, seed=0, augment=augment))[0]
    with torch.no_grad():
        evaluated, trained = model.eval()(batch), model.train()(batch)
    difference = ((evaluated - trained).norm() / trained.norm()).item()
    assert (difference < 0.05) == renew


def test_a_checkpoint_from_before_a_setting_is_of_its_default(tmp_path):
    wanted = {"seed": 0, "settings": dataclasses.asdict(SETTINGS)}
    older = {
        "seed": 0,
        "settings": {k: v for k, v in wanted["settings"].items() if not k.startswith("final_")},
    }
    older["settings"] |= {
        "final_epochs": 2,
        "final_learning_rate": 1e-3,
        "final_schedule": "cosine",
    }
    assert len(older["settings"]) == len(wanted["settings"]) - 2
    checkpoints.check_same(wanted, older, tmp_path)
    wanted["settings"]["final_loss"] = "distillation"
    with pytest.raises(
        ValueError, match=r"settings.final_loss: cross-entropy there, distillation here"
    ):
        checkpoints.check_same(wanted, older, tmp_path)


def test_the_papers_presets_use_no_lever_of_ours():
    for name in (
        "paper",
        "paper/mobilenet_v1",
        "paper/mobilenet_v2",
        "paper/resnet50",
        "paper/efficientnet_b0",
    ):
        paper = PRESETS[name]
        assert paper.search_loss == paper.final_loss == "cross-entropy"
        assert paper.final_weights == "searched" and paper.final_schedule == "constant"
        assert not paper.refill and not paper.renew_statistics and paper.margin == 0


def test_bad_levers_are_refused():
    with pytest.raises(ValueError, match=r"final_loss must be one of .*got 'kl'"):
        Settings(final_loss="kl")
    with pytest.raises(ValueError, match=r"final_weights must be one of .*got 'best'"):
        Settings(final_weights="best")
    for value in (0, -1, math.inf, "4"):
        with pytest.raises(ValueError, match="distillation_temperature must be a number above 0"):
            Settings(distillation_temperature=value)


# ------------------------------------------------------------------------------------- faults that once went unnoticed


def test_weight_decay_spares_the_logits(pictures):
    """A block with one scheme has a gradient of exactly zero: only decay could move its logit."""
    model = network()

    def mark(event):
        if event["kind"] == "step" and event["step"] == 0:
            with torch.no_grad():
                for block in blocks(model).values():
                    block.logits.fill_(5)

    settings = dataclasses.replace(SETTINGS, weight_decay=10.0)
    run(
        pictures,
        model,
        space=SearchSpace((8,), 1),
        target=Target(weights=4),
        settings=settings,
        on_event=mark,
    )
    assert all(block.logits.eq(5).all() for block in blocks(model).values())
    plain = network()
    options = {"space": SearchSpace((8,), 1), "target": Target(weights=4)}
    run(pictures, plain, settings=dataclasses.replace(SETTINGS, weight_decay=0.0), **options)
    assert floats(model)["conv1.weight"].norm() < floats(plain)["conv1.weight"].norm()


@pytest.mark.filterwarnings("ignore:.*zero everywhere")
def test_of_equally_good_epochs_the_last_is_kept(pictures):
    """The head says the same of every image, so that all epochs are equal; the count of batches tells them apart."""
    model = network()
    nn.init.zeros_(model.linear.weight)
    nn.init.zeros_(model.linear.bias)
    still = dataclasses.replace(SETTINGS, search_epochs=0, final_epochs=3, final_learning_rate=0.0)
    record = run(pictures, model, settings=still, target=Target(weights=4))
    assert len({e["validation_accuracy"] for e in record.of("epoch")}) == 1
    assert model.bn1.num_batches_tracked == 3 * 5


def test_the_search_aims_beyond_the_target_by_the_margin(pictures):
    settings = dataclasses.replace(SETTINGS, margin=0.25)
    last = [e for e in run(pictures, settings=settings).of("step") if e["stage"] == 1][-1]
    assert last["target_rate"] == pytest.approx(12 * 1.25)
    assert last["hinge"] == pytest.approx((max(0, 15 - last["expected_rate"]) / 15) ** 2, rel=1e-4)
