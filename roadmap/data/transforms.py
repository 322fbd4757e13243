"""timm's transforms of a picture, as the recipe sets them, to the bytes that go to the device."""

from __future__ import annotations

from typing import Any

from timm.data import create_transform
from torchvision.transforms import ColorJitter, InterpolationMode, TrivialAugmentWide

from roadmap.config.schema import TRIVIAL, DataConfig, Interpolation, RecipeConfig


def train_transform(data: DataConfig, recipe: RecipeConfig) -> Any:
    """Random resized crop, flip, RandAugment or another policy, colour jitter: timm's, as in Table 5, to bytes (3, S, S).

    Normalisation and erasing follow on the device (`augment.NormalizeAndErase`): bytes are a quarter of what floats weigh.
    """
    trivial, jitter = recipe.auto_augment == TRIVIAL, recipe.color_jitter
    transform = create_transform(
        (3, data.image_size, data.image_size),
        is_training=True,
        scale=(recipe.crop_scale[0], recipe.crop_scale[1]),
        hflip=data.hflip,
        color_jitter=None,
        auto_augment=None if trivial else recipe.auto_augment or recipe.randaugment,
        interpolation=recipe.interpolation.value,
        mean=tuple(data.mean),  # what a policy of timm's fills with
        use_prefetcher=True,
    )
    beside = [TrivialAugmentWide(interpolation=InterpolationMode(recipe.interpolation.value))] if trivial else []  # timm has none
    beside += [ColorJitter(jitter, jitter, jitter)] if jitter else []  # which timm leaves out beside a policy
    transform.transforms[-1:-1] = beside  # before the picture becomes a tensor
    return transform


def val_transform(data: DataConfig, interpolation: Interpolation = Interpolation.bicubic) -> Any:
    """Resize the shorter side to image_size / crop_pct, cut the centre, to bytes (3, S, S)."""
    size = (3, data.image_size, data.image_size)
    return create_transform(size, interpolation=interpolation.value, crop_pct=data.crop_pct, use_prefetcher=True)
