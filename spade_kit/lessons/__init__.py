"""Helpers for the lessons in ``notebooks``: one module per lesson, with its small worked functions and the check of its
exercise, and the material that several lessons share."""

from spade_kit.lessons.checking import check_environment

__all__ = ["check_environment"]
