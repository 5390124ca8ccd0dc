"""What the lessons in ``notebooks`` call beside the package itself: a module a lesson, with its small worked functions
and the check of its exercise, and the material that several share."""

from spade_kit.lessons.checking import check_environment

__all__ = ["check_environment"]
