"""The JSON of COCO, read once and examined: what of it cannot be trained on, each with its place. No torch here."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from roadmap.base.errors import Refused
from roadmap.config.schema import Fault
from roadmap.data.images.examine import Finding
from roadmap.data.images.inventory import is_word
from roadmap.data.images.masks import Bounds, Size, Unfit, check_mask, is_number, is_outside, pixels

if TYPE_CHECKING:
    from roadmap.data.images.inventory import Objects

LONGEST, DEEPEST = 255, 15  # bytes of a file's name, and folders, that every system takes
APART = 3.0, 0.05  # pixels, and a share of the longer side: how far a box may be from the bounds of its mask

Note = Callable[[str, str, str], None]  # place in the file, kind, reason


class Picture(NamedTuple):
    """A picture that the file names."""

    name: str  # of its file, in the folder of the split
    size: Size  # height and width
    objects: bytes  # pickled: as plain lists COCO's take gigabytes, and each loader process would copy them


class Annotations(NamedTuple):
    """One file's pictures, its categories in the order of their ids, and what is wrong."""

    pictures: tuple[Picture, ...]
    categories: tuple[tuple[int, str], ...]
    findings: tuple[Finding, ...]


class Known(NamedTuple):
    """An object as the file has it."""

    label: int
    box: tuple[float, float, float, float]  # left, top, width, height
    crowd: bool
    area: float
    mask: Any


def read_annotations(file: Path) -> Annotations:
    """A file, read once by a process as long as it does not change; Refused where it is not of COCO's form at all."""
    try:
        stat = file.stat()
        return _read(file, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise Refused(f"{file}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=4)
def _read(file: Path, *state: int) -> Annotations:
    content = _parts(file)
    findings: list[Finding] = []

    def note(place: str, kind: str, reason: str) -> None:
        findings.append(Finding(kind, f"{file}: {place}", reason))

    categories = _categories(content["categories"], note)
    pictures = _pictures(content["images"], note)
    labels = {number: label for label, (number, _) in enumerate(categories)}
    objects = _objects(content["annotations"], labels, pictures, note)
    if not findings and all(one.crowd for known in objects.values() for one in known):
        raise Refused(f"{file}: annotations: no objects {'but crowds, of which nothing is learnt' if objects else 'at all'}")
    packed = (Picture(name, size, pickle.dumps(objects.get(key, ()))) for key, (name, size) in pictures.items())
    return Annotations(tuple(packed), tuple(categories), tuple(findings))


def objects_of(picture: Picture) -> Objects:
    """The objects of a picture, their masks as pixels."""
    import numpy as np

    from roadmap.data.images.inventory import Objects

    known: list[Known] = pickle.loads(picture.objects)
    boxes = np.array([one.box for one in known], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        boxes,
        np.array([one.label for one in known], np.int64),
        pixels([one.mask for one in known], picture.size),
        np.array([one.crowd for one in known], bool),
        np.array([one.area for one in known], np.float64),
    )


# --- the file --------------------------------------------------------------------------------------------------------


def _parts(file: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(file.read_bytes(), object_pairs_hook=_once)
    except Refused as error:
        raise Refused(f"{file}: {error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise Refused(f"{file}: not JSON, or cut off: {error}") from error
    if not isinstance(content, dict):
        raise Refused(f"{file}: a {type(content).__name__}; must be COCO's object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = f"is a {type(content[key]).__name__}" if key in content else "is missing"
            raise Refused(f"{file}: {key} {found}; must be a list")
    for key in ("images", "categories"):
        if not content[key]:
            raise Refused(f"{file}: {key} is empty")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a key that is there twice json would take the last value and lose the first."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refused(f"the key {twice!r:.40} is there twice in the object of id={entry.get('id')!r:.40}; must be once")
    return entry


def _entries(entries: list[Any], key: str, note: Note) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The place, id and content of each entry that has an id of its own."""
    seen: dict[Any, int] = {}
    for number, entry in enumerate(entries):
        place = f"{key}[{number}]"
        if not isinstance(entry, dict):
            note(place, "entry", f"{entry!r:.40}: must be an object")
            continue
        own = entry.get("id")
        if type(own) not in (int, str):
            note(place, "id", f"id={own!r:.40}: must be a whole number")
        elif own in seen:
            note(place, "id_twice", f"id={own!r:.40}: is that of {key}[{seen[own]}] too")
        else:
            seen[own] = number
            yield f"{place} (id {own})", own, entry


def _categories(entries: list[Any], note: Note) -> list[tuple[int, str]]:
    categories, names = [], set()
    for place, own, entry in _entries(entries, "categories", note):
        name = entry.get("name")
        if not is_word(name):
            note(place, "category", f"name={name!r:.40}: must be a word, or words in one line")
        elif name in names:
            note(place, "category", f"name={name!r:.40}: is that of another category too")
        elif type(own) is not int:
            note(place, "id", "must be a whole number")
        else:
            names.add(name)
            categories.append((own, name))
    return sorted(categories)


def _pictures(entries: list[Any], note: Note) -> dict[Any, tuple[str, Size]]:
    pictures: dict[Any, tuple[str, Size]] = {}
    names: set[str] = set()
    for place, own, entry in _entries(entries, "images", note):
        name, size = entry.get("file_name"), (entry.get("height"), entry.get("width"))
        if not isinstance(name, str) or not _is_inside(name):
            note(place, "file_name", f"file_name={name!r:.60}: must be the name of a file in the folder of the split")
        elif str(PurePosixPath(name)) in names:
            note(place, "file_name", f"file_name={name!r:.60}: is that of another image too")
        elif not all(type(side) is int and is_number(side) and side > 0 for side in size):
            note(place, "size", f"height, width={list(size)!r:.40}: must be whole numbers of pixels")
        else:
            names.add(str(PurePosixPath(name)))
            pictures[own] = name, size  # type: ignore[assignment]  # looked at above
    return pictures


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    plain = bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and name.isprintable()
    return plain and all(len(part.encode()) <= LONGEST for part in parts) and len(parts) <= DEEPEST


# --- objects ---------------------------------------------------------------------------------------------------------


def _objects(
    entries: list[Any], labels: dict[int, int], pictures: dict[Any, tuple[str, Size]], note: Note
) -> dict[Any, list[Known]]:
    objects: dict[Any, list[Known]] = {}
    for place, _, entry in _entries(entries, "annotations", note):
        image, category = entry.get("image_id"), entry.get("category_id")
        if type(image) not in (int, str) or image not in pictures:
            note(place, "unknown_image", f"image_id={image!r:.40}: no image that can be used has this id")
        elif type(category) is not int or category not in labels:
            note(place, "unknown_category", f"category_id={category!r:.40}: no category has this id")
        else:
            known = _object(entry, labels[category], pictures[image][1], partial(note, place))
            if known is not None:
                objects.setdefault(image, []).append(known)
    return objects


def _object(entry: dict[str, Any], label: int, size: Size, note: Callable[[str, str], None]) -> Known | None:
    box: Any = entry.get("bbox")
    area: Any = entry.get("area")
    crowd = entry.get("iscrowd", 0)
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
        note("box", f"bbox={box!r:.80}: must be four finite numbers: left, top, width, height, the last two not negative")
        return None
    if not is_number(area) or not 0 <= area <= size[0] * size[1]:
        note("area", f"area={area!r:.40}: must be a number of pixels, at most those of the picture")
        return None
    if crowd not in (0, 1):
        note("crowd", f"iscrowd={crowd!r:.40}: must be 0 or 1")
        return None
    bounds = Bounds(box[0], box[1], box[0] + box[2], box[1] + box[3])
    fault = _fault_of_box(bounds, area, size)
    if fault is not None:
        note(*fault)
    known = Known(label, tuple(box), bool(crowd), float(area), entry.get("segmentation"))
    return _with_mask(known, None if fault else bounds, size, note)


def _fault_of_box(box: Bounds, area: float, size: Size) -> tuple[str, str] | None:
    sides = [box.left, box.top, box.right - box.left, box.bottom - box.top]
    if not area or not sides[2] or not sides[3]:
        return Fault.degenerate, f"bbox={sides}, area={area:g}: an object of no size"
    if is_outside(box, size):
        return Fault.outside, f"bbox={sides}: reaches out of a picture of {size[1]} x {size[0]} (width, height)"
    return None


def _with_mask(known: Known, box: Bounds | None, size: Size, note: Callable[[str, str], None]) -> Known | None:
    """The object, if its mask can be decoded; the mask should be where the box is, unless nothing can be told by that."""
    try:
        bounds = check_mask(known.mask, size)
    except Unfit as unfit:
        note(unfit.kind, unfit.reason)
        return known if unfit.kind in set(Fault) else None
    allowed = APART[0] + APART[1] * max(known.box[2:])
    if box is not None and max(abs(one - other) for one, other in zip(bounds, box, strict=True)) > allowed:
        spans = [bounds.left, bounds.top, bounds.right - bounds.left, bounds.bottom - bounds.top]
        note(Fault.disagree, f"bbox={list(known.box)}: the mask is in {spans}; bbox is left, top, width, height")
    return known
