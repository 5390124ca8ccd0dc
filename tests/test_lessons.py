"""The course: every lesson has its parts, and its saved outputs are presentable."""

import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
STAGES = {
    "image": "00_quickstart",
    "pyramid": "02_features",
    "retrieval": "03_retrieval",
    "correspondence": "04_correspondence",
    "map": "05_from_distances_to_a_map",
    "segmentation": "08_thresholds",
}
ENDING = ["## What fails", "## Quiz", "## What we can now say", "## References"]
GRADES = ["## Exercise 1 (warm up)", "## Exercise 2 (apply)", "## Exercise 3 (think)"]
NAMES = {path.stem: path for path in LESSONS}
MOST_LINES = 12
MOST_WORDS = 1800  # of Markdown, exercises, quiz and solutions aside
MOST_VARYING = 0.05  # at most this fraction of code cells may have outputs that are not compared


@pytest.fixture(params=NAMES, scope="module")
def lesson(request):
    return nbformat.read(NAMES[request.param], 4)


def texts(lesson) -> list[str]:
    return [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]


def codes(lesson) -> list:
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def tagged(lesson, tag: str) -> list:
    return [cell for cell in codes(lesson) if tag in cell.metadata.get("tags", [])]


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")


def headings(lesson) -> list[str]:
    plain = re.sub(r"```.*?```", "", "\n\n".join(texts(lesson)), flags=re.DOTALL)
    return re.findall(r"^#{1,6} .+$", plain, flags=re.MULTILINE)


def test_a_lesson_states_its_goals_and_its_duration(lesson):
    opening = "\n".join(texts(lesson)[:2])
    assert opening.startswith("# ")
    assert "**After this lesson you can**" in opening
    assert re.search(r"\*\*Time:\*\* \d+ minutes", opening)


def test_a_lesson_first_checks_the_environment(lesson):
    first = codes(lesson)[0]
    assert "check_environment()" in first.source
    assert printed(first).endswith("Ready.\n")


def test_experiments_are_predicted_and_answers_are_folded(lesson):
    predictions = sum(text.count("**Predict before you run:**") for text in texts(lesson))
    folded = sum(text.count("<details>") for text in texts(lesson))
    assert predictions >= 3
    assert folded >= predictions
    for text in texts(lesson):
        assert text.count("<details>") == text.count("</details>") == text.count("<summary>")


def test_a_prediction_stands_right_before_the_cell_that_answers_it(lesson):
    for cell, following in pairwise(lesson.cells):
        if cell.cell_type == "markdown" and "**Predict before you run:**" in cell.source:
            assert following.cell_type == "code"


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_says_below_its_title_which_stages_it_is_about(name):
    strip = nbformat.read(NAMES[name], 4).cells[0].source.splitlines()[2]
    links = dict(re.findall(r"\[(\w+)\]\((\w+)\.ipynb\)", strip))
    assert re.sub(r"\*\*|\[|\]\([^)]*\)", "", strip) == " → ".join(STAGES)
    assert links == {stage: target for stage, target in STAGES.items() if target != name}
    assert all(f"**{stage}**" in strip for stage, target in STAGES.items() if target == name)
    assert set(links.values()) <= set(NAMES)


def test_a_lesson_ends_with_failure_quiz_summary_and_sources(lesson):
    main = [heading for heading in headings(lesson) if not heading.startswith(("## Appendix", "### "))]
    assert main[-len(ENDING) :] == ENDING
    sources = texts(lesson)[-1]
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}", sources)
    assert "(glossary.md)" in sources


def test_exercises_are_open_and_their_solutions_are_folded_and_right(lesson):
    exercises, solutions = tagged(lesson, "exercise"), tagged(lesson, "solution")
    assert len(exercises) == len(solutions) == len(GRADES)
    for exercise, solution in zip(exercises, solutions):
        assert "..." in exercise.source
        assert "check" in exercise.source
        assert printed(exercise).startswith("Not answered yet")
        assert solution.metadata["jupyter"]["source_hidden"]
        assert "check" in solution.source
        assert printed(solution).startswith("Right. ")


def test_exercises_are_graded(lesson):
    graded = [heading.partition(":")[0] for heading in headings(lesson) if heading.startswith("## Exercise")]
    assert graded == GRADES


def test_a_quiz_asks_five_questions_with_folded_answers(lesson):
    (quiz,) = [cell.source for cell in lesson.cells if "quiz" in cell.metadata.get("tags", [])]
    assert quiz.startswith("## Quiz")
    assert re.findall(r"^\*\*(\d)\.\*\* ", quiz, flags=re.MULTILINE) == list("12345")
    questions = re.split(r"^\*\*\d\.\*\* ", quiz, flags=re.MULTILINE)[1:]
    assert all(question.count("<details><summary>Answer</summary>") == 1 for question in questions)


def test_a_lesson_is_short(lesson):
    apart = {"exercise", "quiz", "solution"}
    told = [
        cell.source
        for cell in lesson.cells
        if cell.cell_type == "markdown" and not apart & {*cell.metadata.get("tags", [])}
    ]
    assert sum(len(text.split()) for text in told) <= MOST_WORDS


def test_figures_have_captions(lesson):
    for cell, following in pairwise(lesson.cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert re.match(r"\*[^*]", following.source), cell.source


def models(lesson) -> dict:
    return lesson.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]


def views(lesson) -> dict:
    """The outputs that show a widget, by the widget's name in the saved state."""
    outputs = [output.data for cell in codes(lesson) for output in cell.outputs if "data" in output]
    kind = "application/vnd.jupyter.widget-view+json"
    return {data[kind]["model_id"]: data for data in outputs if kind in data}


def test_a_lesson_has_a_widget_with_a_picture(lesson):
    shown = views(lesson)
    ours = [data for name, data in shown.items() if models(lesson)[name]["model_name"] == "AnyModel"]
    assert ours
    assert all("image/png" in data for data in ours)
    if len(ours) < len(shown):  # a box of ipywidgets, which holds pictures
        drawn = [one for model in models(lesson).values() for one in model["state"].get("outputs", [])]
        assert any("image/png" in one["data"] for one in drawn)


def test_only_widgets_that_are_shown_are_saved(lesson):
    """A widget that was closed is saved, too, and the images in it may not be ours to show."""
    saved = {name for name, model in models(lesson).items() if model["model_name"] == "AnyModel"}
    assert saved <= set(views(lesson))


def test_figures_are_shown(lesson):
    outputs = [output.get("data", {}) for cell in codes(lesson) for output in cell.outputs]
    assert all("image/png" in data for data in outputs if data.get("text/plain", "").startswith("<Figure"))


def test_cells_are_short(lesson):
    for cell in codes(lesson):
        assert len(cell.source.splitlines()) <= MOST_LINES, cell.source


def test_outputs_hold_no_error_no_warning_no_path_and_no_progress(lesson):
    for cell in codes(lesson):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text
            told = output.get("text", "") + "".join(
                value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
            )
            assert not re.search(r"/(home|root|tmp|work|usr|var|Users)/|[A-Z]:\\\\|\d+it/s|\d%\|", told), told


def test_cells_were_run_in_order_from_a_fresh_kernel(lesson):
    assert [cell.execution_count for cell in codes(lesson)] == list(range(1, len(codes(lesson)) + 1))


def test_headings_are_in_order(lesson):
    depths = [len(heading.split()[0]) for heading in headings(lesson)]
    assert depths[0] == 1
    assert depths.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(depths))


def test_links_have_a_target(lesson):
    for text in texts(lesson):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?://|mailto:", target):
                continue
            path, _, anchor = target.partition("#")
            there = NOTEBOOKS / path if path else None
            assert there is None or there.exists(), target
            if anchor and path.endswith(".md"):
                names = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
                assert anchor in {name.lower().replace(" ", "-") for name in names}, target


def test_every_picture_is_described(lesson):
    for text in texts(lesson):
        assert not re.search(r"!\[\s*\]\(", text)
        for tag in re.findall(r"<img[^>]*>", text):
            assert re.search(r'alt="[^"]{10,}"', tag), tag
    for cell in codes(lesson):
        pictures = any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert not pictures or len(cell.metadata.get("alt", "")) >= 20, cell.source


def test_places_that_a_description_names_are_those_that_the_cell_prints_and_checks(lesson):
    """Places in toy grids, of one digit, are tested with the lesson's module."""
    for cell in codes(lesson):
        for row, col in re.findall(r"row (\d\d+), column (\d\d+)", cell.metadata.get("alt", "")):
            assert re.search(rf"\({row}, {col}\); on .*: True", printed(cell)), cell.source


def test_outputs_that_are_not_compared_are_few_and_say_why():
    cells = [cell for path in LESSONS for cell in codes(nbformat.read(path, 4))]
    varying = [cell for cell in cells if any("nbval" in tag for tag in cell.metadata.get("tags", []))]
    assert all(len(cell.metadata.get("why", "")) > 10 for cell in varying)
    assert len(varying) < MOST_VARYING * len(cells)


def test_the_page_of_the_course_lists_every_lesson():
    course = (NOTEBOOKS.parent / "docs/course/index.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(\.\./\.\./notebooks/\1\.ipynb\)", course, flags=re.MULTILINE) == [
        *NAMES,
        "capstone",
    ]


def test_the_timetables_of_the_guide_name_sections_that_exist():
    guide = (NOTEBOOKS / "teaching.md").read_text(encoding="utf-8")
    named = [
        (lesson, section)
        for row in re.findall(r"^\| \d+ \|.*$", guide, flags=re.MULTILINE)
        for lesson, cells in re.findall(r"\]\((\w+)\.ipynb\)([^|\[]*)", row)
        for section in re.findall(r"\*([^*]+)\*", cells)
    ]
    assert len(named) > 20
    for name, section in named:
        there = headings(nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4))
        assert any(heading.startswith(f"## {section}") for heading in there), (name, section)


def test_terms_of_the_glossary_are_used_in_some_lesson():
    glossary = (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^### (.+)$", glossary, flags=re.MULTILINE)
    said = "\n".join(text.lower() for path in LESSONS for text in texts(nbformat.read(path, 4)))
    assert len(terms) >= 30
    assert terms == sorted(terms, key=str.lower)
    assert [term for term in terms if term.lower() not in said] == []
