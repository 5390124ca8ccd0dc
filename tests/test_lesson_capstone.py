"""The capstone: what is said of images that are not enough, and of a guess."""

import pandas
import pytest
from PIL import Image

from spade_kit import Dataset, Sample
from spade_kit.lessons.capstone import check_guess, check_images

TABLE = pandas.DataFrame({"path": ["a.png", "b.png", "c.png", "d.png"], "image_score": [9.0, 4.0, 7.0, None]})


def told(capsys, train, test) -> str:
    check_images(Dataset("own", train, test))
    return capsys.readouterr().out


def test_enough_images_are_enough(capsys, demo):
    assert told(capsys, demo.train, demo.test) == "Right. 60 normal images, and 48 to judge.\n"


def test_what_is_missing_is_named(capsys, demo):
    good = [sample for sample in demo.test if sample.label == "good"]
    defects = [sample for sample in demo.test if sample.label != "good"]
    assert "9 normal images are too few" in told(capsys, demo.train[:9], demo.test)
    assert "it would be compared with itself" in told(capsys, demo.train, [*demo.test, demo.train[0]])
    assert "2 images to judge have the label of a defect" in told(capsys, demo.train, [*good[:3], *defects[:2]])
    assert "No good image is to be judged" in told(capsys, demo.train, defects)


def test_small_images_are_named(capsys, demo, tmp_path):
    Image.new("RGB", (640, 120)).save(tmp_path / "a.png")
    small = [*demo.train[:20], Sample(tmp_path / "a.png", "good")]
    assert "short side of an image is 120 px" in told(capsys, small, demo.test)


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        ([..., ..., ...], "Not answered yet"),
        (["a.png", "c.png", "b.png"], "Right. Your order and the method's agree with a rank correlation of 1.0.\n"),
        (
            ["b.png", "c.png", "a.png"],
            "correlation of -1.0. You differ most on b.png: your place is 1, the method's 3.",
        ),
        (["a.png", "c.png"], "A ranking of 2 says nothing"),
        (["a.png", "a.png", "b.png"], "a.png is named twice"),
        (["a.png", "b.png", "e.png"], "e.png was not judged"),
        (["a.png", "b.png", "d.png"], "d.png was not judged"),
    ],
)
def test_a_guess_is_compared_with_the_scores(capsys, guess, said):
    check_guess(guess, TABLE)
    assert said in capsys.readouterr().out
