"""Photographs: what is known of them, how they are read, and how a folder of them is understood."""

from spade_kit.datasets.loading import load_dataset
from spade_kit.datasets.samples import GOOD, Dataset, Photo, Sample, as_array, as_list

__all__ = ["GOOD", "Dataset", "Photo", "Sample", "as_array", "as_list", "load_dataset"]
