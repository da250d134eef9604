"""Do several processes train the network that one would? Real processes, started by torchrun, on the CPU."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
import torch
from small_run import end_orphans, finish
from two_processes import BATCH, ingredients

import distributed
from checkpoint import Checkpoint
from settings import Settings, device_name
from test import test as evaluate

HERE = Path(__file__).parent
SMALL = ["--limit", "40", "--batch-size", "16", "--epochs", "3", "--seed", "3", "--loader", "device"]


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    end_orphans()


def torchrun(script, *arguments, **environment):
    """Both processes' exit status and words."""
    environment = os.environ | dict(OMP_NUM_THREADS="1") | environment
    command = [*distributed.torchrun(2), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What the two processes of two_processes.py found."""
    out = tmp_path_factory.mktemp("pair")
    code, words = torchrun("two_processes.py", out)
    assert code == 0, words
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_every_picture_is_seen_once_in_the_batches_of_one_process(pair):
    _, (loader, _), _, _ = ingredients()
    whole = [labels.tolist() for _, labels in loader]
    assert [len(batch) for batch in whole] == [7, 7, 6]
    assert [first + second for first, second in zip(*(found["seen"] for found in pair), strict=True)] == whole
    assert [len(batch) for batch in pair[0]["seen"]] == [3, 3, 3]
    assert sorted(sum(whole, [])) == list(range(20))


def one_process():
    """The same three steps by one process: both shares one after the other, their gradients averaged by rows."""
    model, (loader, _), optimizer, criterion = ingredients()
    model.train()
    loss_sum, hits = 0, 0
    for pictures, labels in loader:
        optimizer.zero_grad()
        for rows in (slice(0, 3), slice(3, BATCH)):
            output = model(pictures[rows])
            loss = criterion(output, labels[rows]) * len(labels[rows])
            (loss / len(labels)).backward()
            loss_sum += float(loss.detach())
            hits += int((output.argmax(dim=1) == labels[rows]).sum())
        optimizer.step()
    return model, (loss_sum / 20, 100 * hits / 20)


def test_three_steps_are_those_of_one_process_to_1e_10(pair):
    model, metrics = one_process()
    for name, weights in model.named_parameters():
        for found in pair:
            assert (found["model"][name] - weights).abs().max() < 1e-10, name
    for found in pair:  # the metrics are those of the whole; summed up in float32
        assert found["trained"] == pytest.approx(metrics, rel=1e-6)


def test_processes_end_with_one_network_and_evaluate_the_whole_test_set(pair):
    first, second = pair
    assert first["size"] == second["size"] == 2
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    model, (_, test_loader), _, criterion = ingredients()
    model.load_state_dict(first["model"])
    alone = evaluate(model, "cpu", test_loader, criterion)
    assert first["tested"] == second["tested"] == pytest.approx(alone, rel=1e-6)
    for found in pair:  # what the first does by itself, it does with all pictures, and both have the result
        assert found["together"][0].tolist() == list(range(9)) and found["together"][1] == 1


def notebook_cell(name, monkeypatch, out):
    """Run the notebook's cell for several GPUs as on a machine with two; returns the checkpoint it goes on with."""
    source = next(cell.source for cell in nbformat.read(HERE.parent / "S10_model.ipynb", 4).cells if cell.id == name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = torch.load(out / "checkpoint.pt", weights_only=True)["config"]
    settings = Settings("quick", epochs=3, batch_size=16, limit=40, iterations=20)
    cell = dict(data="sample", seed=3, loader="device", out=out, settings=settings, config=config, device="cpu")
    cell |= dict(torch=torch, distributed=distributed, Checkpoint=Checkpoint, device_name=device_name)
    cell |= dict(checkpoint=Checkpoint(out, config), common={})
    exec(source, cell)
    assert cell["common"]["checkpoint"] is cell["checkpoint"]
    return cell["checkpoint"]


def test_a_dead_process_ends_the_run_which_then_goes_on_with_another_number(tmp_path, monkeypatch, capfd):
    """Two processes, of which the second is killed in epoch 2; one process, killed in epoch 3; then two again."""
    out, log = tmp_path / "run", tmp_path / "log.txt"
    code, words = torchrun("small_run.py", *SMALL, "--out", out, SMALL_RUN_STOP="1 train 5")
    assert time.time() - (out / "checkpoint.pt").stat().st_mtime < 30  # written before the kill
    assert code == 1
    assert distributed.cause(words) == "process 1 was ended by SIGKILL; run the same again to go on", words
    assert words.count("train.py: another process is gone") <= 1  # torchrun may be quicker
    assert "[rank0]: Traceback" not in words
    assert "epoch  1/3" in words and "epoch  2/3" not in words

    assert finish([*SMALL, "--out", out], log, stop=("train", 5)) == -9
    assert "resumed after epoch 1 of 3" in log.read_text() and "begun on 2 × CPU" in log.read_text()

    monkeypatch.setattr(distributed, "SCRIPT", HERE / "small_run.py")
    capfd.readouterr()
    kept = notebook_cell("s10-23b", monkeypatch, out)
    assert "the run is finished" in kept.summary()
    words = capfd.readouterr().out
    assert "resumed after epoch 2 of 3" in words and "it goes on on 2 × CPU" in words
    assert words.count("epoch  3/3") == 1  # only the first process speaks
    numbers = json.loads((out / "results.json").read_text())
    assert [row["epoch"] for row in numbers["history"]] == [1, 2, 3] and numbers["world_size"] == 2
    assert f"{numbers['final_test_acc']:.2f} %" in words and (out / "confusion_matrix.png").exists()


def test_what_cannot_be_shared_is_refused_in_a_sentence(pair):
    rest = "for 2 processes: start fewer, or change batch size or limit"
    for found in pair:
        assert found["refused"] == [
            f"a batch holds 1 pictures {rest}",
            f"the last batch holds 1 pictures {rest}",
            f"the test set holds 1 pictures {rest}",
            "loader is 'torchvision': several processes share one table of draws, so give \"device\"",
            "--sync-batchnorm needs CUDA GPUs: leave it out on the CPU",
        ]


def test_a_refused_run_raises_its_sentence_in_the_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "SCRIPT", HERE / "small_run.py")
    with pytest.raises(RuntimeError, match="on 2 processes failed: a batch holds 1 pictures for 2 processes"):
        distributed.launch(2, data="sample", limit=40, batch_size=1, loader="device", out=tmp_path)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"3 processes for 2 GPU\(s\) on this machine: give .* --nproc-per-node=2"):
        distributed.take_gpu(local_rank=0, here=3)


def test_a_port_in_use_is_named(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        place = dict(RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(other.getsockname()[1]))
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match="in use: give torchrun another --master-port"), distributed.joined():
            pass


def test_a_process_by_itself_is_a_group_of_one():
    with distributed.joined():
        assert (distributed.rank(), distributed.size(), distributed.share(7)) == (0, 1, slice(0, 7))
        loss = torch.tensor(2.0)
        assert distributed.weighted(loss, 3) is loss and distributed.from_first("word") == "word"
        model = torch.nn.Linear(1, 1)
        assert distributed.wrap(model) is model and distributed.unwrap(model) is model
