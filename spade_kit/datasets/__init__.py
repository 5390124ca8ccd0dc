"""Datasets: samples and their labels, reading images, and recognising folder layouts."""

from spade_kit.datasets.loading import load_dataset
from spade_kit.datasets.samples import GOOD, Dataset, Photo, Sample, as_array, as_list

__all__ = ["GOOD", "Dataset", "Photo", "Sample", "as_array", "as_list", "load_dataset"]
