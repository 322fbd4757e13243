"""Pictures with objects, or with a class for each pixel: read, transformed and batched."""
