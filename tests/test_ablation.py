"""Is an ablation fair, resumable and honest: the rows, the 2023 transform, the results file, tables and figure?"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import comparison
import models
import report
import run
from benchmarks import ablation, augmentation, course, recipes, search, tables
from benchmarks.ablation import Results, plan, run_jobs
from benchmarks.recipes import ROWS, Row
from benchmarks.study import BASE, Study
from dataset import CLASSES, ArrayDataset, Data, load
from loader import DeviceLoader
from settings import Settings
from train import RECIPE
from transform import MEAN, STD

CPU, ROOT = torch.device("cpu"), Path(__file__).parent.parent
SETTINGS = Settings("full", epochs=3, batch_size=10, limit=20, iterations=25)
KEYS = {"name", "data", "pictures", "epochs", "seeds", "accuracies", "mean", "std", "device"}  # the issue's
PLAIN = next(row for row in ROWS if row.key == "plain")


class Tiny(nn.Module):
    """A network that trains in no time, with what the rows change in the real one."""

    def __init__(self, classes=10, additions=True):
        super().__init__()
        self.additions = additions
        body = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()
        self.body, self.fc = nn.Sequential(*body), nn.Linear(32, classes, bias=False)

    def forward(self, pictures):
        return self.fc(self.body(pictures)).log_softmax(dim=1)


def noise(n, seed=0):
    """Pictures of noise with a bright strip, whose place and colour tell the class: they can be learnt."""
    targets = np.arange(n) % 10
    pictures = np.random.default_rng(seed).integers(0, 128, (n, 32, 32, 3))
    for picture, label in zip(pictures, targets, strict=True):
        picture[:, 3 * label : 3 * label + 5, label % 3] += 120
    return ArrayDataset(pictures.astype(np.uint8), targets, CLASSES)


@pytest.fixture
def study(tmp_path):
    data = Data("noise", noise(20), noise(10, seed=1))
    return Study(data, SETTINGS, tmp_path / "runs", CPU, make_model=Tiny, log=[].append)


@pytest.fixture
def results(study, tmp_path):
    return Results(tmp_path / "ablation.json", study)


def test_a_run_of_train_py_is_the_recipes_run(tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    for split, n in (("train", 3), ("test", 1)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i, picture in enumerate(noise(10 * n).data[label::10]):
                Image.fromarray(picture).save(folder / split / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)  # the cache of decoded pictures goes there
    monkeypatch.setattr(models, "s10_model", Tiny)
    monkeypatch.setattr(run, "draw", lambda *_: None)
    options = "--profile full --loader device --epochs 3 --batch-size 4 --limit 20 --seed 1 --out a/recipe-1"
    run.main(["--data", str(folder), *options.split()])
    data, lines = load(str(folder)).limited(20), []
    settings = Settings("full", epochs=3, batch_size=4, limit=20, iterations=100)
    taken = Study(data, settings, tmp_path / "a", CPU, make_model=Tiny, log=lines.append).run(BASE, 1, {})
    assert any("nothing is left to train" in line for line in lines)
    own = Study(data, settings, tmp_path / "b", CPU, make_model=Tiny, log=lines.append).run(BASE, 1, {})
    assert {**own, "seconds": 0} == {**taken, "seconds": 0}
    first, second = (torch.load(tmp_path / name / "recipe-1/s10_model.pt") for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_file_has_a_plain_row_for_each_row(study, results):
    assert run_jobs(study, results, plan([BASE, PLAIN], seeds=2)) == []
    rows = json.loads(results.path.read_text())
    assert [row["row"] for row in rows] == ["recipe", "plain"] and all(set(row) >= KEYS for row in rows)
    assert len(results.path.read_text().splitlines()) == 4, "a line a row"
    for row in rows:
        assert row["seeds"] == [0, 1] and (row["data"], row["pictures"], row["epochs"]) == ("noise", 20, 3)
        assert row["mean"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["std"] == pytest.approx(np.std(row["accuracies"], ddof=1))
        assert [len(curve) for curve in row["curves"]] == [3, 3] and row["device"].startswith("CPU")
        numbers = json.loads((study.out / f"{row['row']}-1" / "results.json").read_text())
        assert row["accuracies"][1] == numbers["final_test_acc"] and row["lr_max"][1] == numbers["lr_max"]


def test_every_row_trains_and_shares_the_recipes_lr_max(study, results):
    assert run_jobs(study, results, plan(ROWS, seeds=1)) == []
    rates = {row["row"]: row["lr_max"][0] for row in results.entries}
    found = rates.pop("recipe")
    assert rates.pop("original") == 4.93e-2
    assert rates.pop("lr-half") == found / 2 and rates.pop("lr-double") == 2 * found
    assert set(rates.values()) == {found} and len(rates) == len(ROWS) - 4
    configs = [torch.load(study.out / f"{row.key}-0" / "checkpoint.pt")["config"] for row in ROWS[:-3]]
    assert len({json.dumps(config) for config in configs}) == len(configs), "two rows are the same run"
    assert [row["row"] for row in results.entries] == [row.key for row in ROWS]


def test_a_seed_without_a_recipe_run_takes_lr_max_from_seed_0(study, results):
    run_jobs(study, results, [(BASE, 0), (PLAIN, 2)])
    first, second = (row["lr_max"] for row in results.entries)
    assert first == second and not (study.out / "recipe-2").exists()


def test_without_any_recipe_run_its_range_test_is_run_where_its_run_will_go_on(study, results):
    run_jobs(study, results, [(PLAIN, 0)])
    state = torch.load(study.out / "recipe-0" / "checkpoint.pt")
    assert state["history"] == [] and state["range_test"]["lr_max"] == results.entries[0]["lr_max"][0]
    assert run_jobs(study, results, [(BASE, 0)]) == []
    assert results.rates(BASE) == results.rates(PLAIN)


def test_a_cut_goes_on_by_row_and_by_epoch_and_nothing_is_computed_again(study, results, tmp_path):
    def cut(line):
        if "plain-0  epoch  2/3" in line:
            raise KeyboardInterrupt

    study.log = cut
    jobs = plan([BASE, PLAIN], seeds=1)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(study, results, jobs)
    before, lines = json.loads(results.path.read_text()), []
    assert [row["row"] for row in before] == ["recipe"]
    study.log = lines.append
    again = Results(results.path, study)
    assert run_jobs(study, again, jobs) == []
    assert any("resumed after epoch 2 of 3" in line for line in lines)
    assert not any("the recipe" in line for line in lines)
    whole = Study(study.data, SETTINGS, tmp_path / "whole", CPU, make_model=Tiny, log=lines.append)
    uncut = whole.run(PLAIN, 0, results.rates(BASE))
    assert again.entries[0] == before[0] and again.entries[1]["curves"] == [uncut["curves"]]
    shutil.rmtree(study.out)  # as on a machine that was lent
    lines.clear()
    assert run_jobs(study, Results(results.path, study), jobs) == [] and lines == []


def test_other_data_or_another_recipe_are_other_rows(study, results, monkeypatch):
    run_jobs(study, results, [(BASE, 0)])
    other = Study(Data("noise", noise(20, seed=5), noise(10)), SETTINGS, study.out, make_model=Tiny)
    assert not Results(results.path, other).has(BASE, 0)
    monkeypatch.setitem(RECIPE, "weight_decay", 0.1)
    assert not Results(results.path, study).has(BASE, 0) and not results.has(PLAIN, 0)


def test_minutes_begin_no_run_that_would_not_fit(study, results):
    missing = run_jobs(study, results, plan([BASE, PLAIN], seeds=2), minutes=1e-6)
    assert [(row.key, seed) for row, seed, _ in missing] == [("recipe", 1), ("plain", 0), ("plain", 1)]
    assert results.has(BASE, 0), "the first run is begun in any case"
    assert run_jobs(study, results, plan([BASE, PLAIN], seeds=2), minutes=10) == []


def test_a_row_that_diverges_does_not_cost_the_others(study, results):
    wild = Row("wild", "a wild rate", changes=dict(lr_max=1e30))
    missing = run_jobs(study, results, [(BASE, 0), (wild, 0), (PLAIN, 0)])
    assert [row.key for row, *_ in missing] == ["wild"] and "learning rate" in missing[0][2]
    assert results.has(PLAIN, 0) and not results.has(wild, 0)


def test_spoilt_pictures_come_right_after_the_recipes_run_and_want_its_weights(study, results):
    jobs = [(row.key, seed) for row, seed in plan([BASE, PLAIN, *ROWS[-3:]], seeds=2)]
    assert jobs[:5] == [("recipe", 0), ("blurred", 0), ("noisy", 0), ("darker", 0), ("recipe", 1)]
    missing = run_jobs(study, results, [(ROWS[-1], 0)])
    assert "the row 'recipe' comes first" in missing[0][2]


def test_spoilt_pictures_are_mildly_spoilt():
    pictures = noise(10).data
    for name, spoil in augmentation.CORRUPTIONS.items():
        changed = np.abs(spoil(pictures).astype(int) - pictures)
        assert changed.shape == pictures.shape and 5 < changed.mean() < 40, name
        assert (spoil(pictures) == spoil(pictures)).all(), "the same in every run"
    flat = np.full((1, 32, 32, 3), 100, np.uint8)
    assert (augmentation.blurred(flat) == 100).all() and (augmentation.darker(flat) == 70).all()
    assert 8 < augmentation.noisy(flat).std() < 12


def batches(loader, epoch=1):
    loader.set_epoch(epoch)
    pictures, labels = zip(*loader, strict=True)
    return torch.cat(pictures), torch.cat(labels)


def test_variants_are_the_recipes_batches_but_for_what_is_taken_away():
    data, options = noise(200), dict(batch_size=64, seed=3)
    ours, labels = batches(DeviceLoader(data, **options))

    def of(**changes):
        variant = augmentation.Variant(**changes)
        return batches(augmentation.VariantLoader(data, variant=variant, **options))

    same, their_labels = of()
    assert torch.equal(same, ours) and torch.equal(labels, their_labels)
    hole = (ours == 0).all(dim=1, keepdim=True)
    whole, _ = of(hole=0)
    assert torch.equal(torch.where(hole, 0, whole), ours) and ((whole == 0).all(dim=1).sum(dim=(1, 2)) < 64).all()
    unflipped, still = of(hole=0, flip=False)[0], of(hole=0, flip=False, crop=False)[0]
    plain, mirrored = ((whole == other).flatten(1).all(dim=1) for other in (unflipped, unflipped.flip(3)))
    assert (plain | mirrored).all() and 60 < plain.sum() < 140
    pictures, _ = batches(DeviceLoader(data, 200, train=False))
    assert {row.numpy().tobytes() for row in still.contiguous()} == {p.numpy().tobytes() for p in pictures.contiguous()}
    assert still.shape == pictures.shape


def test_the_transform_of_2023_draws_like_albumentations():
    size, mean = 2000, torch.tensor(MEAN).view(3, 1, 1)
    rows, columns = np.mgrid[:32, :32]
    picture = np.stack([8 * rows, 8 * columns, 4 * (rows + columns)], axis=2).astype(np.uint8)  # no two crops alike
    data = ArrayDataset(np.repeat(picture[None], size, axis=0), np.zeros(size), CLASSES)
    ours, _ = batches(augmentation.VariantLoader(data, 500, variant=augmentation.VARIANTS["2023"]))
    transform = course.transforms_2023()
    transform.set_random_seed(0)
    theirs = torch.stack([transform(image=picture)["image"] for _ in range(size)])
    error = (ours.var(dim=0) / size + theirs.var(dim=0) / size).sqrt()
    assert ((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 5 * error).all(), "another mean picture"
    assert ours.std(dim=0) == pytest.approx(theirs.std(dim=0), rel=0.15, abs=0.06)
    for batch in (ours, theirs):
        filled = (batch - mean).abs().amax(dim=1) < 1e-5
        areas, counts = filled.sum(dim=(1, 2)).unique(return_counts=True)
        assert areas.tolist() == [0, 100] and 0.45 < counts[1] / size < 0.55
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = {padded[r : r + 32, c : c + 32][:, ::f].tobytes() for r in range(9) for c in range(9) for f in (1, -1)}
    std = torch.tensor(STD).view(3, 1, 1)
    without = [one for one, hole in zip(ours, filled_any(ours, mean), strict=True) if not hole]
    seen = {((one * std + mean) * 255).round().byte().permute(1, 2, 0).numpy().tobytes() for one in without}
    assert seen <= crops and len(seen) == len(crops) == 162


def filled_any(batch, mean):
    return ((batch - mean).abs().amax(dim=1) < 1e-5).any(dim=(1, 2))


def test_the_rows_are_what_they_say():
    keys = [row.key for row in ROWS]
    assert len(set(keys)) == len(keys) and keys[:3] == ["recipe", "original", "plain"] and not ROWS[0].changes
    assert [row.seeds for row in ROWS[:3]] == [5, 5, 3]
    original = RECIPE | recipes.ORIGINAL
    committed = report.original()["recipe"]
    assert "weight_decay=1e-4 coupled" in committed["optimizer"] and "max_lr=4.93e-2" in committed["schedule"]
    optimizer = recipes.make_adam(Tiny(), original)
    group = optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["decoupled_weight_decay"]) == (1e-4, (0.9, 0.999), False)
    assert len(optimizer.param_groups) == 1, "BatchNorm and biases decayed too"


def test_schedules_reach_what_they_should():
    def rates(schedule):
        recipe = RECIPE | (dict(schedule=schedule) if schedule else {})
        optimizer = recipes.make_adam(Tiny(), recipe)
        scheduler, seen = recipes.make_schedule(optimizer, recipe, 1.0, 10, 24), []
        for _ in range(240):
            seen.append(optimizer.param_groups[1]["lr"])
            optimizer.step()
            if scheduler:
                scheduler.step()
        return np.array(seen)

    cycle, old, flat, sudden = (rates(name) for name in (None, "2023", "constant", "no warm-up"))
    assert (cycle.argmax(), cycle.max()) == (49, 1) and cycle[-1] == pytest.approx(0.01)
    assert (old.argmax(), old.max(), old[0]) == (49, 1, 0.01) and old[-1] == pytest.approx(1e-4)
    assert set(flat) == {0.505} and flat.mean() == pytest.approx(cycle.mean(), abs=0.01)
    assert (sudden.argmax(), sudden.max()) == (1, 1) and sudden[-1] == pytest.approx(0.01)


def test_fc_gets_pytorchs_own_scale_back_and_the_rest_stays():
    def network(recipe):
        torch.manual_seed(0)
        return recipes.make_network(recipe, 10)

    ours, theirs, twin = network(RECIPE), network(RECIPE | dict(fc_scale=1.0)), network(RECIPE | dict(additions=False))
    assert theirs.fc.weight.detach().abs().max() == pytest.approx(
        512**-0.5, rel=0.01
    )  # nn.Linear: uniform, to 1 / sqrt(inputs)
    assert torch.equal(theirs.fc.weight, 8 * ours.fc.weight) and torch.equal(twin.fc.weight, ours.fc.weight)
    assert torch.equal(theirs.layer3[0].weight, ours.layer3[0].weight) and not twin.additions


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Finished rows, two seeds each, and spoilt pictures among them."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("rows")
    study = Study(Data("noise", noise(20), noise(10, seed=1)), SETTINGS, out, CPU, make_model=Tiny, log=[].append)
    results = Results(out / "ablation.json", study)
    assert run_jobs(study, results, plan([*ROWS[:3], ROWS[-1]], seeds=2)) == []
    return results.entries


def test_tables_never_mix_settings(rows):
    other = [dict(row, pictures=50_000, epochs=24, device="a GPU", mean=93.0, accuracies=[93.0, 93.0]) for row in rows]
    text = comparison.block([*rows, *other[:2]])
    small, large = text.index("noise: 20 training"), text.index("noise: 50,000 training")
    assert large < small, "the most training first"
    assert text[large:small].count("| the recipe |") == text[small:].count("| the recipe |") == 1
    assert "the target is 92 %: met" in text[large:small] and "the target is 92" not in text[small:]
    assert f"± {rows[0]['std']:.2f} %" in text[small:] and "no training" in text[small:]
    assert "| device |" not in text and ", on a GPU" in text[large:small]
    assert text[small:].count("a range test of its own might find another") == 1
    mixed = comparison.block([rows[0], dict(rows[1], device="a GPU")])
    assert "| device |" in mixed and "| a GPU |" in mixed and ", on " not in mixed.partition("\n\n|")[0]
    assert len(comparison.groups([*rows, dict(rows[0], recipe={"weight_decay": 1})])) == 2
    assert "Not run on 50,000 pictures of noise: twin without the additions, " in tables.ablation([*rows, *other[:2]])
    assert "make results" in comparison.block([])


def test_one_seed_has_no_deviation(rows):
    single = [dict(row, seeds=[0], accuracies=row["accuracies"][:1], mean=row["accuracies"][0]) for row in rows]
    assert "±" not in comparison.table(single) and "(one seed)" in comparison.words(single)
    assert comparison.difference(single[1], single[0]) == f"{single[1]['mean'] - single[0]['mean']:+.2f}"


def test_only_common_seeds_are_compared(rows):
    recipe, row = rows[0], dict(rows[1], seeds=[1, 7])
    gain = row["accuracies"][0] - recipe["accuracies"][1]
    assert comparison.difference(row, recipe) == f"{gain:+.2f}"
    assert comparison.difference(dict(row, seeds=[8, 9]), recipe) == ""


def test_the_figure_shows_the_rows_of_one_setting(rows, tmp_path):
    figure = comparison.plot([*rows, dict(rows[0], pictures=50_000)], tmp_path / "ablation.png")
    shown = [text.get_text() for ax in figure.axes for text in ax.get_yticklabels()]
    assert shown == ["the recipe", "the 2023 recipe", "twin without the additions"]
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_the_curves_are_those_of_the_telling_rows(rows, tmp_path):
    figure = comparison.plot_curves(rows, tmp_path / "curves.png")
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert [line.get_label() for line in drawn] == ["the recipe", "the 2023 recipe", "twin without the additions"]
    np.testing.assert_allclose(drawn[1].get_ydata(), np.mean(rows[1]["curves"], axis=0))


def test_each_question_is_answered_by_its_row_or_named_as_open(rows):
    calm, wild = [20.0, 40, 50, 60, 70, 71, 72, 73], [20.0, 40, 50, 30, 50, 55, 56, 57]
    recipe = dict(rows[0], epochs=8, seeds=[0], curves=[calm], mean=73.0, test_pictures=10_000, lr_max=[1e-3])
    plain = dict(recipe, row="plain", mean=72.5)
    original = dict(recipe, row="original", mean=57.0, curves=[wild], lr_max=[1e-2])
    no_cycle = dict(recipe, row="constant", mean=60.0)
    residual, cycle, swing = comparison.answers([recipe, plain, original, no_cycle])
    assert "+0.50 points" in residual and "no more than chance may bring (± 1.3)" in residual
    assert "+13.00 points over a constant rate" in cycle and "chance" not in cycle
    assert "10 times the recipe's" in swing and "up to 20.0 points" in swing and "after that up to 0.0" in swing
    assert swing.endswith("its steps are too large.") and comparison.halves(wild) == (20.0, 0)
    assert "too large" not in comparison.swings(recipe, dict(original, curves=[calm]))
    assert comparison.swings(dict(recipe, curves=[wild]), original).endswith("swings here nearly as much.")
    for line, key in zip(comparison.answers([recipe]), ("plain", "constant,no-warm-up", "original"), strict=True):
        assert line.endswith(f"Not run on 20 pictures yet: `make results ROWS={key} LIMIT=20`.")


def test_the_readme_gets_its_block_between_the_marks(rows, tmp_path):
    shutil.copy(ROOT / "misc" / "results.json", tmp_path)
    (tmp_path / "ablation.json").write_text(json.dumps(rows))
    text = "\n".join(["# A", *report.README_MARKS, "between", *report.ABLATION_MARKS, "end"])
    (tmp_path / "README.md").write_text(text)
    filled = report.update_readme(tmp_path / "README.md", tmp_path / "results.json")
    assert comparison.table(rows) in filled.partition("between")[2] and filled.endswith("end")
    (tmp_path / "README.md").write_text("\n".join(report.README_MARKS))
    with pytest.raises(ValueError, match="ablation"):
        report.update_readme(tmp_path / "README.md", tmp_path / "results.json")


def test_pictures_held_out_are_of_no_use_in_training():
    data = Data("noise", noise(200), noise(50, seed=1))
    held = search.held_out(data)
    seen, mine = ({p.tobytes() for p in split.data} for split in (held.train, held.test))
    assert not seen & mine and seen | mine == {p.tobytes() for p in data.train.data}
    assert np.bincount(held.test.targets).tolist() == [2] * 10 and "held out" in held.name
    assert held.fingerprint != data.fingerprint


def test_the_search_ranks_its_candidates(study, tmp_path):
    study = Study(search.held_out(study.data), SETTINGS, study.out, CPU, make_model=Tiny, log=[].append)
    rows = [search.CANDIDATES[0], search.own('{"lr_factor": 2, "betas": [0.9, 0.95]}'), *search.CANDIDATES[-2:]]
    assert rows[1].key == "lr_factor-2+betas-0.9+0.95" and len({row.key for row in search.CANDIDATES}) == 13
    results = Results(tmp_path / "search.json", study, rows)
    assert run_jobs(study, results, plan(rows)) == []
    lines = search.ranking(results.entries).splitlines()[1:]
    found = [float(line.split()[0]) for line in lines]
    assert len(found) == 4 and found == sorted(found, reverse=True)
    for text in ("lr_factor=2", "[]", "{}", '{"nonsense": 1}'):
        with pytest.raises(ValueError, match="JSON object"):
            search.own(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--rows nonsense", "choose among recipe, original, plain"),
        ("--minutes 0", "give more than 0"),
        ("--seeds 0", "give a whole number, 1 or more"),
        ("--data nowhere", "or a folder that exists"),
    ],
)
def test_wrong_options_end_with_a_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        ablation.main(arguments.split())
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_defaults_suit_the_device(monkeypatch):
    def chosen(arguments=()):
        parser = ablation.options("", "runs/ablation", "misc/ablation.json")
        args = ablation.complete(parser, parser.parse_args(arguments), ROWS)
        return [row.key for row in args.chosen], args.seeds, args.settings

    keys, seeds, settings = chosen()
    assert (keys, seeds) == (["recipe", "original", "plain", "blurred", "noisy", "darker"], 1)
    assert settings == Settings("full", epochs=24, batch_size=512, limit=5000, iterations=100)
    assert chosen(["--rows", "plain,fc", "--seeds", "2", "--limit", "50"])[0] == ["plain", "fc"]
    monkeypatch.setattr(ablation, "pick_device", lambda: torch.device("cuda"))
    keys, seeds, settings = chosen()
    assert (len(keys), seeds, settings.limit, settings.epochs) == (len(ROWS), None, None, 24)


def test_a_gpu_visit_searches_trains_and_runs_the_notebook(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "ran $*"\ncase $2 in benchmarks.search) exit 3 ;; esac\n')
    python.chmod(0o755)
    out = tmp_path / "out"
    environment = os.environ | dict(PY=str(python), OUT=str(out), TINY="1", MINUTES="3", ROWS="recipe", SEEDS="1")
    command = ["bash", "benchmarks/gpu.sh", "search", "results", "notebook"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    verdicts = dict(line.split(maxsplit=3)[::3] for line in done.stdout.splitlines()[-3:])
    assert verdicts.pop("search") == "failed, exit status 3" and done.returncode == 1
    assert verdicts.pop("results") == "ok"
    assert f"--json {out}/ablation.json --tiny --rows recipe --seeds 1 --minutes 2." in done.stdout
    wrong = subprocess.run(["bash", "benchmarks/gpu.sh", "speeed"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "choose among speed, search" in wrong.stderr


@pytest.mark.long
def test_a_gpu_visit_in_a_tiny_setting(tmp_path):
    """Search, rows and notebook with the real network, as real processes."""
    environment = os.environ | dict(OMP_NUM_THREADS="1", TINY="1", MINUTES="15", PY=sys.executable, OUT=str(tmp_path))
    command = ["bash", "benchmarks/gpu.sh", "search", "results", "notebook"]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=900, capture_output=True, text=True)
    assert done.stdout.count("  ok") == 3, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(json.loads((tmp_path / "ablation.json").read_text())) == 6
    assert len(json.loads((tmp_path / "search.json").read_text())) == 3
    assert {"ablation.png", "notebook.tar.gz"} <= {path.name for path in tmp_path.iterdir()}
