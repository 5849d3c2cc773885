"""Settings as `search` takes them, as the command line names them, and as earlier versions wrote them."""

import argparse
import dataclasses

import pytest

from hmq_lab.commands.main import parser
from hmq_lab.commands.settings_options import add_settings, descriptions, given_settings
from hmq_lab.settings import PRESETS, Settings, as_settings, complete, preset

# Another value for every setting than the paper's, as typed and as read.
TYPED = {
    "search_epochs": ("3", 3),
    "final_epochs": ("0", 0),
    "batch_size": ("7", 7),
    "network_learning_rate": ("1e-2", 0.01),
    "final_learning_rate": ("0.5", 0.5),
    "final_schedule": ("cosine", "cosine"),
    "logit_learning_rate": ("2", 2.0),
    "weight_decay": ("0", 0.0),
    "gamma": ("8", 8.0),
    "cycles": ("2", 2),
    "target_steps": ("9", 9),
    "first_target": ("5.5", 5.5),
    "temperature_decay": ("0.2", 0.2),
    "temperature_floor": ("0.1", 0.1),
    "calibration_images": ("64", 64),
    "augment": (None, False),
    "precision": ("bfloat16", "bfloat16"),
    "compile": ("off", "off"),
    "channels_last": (None, True),
    "log_every": ("1", 1),
    "snapshots": ("4", 4),
    "margin": ("0.25", 0.25),
    "refill": (None, True),
    "search_loss": ("distillation", "distillation"),
    "final_loss": ("distillation", "distillation"),
    "distillation_temperature": ("2", 2.0),
    "final_weights": ("float", "float"),
    "renew_statistics": (None, True),
}


def test_every_setting_has_an_option_and_says_what_it_is():
    assert set(TYPED) == {field.name for field in dataclasses.fields(Settings)}
    told = descriptions(Settings)
    assert all(len(told[name]) > 10 for name in TYPED)
    command = argparse.ArgumentParser()
    add_settings(command)
    assert given_settings(command.parse_args([])) == {}
    line = []
    for name, (text, value) in TYPED.items():
        option = name.replace("_", "-")
        line += [f"--no-{option}" if value is False else f"--{option}"]
        line += [] if text is None else [text]
    found = given_settings(command.parse_args(line))
    assert found == {name: value for name, (_, value) in TYPED.items()}
    for name, value in found.items():
        assert type(value) is type(TYPED[name][1]) and value != getattr(Settings(), name)
        assert getattr(preset("paper", **{name: value}), name) == value


@pytest.mark.parametrize("command", ["search", "sweep"])
def test_the_commands_that_search_take_them(command):
    options = parser().parse_args([command, "--gamma", "8", "--final-loss", "distillation"])
    assert given_settings(options) == {"gamma": 8.0, "final_loss": "distillation"}


def test_a_search_takes_a_preset_its_name_changes_or_nothing():
    quick = PRESETS["quick/cifar10"]
    assert as_settings(None, "cifar10") == as_settings("quick/cifar10", "builtin") == quick
    assert as_settings(quick, "builtin") is quick
    assert as_settings({}, "cifar10") == quick
    changed = as_settings({"final_epochs": 3}, "cifar10")
    assert changed == dataclasses.replace(quick, final_epochs=3)
    given = {"preset": "paper", "gamma": 8.0}
    assert as_settings(given, "cifar10") == Settings(gamma=8.0)
    assert given == {"preset": "paper", "gamma": 8.0}
    with pytest.raises(TypeError, match="no setting 'final_epoch': did you mean final_epochs"):
        as_settings({"final_epoch": 3}, "cifar10")
    with pytest.raises(TypeError, match="a preset's name or a dict of changes, got int"):
        as_settings(3, "cifar10")
    with pytest.raises(ValueError, match="no preset 'papr'"):
        as_settings({"preset": "papr"}, "cifar10")


@pytest.mark.parametrize("name", ["augment", "channels_last", "refill", "renew_statistics"])
@pytest.mark.parametrize("wrong", ["off", 1, None])
def test_what_is_on_or_off_takes_nothing_else(name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be True or False, got {wrong!r}"):
        Settings(**{name: wrong})


def test_true_is_no_number():
    with pytest.raises(ValueError, match="gamma must be a number from 0 on, got True"):
        Settings(gamma=True)


def test_settings_of_earlier_versions_keep_their_values_under_new_names():
    old = {
        "network_rate": 1.0,
        "final_rate": 2.0,
        "logit_rate": 3.0,
        "temperature_rate": 4.0,
        "gamma": 5.0,
    }
    new = complete(old)
    assert set(new) == set(TYPED)
    names = (
        "network_learning_rate",
        "final_learning_rate",
        "logit_learning_rate",
        "temperature_decay",
        "gamma",
    )
    assert [new[name] for name in names] == [1, 2, 3, 4, 5]
    assert new["final_loss"] == "cross-entropy" and new["margin"] == 0  # what was not there was off
