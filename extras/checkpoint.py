"""Checkpoints: a run that is interrupted at any moment goes on after its last finished epoch.

    checkpoint, loader, dtype = open_run("runs/s10", config, device)    # may say "resumed …"
    found = find_lr(…, checkpoint=checkpoint)
    history = fit(…, checkpoint=checkpoint)

After an epoch the whole state is written beside the old file, flushed to the disk, and renamed
over it. The file before that is kept as well. Where epochs are quick, the state is written every
ten seconds: a kill loses at most these and the current epoch, Ctrl-C only the current epoch.
"""

import contextlib
import copy
import io
import time
import zipfile
from pathlib import Path

import torch

from extras.files import free_name, lock, write_atomically
from extras.hardware import choose_precision, device_name

FORMAT = 3
LOCK_SECONDS = 8  # the workers of a process that was killed hold its lock for up to 5 seconds more
ADVICE = "Use the settings it was made with, another folder, or resume=False, which starts over."
# Values too long for a message, and what it says instead
MESSAGES = {
    "fingerprint": "the images have changed",
    "layers": "the layers of the network have changed",
    "augmentation": "the augmentation (transform.py) has changed",
}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used: of another run, in use, not readable here."""


def open_run(folder, config, device, *, loader="auto", precision="auto", workers=None, resume=True):
    """Open a run's checkpoint, and settle what "auto" means.

    A run that goes on keeps its loader and its number of workers, and its precision where the
    device can.

    Args:
        folder: of the run; made if it is not there.
        config: from `extras.settings.run_config`.
        loader, precision: "auto", or what must be used: another one than before is refused.
        workers: None, or the processes that prepare images; another number changes their draws.

    Returns:
        (checkpoint, loader, dtype): a Checkpoint, a name for `dataset.loaders`, and a torch.dtype.
        `checkpoint.choices` has all choices, workers too. Under torchrun rank 0 alone has a
        checkpoint, and decides for all; the others have None.

    Raises CheckpointError where the folder holds another run, is in use, or cannot be written.
    """
    from dataset import choose_loader
    from extras.distributed import broadcast, rank, world_size

    if rank() > 0:
        return None, *broadcast()
    checkpoint = Checkpoint(folder, config, resume)
    loader = choose_loader(checkpoint.resumed_choice("loader", loader) or loader, device)
    earlier = checkpoint.resumed_choice("precision", precision)
    precision, why = choose_precision(precision, device, earlier)
    name = device_name(device, world_size())
    print(f"{name}, {precision}: {why}")
    begun_on = checkpoint.resumed_choice("device")
    if begun_on not in (None, name):
        print(f"the run was begun on {begun_on}")
    begun_with = checkpoint.resumed_choice("workers")
    if workers is None:
        workers = 2 if begun_with is None else begun_with
    elif loader != "device" and begun_with not in (None, workers):
        print(
            f"the run was begun with {begun_with} workers: with {workers}, other images are drawn"
        )
    checkpoint.choices = {
        "loader": loader,
        "precision": precision,
        "workers": workers,
        "device": name,
        "world_size": world_size(),
    }
    return checkpoint, *broadcast((loader, getattr(torch, precision)))


class Checkpoint:
    """The state of one run in one folder.

    `state` is a dict of plain values and state dicts: config, choices, range_test, history,
    hyperparameters, model, optimizer, scheduler, scaler. `choices` may be others on resuming:
    loader, precision, workers, device, world_size.

    Other processes are kept out of the folder while a run trains, from `restore` to `release`.

    Args:
        config: plain values that identify the run; a checkpoint with others is refused.
        resume: False starts over; the old checkpoint is kept as `checkpoint.replaced.pt`.
        least_seconds: an epoch that ends sooner than this after the last write is not written yet,
            so this much may be lost when the process is killed. `release` writes it.

    Raises CheckpointError where another process uses the folder, it cannot be written, or it holds
    another run.
    """

    def __init__(self, folder, config, resume=True, *, least_seconds=10):
        self.folder = Path(folder).expanduser()
        self.path = self.folder / "checkpoint.pt"
        self.previous = self.folder / "checkpoint.previous.pt"
        self.config = config
        self.choices = {}
        self.least_seconds = least_seconds
        self.state = {}
        self.unwritten = set()  # paths that `write` has failed with
        self.is_held = False
        self.is_written = True
        self.written_at = -float("inf")
        self.restored = None
        self.starts_over = not resume
        with self.held():
            pass  # that reads what is there
        if self.state:
            print(self.summary())

    def resumed_choice(self, name, asked="auto"):
        """The run's loader, precision … before it was interrupted, or None; refuses another one."""
        before = self.state.get("choices", {}).get(name)
        if asked != "auto" and before not in (None, asked):
            refuse_differences(self.path, {name: before}, {name: asked})
        return before

    def hold(self):
        """Keep other processes out until `release`, after reading what they have written."""
        if self.is_held:
            return
        try:
            self.lock = lock(self.folder / ".lock", timeout=LOCK_SECONDS)
        except TimeoutError:
            raise CheckpointError(
                f"{self.folder} is in use by another process: wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise CheckpointError(
                f"the folder {self.folder} cannot be written: {error.strerror}"
            ) from None
        self.is_held = True
        try:
            if self.is_written:  # else this process has the newest state: the disk was full
                self.read()
        except BaseException:  # Ctrl-C too: a notebook lives on
            self.release()
            raise

    def release(self):
        """Write what is not on the disk yet, and let other processes use the folder."""
        if not self.is_held:
            return
        try:
            if not self.is_written:
                self.write_state()
        finally:
            if self.lock is not None:
                self.lock.release()
            self.is_held = False

    @contextlib.contextmanager
    def held(self):
        """Held for a moment, where it is not held already."""
        was_held = self.is_held
        self.hold()
        try:
            yield
        finally:
            if not was_held:
                self.release()

    def read(self):
        """Take the state on disk, or put it aside where the run starts over."""
        if self.starts_over:
            self.start_over()
            self.starts_over = False
        self.state = self.load()
        if self.state:
            refuse_differences(self.path, self.state["config"], self.config)

    def load(self):
        """The newest good state on disk, or an empty one. A damaged file is set aside and named."""
        for path in (self.path, self.previous):
            try:
                content = path.read_bytes() if path.exists() else b""
            except OSError as error:
                raise CheckpointError(
                    f"{path} cannot be read: {error.strerror}; try again"
                ) from None
            if content and is_intact(content):
                return self.unpack(path, content)
            if path.exists():
                aside = free_name(path.with_suffix(".damaged.pt"))
                path.replace(aside)
                print(f"{path} is damaged: it is set aside as {aside.name}")
        return {}

    def unpack(self, path, content):
        """The state in an undamaged file. A file that is not ours is refused, but never moved."""
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if state["format"] == FORMAT:
                return state
            reason = f"its format is {state['format']}, not {FORMAT}"
        except Exception as error:  # torch.load has many
            reason = type(error).__name__
        raise CheckpointError(f"{path} cannot be read here ({reason}). {ADVICE}")

    def summary(self):
        done = len(self.state["history"])
        epochs = self.config.get("epochs")
        if done == epochs:
            return f"resumed {self.path}: the run is finished, {done} of {epochs} epochs"
        seconds = sum(row["seconds"] for row in self.state["history"])
        seconds += self.state.get("range_seconds", 0)
        step = f"after epoch {done}" + (f" of {epochs}" if epochs else "")
        if done == 0:
            has_rates = "range_test" in self.state
            step = "after the LR range test" if has_rates else "before the first epoch"
        return f"resumed {step} from {self.path}: {seconds:.0f} s saved"

    def start_over(self):
        """Put the newest good checkpoint aside, and remove the one before it."""
        files = [path for path in (self.path, self.previous) if path.exists()]
        good = [path for path in files if is_intact(path.read_bytes())]
        if good:
            good[0].replace(free_name(self.folder / "checkpoint.replaced.pt"))
        for path in good[1:]:
            path.unlink()

    def save(self, **parts):
        """Add `parts` to the state and write it; see `write` for a full disk.

        Raises CheckpointError where a part holds objects that could never be read again, and where
        another process has gone on with the run meanwhile, which must not be overwritten.
        """
        known = self.progress()
        with self.held():
            if self.progress() != known:
                raise CheckpointError(
                    f"another process has gone on with {self.path} meanwhile: start again, and "
                    "its state is taken up"
                )
            parts = copy.deepcopy(parts)  # a state dict holds the weights themselves; they move on
            self.state = {
                "history": [],
                **self.state,
                **parts,
                "format": FORMAT,
                "config": self.config,
                "choices": self.choices,
            }
            self.is_written = False
            if time.monotonic() - self.written_at >= self.least_seconds:
                self.write_state()

    def progress(self):
        """How far the state is: the names of its parts, and the number of finished epochs."""
        return sorted(self.state), len(self.state.get("history", ()))

    def write_state(self):
        content = to_bytes(self.state)
        try:  # what cannot be read back is no checkpoint
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:
            self.state = self.load()  # the last good one
            self.is_written = True
            raise CheckpointError(
                "the state holds objects that cannot be read back: give float(x) instead of a "
                "NumPy number, str(path) instead of a path"
            ) from None
        self.write(self.path, content, keep=self.previous)
        self.is_written = self.path not in self.unwritten
        self.written_at = time.monotonic()

    def write(self, path, content, keep=None):
        """Write a file of the run; where that fails, print why, and go on without it.

        `unwritten` is the set of those paths.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content, keep)
            self.unwritten.discard(path)
        except OSError as error:
            self.unwritten.add(path)
            print(f"{path} could not be written ({error.strerror}): check space and permissions")

    def restore(self, **parts):
        """Load the state into model, optimizer, scheduler and scaler, or store theirs at first.

        Returns the history. The folder is held from here on, until `release`.

        Raises CheckpointError where the layers, or a hyperparameter of optimizer or scheduler
        (LRMAX, say), have changed.
        """
        self.hold()
        steppers = parts.get("optimizer"), parts.get("scheduler")
        now = hyperparameters(*steppers)
        if "model" not in self.state:
            states = {name: part.state_dict() for name, part in parts.items()}
            self.save(hyperparameters=now, **states)
            self.restored = steppers
            return []
        # After Ctrl-C the very same objects come back: their rate has moved, and is set back.
        # New ones are compared, or an optimizer would take over the old values without a word,
        # and figures would show the new.
        if steppers != self.restored:
            saved = self.state.get("hyperparameters", {})
            refuse_differences(self.path, saved, {name: now.get(name) for name in saved})
        self.restored = steppers
        # of another network, load_state_dict would overwrite the layers that fit, and then fail
        if isinstance(parts.get("model"), torch.nn.Module):
            there, here = shapes(self.state["model"]), shapes(parts["model"].state_dict())
            refuse_differences(self.path, {"layers": there}, {"layers": here})
        for name, part in parts.items():
            if self.state.get(name):  # a scaler that was not needed before has no state
                # a copy: an optimizer would keep these very tensors, and change them
                part.load_state_dict(copy.deepcopy(self.state[name]))
        return list(self.state["history"])

    def load_model(self, model):
        """Give a model the weights of the last finished epoch, whatever it has now."""
        if "model" in self.state:
            getattr(model, "_orig_mod", model).load_state_dict(self.state["model"])  # compiled


def shapes(state):
    """The shape of each tensor of a state dict, by name."""
    return {name: tuple(value.shape) for name, value in state.items() if torch.is_tensor(value)}


def hyperparameters(optimizer, scheduler):
    """The plain values of an optimizer's groups and of a scheduler, and its kind, at the start.

    Names that begin with "_" are PyTorch's own, and change with its version; but one of them holds
    the place of one_cycle's peak.
    """
    groups = getattr(optimizer, "param_groups", ())
    parts = {f"group {number}": group for number, group in enumerate(groups)}
    if scheduler is not None:
        parts["the scheduler"] = scheduler.state_dict()
    found = {"the scheduler": None if scheduler is None else type(scheduler).__name__}
    for part, state in parts.items():
        for name, value in state.items():
            is_plain = isinstance(value, int | float | bool | str | tuple | list)
            is_private = name.startswith("_") and name != "_schedule_phases"
            if is_plain and name != "params" and not is_private:
                found[f"{name} of {part}"] = copy.deepcopy(value)
    return found


def refuse_differences(path, there, here):
    """Raise CheckpointError where two dicts of plain values differ."""
    said = []
    for name in {**there, **here}:
        if plain(there.get(name)) == plain(here.get(name)):
            continue
        values = f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        said.append(MESSAGES.get(name, values))
    if said:
        raise CheckpointError(f"{path} belongs to another run: {'; '.join(said[:4])}. {ADVICE}")


def plain(value):
    """Tuples and lists are the same here: a library's scheduler may give either."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def is_intact(content):
    """Is it a complete zip file, as torch.save writes them, with right checksums?"""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return file.testzip() is None
    except Exception:
        return False


def to_bytes(state):
    """Written to memory first: on a full disk, torch.save into a file can end the process."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()
