"""The paper's four ImageNet networks by name, weights of other training to begin from, pictures in large files."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from hmq_lab import SearchSpace, Target, attach, budget, data, detach, models, search
from hmq_lab.commands.main import main, parser
from hmq_lab.models import norms, training
from hmq_lab.models.weights import load_weights, read_metadata, save_weights
from hmq_lab.runs import records
from hmq_lab.settings import POINTS, PRESETS, preset, recipe, recipe_names

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning"
)  # of loaders

INVENTORY = {  # tensors, elements, features of the last layer, 4-bit activations at an activation rate of 8
    "mobilenet_v1": (28, 4_209_088, 1024, 1),
    "mobilenet_v2": (53, 3_469_760, 1280, 1),
    "resnet50": (
        54,
        23_454_912 + 2_048_000,
        2048,
        4,
    ),  # 53 without the last layer, which the authors leave float
    "efficientnet_b0": (82, 5_236_192, 1280, 1),
}


def write_pictures(root, counts, size, classes=("n01", "n02")):
    """An image folder as torchvision lays ImageNet out, the classes of different brightness."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for level, name in zip((90, 160), classes, strict=True):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = rng.normal(level, 25, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{name}_{k}.JPEG")
    return root


# ---------------------------------------------------------------------------------------------------- four networks


@pytest.mark.parametrize("name", INVENTORY)
def test_the_inventory_of_quantized_weights(name):
    tensors, elements, features, _ = INVENTORY[name]
    model = models.build(name, classes=1000)
    attach(model, SearchSpace(), torch.rand(2, 3, 32, 32))
    sizes = budget.weight_sizes(model)
    assert (len(sizes), sum(sizes.values())) == (tensors, elements)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (
        sum(m.weight.numel() for m in layers) == elements
    )  # every convolution and fully connected layer, no other
    if name == "mobilenet_v1":
        with_background = models.build(name, classes=1001)
        assert sum(m.weight.numel() for m in with_background.modules() if hasattr(m, "weight") and m.weight.dim() > 1) \
            == elements + features == 4_210_112  # fmt: skip


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """What --root takes: a folder with imagenet/{train,val,test}/<class>/<picture>.JPEG, three pictures of each."""
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "imagenet", {"train": 1, "val": 1, "test": 1}, size=(240, 230))
    return root


@pytest.mark.parametrize("name", INVENTORY)
def test_a_step_of_both_stages_of_each_preset(name, imagenet):
    found = recipe(f"paper/{name}-w8-acr8")
    pictures = data.load(found.data, root=imagenet, workers=0)
    visible = {"network_learning_rate": 0.01, "final_learning_rate": 0.01, "weight_decay": 0.0}
    settings = preset(
        found.settings, search_epochs=1, final_epochs=1, batch_size=2, log_every=1, **visible
    )
    torch.manual_seed(0)
    model = models.build(found.model, classes=len(pictures.classes)).train()
    for norm in norms.norms(model):
        norm.momentum = 1.0
    with torch.no_grad():  # batch norms that have seen pictures, as those of a trained network have
        model(next(pictures.train.batches(2))[0])
    before = {
        n: m.weight.clone()
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    }
    record = search(
        model, pictures, found.target, settings=settings, name=found.model, progress=False
    )
    assert (record.header["model"], record.header["data"]) == (name, "imagenet")
    assert record.header["picture"] == [3, 224, 224]
    assert record.header["target"] == {"weights": 8.0, "activations": 8.0, "activation_bits": None}
    steps = record.of("step")
    assert [(e["stage"], math.isfinite(e["loss"])) for e in steps] == [(1, True), (2, True)]
    assert 3 < steps[0]["expected_rate"] < 5 and "expected_rate" not in steps[1]
    detach(model)
    assert all(
        not torch.equal(model.get_submodule(n).weight, weight) for n, weight in before.items()
    )

    tensors, elements, features, four = INVENTORY[name]
    weights = [t for t in record.tensors if t["kind"] == "weight"]
    assert (len(weights), sum(t["size"] for t in weights)) == (tensors, elements - 998 * features)
    bits = [t["bits"] for t in record.tensors if t["kind"] == "activation"]
    assert (bits.count(4), bits.count(8)) == (four, len(bits) - four)
    assert record.results["rates"]["activations"] >= 8
    compressed = sum(t["size"] * t["bits"] for t in weights)
    assert (
        32 * sum(t["size"] for t in weights) / compressed == record.results["rates"]["weights"] >= 8
    )


@pytest.mark.filterwarnings("ignore:no --weights")
def test_the_name_of_a_preset_is_all_that_the_command_needs(imagenet, tmp_path):
    few = [
        "--search-epochs",
        "1",
        "--final-epochs",
        "1",
        "--batch-size",
        "2",
        "--image-size",
        "32",
    ]
    more = ["--root", str(imagenet), "--out", str(tmp_path / "run"), "--no-figures", "--quiet"]
    assert main(["search", "--preset", "paper/mobilenet_v1-w10.7-a8", *few, *more]) == 0
    record = records.read(tmp_path / "run")
    assert (record.header["model"], record.header["data"]) == ("mobilenet_v1", "imagenet")
    assert record.header["target"] == {"weights": 10.7, "activations": None, "activation_bits": 8}
    wanted = preset("paper/mobilenet_v1", search_epochs=1, final_epochs=1, batch_size=2)
    assert wanted.gamma == 64 and all(
        record.header["settings"][key] == value for key, value in vars(wanted).items()
    )
    assert record.results["rates"]["weights"] >= 10.7
    assert str(imagenet) not in (tmp_path / "run" / "record.json").read_text()


# ---------------------------------------------------------------------------------------------------- names


@given(
    st.sampled_from(sorted(PRESETS)),
    st.floats(1, 32).map(lambda rate: round(rate, 2)),
    st.one_of(st.none(), st.integers(2, 8), st.floats(1, 32).map(lambda rate: round(rate, 1))),
)
def test_a_name_says_the_target(settings, weights, activations):
    bits = activations if isinstance(activations, int) else None
    rate = activations if isinstance(activations, float) else None
    end = f"-a{bits}" if bits else f"-acr{rate}" if rate else ""
    found = recipe(f"{settings}-w{weights}{end}")
    assert found.target == Target(weights, rate, bits)
    assert (found.settings, preset(f"{settings}-w{weights}{end}")) == (settings, PRESETS[settings])
    network = settings.removeprefix("paper/")
    data = (
        "imagenet" if network in INVENTORY else "cifar10" if settings == "quick/cifar10" else None
    )
    assert (found.model, found.data) == (network if network in INVENTORY else None, data)
    assert recipe(settings).target is None


def test_every_name_that_is_listed_holds():
    assert set(POINTS) == set(INVENTORY)
    for name in recipe_names():
        found = recipe(name)
        assert preset(name) == PRESETS[found.settings]
    assert recipe("paper/mobilenet_v2-w8-a8").target == Target(8, activation_bits=8)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "paper/mobilenet-w8-a8",
            "no preset 'paper/mobilenet-w8-a8': did you mean paper/mobilenet_v",
        ),
        ("paper/resnet50-w40-a8", "a target lies between 1 and 32, got weights=40"),
        ("paper/resnet50-w8-a4.5", "whole number, got 'paper/resnet50-w8-a4.5'"),
        ("paper/resnet50-w8-a32", "32"),
        ("paper/resnet50-a8", "no preset 'paper/resnet50-a8'"),
    ],
)
def test_a_name_that_is_none_is_one_line_and_exit_2(name, says, capsys):
    assert main(["search", "--preset", name, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_what_is_typed_goes_before_what_the_name_says(tmp_path, capsys):
    start = ["search", "--preset", "paper/mobilenet_v2-w8-acr8", "--root", str(tmp_path), "--quiet"]
    assert main(start) == 2
    assert f"no folder {tmp_path / 'imagenet'}" in capsys.readouterr().err  # the data of the name
    assert main([*start, "--data", "nowhere"]) == 2
    assert "no data 'nowhere'" in capsys.readouterr().err
    assert main([*start, "--target-weights", "33"]) == 2
    assert "got weights=33.0" in capsys.readouterr().err
    assert main([*start, "--activation-bits", "99"]) == 2
    assert "99" in capsys.readouterr().err


PAGE = (Path(__file__).parents[1] / "docs" / "imagenet.md").read_text(encoding="utf-8")


def test_the_page_on_imagenet_gives_commands_that_parse_and_the_inventory():
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    commands = [
        shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("hmq-lab")
    ]
    named = [parser().parse_args(command[1:]) for command in commands]
    networks = {
        recipe(options.preset).model for options in named if getattr(options, "preset", None)
    }
    assert networks >= set(INVENTORY)
    for name, (tensors, elements, _, four) in INVENTORY.items():
        assert f"| `paper/{name}` | {tensors} / {elements:,} | {four} |" in PAGE


# ---------------------------------------------------------------------------------------------------- weights


def test_a_last_layer_with_other_outputs_begins_anew_and_says_so(tmp_path):
    theirs, ours = models.build("resnet8", classes=7), models.build("resnet8", classes=3)
    own = {key: value.clone() for key, value in ours.linear.state_dict().items()}
    save_weights(theirs, tmp_path / "seven.safetensors")
    with pytest.raises(
        ValueError, match=r"other shapes .* linear.bias \(7,\) \(3,\); linear.weight"
    ):
        load_weights(ours, tmp_path / "seven.safetensors")
    with pytest.warns(
        UserWarning, match=r"has 7 outputs and the model 3: all but linear.weight and linear.bias"
    ):
        load_weights(ours, tmp_path / "seven.safetensors", new_head=True)
    for key, value in ours.state_dict().items():
        assert torch.equal(
            value, own[key[7:]] if key.startswith("linear.") else theirs.state_dict()[key]
        )
    load_weights(ours, tmp_path / "seven.safetensors", rows=[6, 0, 2], new_head=True)
    assert torch.equal(ours.linear.weight, theirs.linear.weight[[6, 0, 2]])
    wide = models.build("resnet8", classes=3, width=20)  # another network is refused all the same
    with pytest.raises(ValueError, match="other shapes"):
        load_weights(wide, tmp_path / "seven.safetensors", new_head=True)


def test_mobilenet_v1_takes_weights_with_folded_batch_norm_and_a_background(tmp_path):
    torch.manual_seed(0)
    theirs = models.build(
        "mobilenet_v1", classes=6, norm=False
    ).eval()  # a background and five classes
    for layer in theirs.layers:
        nn.init.normal_(layer.bias, std=0.2)
    save_weights(theirs, tmp_path / "folded.safetensors")
    ours = models.build("mobilenet_v1", classes=5).eval()
    load_weights(ours, tmp_path / "folded.safetensors", rows=range(1, 6))
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x)[:, 1:], atol=1e-5, rtol=1e-4)


def test_statistics_are_restated_and_the_function_stays(tmp_path):
    torch.manual_seed(1)
    net = models.build("resnet8")
    layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in layers:
        for tensor in (norm.weight, norm.bias):
            nn.init.uniform_(tensor, 0.5, 1.5)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    net.eval()
    layers[0].weight.data[0] = 0.0  # a channel that is switched off stays so
    batches = [torch.randn(20, 3, 32, 32) * 2 + 1, torch.randn(12, 3, 32, 32)]
    seen = {}
    hooks = [
        m.register_forward_pre_hook(lambda m, x: seen.setdefault(m, []).append(x[0]))
        for m in layers
    ]
    with torch.no_grad():
        before = [net(x) for x in batches]
    for hook in hooks:
        hook.remove()
    net.train()
    norms.restate(net, iter(batches))
    assert all(m.training for m in net.modules())
    for norm in layers:
        values = torch.cat(seen[norm]).transpose(0, 1).flatten(1).double().numpy()
        np.testing.assert_allclose(norm.running_mean.numpy(), values.mean(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.running_var.numpy(), values.var(1), rtol=1e-4, atol=1e-5)
    assert layers[0].weight[0] == 0
    with torch.no_grad():
        net.eval()
        for x, y in zip(batches, before, strict=True):
            torch.testing.assert_close(net(x), y, atol=2e-4, rtol=1e-4)
        for norm in layers:
            norm.momentum = 0.0
        together, net = torch.cat(batches), net.train()
        torch.testing.assert_close(
            net(together), torch.cat(before), atol=2e-3, rtol=1e-3
        )  # now also in training mode


def test_filters_are_brought_to_one_size_and_the_function_stays():
    torch.manual_seed(3)
    net = models.build("mobilenet_v1", classes=4).eval()
    for layer, norm in zip(net.layers, net.norms, strict=True):
        layer.weight.data *= torch.exp(torch.randn(len(layer.weight)))[
            :, None, None, None
        ]  # as folding leaves them
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    net.layers[2].weight.data[5] = 0.0  # a filter that does nothing
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        before = net(x)
        norms.equalize(net, torch.randn(2, 3, 32, 32))
        torch.testing.assert_close(net(x), before, atol=1e-4, rtol=1e-3)
    for k, layer in enumerate(net.layers):
        largest = layer.weight.abs().flatten(1).amax(1)
        largest = torch.cat([largest[:5], largest[6:]]) if k == 2 else largest
        torch.testing.assert_close(largest, largest[:1].expand_as(largest))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(
        tmp_path_factory.mktemp("two") / "two", {"train": 16, "val": 6}, size=(100, 80)
    )


def train(folder, out, *more):
    return main(["train", "--data", str(folder), "--model", "tiny_resnet8", "--image-size", "40", "--epochs", "2",
                 "--batch-size", "7", "--learning-rate", "0.02", "--out", str(out), *more])  # fmt: skip


def test_training_goes_on_from_weights_and_a_search_from_there_to_integers(
    folder, tmp_path, capsys
):
    save_weights(
        models.build("tiny_resnet8", classes=5),
        tmp_path / "five.pth.safetensors",
        {"normalize": "half"},
    )
    five = str(tmp_path / "five.pth.safetensors")
    assert train(folder, tmp_path / "two.safetensors", "--weights", five) == 0
    said = capsys.readouterr()
    assert "has 5 outputs and the model 2" in said.err and "on the test images" in said.out
    about = read_metadata(tmp_path / "two.safetensors")
    assert (about["normalize"], about["image_size"]) == ("half", "40")
    assert train(folder, tmp_path / "three.safetensors", "--weights", five, "--outputs", "4,2") == 0
    assert "outputs and the model" not in capsys.readouterr().err
    assert train(folder, tmp_path / "x.safetensors", "--weights", five, "--outputs", "4,9") == 2
    assert "rows must be from 0 to 4" in capsys.readouterr().err
    assert train(folder, tmp_path / "x.safetensors", "--outputs", "1-2") == 2
    assert "outputs are those of a file of weights" in capsys.readouterr().err
    for bad in ("2-1", "a", "1,,2", "-1"):
        assert train(folder, tmp_path / "x.safetensors", "--weights", five, f"--outputs={bad}") == 2
        assert "whole numbers and ranges" in capsys.readouterr().err

    run = tmp_path / "run"
    start = [
        "search",
        "--data",
        "two",
        "--root",
        str(folder.parent),
        "--model",
        "tiny_resnet8",
        "--image-size",
        "40",
    ]
    short = [
        "--search-epochs",
        "1",
        "--final-epochs",
        "1",
        "--batch-size",
        "7",
        "--quiet",
        "--no-figures",
    ]
    more = [
        "--hardware",
        "--preset",
        "quick/imagenette-w8-a8",
        "--weights",
        str(tmp_path / "two.safetensors"),
    ]
    assert main([*start, *short, *more, "--out", str(run)]) == 0
    record = records.read(run)
    assert record.header["normalize"] == "half" and record.header["picture"] == [3, 40, 40]
    text = (run / "record.json").read_text()
    assert str(tmp_path) not in text and "two.safetensors" not in text
    capsys.readouterr()
    assert (
        main(["integer", str(run), "--root", str(folder.parent), "--json"]) == 0
    )  # pictures of 40 pixels again
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 12 and found["differ_float64"] == 0
    assert found["accuracy_float32"] == pytest.approx(record.results["accuracy"]["test"])


def test_folded_batch_norm_is_restated_where_a_training_begins(folder, tmp_path):
    torch.manual_seed(2)
    net = models.build("tiny_resnet8", classes=2)
    save_weights(
        net, tmp_path / "folded.safetensors"
    )  # fresh: mean 0, variance 1, as after folding
    pictures = data.load(folder, image_size=40, workers=0, validation=4)
    begun = models.build("tiny_resnet8", classes=2)
    training.begin_from(begun, tmp_path / "folded.safetensors", pictures)
    assert begun.bn1.running_mean.any() and not torch.equal(
        begun.bn1.running_var, net.bn1.running_var
    )
    save_weights(begun, tmp_path / "trained.safetensors")
    again = models.build("tiny_resnet8", classes=2)
    training.begin_from(
        again, tmp_path / "trained.safetensors", pictures
    )  # has statistics: taken as it is
    assert all(
        torch.equal(a, b)
        for a, b in zip(begun.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_numbers_and_ranges_on_the_command_line():
    options = parser().parse_args(["search", "--outputs", "0, 7,3-5"])
    assert options.outputs == [0, 7, 3, 4, 5]
