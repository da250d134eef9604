"""Several processes train the network that one would: real processes, started by torchrun, on the
CPU.
"""

import json
import socket
from pathlib import Path

import pytest
import torch
import two_processes
from small_run import STARTED, child, end_orphans, finish, same, server
from torch import nn
from two_processes import BATCH, as_rank, parts

from extras import distributed
from test import test as evaluate
from train import average_buffers, share_weight

HERE = Path(__file__).parent
SMALL = [
    "--limit",
    "40",
    "--batch-size",
    "16",
    "--epochs",
    "3",
    "--seed",
    "3",
    "--loader",
    "device",
]


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    end_orphans()


def two(target, *arguments, timeout=300):
    """Call `target` in two processes, forked off a server that has paid for the imports; returns
    their exit codes.
    """
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
    assert two(two_processes.main, out) == [0, 0]
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_every_image_is_seen_once_in_the_batches_of_one_process(pair):
    _, (loader, _), _, _ = parts()
    whole = [labels.tolist() for _, labels in loader]
    assert [len(batch) for batch in whole] == [7, 7, 6]
    assert [
        first + second for first, second in zip(*(found["seen"] for found in pair), strict=True)
    ] == whole
    assert [len(batch) for batch in pair[0]["seen"]] == [3, 3, 3]
    assert sorted(sum(whole, [])) == list(range(20))


def test_three_steps_are_those_of_one_process_to_1e_10(pair):
    """One process takes both shares one after the other; BatchNorm sees the rows of a share, as in
    each process.

    The last batch has uneven shares of a smaller whole: its gradient is still the mean over all
    rows.
    """
    model, (loader, _), optimizer, criterion = parts()
    twin = parts()[
        0
    ]  # has the running statistics of the first share, the model those of the second
    model.train(), twin.train()
    loss_sum, correct = 0, 0
    for images, labels in loader:
        optimizer.zero_grad()
        twin.load_state_dict(model.state_dict() | dict(twin.named_buffers()))
        with torch.no_grad():
            twin(images[:3])
        kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for rows in (slice(0, 3), slice(3, BATCH)):
            model.load_state_dict(kept, strict=False)
            output = model(images[rows])
            loss = criterion(output, labels[rows]) * len(labels[rows])
            (loss / len(labels)).backward()
            loss_sum += float(loss.detach())
            correct += int((output.argmax(dim=1) == labels[rows]).sum())
        optimizer.step()
    for found in pair:
        for name, weights in model.named_parameters():
            assert (found["model"][name] - weights).abs().max() < 1e-10, name
        for name, buffer in model.named_buffers():  # the average of both processes
            average = (buffer + dict(twin.named_buffers())[name]) / 2
            assert torch.allclose(found["model"][name].double(), average.double(), rtol=1e-10), name
        assert found["trained"] == pytest.approx(
            (loss_sum / 20, 100 * correct / 20), rel=1e-6
        )  # summed in float32
    assert same(pair[0]["model"], pair[1]["model"])


def test_evaluation_is_of_the_whole_test_set_and_rank_0_speaks_for_all(pair):
    model, (_, test_loader), _, criterion = parts()
    model.load_state_dict(pair[0]["model"])
    result = evaluate(model, "cpu", test_loader, criterion)
    assert [(found["rank"], found["world_size"]) for found in pair] == [(0, 2), (1, 2)]
    for found in pair:
        assert found["tested"] == pytest.approx(result, rel=1e-6)
        assert found["whole"] == list(range(9))  # what rank 0 does with `whole()`, both have
    assert pair[0]["own share"] + pair[1]["own share"] == list(range(9))
    assert pair[0]["data"] == pair[1]["data"]  # whatever rank 0 has loaded


def test_what_cannot_be_shared_is_refused_in_a_sentence(pair):
    rest = "for 2 processes: start fewer, or change the batch size"
    for found in pair:
        assert found["refused"] == [f"a batch of 1 images {rest}"] * 3 + [
            "loader is 'torchvision': several processes need \"device\"; without torchrun it goes on",
            "--sync-batchnorm needs CUDA GPUs: leave it out on a CPU",
        ]


def test_a_dead_process_ends_the_run_which_then_goes_on_with_another_number(
    tmp_path, monkeypatch, capfd
):
    """Two processes, of which the second is killed in epoch 2; one process, killed in epoch 3; then
    two again.
    """
    out, log, again = tmp_path / "run", tmp_path / "log.txt", tmp_path / "again.txt"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SMALL_RUN_STOP", "1 train 5")
    with pytest.raises(
        RuntimeError, match="the run on 2 processes failed, see above; running this again goes on"
    ):
        distributed.torchrun(2, [*SMALL, "--out", str(out)], main=HERE / "small_run.py")
    words = capfd.readouterr().out
    assert "Signal 9 (SIGKILL)" in words  # torchrun's report
    assert "epoch 1/3" in words and "epoch 2/3" not in words

    monkeypatch.delenv("SMALL_RUN_STOP")
    assert finish([*SMALL, "--out", out], log, stop=("train", 5)) == -9
    assert (
        "resumed after epoch 1 of 3" in log.read_text()
        and "the run was begun on 2 × " in log.read_text()
    )

    assert two(child, [*SMALL, "--out", str(out)], str(again), None, False, None) == [0, 0]
    words = again.read_text()
    assert (
        "resumed after epoch 2 of 3" in words and words.count("epoch 3/3") == 1
    )  # only rank 0 prints
    numbers = json.loads((out / "results.json").read_text())
    assert [row["epoch"] for row in numbers["history"]] == [1, 2, 3]
    assert numbers["world_size"] == 2 and numbers["device"].startswith("2 × ")
    assert f"{numbers['final_test_acc']:.2f} %" in words


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in dict(RANK="3", WORLD_SIZE="4", LOCAL_WORLD_SIZE="3").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    text = r"3 processes for 2 GPU\(s\) on this machine: give --nproc-per-node=2"
    with pytest.raises(ValueError, match=text), distributed.process_group():
        pass


def test_without_torchrun_everything_is_given_back_as_it_is():
    model, value = nn.BatchNorm1d(1), object()
    with distributed.process_group():
        assert (distributed.rank(), distributed.world_size(), share_weight(3, "cpu")) == (0, 1, 1.0)
        assert (
            distributed.wrap(model, sync_batchnorm=True) is model
            and distributed.broadcast(value) is value
        )
        assert distributed.run_on_rank0(lambda: value) is value
        average_buffers(model)
    assert model.running_var.tolist() == [1.0]
