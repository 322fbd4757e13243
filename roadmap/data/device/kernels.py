"""Triton kernels of the device's augmentation: each reads its bytes once, writes its own once, and keeps nothing between.

Every kernel makes the bits of the plain torch code that it stands for (in `augment` and `randaugment`), so it follows that
code's order of operations. No product may be fused with a sum, which would round once where torch rounds twice:
`fused.launch` forbids it. Where the order cannot be seen, because all sums are whole numbers, it is free.

A kernel's grid begins with the images of the batch; what an image needs beside its pixels comes from a row of a table.
"""

from __future__ import annotations

import triton
import triton.language as tl

TAPS = tl.constexpr(2)  # as in `augment`
FIXED = tl.constexpr(2**22)
FIXED_BITS = tl.constexpr(22)
GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
MIX_2 = tl.constexpr(0x94D049BB133111EB)
TURN = tl.constexpr(6.283185307179586 * 2**-32)
UNIT = tl.constexpr(2**-32)

# Columns of a crop's row: numbers of int64.
CROP_COLUMNS = tl.constexpr(6)
START, STRIDE, TALL, WIDE, FLIP, ROW = map(tl.constexpr, range(6))  # ROW: of the image's first among the narrowed rows

# What RandAugment does to an image, as the first number of its record.
NOTHING, AFFINE, LOOKUP, EQUALIZE, AUTOCONTRAST, COLOR, CONTRAST, BRIGHTNESS, SHARPNESS = map(tl.constexpr, range(9))


# --- crops -----------------------------------------------------------------------------------------------------------


@triton.jit
def bicubic_weights(crops, firsts, weights, reach, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (B, 2, pixels): weights int32 (2, B, reach, SIZE), across and down, and the pixels that they begin at."""
    image, axis, images = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    pixel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    crop = crops + image * CROP_COLUMNS
    length = tl.load(crop + WIDE - axis).to(tl.int32)
    flip = (tl.load(crop + FLIP) != 0) & (axis == 0)
    scale = length.to(tl.float64) / tl.full((), SIZE, tl.float64)
    stretch = tl.maximum(scale, 1.0)
    result = tl.minimum(pixel, SIZE - 1)
    centre = (tl.where(flip, SIZE - 1 - result, result).to(tl.float64) + 0.5) * scale
    first = tl.maximum((centre - TAPS * stretch + 0.5).to(tl.int32), 0)
    end = tl.minimum((centre + TAPS * stretch + 0.5).to(tl.int32), length)
    total = tl.zeros((BLOCK,), tl.float64)
    for tap in range(_taps(length, SIZE)):
        total += _weight(first + tap, end, centre, stretch)
    row = axis * images + image
    tl.store(firsts + row * SIZE + pixel, first, mask=pixel < SIZE)
    for tap in range(_taps(length, SIZE)):
        weight = _weight(first + tap, end, centre, stretch) / total * FIXED
        rounded = (weight + tl.where(weight < 0, -0.5, 0.5)).to(tl.int32)
        tl.store(weights + (row * reach + tap) * SIZE + pixel, rounded, mask=pixel < SIZE)


@triton.jit
def _weight(tap, end, centre, stretch):
    """Keys' cubic convolution with a = -0.5, where the tap is one."""
    x = tl.abs((tap.to(tl.float64) - centre + 0.5) / stretch)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return tl.where(tap < end, tl.where(x < 1, near, tl.where(x < 2, far, 0.0)), 0.0)


@triton.jit
def _taps(length, SIZE: tl.constexpr):
    """How many pixels a result looks at, at most."""
    return 2 * tl.maximum(TAPS, (TAPS * length + SIZE - 1) // SIZE) + 1


@triton.jit
def narrow(pixels, crops, firsts, weights, narrowed, reach, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Grid (B, rows, columns): rows of the boxes, out of all `pixels` (P, 3), resized to (rows of all boxes, 3, SIZE)."""
    image = tl.program_id(0)
    crop = crops + image * CROP_COLUMNS
    tall, wide = tl.load(crop + TALL).to(tl.int32), tl.load(crop + WIDE).to(tl.int32)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    if tl.program_id(1) * ROWS < tall:
        kept = (row < tall)[:, None] & (column < SIZE)[None, :]
        first = tl.load(firsts + image * SIZE + column, mask=column < SIZE, other=0)
        line = (tl.load(crop + START) + row * tl.load(crop + STRIDE))[:, None] * 3
        red = tl.zeros((ROWS, COLUMNS), tl.int32)
        green = tl.zeros((ROWS, COLUMNS), tl.int32)
        blue = tl.zeros((ROWS, COLUMNS), tl.int32)
        for tap in range(_taps(wide, SIZE)):
            weight = tl.load(weights + (image * reach + tap) * SIZE + column, mask=column < SIZE, other=0)[None, :]
            source = pixels + line + tl.minimum(first + tap, wide - 1)[None, :] * 3
            red += weight * tl.load(source, mask=kept, other=0).to(tl.int32)
            green += weight * tl.load(source + 1, mask=kept, other=0).to(tl.int32)
            blue += weight * tl.load(source + 2, mask=kept, other=0).to(tl.int32)
        target = narrowed + (tl.load(crop + ROW) + row)[:, None] * (3 * SIZE) + column[None, :]
        tl.store(target, _level(red), mask=kept)
        tl.store(target + SIZE, _level(green), mask=kept)
        tl.store(target + 2 * SIZE, _level(blue), mask=kept)


@triton.jit
def shorten(narrowed, crops, firsts, weights, resized, reach, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Grid (B, rows, columns of the three channels): what `narrow` made, resized to (B, 3, SIZE, SIZE)."""
    image = tl.program_id(0)
    axis = tl.num_programs(0) + image  # down: the second half of the weights
    crop = crops + image * CROP_COLUMNS
    tall = tl.load(crop + TALL).to(tl.int32)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    kept = (row < SIZE)[:, None] & (column < 3 * SIZE)[None, :]
    first = tl.load(firsts + axis * SIZE + row, mask=row < SIZE, other=0)
    source = narrowed + tl.load(crop + ROW) * (3 * SIZE) + column[None, :]
    sums = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tap in range(_taps(tall, SIZE)):
        weight = tl.load(weights + (axis * reach + tap) * SIZE + row, mask=row < SIZE, other=0)[:, None]
        line = tl.minimum(first + tap, tall - 1)[:, None] * (3 * SIZE)
        sums += weight * tl.load(source + line, mask=kept, other=0).to(tl.int32)
    place = (column // SIZE * SIZE * SIZE + column % SIZE)[None, :] + row[:, None] * SIZE
    tl.store(resized + image.to(tl.int64) * (3 * SIZE * SIZE) + place, _level(sums), mask=kept)


@triton.jit
def _level(sums):
    """Rounded to 0..255, as Pillow does: sums of its weights and levels are below 2**31."""
    return tl.minimum(tl.maximum((sums + FIXED // 2) >> FIXED_BITS, 0), 255).to(tl.uint8)


# --- RandAugment -----------------------------------------------------------------------------------------------------
# An image's record: numbers of float64, the operation's and up to nine arguments; and a table of 256 bytes behind them.


@triton.jit
def affine(source, target, records, words, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (B, pixels): shears, shifts and rotations from `source` to `target` (B, 3, SIZE, SIZE)."""
    image = tl.program_id(0)
    record = records + image * words
    if tl.load(record) == AFFINE:
        pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        column, row = (pixel % SIZE).to(tl.float64) + 0.5, (pixel // SIZE).to(tl.float64) + 0.5
        x = tl.load(record + 1) * column + tl.load(record + 2) * row + tl.load(record + 3)
        y = tl.load(record + 4) * column + tl.load(record + 5) * row + tl.load(record + 6)
        kept = pixel < SIZE * SIZE
        inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
        x, y = x - 0.5, y - 0.5
        left, top = tl.floor(x), tl.floor(y)
        dx, dy = x - left, y - top
        left, top = left.to(tl.int32), top.to(tl.int32)
        for channel in tl.static_range(3):
            plane = (image * 3 + channel).to(tl.int64) * (SIZE * SIZE)
            above = _across(source + plane, left, top - 1, dx, kept & inside, SIZE)
            upper = _across(source + plane, left, top, dx, kept & inside, SIZE)
            lower = _across(source + plane, left, top + 1, dx, kept & inside, SIZE)
            below = _across(source + plane, left, top + 2, dx, kept & inside, SIZE)
            level = tl.minimum(tl.maximum(_cubic(dy, above, upper, lower, below), 0.0), 255.0)
            level = tl.where(inside, level, tl.load(record + 7 + channel))
            tl.store(target + plane + pixel, level.to(tl.int32).to(tl.uint8), mask=kept)


@triton.jit
def _across(plane, left, row, dx, mask, SIZE: tl.constexpr):
    """Between four neighbours of one row; beyond the edge lies the edge."""
    line = plane + tl.minimum(tl.maximum(row, 0), SIZE - 1) * SIZE
    v1 = tl.load(line + tl.minimum(tl.maximum(left - 1, 0), SIZE - 1), mask=mask, other=0).to(tl.float64)
    v2 = tl.load(line + tl.minimum(tl.maximum(left, 0), SIZE - 1), mask=mask, other=0).to(tl.float64)
    v3 = tl.load(line + tl.minimum(tl.maximum(left + 1, 0), SIZE - 1), mask=mask, other=0).to(tl.float64)
    v4 = tl.load(line + tl.minimum(tl.maximum(left + 2, 0), SIZE - 1), mask=mask, other=0).to(tl.float64)
    return _cubic(dx, v1, v2, v3, v4)


@triton.jit
def _cubic(t, v1, v2, v3, v4):
    """`randaugment._cubic`."""
    square = (v1 - v2) * 2 + v3 - v4
    cube = v2 - v1 - v3 + v4
    return ((cube * t + square) * t + (v3 - v1)) * t + v2


@triton.jit
def histograms(source, counts, records, words, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (B, pixels): adds to `counts` (B, 3, 256) each channel's levels, or in the first the grey ones, where needed."""
    image = tl.program_id(0)
    operation = tl.load(records + image * words)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    kept = pixel < SIZE * SIZE
    plane = source + image.to(tl.int64) * (3 * SIZE * SIZE) + pixel
    if operation == CONTRAST:
        _count(_grey(plane, kept, SIZE), kept, counts + image * 768)
    if (operation == EQUALIZE) | (operation == AUTOCONTRAST):
        for channel in tl.static_range(3):
            levels = tl.load(plane + channel * SIZE * SIZE, mask=kept, other=0).to(tl.int32)
            _count(levels, kept, counts + image * 768 + channel * 256)


@triton.jit
def _count(levels, kept, counts):
    bins = tl.arange(0, 256)
    outside = tl.sum(1 - kept.to(tl.int32), 0)  # these have level 0
    found = tl.histogram(levels, 256) - tl.where(bins == 0, outside, 0)
    tl.atomic_add(counts + bins, found, mask=found > 0, sem="relaxed")


@triton.jit
def _grey(plane, kept, SIZE: tl.constexpr):
    """ITU-R 601's luma."""
    red = tl.load(plane, mask=kept, other=0).to(tl.int32)
    green = tl.load(plane + SIZE * SIZE, mask=kept, other=0).to(tl.int32)
    blue = tl.load(plane + 2 * SIZE * SIZE, mask=kept, other=0).to(tl.int32)
    return tl.where(kept, (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16, 0)


@triton.jit
def lookup_tables(counts, records, given, tables, words, SIZE: tl.constexpr):
    """Grid (B, 3): another level for each level, (B, 3, 256), where an operation looks at nothing but the level."""
    image, channel = tl.program_id(0), tl.program_id(1)
    record = records + image * words
    operation, level = tl.load(record), tl.arange(0, 256)
    table = tables + (image * 3 + channel) * 256 + level
    count = counts + image * 768 + level
    if operation == LOOKUP:
        tl.store(table, tl.load(given + image * words * 8 + level))
    if operation == EQUALIZE:
        tl.store(table, _equalized(tl.load(count + channel * 256), level, SIZE * SIZE))
    if operation == AUTOCONTRAST:
        tl.store(table, _stretched(tl.load(count + channel * 256), level))
    if operation == CONTRAST:
        total = tl.sum(tl.load(count).to(tl.int64) * level, 0)
        mean = (2 * total + SIZE * SIZE) // (2 * SIZE * SIZE)
        tl.store(table, _blend(mean.to(tl.int32), level, tl.load(record + 1).to(tl.float32)))
    if operation == BRIGHTNESS:
        tl.store(table, _blend(tl.zeros((256,), tl.int32), level, tl.load(record + 1).to(tl.float32)))


@triton.jit
def _equalized(count, level, PIXELS: tl.constexpr):
    """Pillow's `equalize`: the levels as they are where there are too few of them."""
    highest = tl.max(tl.where(count > 0, level, 0), 0)
    step = (PIXELS - tl.sum(tl.where(level == highest, count, 0), 0)) // 255
    below = tl.cumsum(count, 0) - count
    equalized = tl.minimum((below + step // 2) // tl.maximum(step, 1), 255)
    return tl.where(step > 0, equalized, level).to(tl.uint8)


@triton.jit
def _stretched(count, level):
    """Pillow's `autocontrast`."""
    low = tl.min(tl.where(count > 0, level, 255), 0).to(tl.float64)
    high = tl.max(tl.where(count > 0, level, 0), 0).to(tl.float64)
    scale = tl.full((), 255, tl.float64) / tl.where(high > low, high - low, 1.0)
    stretched = tl.minimum(tl.maximum(level * scale + -low * scale, 0.0), 255.0)
    return tl.where(high > low, stretched.to(tl.int32), level).to(tl.uint8)


@triton.jit
def _blend(degenerate, level, factor):
    """Pillow's `Image.blend`."""
    blended = degenerate.to(tl.float32) + factor * (level - degenerate).to(tl.float32)
    return tl.minimum(tl.maximum(blended, 0.0), 255.0).to(tl.int32).to(tl.uint8)


@triton.jit
def pointwise(source, target, records, tables, words, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (B, pixels): all that `affine` leaves out, from `source` to `target` (B, 3, SIZE, SIZE), copies too."""
    image = tl.program_id(0)
    record = records + image * words
    operation = tl.load(record)
    if operation != AFFINE:
        pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        kept = pixel < SIZE * SIZE
        plane = source + image.to(tl.int64) * (3 * SIZE * SIZE) + pixel
        grey = tl.zeros((BLOCK,), tl.int32)
        if operation == COLOR:
            grey = _grey(plane, kept, SIZE)
        row, column = pixel // SIZE, pixel % SIZE
        border = (row == 0) | (row == SIZE - 1) | (column == 0) | (column == SIZE - 1)
        for channel in tl.static_range(3):
            level = tl.load(plane + channel * SIZE * SIZE, mask=kept, other=0)
            if operation == COLOR:
                level = _blend(grey, level.to(tl.int32), tl.load(record + 1).to(tl.float32))
            elif operation == SHARPNESS:
                smooth = _smooth(plane + channel * SIZE * SIZE, level.to(tl.int32), kept & ~border, SIZE)
                level = _blend(smooth, level.to(tl.int32), tl.load(record + 1).to(tl.float32))
            elif operation != NOTHING:
                level = tl.load(tables + (image * 3 + channel) * 256 + level.to(tl.int32))
            tl.store(target + image.to(tl.int64) * (3 * SIZE * SIZE) + channel * SIZE * SIZE + pixel, level, mask=kept)


@triton.jit
def _smooth(plane, level, middle, SIZE: tl.constexpr):
    """Weights 1, and 5 in the middle, of 13, rounded; the border stays."""
    total = 4 * level
    for down in tl.static_range(-1, 2):
        for across in tl.static_range(-1, 2):
            total += tl.load(plane + down * SIZE + across, mask=middle, other=0).to(tl.int32)
    return tl.where(middle, (total + 6) // 13, level)


# --- normalisation and erasing ---------------------------------------------------------------------------------------


@triton.jit
def normalise(
    source,
    target,
    mean,
    std,
    boxes,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ERASES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (B, values): levels (B, 3, PIXELS) to float32, normalised, with noise in boxes (B, 5: sides and key)."""
    image = tl.program_id(0)
    value = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # in the order of the result
    kept = value < 3 * PIXELS
    channel, pixel = value // PIXELS, value % PIXELS
    if CHANNELS_LAST:
        channel, pixel = value % 3, value // 3
    position = channel * PIXELS + pixel
    first = image.to(tl.int64) * (3 * PIXELS)
    level = tl.load(source + first + position, mask=kept, other=0).to(tl.float32)
    centred = tl.div_rn(level, 255.0) - tl.load(mean + channel, mask=kept, other=0.0)
    made = tl.div_rn(centred, tl.load(std + channel, mask=kept, other=1.0))
    if ERASES:
        box = boxes + image * 5
        row, column = pixel // WIDTH - tl.load(box), pixel % WIDTH - tl.load(box + 1)
        inside = (row >= 0) & (row < tl.load(box + 2)) & (column >= 0) & (column < tl.load(box + 3))
        if tl.max(inside.to(tl.int32), 0) > 0:
            made = tl.where(inside, _noise(tl.load(box + 4), position), made)
    tl.store(target + first + value, made, mask=kept)


@triton.jit
def _noise(key, position):
    """`augment.normal_noise`."""
    bits = (position + 1).to(tl.uint64) * GOLDEN + key.to(tl.uint64)
    bits = (bits ^ (bits >> 30)) * MIX_1
    bits = (bits ^ (bits >> 27)) * MIX_2
    bits = bits ^ (bits >> 31)
    high, low = (bits >> 32).to(tl.int64) + 1, (bits & 0xFFFFFFFF).to(tl.int64)
    radius = tl.sqrt_rn(tl.log(high.to(tl.float32) * UNIT) * -2)
    return tl.cos(low.to(tl.float32) * TURN) * radius
