"""Faults in images and archives: all named with their paths before any training, with exit code 2 and nothing left behind."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.identity import identity
from roadmap.config.schema import DataConfig, Fault, Source
from roadmap.data.images import archives, examine, folder, sources
from roadmap.data.images.inventory import Inventory, Split
from roadmap.data.images.readers import Arrays

REPOSITORY = Path(__file__).parent.parent.parent
QUICK = ["+step=gelu", "scale=atto", "recipe=smoke", "recipe.batch_size=4", "data=folder", "data.image_size=32"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "roadmap"


@pytest.fixture
def command(terminal, tmp_path, monkeypatch):
    """`terminal`, beside the images."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return terminal


def listed(path, *accept, source=Source.folder):
    data = DataConfig(source=source, path=str(path), accept=list(accept))
    return data, sources.list_images(data)


def fingerprint(path, *accept, source=Source.folder):
    return sources.fingerprint(*listed(path, *accept, source=source))


def refusal(path, *accept):
    with pytest.raises(Refused) as fault:
        fingerprint(path, *accept)
    return str(fault.value)


# ---- one image


def picture(size=(64, 48), mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(form="JPEG", image=None, **settings):
    content = io.BytesIO()
    (image or picture()).save(content, form, **settings)
    return content.getvalue()


def huge(width, height):
    """A PNG whose header says so."""
    content = bytearray(encoded("PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


SIXTEEN = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64))
FAULTS = {  # the file, its kind, what is said
    "empty": (b"", "empty", "0 bytes"),
    "text": (b"<html>no picture</html>", "not_image", "<html>"),
    "zeros": (bytes(1000), "not_image", "known format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not_image", "EPS"),
    "half a header": (encoded()[:100], "damaged", "Truncated"),
    "no header": (encoded("PNG")[:12], "damaged", "header"),
    **{f"jpeg cut by {n}": (encoded()[:-n], "damaged", "truncated") for n in (2, 20, 500)},
    "half a jpeg": (encoded(quality=95)[: len(encoded(quality=95)) // 2], "damaged", "truncated"),
    "nine tenths of a progressive jpeg": (encoded(progressive=True)[: int(len(encoded(progressive=True)) * 0.9)], "damaged", ""),
    "png cut by 20": (encoded("PNG")[:-20], "damaged", "Truncated"),
    "a bit of a png": (flipped(encoded("PNG"), 3000), "damaged", ""),
    "webp cut by 20": (encoded("WEBP")[:-20], "damaged", ""),
    "gif cut by 20": (encoded("GIF", picture(mode="P"))[:-20], "damaged", "truncated"),
    "bmp cut by 20": (encoded("BMP")[:-20], "damaged", "truncated"),
    "cmyk": (encoded("JPEG", picture(mode="CMYK")), "cmyk", "print"),
    "sixteen bits": (encoded("PNG", SIXTEEN), "sixteen_bit", "8 bits"),
    "float": (encoded("TIFF", Image.new("F", (20, 20))), "sixteen_bit", "mode F"),
    "one pixel": (encoded("PNG", picture((1, 1))), "small", "1 x 1"),
    "seven pixels": (encoded("JPEG", picture((7, 64))), "small", "7 x 64"),
    "gigantic": (huge(30_000, 30_000), "gigantic", "900000000 pixels"),
    "a little too large": (huge(10_000, 8_948), "gigantic", "10000 x 8948"),
}
FINE = {
    "gray": encoded("JPEG", picture(mode="L")),
    "progressive": encoded(progressive=True),
    "palette": encoded("PNG", picture(mode="P")),
    "transparent palette": encoded("PNG", picture(mode="P"), transparency=b"\x00\x80"),
    "alpha": encoded("PNG", picture(mode="RGBA")),
    "bits": encoded("PNG", picture(mode="1")),
    "webp": encoded("WEBP"),
    "animation": encoded("GIF", picture(mode="P"), save_all=True, append_images=[Image.new("P", (64, 48))]),
    "pages": encoded("TIFF", save_all=True, append_images=[picture()]),
    "spoilt exif": encoded(exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0"),
    "eight pixels": encoded("PNG", picture((8, 8))),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_path(tiny_images, name):
    content, kind, says = FAULTS[name]
    spoilt = tiny_images / "train" / "cat" / "3.png"
    spoilt.write_bytes(content)
    message = refusal(tiny_images)
    assert f"images that cannot be used: 1 {kind}\n" in message
    assert f"{spoilt}: {kind}: " in message
    assert says in message


@pytest.mark.parametrize("name", FINE)
def test_what_training_reads_well_passes_whatever_its_name(tiny_images, name):
    (tiny_images / "val" / "dog" / "fine.JPEG").write_bytes(FINE[name])
    assert len(fingerprint(tiny_images)) == 16


def test_a_gigantic_image_is_found_without_decoding_it(tiny_images, monkeypatch):
    for name in ("gigantic", "a little too large"):
        (tiny_images / "val" / "cat" / f"{name}.png").write_bytes(FAULTS[name][0])
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert "2 gigantic" in refusal(tiny_images)


def test_all_faults_are_said_at_once_and_no_kind_is_crowded_out(tiny_images):
    for i in range(20, 35):
        (tiny_images / "train" / "cat" / f"{i}.jpg").write_bytes(b"")
    (tiny_images / "val" / "dog" / "x.jpg").write_bytes(FAULTS["cmyk"][0])
    (tiny_images / "val" / "cat" / "y.jpg").write_bytes(encoded("JPEG", picture((1, 1), "CMYK")))
    message = refusal(tiny_images)
    assert "images that cannot be used: 2 cmyk, 15 empty, 1 small\n" in message
    assert sum(line.startswith("  /") for line in message.splitlines()) == 10
    assert "  and 8 more\n" in message
    assert str(tiny_images / "val" / "dog" / "x.jpg") in message
    assert message.endswith("data.accept=[cmyk,small] lets images of these kinds through")
    assert "15 empty" in refusal(tiny_images, Fault.cmyk, Fault.small)
    assert "1 small" in refusal(tiny_images, Fault.cmyk)


def test_a_trained_image_among_those_that_are_scored_is_refused_with_both_paths(tiny_images):
    copied, original = tiny_images / "val" / "cat" / "new.png", tiny_images / "train" / "dog" / "3.png"
    shutil.copy(original, copied)
    assert f"{copied}: duplicate: the same bytes as {original}" in refusal(tiny_images)
    shutil.copy(copied, tiny_images / "val" / "cat" / "again.png")
    assert "images that cannot be used: 2 duplicate\n" in refusal(tiny_images)


def test_the_same_image_twice_in_one_split_passes(tiny_images):
    for split in ("train", "val"):
        shutil.copy(tiny_images / split / "cat" / "0.png", tiny_images / split / "dog" / "again.png")
    assert len(fingerprint(tiny_images)) == 16


def test_accepted_faults_are_let_through_said_and_leave_the_identity_alone(tiny_images, caplog):
    (tiny_images / "val" / "dog" / "x.jpg").write_bytes(FAULTS["cmyk"][0])
    shutil.copy(tiny_images / "train" / "cat" / "0.png", tiny_images / "val" / "cat" / "new.png")
    orders = (Fault.cmyk, Fault.duplicate), (Fault.duplicate, Fault.small, Fault.cmyk)
    marks = {fingerprint(tiny_images, *accept) for accept in orders}
    assert len(marks) == 1
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == [f"warning: data.accept={kind} lets through 1 of the images" for kind in ("cmyk", "duplicate")]
    one, other = (compose([*QUICK, "data.path=x", f"data.accept=[{kinds}]"]) for kinds in ("", "cmyk"))
    assert identity(one, "0") == identity(other, "0")


@pytest.mark.parametrize("value", ["[damaged]", "[cmyk,empty]", "true", "[unreadable]"])
def test_only_what_can_be_decoded_can_be_accepted(value):
    with pytest.raises(Refused, match=r"data\.accept"):
        compose([*QUICK, "data.path=x", f"data.accept={value}"])
    if value == "[damaged]":
        with pytest.raises(Refused, match="'damaged'; allowed: cmyk, small, duplicate, numeric_order"):
            compose([*QUICK, "data.path=x", f"data.accept={value}"])


def test_imagenet_as_it_is_passes():
    assert compose([*QUICK, "data=imagenet", "data.path=x"]).data.accept == ["cmyk", "duplicate"]


def test_an_unreadable_image_is_named_and_not_remembered(tiny_images, monkeypatch):
    secret, read = tiny_images / "train" / "cat" / "0.png", Path.read_bytes

    def read_others(path):
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_others)
        assert f"{secret}: unreadable: Permission denied" in refusal(tiny_images)
    assert len(fingerprint(tiny_images)) == 16


# ---- examined once


@pytest.fixture
def decoded(monkeypatch):
    """The files that were looked at."""
    seen = []
    examine_image = folder.examine_image
    monkeypatch.setattr(folder, "examine_image", lambda path: seen.append(path) or examine_image(path))
    return seen


def test_images_are_decoded_once_and_again_when_one_changed(tiny_images, decoded):
    first = fingerprint(tiny_images)
    assert (fingerprint(tiny_images), len(decoded)) == (first, 16)
    changed = tiny_images / "train" / "cat" / "0.png"
    changed.write_bytes(b"x" * changed.stat().st_size)
    assert "not_image" in refusal(tiny_images)
    assert len(decoded) == 32
    assert "not_image" in refusal(tiny_images)  # a fault is remembered too
    assert len(decoded) == 32
    changed.write_bytes(FAULTS["cmyk"][0])
    assert "cmyk" in refusal(tiny_images)
    assert len(fingerprint(tiny_images, Fault.cmyk)) == 16  # what is accepted is asked of what is remembered
    assert len(decoded) == 48


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"0123456789abcdef", b'{"fingerprint": "0123', b"[]", b"null", b'{"fingerprint": 1, "findings": []}']
    + [json.dumps({"fingerprint": "0" * 16, "findings": bad}).encode() for bad in ([["cmyk"]], [[1, 2, 3]], 3, ["abc", 3])]
    + [json.dumps({"fingerprint": "g" * 16, "findings": []}).encode()],
)
def test_a_torn_or_foreign_cache_is_made_again(tiny_images, cache, decoded, content):
    first = fingerprint(tiny_images)
    (file,) = (path for path in (cache / "fingerprints").iterdir() if path.suffix != ".lock")
    whole = file.read_bytes()
    file.write_bytes(content)
    assert fingerprint(tiny_images) == first
    assert len(decoded) == 32
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_time_only(tiny_images, tmp_path, monkeypatch):
    first = fingerprint(tiny_images)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fingerprint(tiny_images) == first


# ---- listed once


@pytest.fixture
def scans(tiny_images, monkeypatch):
    """How often each folder of the images was looked into."""
    counts, scandir = Counter(), os.scandir

    def counted(path="."):
        if Path(path).is_relative_to(tiny_images):
            counts[str(path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    return counts


@pytest.mark.parametrize(
    "line",
    [
        "run -m +step=gelu,kernel_7 seed=0,1 model.width=8 model.depths=[1,1,1,1] runtime.threads=1 runtime.progress=false",
        "sweep study=digits study.steps=[gelu,kernel_7] study.seeds=[0,1] --dry-run",
    ],
)
def test_one_process_walks_over_a_data_set_once(tiny_images, command, scans, line):
    images = f"data=folder data.path={tiny_images} data.image_size=32 data.workers=0 recipe=smoke recipe.batch_size=4"
    code, _, message = command(f"{line} scale=atto {images}")
    assert code in (0, None), message
    folders = [tiny_images / split / name for split in ("train", "val") for name in ("", "cat", "dog")]
    assert scans == dict.fromkeys(map(str, folders), 1)
    assert len(list(Path.cwd().glob("experiments/*/runs/*/result.json"))) == (4 if "-m" in line else 0)


CHANGES = {  # what happens between two jobs, the images then
    "added": (lambda root: shutil.copy(root / "train/cat/0.png", root / "train/cat/nested/again.png"), 14),
    "removed": (lambda root: (root / "train/cat/nested/0.png").unlink(), 12),
    "renamed": (lambda root: (root / "train/cat/0.png").rename(root / "train/cat/x.png"), 13),
    "another folder": (
        lambda root: [(root / "linked").rename(root / "away"), shutil.copytree(root / "train/dog", root / "linked")],
        18,
    ),
    "other bytes": (lambda root: Image.new("RGB", (40, 48)).save(root / "train/cat/nested/0.png"), 13),
    "nothing": (lambda root: None, 13),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_data_set_that_changes_between_two_jobs_is_another(tiny_images, scans, name):
    (tiny_images / "linked").mkdir()
    (tiny_images / "train" / "cat" / "0.png").rename(tiny_images / "linked" / "0.png")
    (tiny_images / "train" / "cat" / "nested").symlink_to(tiny_images / "linked")
    Image.new("RGB", (50, 50)).save(tiny_images / "train" / "cat" / "0.png")
    first = fingerprint(tiny_images)
    change, size = CHANGES[name]
    change(tiny_images)
    scans.clear()
    assert listed(tiny_images)[1].train.size == size
    assert (not scans) == (name in ("other bytes", "nothing"))
    assert (fingerprint(tiny_images) == first) == (name == "nothing")


def test_an_image_that_is_gone_when_it_is_to_be_read_is_named(tiny_images, tmp_path):
    image = tiny_images / "train" / "cat" / "0.png"
    image.rename(tmp_path / "0.png")
    image.symlink_to(tmp_path / "0.png")
    data, inventory = listed(tiny_images)
    (tmp_path / "0.png").unlink()  # no folder of the data set knows
    assert listed(tiny_images)[1] == inventory
    with pytest.raises(Refused, match=r"cat/0\.png: cannot be read: No such file"):
        sources.fingerprint(data, inventory)


# ---- names


def renamed(root, *names):
    for split in ("train", "val"):
        for old, new in zip(("cat", "dog"), names, strict=False):
            (root / split / old).rename(root / split / new)
        for name in names[2:]:
            shutil.copytree(root / split / names[0], root / split / name)


@pytest.mark.parametrize(("one", "other"), [("cat", "Cat"), ("Straße", "strasse"), ("caf\u00e9", "cafe\u0301")])
def test_classes_that_are_one_folder_elsewhere_are_refused(tiny_images, one, other):
    renamed(tiny_images, one, other)
    with pytest.raises(Refused, match="differ in upper and lower case only") as fault:
        listed(tiny_images)
    assert one in str(fault.value)
    assert other in str(fault.value)


def test_numbered_classes_out_of_order_are_refused_unless_accepted(tiny_images, caplog):
    renamed(tiny_images, "1", "10", "2")
    with pytest.raises(Refused, match=r"here 1, 10, 2, .* 2 digits \(1 to 01\) .*data\.accept=\[numeric_order\]"):
        listed(tiny_images)
    assert listed(tiny_images, Fault.numeric_order)[1].classes == ("1", "10", "2")
    fingerprint(tiny_images, Fault.numeric_order)
    assert "numeric_order lets through classes in the order 1, 10, 2" in caplog.text


@pytest.mark.parametrize("names", [("01", "10", "02"), ("1", "3", "2"), ("1", "10", "2a")])
def test_other_names_are_in_order(tiny_images, names):
    renamed(tiny_images, *names)
    assert listed(tiny_images)[1].classes == tuple(sorted(names))


def test_one_folder_for_both_splits_is_refused(tiny_images):
    shutil.rmtree(tiny_images / "val")
    (tiny_images / "val").symlink_to("train")
    with pytest.raises(Refused, match="train and val are the same folder"):
        listed(tiny_images)


def test_a_hidden_folder_and_a_link_in_a_circle_among_images_are_refused(tiny_images):
    (tiny_images / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    with pytest.raises(Refused, match=r"cat/\.ipynb_checkpoints: a hidden folder"):
        listed(tiny_images)
    (tiny_images / "train" / "cat" / ".ipynb_checkpoints").rmdir()
    (tiny_images / "train" / "cat" / "again").symlink_to(tiny_images / "train" / "cat")
    with pytest.raises(Refused, match="cat/again: a link to a folder that it lies in"):
        listed(tiny_images)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_out_of_range_are_refused(label):
    inventory = Inventory(None, tuple("0123456789"), Split(3), Split(3))

    def read(*targets):
        return Arrays(Source.cifar10, inventory, "train", lambda split: (np.zeros((3, 8, 8), np.uint8), targets))

    with pytest.raises(Refused, match=f"data=cifar10: image 1 is of class {label}; must be 0 to 9"):
        read(0, label, 9)
    with pytest.raises(Refused, match="3 images with 2 classes"):
        read(0, 9)


# ---- archives


def packed(folder, path, inner=""):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, Path(inner) / file.relative_to(folder))
    else:
        with tarfile.open(path, "w:" + path.suffix[1:].replace("tgz", "gz").replace("tar", "")) as archive:
            archive.add(folder, inner or ".")
    return path


@pytest.mark.parametrize("suffix", archives.SUFFIXES)
@pytest.mark.parametrize("inner", ["", "photographs"])
def test_an_archive_is_the_folder_that_it_holds(tiny_images, tmp_path, cache, suffix, inner):
    path = packed(tiny_images, tmp_path / f"data{suffix}", inner)
    assert fingerprint(path) == fingerprint(tiny_images)
    root = listed(path)[1].root
    assert root.parent == cache / "archives"
    assert [p.name for p in root.parent.iterdir() if p.suffix != ".lock"] == [examine.hash_file(path).digest[:16]]
    assert {p.relative_to(root) for p in root.rglob("*")} == {p.relative_to(tiny_images) for p in tiny_images.rglob("*")}


def test_an_archive_is_unpacked_once_and_again_when_it_is_another(tiny_images, tmp_path, monkeypatch):
    path = packed(tiny_images, tmp_path / "data.zip")
    first = fingerprint(path)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_unpack", None)
        assert fingerprint(path) == first
    (tiny_images / "train" / "cat" / "0.png").unlink()
    packed(tiny_images, path)
    assert fingerprint(path) == fingerprint(tiny_images) != first


def test_data_imagenette_takes_an_archive_and_files_beside_the_splits_are_left(tiny_images, tmp_path):
    path = packed(tiny_images, tmp_path / "imagenette160.zip", "imagenette160")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/train/x", b"")
        archive.writestr("__MACOSX/val/x", b"")
        archive.writestr("README.md", "read me")
        archive.writestr("imagenette160/README.md", "read me")
    assert fingerprint(path, source=Source.imagenette) == fingerprint(tiny_images)


def test_what_an_archive_holds_is_checked_like_a_folder(tiny_images, tmp_path):
    (tiny_images / "train" / "cat" / "notes.txt").write_text("x")
    with pytest.raises(Refused, match=r"train/cat/notes\.txt: not an image by its name"):
        listed(packed(tiny_images, tmp_path / "data.tar"))


def tar_of(*members, ending=True):
    """A tar of (name, type, content), each with a good header; with train/ and val/ before them."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, kind, inside in [("train", tarfile.DIRTYPE, b""), ("val", tarfile.DIRTYPE, b""), *members]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, len(inside) if kind == tarfile.REGTYPE else 0
            entry.linkname = inside.decode() if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(entry, io.BytesIO(inside))
        length = archive.offset
    return content.getvalue() if ending else content.getvalue()[:length]


def tar_with(kind=tarfile.REGTYPE, size=None, **pax):
    """A tar of one member whose header says something odd."""
    entry = tarfile.TarInfo("train/a.png")
    entry.type, entry.pax_headers = kind, pax
    header = entry.tobuf(tarfile.PAX_FORMAT)
    if size is not None:
        entry.size = size
        header = entry.tobuf(tarfile.GNU_FORMAT)
    return header + bytes(10_240)


def zip_of(*members, mode=0o644):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, inside in [("train/", b""), ("val/", b""), *members]:
            entry = zipfile.ZipInfo("x")
            entry.filename = name  # as it is, whatever zipfile would make of it
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o40755 if name.endswith("/") else mode) << 16
            archive.writestr(entry, inside)
    return content.getvalue()


def encrypted_zip():
    content = bytearray(zip_of(("train/a.png", b"x")))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    return bytes(content)


def lying_zip():
    """Says that a file is shorter than it is."""
    content = bytearray(zip_of(("train/a.png", b"x" * 1000)))
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = (10).to_bytes(4, "little")
    return bytes(content)


ESCAPED = Path(tempfile.gettempdir(), f"escaped-{os.getpid()}.png")
FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
EVIL = {  # the archive's name, its bytes, what is said
    "up": ("a.tar", tar_of(("train/../../evil.png", FILE, b"x")), "out of the folder"),
    "absolute": ("a.tar", tar_of((str(ESCAPED), FILE, b"x")), "absolute"),
    "drive": ("a.tar", tar_of(("C:/evil.png", FILE, b"x")), "another system"),
    "backslash": ("a.tar", tar_of(("train\\..\\evil.png", FILE, b"x")), "another system"),
    "symbolic link": ("a.tar", tar_of(("train/cat", LINK, b"/"), ("train/cat/evil.png", FILE, b"x")), "a symbolic link"),
    "hard link": ("a.tar", tar_of(("train/passwd", HARD, b"/etc/passwd")), "a hard link"),
    "device": ("a.tar", tar_of(("train/null", tarfile.CHRTYPE, b"")), "a device"),
    "disk": ("a.tar", tar_of(("train/disk", tarfile.BLKTYPE, b"")), "a device"),
    "pipe": ("a.tar", tar_of(("train/pipe", tarfile.FIFOTYPE, b"")), "a pipe"),
    "unknown kind": ("a.tar", tar_of(("train/what", b"Z", b"")), "no plain file"),
    "twice": ("a.tar", tar_of(("train/a.png", FILE, b"x"), ("train/./a.png", FILE, b"y")), "there twice"),
    "file and folder": ("a.tar", tar_of(("train/a", FILE, b"x"), ("train/a/b.png", FILE, b"y")), "there twice"),
    "case": ("a.tar", tar_of(("train/a.png", FILE, b"x"), ("train/A.png", FILE, b"y")), "'train/a.png'"),
    "case of a folder": ("a.tar", tar_of(("train/cat/a.png", FILE, b"x"), ("train/Cat/b.png", FILE, b"y")), "'train/cat'"),
    "holes": ("a.tar", tar_with(**{"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}), "no plain file"),
    "a size below zero": ("a.tar", tar_with(size=-512), "no plain file"),
    "a name without end": ("a.tar", tar_with(tarfile.GNUTYPE_LONGNAME, size=2**40), "a name of 1,099,511,627,776 bytes"),
    "escape code": ("a.tar", tar_of(("train/\x1b[31m.png", FILE, b"x")), "no name"),
    "a hundred folders": ("a.tar", tar_of(("train/" + "a/" * 100 + "a.png", FILE, b"x")), "no name"),
    "bomb": ("a.tar.gz", gzip.compress(tar_of(("train/a.png", FILE, bytes(3 << 20)))), "photographs do not compress"),
    "cut off between members": ("a.tar", tar_of(("train/a.png", FILE, b"x"), ending=False), "cut off"),
    "cut off in a member": ("a.tar", tar_of(("train/a.png", FILE, b"x" * 2000), ending=False)[:-600], "end of data"),
    "a spoilt header": ("a.tar", flipped(tar_of(("train/a.png", FILE, b"x")), 1030), "damaged header"),
    "a spoilt checksum": ("a.tar.gz", flipped(gzip.compress(tar_of(("train/a.png", FILE, b"x"))), -8), "CRC"),
    "half a gz": ("a.tgz", gzip.compress(tar_of(("train/a.png", FILE, os.urandom(9999))))[:5000], "end"),
    "no tar": ("a.tar", b"hello" * 999, "cannot be unpacked"),
    "no xz": ("a.tar.xz", b"", "cannot be unpacked"),
    "zip: up": ("a.zip", zip_of(("../evil.png", b"x")), "out of the folder"),
    "zip: absolute": ("a.zip", zip_of((str(ESCAPED), b"x")), "absolute"),
    "zip: backslash": ("a.zip", zip_of(("..\\evil.png", b"x")), "another system"),
    "zip: link": ("a.zip", zip_of(("train/cat", b"/"), mode=0o120777), "a link or a device"),
    "zip: device": ("a.zip", zip_of(("train/cat", b""), mode=0o020666), "a link or a device"),
    "zip: encrypted": ("a.zip", encrypted_zip(), "'train/a.png' in it is encrypted"),
    "zip: bomb": ("a.zip", zip_of(("train/a.png", bytes(3 << 20))), "photographs do not compress"),
    "zip: twice": ("a.zip", zip_of(("train/a.png", b"x"), ("train//a.png", b"y")), "there twice"),
    "zip: case": ("a.zip", zip_of(("train/a.png", b"x"), ("train/A.png", b"y")), "'train/a.png'"),
    "zip: longer than it says": ("a.zip", lying_zip(), "cannot be unpacked"),
    "zip: a spoilt bit": ("a.zip", flipped(zip_of(("train/a.png", os.urandom(2000))), 1000), "CRC"),
    "zip: half": ("a.zip", zip_of(("train/a.png", b"x"))[:100], "zip"),
    "no splits": ("a.zip", zip_of().replace(b"val", b"tst"), "needs train/ and val/"),
}


@pytest.mark.parametrize("name", EVIL)
def test_an_evil_archive_is_refused_and_leaves_no_file(tmp_path, cache, name):
    file, content, says = EVIL[name]
    path = tmp_path / "in" / file
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(Refused) as fault:
        listed(path)
    assert str(fault.value).startswith(f"data.path={path}: ")
    assert says in str(fault.value)
    assert [p for p in (cache / "archives").rglob("*") if p.suffix != ".lock"] == []
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and cache not in p.parents]
    assert outside == [path]
    assert not ESCAPED.exists()


def test_too_many_members_and_too_little_room_are_refused(tiny_images, tmp_path, cache, monkeypatch):
    path = packed(tiny_images, tmp_path / "data.zip")
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MOST_MEMBERS", 20)
        with pytest.raises(Refused, match="more than 20 files and folders"):
            listed(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 50, 50_000))
    with pytest.raises(Refused, match=r"unpacking takes \d+,\d+ bytes in .*, where 50,000 are free"):
        listed(path)
    assert [p for p in (cache / "archives").rglob("*") if p.suffix != ".lock"] == []


def test_a_member_that_gives_more_than_it_says_is_cut_there(tmp_path):
    """Ten megabytes of zeros that say, checksum and all, that they are ten bytes: the budget holds while it is unpacked too."""
    content = bytearray(zip_of(("train/a.png", bytes(10 << 20))))
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 16 : directory + 20] = zlib.crc32(bytes(10)).to_bytes(4, "little")
    content[directory + 24 : directory + 28] = (10).to_bytes(4, "little")
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    assert (archives.unpacked(path) / "train" / "a.png").read_bytes() == bytes(10)


def test_behind_our_checks_stand_those_of_the_library(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(archives, "_fault_of_name", lambda member: "")
    monkeypatch.setattr(archives, "TYPES", dict.fromkeys(archives.TYPES, ""))
    for name, says in (("up", "outside the destination"), ("device", "special file"), ("hard link", "absolute path")):
        path = tmp_path / name / "a.tar"
        path.parent.mkdir()
        path.write_bytes(EVIL[name][1])
        with pytest.raises(Refused, match=f"cannot be unpacked: .*{says}"):
            listed(path)
    up = tmp_path / "a.zip"
    up.write_bytes(EVIL["zip: up"][1])
    assert (archives.unpacked(up) / "evil.png").is_file()
    assert [p for p in tmp_path.rglob("evil.png") if cache not in p.parents] == []


def test_what_a_killed_unpacking_left_is_removed(tiny_images, tmp_path, cache):
    path = packed(tiny_images, tmp_path / "data.zip")
    left = cache / "archives" / f"{examine.hash_file(path).digest[:16]}{archives.PARTIAL}123-abc" / "train"
    left.mkdir(parents=True)
    assert fingerprint(path) == fingerprint(tiny_images)
    assert not left.exists()


def test_two_processes_unpack_one_archive(tiny_images, tmp_path):
    path = packed(tiny_images, tmp_path / "data.tar.gz")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        roots = pool.map(archives.unpacked, [path] * 4, chunksize=1)
    assert len(set(roots)) == 1
    assert listed(path)[1].train.size == 12


def test_without_locks_the_second_of_two_takes_what_the_first_unpacked(tiny_images, tmp_path):
    partial, folder = tmp_path / "partial", tmp_path / "folder"
    shutil.copytree(tiny_images, partial)
    shutil.copytree(tiny_images, folder)
    archives._rename(partial, folder)
    with pytest.raises(OSError):
        archives._rename(partial, tmp_path / "none" / "folder")


def test_an_archive_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Refused, match=r"data\.path=\S+/no\.zip: there is no such archive"):
        listed(tmp_path / "no.zip")


# ---- the command line


@pytest.mark.parametrize("tool", ["run +step=gelu", "sweep study=digits study.steps=[resnet] recipe=smoke scale=atto"])
@pytest.mark.parametrize("spoil", ["image", "archive"])
def test_the_command_line_refuses_faults_before_a_run_folder_is_made(tiny_images, tmp_path, command, tool, spoil):
    path = tiny_images
    if spoil == "archive":
        path = tmp_path / "evil.tar"
        path.write_bytes(EVIL["up"][1])
    (tiny_images / "train" / "cat" / "0.png").write_bytes(b"")
    code, _, message = command(f"{tool} data=folder data.path={path} data.image_size=32 recipe.batch_size=4")
    assert code == 2, message
    assert ("cat/0.png: empty" if spoil == "image" else "out of the folder") in message
    assert "Traceback" not in message
    assert list(Path.cwd().iterdir()) == []


def test_a_fault_is_refused_without_torch(tiny_images, tmp_path):
    (tiny_images / "train" / "cat" / "0.png").write_bytes(b"")
    line = ["run", "+step=gelu", "data=folder", f"data.path={tiny_images}", "recipe.batch_size=4"]
    program = (
        "import sys; sys.modules['torch'] = None; from roadmap.run import __main__ as run; "
        "from roadmap.base.console import exits; "
        f"sys.argv[:] = {line!r}; exits(run.main)()"
    )
    (tmp_path / "here").mkdir()
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=tmp_path / "here", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cat/0.png: empty: 0 bytes" in done.stderr
    assert list((tmp_path / "here").iterdir()) == []
