"""Is every folder of pictures read rightly, or refused in one clear sentence?"""

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rights import public_folder, rights

import folder
from folder import FolderError, read_folder, read_picture, to_square

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(seed, shape=(32, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path):
    """Two classes, three training pictures and one test picture each; every picture is another noise."""
    root = tmp_path / "pets"
    seed = 0
    for split, names in (("train", "012"), ("test", "0")):
        for label in ("cat", "dog"):
            for name in names:
                save(root / split / label / f"{name}{label}.png", noise(seed))
                seed += 1
    return root


# What comes out


def test_pixels_targets_classes_and_order(pets):
    data = read_folder(pets)
    pictures, targets = data.train
    assert pictures.dtype == np.uint8 and pictures.shape == (6, 32, 32, 3)
    assert targets.dtype == np.int64 and targets.tolist() == [0, 1, 0, 1, 0, 1]  # 0cat, 0dog, 1cat, …
    np.testing.assert_array_equal(pictures, [noise(seed) for seed in (0, 3, 1, 4, 2, 5)])
    np.testing.assert_array_equal(data.test[0], [noise(6), noise(7)])
    assert data.test[1].tolist() == [0, 1]
    assert data.classes == ("cat", "dog")
    assert data.notes == []


def test_same_names_in_several_classes_and_sub_folders_are_ordered(tmp_path):
    places = [
        "train/a/1.png",
        "train/b/1.png",
        "train/b/sub/1.png",
        "train/a/deep/er/2.png",
        "test/a/1.png",
        "test/b/1.png",
    ]
    for seed, place in enumerate(places):
        save(tmp_path / place, noise(seed))
    data = read_folder(tmp_path)
    np.testing.assert_array_equal(data.train[0], [noise(seed) for seed in range(4)])
    assert data.train[1].tolist() == [0, 1, 1, 0]


def test_one_level_down_as_archives_unpack(pets):
    (pets.parent / "__MACOSX").mkdir()
    np.testing.assert_array_equal(read_folder(pets.parent).train[0], read_folder(pets).train[0])


def test_formats_and_extensions_in_any_case(pets):
    for number, name in enumerate(
        ["A.JPG", "b.jpeg", "c.webp", "d.bmp", "e.gif", "f.TIF", "g.tiff", "h.jfif", "i.ppm"]
    ):
        options = {"format": "JPEG"} if name.endswith("jfif") else {}
        save(pets / "train" / "cat" / name, np.full((32, 32, 3), 20 * number, np.uint8), **options)
    pictures = read_folder(pets).train[0]
    assert len(pictures) == 15
    means = sorted(pictures.mean(axis=(1, 2, 3)))
    assert all(min(abs(mean - 20 * number) for mean in means) < 4 for number in range(9))


# What is adapted, and said


def test_other_sizes_and_modes_are_said(pets):
    save(pets / "train" / "cat" / "large.png", noise(50, (64, 48, 3)))
    save(pets / "train" / "cat" / "grey.png", noise(51, (32, 32)))
    resized, converted = read_folder(pets).notes
    assert "1 of 10 pictures were not 32x32" in resized and "averaging" in resized
    assert "1 of 10 pictures were not plain RGB" in converted


def test_animation_gives_its_first_frame_and_is_said(pets):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(pets / "train" / "cat" / "9.gif", save_all=True, append_images=frames[1:])
    data = read_folder(pets)
    assert (data.train[0][-1] == RED).all()
    assert any("1 of 9 pictures had several frames" in note for note in data.notes)
    with Image.open(pets / "train" / "cat" / "9.gif") as image:
        image.seek(2)
        assert (to_square(image) == RED).all()


def test_a_photograph_with_a_preview_is_not_an_animation(pets):
    photo, preview = Image.new("RGB", (32, 32), RED), Image.new("RGB", (16, 16), RED)
    photo.save(pets / "train" / "cat" / "9.jpg", format="MPO", save_all=True, append_images=[preview])
    assert read_folder(pets).notes == []


def test_other_files_are_left_out_and_said(pets):
    for place in ("train/cat/notes.txt", "train/labels.csv", "test/dog/photo.heic"):
        (pets / place).write_text("no picture")
    shutil.copy(pets / "train/cat/0cat.png", pets / "train/loose.png")
    data = read_folder(pets)
    (note,) = data.notes
    assert note.startswith("4 files") and "left out" in note
    assert all(name in note for name in ("notes.txt", "labels.csv", "photo.heic", "loose.png"))
    assert len(data.train[0]) == 6


def test_hidden_and_system_files_are_ignored(pets):
    for place in (".DS_Store", "train/.DS_Store", "train/cat/Thumbs.db", "train/cat/._0cat.png", "test/desktop.ini"):
        (pets / place).write_text("system")
    save(pets / "train" / ".ipynb_checkpoints" / "0-checkpoint.png", noise(0))
    save(pets / "train" / "cat" / ".trash" / "0.png", noise(0))
    data = read_folder(pets)
    assert data.notes == [] and data.classes == ("cat", "dog") and len(data.train[0]) == 6


def test_names_in_any_script(tmp_path):
    labels = ["кошка", "猫", "café au lait", "🐕", "כלב"]
    for label in labels:
        save(tmp_path / "train" / unicodedata.normalize("NFC", label) / "żółw 1.png", noise(0))
        save(tmp_path / "test" / unicodedata.normalize("NFD", label) / "żółw 1.png", noise(1))
    data = read_folder(tmp_path, cache_dir=tmp_path / "cache")
    assert data.classes == tuple(sorted(labels))
    assert data.train[1].tolist() == data.test[1].tolist() == [0, 1, 2, 3, 4]


def test_names_that_are_no_text_at_all(pets):
    """Linux allows any bytes; a class whose name cannot be printed would stop the first figure."""
    for split in ("train", "test"):
        place = os.fsencode(pets / split) + b"/\xff\xfe"
        os.mkdir(place)
        shutil.copy(pets / "test/cat/0cat.png", place + b"/\xe9.png")
    data = read_folder(pets, cache_dir=pets.parent / "cache")
    assert data.classes[-1] == "\ufffd\ufffd"
    "".join(data.classes).encode("utf-8")


# Links


def test_links_are_followed_and_loops_survived(pets):
    save(pets.parent / "elsewhere" / "8.png", noise(80))
    os.symlink(pets.parent / "elsewhere", pets / "train/cat/linked")
    os.symlink(pets.parent / "elsewhere", pets / "train/cat/linked again")
    os.symlink(pets / "train/cat/0cat.png", pets / "train/cat/9.png")
    os.symlink(pets / "train/cat", pets / "train/cat/itself")
    os.symlink("linked", pets.parent / "elsewhere/loop")
    pictures, targets = read_folder(pets).train
    assert targets.tolist() == [0, 1, 0, 1, 0, 1, 0, 0]
    np.testing.assert_array_equal(pictures[-2:], [noise(80), noise(0)])


@pytest.mark.parametrize("target", ["train", "test", "train/dog", "test/cat", ".", "/"])
def test_a_link_upwards_brings_no_other_class_into_this_one(pets, target):
    os.symlink(os.path.join(pets, target), pets / "train/cat/up")
    _, targets = read_folder(pets).train
    assert targets.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_whole_folder_behind_links(pets):
    os.symlink(pets, pets.parent / "link")
    os.symlink(pets / "train/cat", pets / "train/lynx")
    os.symlink(pets / "test/cat", pets / "test/lynx")
    data = read_folder(pets.parent / "link")
    assert data.classes == ("cat", "dog", "lynx") and len(data.train[0]) == 9


# What is refused


def refusal(path, **options):
    with pytest.raises(FolderError) as caught:
        read_folder(path, **options)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_paths_that_are_no_such_folder(pets, tmp_path):
    assert "There is no folder" in refusal(tmp_path / "nowhere")
    assert "is a file" in refusal(pets / "train/cat/0cat.png")
    assert "no train/ and no test/ (its folders: none)" in refusal(pets / "train/cat")
    shutil.move(pets / "test", pets / "val")
    message = refusal(pets)
    assert "has no test/" in message and "val" in message and "no train" not in message


def test_no_class_one_class_and_an_empty_class(pets):
    shutil.rmtree(pets / "train/cat")
    shutil.rmtree(pets / "test/cat")
    assert "one class only, dog" in refusal(pets)
    (pets / "train/cat").mkdir()
    shutil.copytree(pets / "test/dog", pets / "test/cat")
    (pets / "train/cat/a.heic").write_text("not readable")
    message = refusal(pets)
    assert "no picture in train/cat" in message and "a.heic" in message
    shutil.rmtree(pets / "test")
    (pets / "test").mkdir()
    assert "no class in test/" in refusal(pets)


def test_classes_that_differ_are_named(pets):
    shutil.move(pets / "test/dog", pets / "test/Dog")
    message = refusal(pets)
    assert "only in train/: dog" in message and "only in test/: Dog" in message
    for number in range(20):
        (pets / f"train/kind{number:02}").mkdir()
    assert "kind03, and 16 more" in refusal(pets)


def test_broken_pictures_are_counted_and_the_first_five_named(pets):
    for number in range(7):
        (pets / f"train/dog/{number}broken.png").write_text("hello, I am a text")
    message = refusal(pets)
    assert "7 of 15 pictures" in message and "and 2 more" in message
    named = [number for number in range(7) if f"train/dog/{number}broken.png is not a picture" in message]
    assert named == [0, 1, 2, 3, 4]


def test_a_broken_picture_is_refused_again_although_there_is_a_cache(pets, tmp_path):
    read_folder(pets, cache_dir=tmp_path / "cache")
    (pets / "test/dog/0dog.png").write_bytes((pets / "test/dog/0dog.png").read_bytes()[:200])
    for _ in range(2):
        assert "test/dog/0dog.png cannot be decoded" in refusal(pets, cache_dir=tmp_path / "cache")


def break_picture(path, kind):
    """Put something at `path` that looks like a picture only by name."""
    content = save(path, noise(0, (64, 64, 3))).read_bytes()
    path.unlink()
    if kind == "text":
        path.write_text("GIF of a cat")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        os.symlink("nothing", path)
    elif kind == "link to itself":
        os.symlink(path.name, path)
    elif kind == "EPS":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n")


REASONS = {
    "text": "is not a picture",
    "empty": "is not a picture",
    "truncated": "cannot be decoded",
    "pipe": "is not a regular file",
    "link to nothing": "does not exist",
    "link to itself": "cannot be decoded",
    "EPS": "is not a picture",
}


@pytest.mark.parametrize("extension", ["png", "jpg"])
@pytest.mark.parametrize("kind", REASONS)
def test_each_kind_of_broken_picture(pets, kind, extension):
    path = pets / f"test/cat/bad.{extension}"
    break_picture(path, kind)
    assert f"test/cat/bad.{extension} {REASONS[kind]}" in refusal(pets)
    with pytest.raises(ValueError, match=REASONS[kind]) as caught:
        read_picture(path)
    assert str(caught.value).startswith(str(path))


def test_files_and_folders_without_permission():
    with public_folder() as root:
        for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
            save(root / place / "0.png", noise(0))
        read_folder(root)
        with rights(root / "train/cat/0.png", 0o000):
            assert "train/cat/0.png may not be read" in refusal(root)
        with rights(root / "train/dog", 0o000):
            assert "train/dog cannot be listed" in refusal(root)


def test_other_wrong_files_of_one_picture(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="does not exist"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_picture(tmp_path)
    path = save(tmp_path / "bomb.png", noise(0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match="has more than 1,000 pixels"):
        read_picture(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_damage_to_a_file_gives_anything_but_a_picture_or_a_sentence(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a.png", "a.jpg", "a.gif", "a.webp", "a.bmp", "a.tif"):
        good = save(tmp_path / name, noise(0, (40, 40, 3))).read_bytes()
        for _ in range(40):
            content = np.frombuffer(good, np.uint8).copy()
            content[random.integers(0, min(len(content), 300), 3)] = random.integers(0, 256, 3)
            (tmp_path / name).write_bytes(content[: random.integers(1, 2 * len(content))].tobytes())
            try:
                assert read_picture(tmp_path / name).shape == (32, 32, 3)
            except ValueError as error:
                assert str(error).startswith(str(tmp_path / name)) and "\n" not in str(error)


# A single picture of any kind


def test_shrinking_averages_areas_and_cuts_to_the_middle():
    pixels = noise(1, (64, 100, 3))
    middle = pixels[:, 18:82].astype(float)
    expected = middle.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(to_square(Image.fromarray(pixels)) - expected).max() <= 1  # Pillow rounds twice


def test_cutting_alone_changes_no_pixel():
    tall = noise(1, (47, 32, 3))
    np.testing.assert_array_equal(to_square(Image.fromarray(tall)), tall[7:39])


def test_enlarging_keeps_a_flat_colour_and_the_order():
    assert (to_square(Image.new("RGB", (1, 1), (10, 20, 30))) == (10, 20, 30)).all()
    ramp = np.repeat(np.arange(0, 160, 20, dtype=np.uint8)[None, :, None], 8, axis=0).repeat(3, axis=2)
    row = to_square(Image.fromarray(ramp))[16, :, 0].astype(int)
    assert row.shape == (32,) and (np.diff(row) >= 0).all() and row[-1] - row[0] > 120


def test_a_large_jpeg_is_averaged_too(tmp_path):
    """It is decoded at a fraction of its size, which must not be visible."""
    y, x = np.mgrid[0:1024, 0:1500]
    pixels = np.stack([x * 255 // 1500, y * 255 // 1024, (x + y) * 255 // 2523], axis=2).astype(np.uint8)
    path = save(tmp_path / "large.jpg", pixels, quality=95)
    expected = pixels[:, 238:1262].astype(float).reshape(32, 32, 32, 32, 3).mean(axis=(1, 3))
    assert np.abs(read_picture(path) - expected).max() <= 2


def test_size_is_the_caller_s(tmp_path):
    assert read_picture(save(tmp_path / "a.png", noise(0)), size=48).shape == (48, 48, 3)


def test_16_bits_are_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65_535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    for name in ("a.png", "a.tif"):
        picture = read_picture(save(tmp_path / name, levels))
        assert (picture[0, 0] == 0).all() and (picture[-1, -1] == 255).all()
        assert np.abs(picture - (levels / 257)[..., None]).max() <= 0.5


def test_32_bits_and_floats_are_scaled_from_the_range_they_use(tmp_path):
    ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    for top in (1, 255, 65_535):
        picture = read_picture(save(tmp_path / "a.tif", ramp * np.float32(top)))
        assert np.abs(picture - 255.0 * ramp[..., None]).max() <= 0.51
    picture = read_picture(save(tmp_path / "b.tif", (ramp * 65_535).astype(np.int32)))
    assert np.abs(picture - 255.0 * ramp[..., None]).max() <= 0.51


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1, 1e6])
def test_floats_outside_every_range_are_refused(tmp_path, bad):
    levels = np.zeros((32, 32), np.float32)
    levels[3, 4] = bad
    with pytest.raises(ValueError, match="grey levels"):
        read_picture(save(tmp_path / "a.tif", levels))


def test_transparency_becomes_white(tmp_path):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:16] = (255, 0, 0, 255)
    rgba[16:24] = (0, 0, 0, 128)
    picture = read_picture(save(tmp_path / "a.png", rgba))
    assert (picture[:16] == RED).all() and (picture[24:] == WHITE).all()
    assert np.abs(picture[16:24].astype(int) - 127).max() <= 1
    grey_alpha = np.zeros((32, 32, 2), np.uint8)
    assert (read_picture(save(tmp_path / "b.png", grey_alpha)) == WHITE).all()


def test_a_palette_with_transparency(tmp_path):
    image = Image.new("P", (32, 32), 0)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.paste(1, (0, 0, 32, 8))
    image.paste(2, (0, 8, 32, 16))
    image.save(tmp_path / "one.png", transparency=0)
    image.save(tmp_path / "bytes.png", transparency=bytes([0, 255, 255]))
    image.save(tmp_path / "a.gif", transparency=0)
    for name in ("one.png", "bytes.png", "a.gif"):
        picture = read_picture(tmp_path / name)
        assert (picture[:8] == GREEN).all() and (picture[8:16] == BLUE).all() and (picture[16:] == WHITE).all()


def test_cmyk_grey_and_black_and_white(tmp_path):
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_picture(tmp_path / "a.jpg").astype(int) - RED).max() < 6
    grey = noise(3, (32, 32))
    np.testing.assert_array_equal(read_picture(save(tmp_path / "g.png", grey)), np.dstack([grey] * 3))
    Image.new("1", (32, 32), 1).save(tmp_path / "w.png")
    assert (read_picture(tmp_path / "w.png") == WHITE).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_turns_the_picture_upright(tmp_path, orientation, name):
    upright = np.zeros((48, 64, 3), np.uint8)  # red top left, green top right, blue bottom left
    upright[:24, :32], upright[:24, 32:], upright[24:, :32] = RED, GREEN, BLUE
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what lays it as a camera with this orientation does
    image = Image.fromarray(upright)
    if orientation > 1:
        image = image.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / name, exif=exif, **({"quality": 95} if name.endswith("jpg") else {}))
    picture = read_picture(tmp_path / name).astype(int)
    for row, column, colour in ((6, 6, RED), (6, 26, GREEN), (26, 6, BLUE)):
        assert np.abs(picture[row, column] - colour).max() < 40


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_exif_does_not_cost_the_picture(tmp_path):
    image = Image.new("RGB", (32, 32), RED)
    image.save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\xff")
    assert np.abs(read_picture(tmp_path / "a.jpg").astype(int) - RED).max() < 6


def test_to_square_leaves_the_caller_s_picture_alone():
    image = Image.fromarray(noise(0, (80, 60, 3)))
    to_square(image)[:] = 0
    assert image.size == (60, 80)
    np.testing.assert_array_equal(np.asarray(image), noise(0, (80, 60, 3)))


# The second start


def test_the_cache_gives_the_same_and_sees_every_change(pets, tmp_path):
    save(pets / "train/cat/large.png", noise(5, (64, 64, 3)))
    (pets / "train/cat/notes.txt").write_text("left out")
    cache_dir = tmp_path / "cache"
    first, second = (read_folder(pets, cache_dir=cache_dir) for _ in range(2))
    assert len(list(cache_dir.iterdir())) == 1
    for one, two in zip(first.train + first.test, second.train + second.test, strict=True):
        np.testing.assert_array_equal(one, two)
    assert first.classes == second.classes and first.notes == second.notes and len(first.notes) == 2

    path = pets / "test/dog/0dog.png"
    status = path.stat()
    save(path, noise(99))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    np.testing.assert_array_equal(read_folder(pets, cache_dir=cache_dir).test[0][1], noise(99))
    assert read_folder(pets, size=16, cache_dir=cache_dir).train[0].shape == (7, 16, 16, 3)
    shutil.move(pets / "train/cat/0cat.png", pets / "train/cat/zcat.png")
    np.testing.assert_array_equal(read_folder(pets, cache_dir=cache_dir).train[0][-1], noise(0))


def test_the_cache_is_really_read(pets, tmp_path):
    """A file changed behind the back of size and time: only a decoder would see it."""
    read_folder(pets, cache_dir=tmp_path / "cache")
    path = pets / "train/cat/0cat.png"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(read_folder(pets, cache_dir=tmp_path / "cache").train[0][0], noise(0))


def test_importing_and_reading_print_nothing(pets):
    program = f"import folder; folder.read_folder({str(pets)!r})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=Path(folder.__file__).parent, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
