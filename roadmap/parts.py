"""What a `parts.py` of one's own declares parts with: `from roadmap.parts import activation, block_part, norm`."""

from roadmap.config.parts import activation, block_part, norm

__all__ = ["activation", "block_part", "norm"]
