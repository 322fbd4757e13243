"""Masks as COCO's JSON has them, polygons and run lengths: what is wrong with one, and its pixels. No torch here.

Nothing is given to the decoder, which is written in C, that has not been checked here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from roadmap.config.schema import Fault

if TYPE_CHECKING:
    import numpy as np

Size = tuple[int, int]  # height and width
HALF = 0.5  # pixels: what rounding may do to a side
FIRST_CHARACTER = 48  # of the 64 in which COCO writes run lengths: five bits, and one that says that more follow
FAR = 2.0**53  # from which a float no longer tells one pixel from the next; what is not a number is not below it either
MOST_BITS = 35  # of a run length


class Bounds(NamedTuple):
    """What a mask spans, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Unfit(Exception):
    """A mask that cannot be used: `kind` of fault, and the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind, self.reason = kind, reason


def check_mask(mask: Any, size: Size) -> Bounds:
    """What the mask of an object in a picture of this height and width spans; Unfit where it cannot be used."""
    if isinstance(mask, dict):
        return _check_runs(mask, size)
    if isinstance(mask, list):
        return _check_polygons(mask, size)
    raise Unfit("mask", f"segmentation={mask!r:.40}: must be polygons or run lengths; masks are learnt too")


def pixels(masks: list[Any], size: Size) -> np.ndarray[Any, Any]:
    """Checked masks as pixels (n, H, W) uint8."""
    import numpy as np
    from faster_coco_eval import mask as rle

    height, width = size
    if not masks:
        return np.zeros((0, height, width), np.uint8)
    coded = [rle.segmToRle(mask, width, height) if mask else _nothing(size) for mask in masks]
    return np.ascontiguousarray(rle.decode(coded).transpose(2, 0, 1))


def _nothing(size: Size) -> Any:
    from faster_coco_eval import mask as rle

    return rle.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)


# --- polygons --------------------------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """Whether JSON gave a number, and one that can be a place in a picture: JSON's integers may have thousands of digits."""
    return type(value) in (int, float) and abs(value) < FAR


def _check_polygons(polygons: list[Any], size: Size) -> Bounds:
    if not polygons:
        raise Unfit(Fault.degenerate, "segmentation=[]: no polygon")
    for number, polygon in enumerate(polygons):
        place = f"segmentation[{number}]"
        if not isinstance(polygon, list) or not all(map(is_number, polygon)):
            raise Unfit("polygon", f"{place}={polygon!r:.40}: must be finite numbers x, y, x, y, ...")
        if len(polygon) % 2 or len(polygon) < 6:
            raise Unfit("polygon", f"{place}: {len(polygon)} numbers; must be an even number, at least 6: three points")
    x, y = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
    bounds = Bounds(min(x), min(y), max(x), max(y))
    height, width = size
    if bounds.left < -width or bounds.top < -height or bounds.right > 2 * width or bounds.bottom > 2 * height:
        raise Unfit("polygon", f"segmentation: spans {_in_words(bounds)}, far out of a picture of {width} x {height}")
    if is_outside(bounds, size):
        raise Unfit(Fault.outside, f"segmentation: spans {_in_words(bounds)}, out of a picture of {width} x {height}")
    if bounds.left == bounds.right or bounds.top == bounds.bottom:
        raise Unfit(Fault.degenerate, "segmentation: polygons without an area")
    return bounds


def is_outside(bounds: Bounds, size: Size) -> bool:
    """Whether it reaches out of a picture of this height and width by more than half a pixel."""
    return min(bounds[:2]) < -HALF or bounds.right > size[1] + HALF or bounds.bottom > size[0] + HALF


def _in_words(bounds: Bounds) -> str:
    return f"x {bounds.left:g} to {bounds.right:g}, y {bounds.top:g} to {bounds.bottom:g}"


# --- run lengths -----------------------------------------------------------------------------------------------------


def _check_runs(mask: dict[str, Any], size: Size) -> Bounds:
    import numpy as np

    if mask.get("size") != list(size):
        raise Unfit("size", f"segmentation.size={mask.get('size')!r:.40}: the picture has height, width {list(size)}")
    runs = np.asarray(_runs(mask.get("counts")), np.int64)
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        wrong = "a negative run" if (runs < 0).any() else f"{runs.sum():,} pixels"
        raise Unfit("rle", f"segmentation.counts: {wrong}; the runs must add up to {size[0]} x {size[1]} pixels")
    ends = runs.cumsum()[1::2]
    starts = ends - runs[1::2]
    starts, last = starts[ends > starts], ends[ends > starts] - 1
    if not len(starts):
        raise Unfit(Fault.degenerate, "segmentation: a mask without a pixel")
    height = size[0]
    across = starts // height != last // height  # such a run reaches the lower end of a column and the top of the next
    top = np.where(across, 0, starts % height).min()
    bottom = np.where(across, height - 1, last % height).max()
    return Bounds(float(starts[0] // height), float(top), float(last[-1] // height + 1), float(bottom + 1))


def _runs(counts: Any) -> Any:
    if isinstance(counts, str):
        return decode_runs(counts)
    if not isinstance(counts, list) or not all(type(count) is int and abs(count) < 2**MOST_BITS for count in counts):
        raise Unfit("rle", f"segmentation.counts={counts!r:.40}: must be a list of whole numbers, or COCO's text of them")
    return counts


def decode_runs(text: str) -> np.ndarray[Any, Any]:
    """Run lengths as COCO writes them: groups of five bits, lowest first; from the fourth on less the last but one."""
    import numpy as np

    bits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - FIRST_CHARACTER
    if not len(bits) or bits.min() < 0 or bits.max() > 63:
        raise Unfit("rle", f"segmentation.counts={text!r:.40}: not COCO's text of run lengths")
    is_last = bits & 32 == 0
    if not is_last[-1]:
        raise Unfit("rle", f"segmentation.counts: cut off after {len(text)} characters")
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    lengths = np.diff(starts, append=len(bits))
    if 5 * lengths.max() > MOST_BITS:
        raise Unfit("rle", "segmentation.counts: a run longer than any picture")
    shift = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((bits & 31) << shift, starts)
    runs -= (bits[is_last] >> 4 & 1) << 5 * lengths  # the highest bit is the sign
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
