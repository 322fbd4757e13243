"""Every image file read once before training: its hash, and what is wrong with it. No torch here.

An image is decoded to its end, as training will do, but a JPEG at an eighth of its size: all of its bits are read and
the arithmetic is left out. What the formats themselves cannot tell stays unseen: a JPEG has no checksum, so a changed
bit in it gives another picture and no fault.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import PIL

from roadmap.base.errors import Refused
from roadmap.config.schema import Fault
from roadmap.data.images import cache

log = logging.getLogger("roadmap")

RULES = 1  # a higher number when other things become findings: what was found under older rules is forgotten
SMALLEST = 8  # pixels of a side
LARGEST = 89_478_485  # pixels: Pillow's limit, a quarter of a gibibyte in RGB
SHOWN = 10  # findings in a message
MANY = 5000  # files
CHUNK = 32  # files that a thread takes at a time

# Pillow knows more formats, and starts Ghostscript for one of them.
FORMATS = {"JPEG", "MPO", "JPEG2000", "PNG", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "PPM"}
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file."""

    kind: str  # one of `Fault`, or a kind that nobody can accept
    path: str
    reason: str


@dataclass(frozen=True)
class Seen:
    """One file, read: hexadecimal SHA-256 of its bytes, and each kind of fault with its reason."""

    digest: str
    faults: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Examined:
    """All files of a source: sixteen hex digits of their names and bytes, and what is wrong with them."""

    fingerprint: str
    findings: tuple[Finding, ...] = ()


def examined(root: Path, files: Sequence[Path], look: Callable[[Path], Seen], trained: int | None = None) -> Examined:
    """Look at files under `root` once: a cache remembers names, sizes and times of modification.

    The first `trained` files are trained on and the others scored; None: these are no images with a place in a split.
    """
    stats = [path.stat() for path in files]
    state = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(_names(root, files), stats, strict=True)]
    key = [RULES, PIL.__version__, str(root), state, trained]
    return cache.remembered("fingerprints", key, lambda: _examine(root, files, look, trained), _to_json, _of_json)


def judge(root: Path, findings: Sequence[Finding], accept: Sequence[Fault]) -> list[str]:
    """Refuse what is not accepted, all of it at once; gives back a sentence for each kind that is let through.

    Raises:
        Refused: with the number of each kind and the first paths.

    """
    bad = [finding for finding in findings if finding.kind not in accept]
    if bad:
        raise Refused(_say(root, bad))
    counts = Counter(finding.kind for finding in findings)
    return [f"data.accept={kind} lets through {count} of the images" for kind, count in sorted(counts.items())]


# --- one file --------------------------------------------------------------------------------------------------------


def hash_file(path: Path) -> Seen:
    """Hash a file of any kind.

    Raises:
        Refused: where it cannot be read.

    """
    try:
        with path.open("rb") as file:
            return Seen(hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from error


def look_at_image(path: Path) -> Seen:
    """Hash an image file and decode it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Seen("", ((UNREADABLE, str(error.strerror)),))
    return Seen(hashlib.sha256(content).hexdigest(), tuple(_faults(content)))


def _faults(content: bytes) -> Iterator[tuple[str, str]]:
    from PIL import Image, UnidentifiedImageError

    if not content:
        yield "empty", "0 bytes"
        return
    try:
        yield from _decode(content)
    except Image.DecompressionBombError as error:
        yield "gigantic", str(error)
    except UnidentifiedImageError:
        if content.startswith(SIGNATURES):
            yield "damaged", "an image whose header cannot be read"
        else:
            yield "not_image", f"not an image of a known format: it begins with {content[:12]!r}"
    except Exception as error:  # decoders raise whatever comes to them on bytes that nobody meant
        yield "damaged", str(error) or type(error).__name__


def _decode(content: bytes) -> Iterator[tuple[str, str]]:
    from PIL import Image

    with Image.open(BytesIO(content)) as image:
        if image.format not in FORMATS:
            yield "not_image", f"of format {image.format}; known are {', '.join(sorted(FORMATS))}"
            return
        if image.width * image.height > LARGEST:
            yield "gigantic", f"{image.width} x {image.height} pixels; at most {LARGEST:,} in all"
            return
        faults = list(_shape_and_mode(image))
        image.draft(None, (1, 1))  # type: ignore[arg-type]  # None: the mode stays
        image.load()
        if not faults and image.mode not in ("RGB", "L"):
            image.crop((0, 0, 1, 1)).convert("RGB")  # as training will
    if image.format == "PNG":  # its checksums are not looked at in decoding
        with Image.open(BytesIO(content)) as image:
            image.verify()
    yield from faults


def _shape_and_mode(image: Any) -> Iterator[tuple[str, str]]:
    if min(image.size) < SMALLEST:
        yield Fault.small, f"{image.width} x {image.height} pixels; a side should have at least {SMALLEST}"
    if image.mode == "CMYK":
        yield Fault.cmyk, "in the four colours of print, which turn into RGB without a colour profile"
    if image.mode == "F" or image.mode.startswith("I"):
        yield "sixteen_bit", f"more than 8 bits a pixel (mode {image.mode}), which training would cut off; convert it to 8"


# --- all files -------------------------------------------------------------------------------------------------------


def _examine(root: Path, files: Sequence[Path], look: Callable[[Path], Seen], trained: int | None) -> Examined:
    if len(files) > MANY:
        log.warning("reading %d files in %s once, to examine them and to know them again", len(files), root)
    seen = _look_at_all(files, look)
    content = [[name, one.digest] for name, one in zip(_names(root, files), seen, strict=True)]
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    found = [Finding(kind, str(path), why) for path, one in zip(files, seen, strict=True) for kind, why in one.faults]
    return Examined(fingerprint, (*found, *_duplicates(root, content, trained)))


def _names(root: Path, files: Sequence[Path]) -> list[str]:
    start = len(str(root).rstrip("/")) + 1  # ten times as fast as Path.relative_to, and there may be a million
    return [str(path)[start:] for path in files]


def _look_at_all(files: Sequence[Path], look: Callable[[Path], Seen]) -> list[Seen]:
    """In threads: hashing and decoding leave Python's lock alone, and nothing is left over when this process is killed."""
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's, about metadata that nobody reads here
        return list(chain.from_iterable(pool.map(lambda chunk: [look(path) for path in chunk], chunks)))


def _duplicates(root: Path, content: Sequence[Sequence[str]], trained: int | None) -> Iterator[Finding]:
    seen = {digest: name for name, digest in content[:trained] if digest}
    for name, digest in [] if trained is None else content[trained:]:
        if digest in seen:
            yield Finding(Fault.duplicate, str(root / name), f"the same bytes as {root / seen[digest]}")


# --- words and JSON --------------------------------------------------------------------------------------------------


def _say(root: Path, bad: Sequence[Finding]) -> str:
    counts = Counter(finding.kind for finding in bad)
    number = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    lines = [f"data.path={root}: images that cannot be used: {number}"]
    lines += [f"  {finding.path}: {finding.kind}: {finding.reason}" for finding in _some_of_each(bad)]
    if len(bad) > SHOWN:
        lines.append(f"  and {len(bad) - SHOWN} more")
    kinds = ",".join(fault for fault in Fault if fault in counts)
    through = f"; data.accept=[{kinds}] lets images of {'these kinds' if ',' in kinds else 'this kind'} through"
    return "\n".join([*lines, f"mend or remove these files{through if kinds else ''}"])


def _some_of_each(bad: Iterable[Finding]) -> list[Finding]:
    """The first of each kind, then the second of each, as far as there is room; kinds together."""
    counts: Counter[str] = Counter()
    ranked = []
    for finding in bad:
        ranked.append((counts[finding.kind], finding))
        counts[finding.kind] += 1
    chosen = sorted(ranked, key=lambda pair: pair[0])[:SHOWN]
    return sorted((finding for _, finding in chosen), key=lambda finding: (finding.kind, finding.path))


def _to_json(known: Examined) -> Any:
    """None where a file could not be read: that changes without a trace in sizes and times."""
    if any(finding.kind == UNREADABLE for finding in known.findings):
        return None
    return {"fingerprint": known.fingerprint, "findings": [astuple(finding) for finding in known.findings]}


def _of_json(content: Any) -> Examined | None:
    try:
        findings = tuple(Finding(*row) for row in content["findings"] if all(isinstance(word, str) for word in row))
        whole = re.fullmatch("[0-9a-f]{16}", content["fingerprint"]) and len(findings) == len(content["findings"])
        return Examined(content["fingerprint"], findings) if whole else None
    except (KeyError, TypeError):
        return None
