"""Writing a packed data set (`roadmap.data.images.pack`): shard after shard, each whole or not there. No torch here."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from roadmap.base.claims import claim
from roadmap.base.errors import Refused, StorageFault
from roadmap.base.files import atomic_file, read_json_object, remove_partial, write_atomic
from roadmap.config.schema import DataConfig, Fault, Target
from roadmap.data.images import pack, sources
from roadmap.data.images.examine import Finding, hash_file, refuse_findings
from roadmap.data.images.folder import examined
from roadmap.data.images.inventory import Inventory, Store
from roadmap.data.images.readers import decode, read_bytes

JPEG = (".jpg", ".jpeg")
AT_ONCE = 256  # pictures in memory


@dataclass(frozen=True)
class Form:
    """How pictures are stored: as they are, or those with a longer shorter side than `side` resized, as JPEG of `quality`."""

    side: int | None
    quality: int
    shard: int  # pictures in one


def pack_images(data: DataConfig, output: Path, form: Form) -> Iterator[tuple[int, int]]:
    """Write what is not there yet; gives the number of shards that are done, and of all, after each.

    Refused where the images cannot be used, or `output` holds something else; a StorageFault where it cannot be written.
    """
    if Target.label not in data.source.facts.targets:
        raise Refused(f"data={data.source}: only images with a class each are packed")
    inventory = sources.list_images(data)
    if inventory.root is None or not inventory.train.files:
        raise Refused(f"data={data.source}: only data sets of image files are packed")
    fingerprint, findings = examined(inventory)
    refuse_findings(inventory.root, findings, data.accept)
    images = inventory.train.paths + inventory.val.paths
    shards = [images[start : start + form.shard] for start in range(0, len(images), form.shard)]
    try:
        output.mkdir(parents=True, exist_ok=True)
        with claim(output / "lock"):
            _begin(output, _header(inventory, fingerprint, findings, form, len(shards)))
            for number, paths in enumerate(shards):
                path = pack.shard_path(output, number)
                if pack.read_shard(path) is None:
                    _write_shard(path, inventory, paths, form)
                yield number + 1, len(shards)
    except OSError as error:
        raise StorageFault(f"--output {output}: cannot be written: {error}") from error


def _header(inventory: Inventory, fingerprint: str, findings: Sequence[Finding], form: Form, shards: int) -> pack.Header:
    """What index.json says, the faults that were accepted among it: who trains on the pack must accept them again."""
    gone = {Fault.duplicate, Fault.cmyk} if form.side else {Fault.duplicate}  # duplicates are looked for again
    names = [[f.kind, Path(f.path).relative_to(inventory.folder).as_posix(), f.reason] for f in findings if f.kind not in gone]
    quality = form.quality if form.side else None
    about = {"format": pack.FORMAT, "of": fingerprint, "side": form.side, "quality": quality, "shards": shards}
    return {**about, "pictures": form.shard, "classes": list(inventory.classes), "findings": names}


def _begin(output: Path, header: pack.Header) -> None:
    there = read_json_object(output / pack.INDEX)
    strange = ", ".join(sorted(path.name for path in output.iterdir() if path.name != "lock")[:5])
    if not there and strange:
        raise Refused(f"--output {output}: holds {strange}; must be an empty folder, or one that this command began")
    if there and there != header:
        unequal = ", ".join(key for key in header if there.get(key) != header[key])
        raise Refused(f"--output {output}: holds images packed otherwise (unequal: {unequal}); choose another folder")
    remove_partial(output)
    write_atomic(output / pack.INDEX, json.dumps(header))


def _write_shard(path: Path, inventory: Inventory, images: Sequence[Path], form: Form) -> None:
    entries = []
    with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in _stored(inventory, images, form):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
            padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            entries.append(pack.Entry(name, tar.offset - padded, len(content), hashlib.sha256(content).hexdigest()))
    about = {"sha256": hash_file(path).digest, "bytes": path.stat().st_size, "images": entries}
    write_atomic(path.with_suffix(".json"), json.dumps(about))


def _stored(inventory: Inventory, images: Sequence[Path], form: Form) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each picture in the order of `images`, made in as many threads as there are cores."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(images), AT_ONCE):
            paths = images[start : start + AT_ONCE]
            contents = pool.map(lambda path: _content(inventory.store, path, form), paths)
            for path, (content, is_jpeg) in zip(paths, contents, strict=True):
                name = path.relative_to(inventory.folder).as_posix()
                yield f"{name}.jpg" if is_jpeg and path.suffix.lower() not in JPEG else name, content


def _content(store: Store, path: Path, form: Form) -> tuple[bytes, bool]:
    """A picture's bytes, and whether they are a JPEG of ours: those that are small enough stay as they are."""
    content = read_bytes(store, path)
    if form.side is None:
        return content, False
    with Image.open(BytesIO(content)) as header:
        (width, height), is_cmyk = header.size, header.mode == "CMYK"
    shrink = min(1, form.side / min(width, height))
    if shrink == 1 and not is_cmyk:
        return content, False
    size, file = (round(shrink * width), round(shrink * height)), BytesIO()
    decode(path, content).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=form.quality)
    return file.getvalue(), True
