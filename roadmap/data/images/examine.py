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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from roadmap.base import processes
from roadmap.base.errors import Refused
from roadmap.base.files import regular
from roadmap.config.schema import Fault
from roadmap.data.images import cache
from roadmap.data.images.inventory import Inventory

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


class Finding(NamedTuple):
    """What is wrong with one file."""

    kind: str  # one of `Fault`, or a kind that nobody can accept
    path: str
    reason: str


class FileReport(NamedTuple):
    """One file: the hexadecimal SHA-256 of its bytes, and each kind of fault with its reason."""

    digest: str
    faults: tuple[tuple[str, str], ...] = ()


def examine_files(
    root: Path, files: Sequence[Path], examine: Callable[[Path], FileReport], trained: int | None = None, *rules: Any
) -> tuple[str, list[Finding]]:
    """Read files under `root` once: a cache remembers names, sizes and times of modification.

    The first `trained` files are trained on and the others scored; None: these are no images with a place in a split. What
    else `examine` goes by is in `rules`, as JSON can write it.
    Gives sixteen hex digits of all names and bytes, and what is wrong; Refused where a file is gone since it was listed.
    """
    try:
        stats = [path.stat() for path in files]
    except OSError as error:
        raise Refused(f"{error.filename}: cannot be read: {error.strerror}") from error
    state = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(_names(root, files), stats, strict=True)]
    key = [RULES, PIL.__version__, str(root), state, trained, *rules]
    content = cache.cached("fingerprints", key, lambda: _examine(root, files, examine, trained), _is_valid)
    return content["fingerprint"], [Finding(*row) for row in content["findings"]]


def examine_splits(
    inventory: Inventory, examine: Callable[[Path], FileReport], beside: Iterable[Path] = (), *rules: Any
) -> tuple[str, list[Finding]]:
    """The files of both splits, and those beside them; see `examine_files`."""
    train = inventory.train.paths
    return examine_files(inventory.folder, [*train, *inventory.val.paths, *beside], examine, len(train), *rules)


def warn(warnings: Sequence[str]) -> None:
    """Log each, once for all processes of a run."""
    for warning in warnings if processes.rank() == 0 else []:
        log.warning("warning: %s", warning)


def refuse_findings(root: Path, findings: Sequence[Finding], accept: Sequence[Fault], what: str = "images") -> list[str]:
    """Refuse all that is not accepted at once, with its number and the first paths; gives a warning for each kind that is."""
    if bad := [finding for finding in findings if finding.kind not in accept]:
        raise Refused(_message(root, bad, what))
    counts = Counter(finding.kind for finding in findings)
    return [f"data.accept={kind} lets through {counts[kind]} of the {what}" for kind in sorted(counts)]


# --- one file --------------------------------------------------------------------------------------------------------


def hash_file(path: Path) -> FileReport:
    """Hash a file of any kind; Refused where it cannot be read."""
    try:
        with regular(path).open("rb") as file:
            return FileReport(hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from error


def examine_image(path: Path) -> FileReport:
    """Hash an image file and decode it."""
    try:
        content = regular(path).read_bytes()
    except OSError as error:
        return FileReport("", ((UNREADABLE, str(error.strerror)),))
    return FileReport(hashlib.sha256(content).hexdigest(), tuple(_faults(content)))


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


def _examine(root: Path, files: Sequence[Path], examine: Callable[[Path], FileReport], trained: int | None) -> cache.Content:
    if len(files) > MANY:
        log.warning("reading %d files in %s once, to examine them and to know them again", len(files), root)
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    # In threads: hashing and decoding leave Python's lock alone, and nothing is left over when this process is killed.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's, about metadata that nobody reads here
        reports = list(chain.from_iterable(pool.map(lambda chunk: [examine(path) for path in chunk], chunks)))
    digests = [(name, report.digest) for name, report in zip(_names(root, files), reports, strict=True)]
    pairs = zip(files, reports, strict=True)
    findings = [Finding(kind, str(path), reason) for path, report in pairs for kind, reason in report.faults]
    return {"fingerprint": fingerprint_of(digests), "findings": [*findings, *duplicates(root, digests, trained)]}


def fingerprint_of(digests: Sequence[tuple[str, str]]) -> str:
    """Sixteen hex digits of the names of files and the SHA-256 of each."""
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]


def _names(root: Path, files: Sequence[Path]) -> list[str]:
    start = len(str(root).rstrip("/")) + 1  # ten times as fast as Path.relative_to, and there may be a million
    return [str(path)[start:] for path in files]


def duplicates(root: Path, digests: Sequence[tuple[str, str]], trained: int | None) -> Iterator[Finding]:
    """The files after the first `trained` that have the bytes of one of these, by names and SHA-256."""
    names = {digest: name for name, digest in digests[:trained] if digest}
    for name, digest in [] if trained is None else digests[trained:]:
        if digest in names:
            yield Finding(Fault.duplicate, str(root / name), f"the same bytes as {root / names[digest]}")


def _message(root: Path, bad: Sequence[Finding], what: str) -> str:
    counts = Counter(finding.kind for finding in bad)
    number = ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts))
    lines = [f"data.path={root}: {what} that cannot be used: {number}"]
    ranks: defaultdict[str, Iterator[int]] = defaultdict(count)
    first_of_each = sorted(bad, key=lambda finding: next(ranks[finding.kind]))  # then the second of each, and so on
    lines += [f"  {finding.path}: {finding.kind}: {finding.reason}" for finding in sorted(first_of_each[:SHOWN])]
    if len(bad) > SHOWN:
        lines.append(f"  and {len(bad) - SHOWN} more")
    kinds = ",".join(fault for fault in Fault if fault in counts)
    through = f"; data.accept=[{kinds}] lets {what} of {'these kinds' if ',' in kinds else 'this kind'} through"
    return "\n".join([*lines, f"mend or remove these files{through if kinds else ''}"])


def _is_valid(content: cache.Content) -> bool:
    """Whether a file of the cache is of the form; with an unreadable image it is not: that changes without a trace in times."""
    fingerprint, findings = content.get("fingerprint"), content.get("findings")
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{16}", fingerprint) or not isinstance(findings, list):
        return False
    is_row = [isinstance(row, list | tuple) and len(row) == 3 and all(isinstance(word, str) for word in row) for row in findings]
    return all(is_row) and all(row[0] != UNREADABLE for row in findings)
