"""Curves beside the record: W&B, TensorBoard, or nothing."""
