"""Is it clear which run is meant, and is what makes no sense refused before any work?"""

import pytest
import torch
from small_run import TinyNet, tiny_sample

from dataset import ArrayDataset, Data
from settings import FULL, QUICK, choose, describe_run, device_name, pick_device, precision, set_deterministic, whole


def tiny_data(shift=0):
    splits = [tiny_sample(train, n) for train, n in ((True, 50), (False, 10))]
    return Data("tiny", *(ArrayDataset(pictures + shift, labels, range(10)) for pictures, labels in splits))


def test_profiles_are_those_of_the_contract():
    assert (FULL.epochs, FULL.batch_size, FULL.limit, FULL.iterations) == (24, 512, None, 100)
    assert choose("full", "cpu") == FULL and choose("quick", "cuda") == QUICK
    assert choose("auto", "cpu") == QUICK and choose("auto", "cuda") == FULL and choose("auto", "mps") == FULL


def test_the_quick_profile_costs_at_most_15_000_picture_steps():
    tests = QUICK.limit // 5
    steps = QUICK.iterations * QUICK.batch_size + QUICK.epochs * (QUICK.limit + tests) + tests
    assert steps <= 15_000 and QUICK.iterations < FULL.iterations and QUICK.batch_size < FULL.batch_size


def test_what_is_given_overrides_the_profile():
    given = choose("full", "cpu", epochs=3, batch_size=8, limit=10)
    assert (given.epochs, given.batch_size, given.limit, given.iterations) == (3, 8, 10, 100)
    assert choose("quick", "cpu", epochs=1).batch_size == QUICK.batch_size


@pytest.mark.parametrize("name", ["epochs", "batch_size", "limit"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True, float("nan")])
def test_values_without_sense_are_refused_with_the_valid_ones(name, value):
    least = 10 if name == "limit" else 1
    with pytest.raises(ValueError) as error:
        choose("auto", "cpu", **{name: value})
    assert str(error.value) == f"{name.replace('_', ' ')} is {value!r}: give a whole number, {least} or more"


def test_the_smallest_values_are_taken_and_the_limit_begins_at_ten():
    assert choose("auto", "cpu", epochs=1, batch_size=1, limit=10).limit == 10
    with pytest.raises(ValueError, match="limit is 9: give a whole number, 10 or more"):
        choose("auto", "cpu", limit=9)
    assert whole("seed", 0, 0) == 0 and whole("seed", None, 0) is None


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="profile is 'fast': choose one of auto, full, quick"):
        choose("fast")


def test_the_description_says_what_a_full_run_would_need():
    quick, full = QUICK.describe("cpu"), FULL.describe("cpu")
    assert "5 epochs of 2,000 training pictures, batches of" in quick and "on CPU" in quick
    assert "24 epochs of all 50,000 pictures" in quick and "hours on two CPU cores" in quick
    assert "24 epochs of all pictures" in full and "short run" not in full


def test_device_and_precision(monkeypatch):
    assert precision("cpu") == precision("mps") == torch.float32
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert precision("cuda") == dtype
    for cuda, mps, kind in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda c=cuda: c)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda m=mps: m)
        assert pick_device().type == kind
    assert device_name("cpu").startswith("CPU, ") and device_name("mps") == "Apple MPS"


def test_deterministic_can_be_switched_on_and_off():
    try:
        set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    finally:
        set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark


def described(data=None, model=None, workers=2, loader="device", **choice):
    options = dict(seed=0, loader=loader, workers=workers, recipe={"optimizer": "Adam"})
    return describe_run(data or tiny_data(), model or TinyNet(), choose("quick", "cpu", **choice), **options)


def test_a_run_is_described_by_plain_values_that_survive_a_checkpoint(tmp_path):
    torch.save(described(), tmp_path / "c.pt")
    assert torch.load(tmp_path / "c.pt", weights_only=True) == described()


def test_one_changed_pixel_or_label_is_another_run():
    assert described(tiny_data()) == described(tiny_data())
    assert described(tiny_data(shift=1))["fingerprint"] != described()["fingerprint"]
    data = tiny_data()
    data.test.targets[3] = 9
    assert described(data)["fingerprint"] != described()["fingerprint"]


def test_workers_count_only_where_they_prepare_pictures():
    assert described(workers=0) == described(workers=2)
    assert described(loader="torchvision", workers=0) != described(loader="torchvision", workers=2)
