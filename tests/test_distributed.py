"""Several processes train the network that one would: real processes, on the CPU."""

import json
import socket
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
import two_processes
from small_run import STARTED, child, end_orphans, finish, same, server
from torch import nn
from two_processes import as_rank, parts

from extras import distributed
from test import test as evaluate

HERE = Path(__file__).parent
SMALL = ["--limit", "40", "--batch-size", "16", "--epochs", "3", "--seed", "3"]
SMALL += ["--loader", "device"]


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    end_orphans()


def two(target, *arguments, timeout=300):
    """Call `target` in two processes, forked off a server; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        server().Process(target=as_rank, args=(rank, port, target, *arguments)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
        STARTED.append(process.pid)
    for process in processes:
        process.join(timeout)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What the two processes of two_processes.py found."""
    out = tmp_path_factory.mktemp("pair")
    assert two(two_processes.main, out, timeout=120) == [0, 0]
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_every_image_is_seen_once_in_the_batches_of_one_process(pair):
    _, (loader, _), _, _ = parts()
    whole = [labels.tolist() for _, labels in loader]
    seen = zip(pair[0]["seen"], pair[1]["seen"], strict=True)
    assert [first + second for first, second in seen] == whole
    assert [len(batch) for batch in pair[0]["seen"]] == [4, 4, 2]
    assert sorted(sum(whole, [])) == list(range(20))


def test_three_steps_are_those_of_one_process_to_1e_10(pair):
    """One process takes both shares one after the other, and then steps.

    In training, BatchNorm sees the rows of a share, as in each process; its running statistics are
    those of the first share.
    """
    model, (loader, _), optimizer, criterion = parts()
    model.train()
    loss_sum = 0
    correct = 0
    for images, labels in loader:
        optimizer.zero_grad()
        shares = list(zip(images.chunk(2), labels.chunk(2), strict=True))
        for number, (rows, row_labels) in enumerate(shares):
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            output = model(rows)
            loss = criterion(output, row_labels)
            (loss / 2).backward()
            loss_sum += float(loss.detach()) * len(rows)
            correct += int((output.argmax(dim=1) == row_labels).sum())
            if number == 1:
                model.load_state_dict(buffers, strict=False)
        optimizer.step()
    for found in pair:
        for name, weights in model.named_parameters():
            assert (found["model"][name] - weights).abs().max() < 1e-10, name
    for name, buffer in model.named_buffers():
        assert torch.allclose(pair[0]["model"][name], buffer, rtol=1e-10, atol=1e-10), name
    expected = {"train_loss": loss_sum / 20, "train_acc": 100 * correct / 20, "test_loss": 0.0}
    for found in pair:  # summed in float32
        assert found["row"] == pytest.approx(expected, rel=1e-6)


def test_every_process_evaluates_the_whole_test_set(pair):
    model, (_, test_loader), _, criterion = parts()
    for rank, found in enumerate(pair):
        assert (found["rank"], found["world_size"]) == (rank, 2)
        assert found["predicted"] == list(range(9))
        model.load_state_dict(found["model"])
        result = evaluate(model, "cpu", test_loader, criterion)
        assert found["tested"] == pytest.approx(result, rel=1e-6)
    assert pair[0]["data"] == pair[1]["data"]  # whatever rank 0 has loaded


def test_a_process_starts_with_the_weights_moments_and_history_of_rank_0(pair):
    histories, states = zip(*(found["started together"] for found in pair), strict=True)
    assert histories[0] == histories[1] == [{"epoch": 1}]
    first, second = states
    assert same(first["model"], second["model"])
    moments = [state["optimizer"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys() == {0, 1}
    for number in (0, 1):
        assert same(moments[0][number], moments[1][number])


def test_rank_0_decides_for_all_whether_an_epoch_was_the_last(pair):
    for found in pair:
        assert [row["epoch"] for row in found["ended by 0"]] == [1]
        assert [row["epoch"] for row in found["ended by 1"]] == [1, 2, 3]
        assert found["ended by 1"] == pair[0]["ended by 1"]  # the numbers are rank 0's for all
        assert found["ended by 1"][0]["test_loss"] == 0


def test_what_cannot_be_shared_is_refused_with_what_can(pair):
    for found in pair:
        odd, last, loader, batchnorm = found["refused"]
        assert "batches of 7" in odd and "8" in odd
        assert "batches of 16" in last
        assert "'torchvision'" in loader
        assert "--sync-batchnorm" in batchnorm


def test_a_dead_process_ends_the_run_which_then_goes_on_with_another_number(
    tmp_path, monkeypatch, capfd
):
    """Two, of which the second is killed in epoch 2; one, killed in epoch 3; then two again."""
    out, log, again = tmp_path / "run", tmp_path / "log.txt", tmp_path / "again.txt"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SMALL_RUN_STOP", "1 train 5")
    with pytest.raises(RuntimeError, match="2 processes failed"):
        distributed.torchrun(2, [*SMALL, "--out", str(out)], main=HERE / "small_run.py")
    words = capfd.readouterr().out
    assert "SIGKILL" in words  # torchrun's report
    assert "epoch 1/3" in words and "epoch 2/3" not in words

    monkeypatch.delenv("SMALL_RUN_STOP")
    assert finish([*SMALL, "--out", out], log, stop=("train", 5)) == -9
    words = log.read_text()
    assert "resumed after epoch 1 of 3" in words
    assert "the run was begun on 2 × " in words

    options = (None, False, None, None, "utf-8")
    assert two(child, [*SMALL, "--out", str(out)], str(again), *options) == [0, 0]
    words = again.read_text()
    assert "resumed after epoch 2 of 3" in words
    assert words.count("epoch 3/3") == 1  # only rank 0 prints
    numbers = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [row["epoch"] for row in numbers["history"]] == [1, 2, 3]
    assert numbers["world_size"] == 2
    assert f"{numbers['final_test_acc']:.2f} %" in words


def under_torchrun(monkeypatch, gpus, processes):
    """Pretend to be one of several processes on a machine with GPUs; returns the mocks of torch."""
    for name, value in {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    mocks = Mock()
    monkeypatch.setattr(torch.cuda, "set_device", mocks.set_device)
    monkeypatch.setattr(dist, "init_process_group", mocks.join)
    monkeypatch.setattr(dist, "destroy_process_group", mocks.leave)
    return mocks


def test_each_process_takes_its_own_gpu_before_anything_else_and_a_cpu_none(monkeypatch):
    mocks = under_torchrun(monkeypatch, gpus=2, processes=2)
    with distributed.process_group(torch.device("cuda")):
        assert [name for name, _, _ in mocks.mock_calls] == ["set_device", "join"]
        assert mocks.set_device.call_args.args == (1,)
        assert mocks.join.call_args.args == ("nccl",)
    assert mocks.leave.call_count == 1

    mocks.reset_mock()  # --device cpu, or a GPU without kernels: NCCL moves no CPU tensors
    with distributed.process_group(torch.device("cpu")):
        assert mocks.join.call_args.args == ("gloo",)
    assert mocks.set_device.call_count == 0


def test_more_processes_than_gpus_are_refused_and_a_cpu_takes_any_number(monkeypatch):
    mocks = under_torchrun(monkeypatch, gpus=2, processes=3)
    with (
        pytest.raises(ValueError, match=r"3 processes for 2 GPU.*--nproc-per-node=2"),
        distributed.process_group("cuda"),
    ):
        pass
    with pytest.raises(ValueError, match="Apple"), distributed.process_group("mps"):
        pass
    assert mocks.join.call_count == 0
    with distributed.process_group("cpu"):
        pass
    assert mocks.join.call_count == 1


def test_processes_that_cannot_meet_say_so_in_a_line(monkeypatch):
    mocks = under_torchrun(monkeypatch, gpus=0, processes=2)
    mocks.join.side_effect = dist.DistNetworkError("the port is in use\nand a page of frames")
    with (
        pytest.raises(ValueError, match="the port is in use.*--master-port") as error,
        distributed.process_group("cpu"),
    ):
        pass
    assert "\n" not in str(error.value)


def test_without_torchrun_everything_is_given_back_as_it_is():
    model = nn.BatchNorm1d(1)
    value = object()
    with distributed.process_group():
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.wrap(model, sync_batchnorm=True) is model
        assert distributed.broadcast(value) is value
        assert distributed.run_on_rank0(lambda: value) is value
