"""Every folder of images is read rightly, or refused in a sentence; the cache only saves time."""

import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image, features
from rights import public_folder, rights

from extras.folder import (
    CACHE_FILES,
    EXTENSIONS,
    FolderError,
    cached_arrays,
    read_folder,
    read_image,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(seed, shape=(32, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path):
    """Two classes, three training images and one test image each; every image is another noise."""
    root, seed = tmp_path / "pets", 0
    for split, names in (("train", "012"), ("test", "0")):
        for label in ("cat", "dog"):
            for name in names:
                save(root / split / label / f"{name}{label}.png", noise(seed))
                seed += 1
    return root


def test_pixels_targets_classes_and_order(pets, monkeypatch):
    monkeypatch.setenv("HOME", str(pets.parent))
    data = read_folder("~/pets")
    np.testing.assert_array_equal(read_image("~/pets/train/cat/0cat.png"), noise(0))
    images, targets = data.train
    assert images.dtype == np.uint8 and images.shape == (6, 32, 32, 3)
    assert targets.dtype == np.int64
    assert targets.tolist() == [0, 1, 0, 1, 0, 1]  # 0cat, 0dog, 1cat, …
    np.testing.assert_array_equal(images, [noise(seed) for seed in (0, 3, 1, 4, 2, 5)])
    np.testing.assert_array_equal(data.test[0], [noise(6), noise(7)])
    assert data.test[1].tolist() == [0, 1] and data.classes == ("cat", "dog") and data.notes == []
    # a sub-folder, and a name that two classes have
    save(pets / "train/dog/below/1cat.png", noise(8))
    images, targets = read_folder(pets).train
    np.testing.assert_array_equal(images[2:4], [noise(1), noise(8)])
    assert targets.tolist() == [0, 1, 0, 1, 1, 0, 1]


def test_formats_and_extensions_in_any_case(pets):
    names = ["A.JPG", "b.jpeg", "c.webp", "d.bmp", "e.gif", "f.TIF", "g.tiff", "h.jfif", "i.ppm"]
    for number, name in enumerate(names):
        options = {"format": "JPEG"} if name.endswith("jfif") else {}
        save(pets / "train" / "cat" / name, np.full((32, 32, 3), 20 * number, np.uint8), **options)
    means = read_folder(pets).train[0].mean(axis=(1, 2, 3))
    assert len(means) == 15 and all(np.abs(means - 20 * number).min() < 4 for number in range(9))


def test_what_is_adapted_or_left_out_is_said(pets):
    save(pets / "train/cat/large.png", noise(50, (64, 48, 3)))
    save(pets / "train/cat/grey.png", noise(51, (32, 32)))
    names = ("train/cat/notes.txt", "train/labels.csv", "test/dog/photo.HEIC", "train/loose.png")
    for place in names:
        (pets / place).write_text("no image")
    (pets / "test/dog/link.png").symlink_to("nothing")
    for place in (".DS_Store", "cat/._0cat.png", ".ipynb_checkpoints/0.png", "cat/.trash/0.png"):
        save(pets / "train" / place, noise(0), format="PNG")  # hidden
    data = read_folder(pets)
    resized, converted, left_out = data.notes
    assert "1 of 10 images were not 32x32" in resized
    assert "1 of 10 images were not plain RGB" in converted
    assert "5 files" in left_out and "save it as JPEG" in left_out
    for place in (*names, "test/dog/link.png"):
        assert place in left_out
    assert data.classes == ("cat", "dog") and len(data.train[0]) == 8


def test_names_in_any_script(tmp_path):
    labels = sorted(["кошка", "猫", "café au lait", "🐕", "$a^^b$"])
    for label in labels:
        save(tmp_path / "train" / unicodedata.normalize("NFC", label) / "żółw 1.png", noise(0))
        save(tmp_path / "test" / unicodedata.normalize("NFD", label) / "żółw 1.png", noise(1))
    data = read_folder(tmp_path, cache_dir=tmp_path / "cache")
    assert data.classes == tuple(labels)
    assert sorted(data.train[1]) == sorted(data.test[1]) == list(range(5))


def refusal(path, **options):
    with pytest.raises(FolderError) as caught:
        read_folder(path, **options)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_folders_that_are_refused(pets, tmp_path):
    assert "cannot be listed: No such file" in refusal(tmp_path / "nowhere")
    assert "cannot be listed: Not a directory" in refusal(pets / "train/cat/0cat.png")
    assert "but has cat, dog." in refusal(pets / "train")
    shutil.move(pets / "test/dog", pets / "test/Dog")
    message = refusal(pets)
    assert "only train/ has dog;" in message and "only test/ has Dog" in message
    for number in range(20):
        (pets / f"train/kind{number:02}").mkdir()
    assert "kind03, and 16 more" in refusal(pets)
    for folder in [*(pets / "train").iterdir(), *(pets / "test").iterdir()]:
        if folder.name != "cat":
            shutil.rmtree(folder)
    assert "too few classes (cat)" in refusal(pets)
    for split in ("train", "test"):
        (pets / split / "dog").mkdir()
    assert "no image (.png" in refusal(pets) and "in train/dog, test/dog." in refusal(pets)
    assert "HEIC" not in refusal(pets)
    (pets / "test/dog/photo.heic").write_text("no image for Pillow")
    assert "HEIC cannot be read" in refusal(pets)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_serves_where_there_is_no_test_folder(pets, name):
    right = read_folder(pets)
    (pets / "test").rename(pets / name)
    found = read_folder(pets)
    np.testing.assert_array_equal(found.test[0], right.test[0])
    assert right.notes == [] and len(found.notes) == 1 and f"{name}/" in found.notes[0]
    shutil.copytree(pets / name, pets / "test")
    assert read_folder(pets).notes == []  # test/ is taken where there is one


def test_broken_images_are_counted_and_the_first_five_named_whatever_is_cached(pets, tmp_path):
    read_folder(pets, cache_dir=tmp_path / "cache")
    whole, eps = (pets / "train/cat/0cat.png").read_bytes(), b"%!PS-Adobe-3.0 EPSF-3.0"
    for number, content in enumerate((b"a text", b"", whole[:1000], whole[1:], eps, b"x", b"y")):
        path = pets / f"train/dog/{number}broken.png"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{number}broken.png cannot be read"):
            read_image(path)
    message = refusal(pets, cache_dir=tmp_path / "cache")
    assert "7 of 15 images" in message and "and 2 more" in message
    named = [n for n in range(7) if f"train/dog/{n}broken.png cannot be read" in message]
    assert named == [0, 1, 2, 3, 4]


def test_an_image_that_may_not_be_read_is_named():
    with public_folder() as root:
        for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
            save(root / place / "0.png", noise(0))
        with rights(root / "train/cat/0.png", 0o000):
            assert "train/cat/0.png cannot be read (Permission denied)" in refusal(root)


def test_resizing_averages_areas_and_cuts_to_the_middle(tmp_path):
    pixels = noise(1, (64, 100, 3))
    expected = pixels[:, 18:82].astype(float).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    image = read_image(save(tmp_path / "a.png", pixels))
    assert np.abs(image - expected).max() <= 1  # Pillow rounds twice
    # a large JPEG is decoded at a fraction of its size, which must not be visible
    y, x = np.mgrid[0:1024, 0:1500]
    pixels = np.stack([x * 255 // 1500, y * 255 // 1024, (x + y) * 255 // 2523], axis=2)
    pixels = pixels.astype(np.uint8)
    expected = pixels[:, 238:1262].astype(float).reshape(32, 32, 32, 32, 3).mean(axis=(1, 3))
    image = read_image(save(tmp_path / "large.jpg", pixels, quality=95))
    assert np.abs(image - expected).max() <= 2


@pytest.mark.parametrize(
    "name, kind", [("a.png", np.uint16), ("a.tif", np.uint16), ("a.tif", np.int32)]
)
def test_16_bits_are_scaled_not_clipped(tmp_path, name, kind):
    ramp = np.linspace(0, 1, 32 * 32).reshape(32, 32)
    image = read_image(save(tmp_path / name, (ramp * 65_535).astype(kind)))
    assert np.abs(image - 255.0 * ramp[..., None]).max() <= 0.51


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_files_of_16_bits_are_scaled_by_the_largest_level_of_their_folder(pets, bits):
    """A scanner's or a microscope's 12 bits do not come out black; all images have one scale."""
    full = 2**bits - 1
    ramp = np.linspace(0, 1, 32 * 32).reshape(32, 32)
    for split in ("train", "test"):
        save(pets / split / "cat/a bright.png", (ramp * full).astype(np.uint16))
        save(pets / split / "dog/b dark.png", (ramp * full / 4).astype(np.uint16))
    data = read_folder(pets)
    for images, _ in (data.train, data.test):
        bright, dark = images[-2:]
        assert np.abs(bright - 255 * ramp[..., None]).max() <= 0.51 + 255 / full
        assert np.abs(dark - 255 * ramp[..., None] / 4).max() <= 0.51 + 255 / full
        assert len(np.unique(bright)) == 256
    said = [note for note in data.notes if "more than 8 bits" in note]
    assert len(said) == 1 and f"{full:,}" in said[0] and f"{bits} bits" in said[0]
    assert read_folder(pets).notes == data.notes


def test_avif_is_read_where_pillow_can(pets):
    assert (".avif" in EXTENSIONS) == ("avif" in features.modules and features.check("avif"))
    if ".avif" in EXTENSIONS:
        save(pets / "test/cat/z.avif", np.full((32, 32, 3), 90, np.uint8))
        assert np.abs(read_folder(pets).test[0][-1].astype(int) - 90).max() < 4


@pytest.mark.parametrize("level", [np.float32(0.5), np.int32(-1), np.int32(65_536)])
def test_other_levels_than_8_or_16_bits_are_refused(tmp_path, level):
    with pytest.raises(ValueError, match="a.tif cannot be read .it has 32-bit grey levels"):
        read_image(save(tmp_path / "a.tif", np.full((32, 32), level)))


def test_transparency_becomes_white(tmp_path):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:16], rgba[16:24] = (255, 0, 0, 255), (0, 0, 0, 128)
    image = read_image(save(tmp_path / "a.png", rgba))
    assert (image[:16] == RED).all() and (image[24:] == WHITE).all()
    assert np.abs(image[16:24].astype(int) - 127).max() <= 1
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.paste(1, (0, 0, 32, 8))
    palette.save(tmp_path / "palette.png", transparency=0)
    image = read_image(tmp_path / "palette.png")
    assert (image[:8] == GREEN).all() and (image[8:] == WHITE).all()


def test_cmyk_and_grey(tmp_path):
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - RED).max() < 6
    grey = noise(3, (32, 32))
    np.testing.assert_array_equal(read_image(save(tmp_path / "g.png", grey)), np.dstack([grey] * 3))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_turns_the_image_upright_and_broken_exif_does_not_cost_it(tmp_path, name):
    upright = np.zeros((48, 64, 3), np.uint8)  # red top left, green top right, blue bottom left
    upright[:24, :32], upright[:24, 32:], upright[24:, :32] = RED, GREEN, BLUE
    as_a_camera_lays_it = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    for orientation, turn in as_a_camera_lays_it.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = Image.fromarray(upright).transpose(Image.Transpose(turn))
        turned.save(tmp_path / name, exif=exif, quality=95)
        image = read_image(tmp_path / name).astype(int)
        for row, column, colour in ((6, 6, RED), (6, 26, GREEN), (26, 6, BLUE)):
            assert np.abs(image[row, column] - colour).max() < 40
    Image.new("RGB", (32, 32), RED).save(tmp_path / name, exif=b"Exif\x00\x00no such thing")
    assert np.abs(read_image(tmp_path / name).astype(int) - RED).max() < 6


def test_the_cache_gives_the_same_and_sees_every_change(pets, tmp_path):
    save(pets / "train/cat/large.png", noise(5, (64, 64, 3)))
    first, second = (read_folder(pets, cache_dir=tmp_path / "cache") for _ in range(2))
    for one, two in zip(first.train + first.test, second.train + second.test, strict=True):
        np.testing.assert_array_equal(one, two)
    assert first.classes == second.classes and first.notes == second.notes and len(first.notes) == 1
    save(pets / "test/dog/0dog.png", noise(99))
    changed = read_folder(pets, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(changed.test[0][1], noise(99))
    assert read_folder(pets, size=16, cache_dir=tmp_path / "cache").train[0].shape == (7, 16, 16, 3)


@pytest.fixture
def count(tmp_path):
    """count(key, folder=…) asks the cache for a key's arrays: how often they were built so far."""
    built = []

    def ask(key, folder=tmp_path / "cache"):
        arrays = cached_arrays(
            folder, f"kéy \udcff {key}", lambda: built.append(key) or {"a": np.full((90, 90), key)}
        )
        assert (arrays["a"] == key).all()
        arrays["a"][0] = 99  # writable, and not the file itself
        return built.count(key)

    return ask


def test_cached_arrays_are_built_once_for_each_key_and_a_few_are_kept(count, tmp_path):
    assert [count(key) for key in (1, 2, 1, 2)] == [1, 1, 1, 1]
    assert [count(1, folder=None) for _ in range(2)] == [2, 3]
    for key in range(CACHE_FILES + 3):
        count(key)
    assert len(list((tmp_path / "cache").iterdir())) == CACHE_FILES


def test_a_damaged_cache_is_built_anew(tmp_path, count):
    count(5)
    (path,) = (tmp_path / "cache").iterdir()
    good = path.read_bytes()
    damages = [good[:5000] + b"?!" + good[5002:], good[:-100], b"", b"\x80\x04N."]
    for number, damaged in enumerate(damages):
        path.write_bytes(damaged)
        # the first mends the file, the second reads it
        assert [count(5), count(5)] == [number + 2, number + 2]


def test_where_nothing_can_be_written_nothing_is_cached(tmp_path, count):
    file = save(tmp_path / "file.png", noise(0))
    with public_folder() as folder, rights(folder, 0o555):
        assert [count(4, folder=place) for place in (file, folder, folder / "below")] == [1, 2, 3]
