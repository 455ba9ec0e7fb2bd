"""The explorer: shows a finished run's result, attention and neighbours, and searches with a caption or an image.

The widgets are thin: they show strings from :mod:`~kdlib.explore.html` and rankings from :mod:`~kdlib.explore.search`.
"""

import gc
from collections.abc import Callable
from dataclasses import replace

import ipywidgets as widgets
from IPython.display import display
from PIL import Image

from kdlib import finished
from kdlib.data import DataError
from kdlib.evaluate.knn import nearest
from kdlib.explore import html as cards
from kdlib.explore import search, transfer
from kdlib.explore.search import UploadError, space
from kdlib.features.npy import StoreError
from kdlib.finished import Finished
from kdlib.report import pictures
from kdlib.study.file import METHODS
from kdlib.teachers import TeacherError

SHOWN = 6  # images of a ranking
TEXTS = 5  # captions of one
SIDES = {"teacher": "The teacher", "student": "The student"}
FRAMED = "Framed and marked 'both': also among the other's. In brackets the cosine."
EXPECTED = (DataError, StoreError, TeacherError, UploadError, FileNotFoundError)  # what a reader can mend
CHOOSERS: dict[str, tuple[str, Callable]] = {  # what each chooser is called, and the value that a run has for it
    "study": ("Study", lambda run: run.config.study),
    "teacher": ("Teacher", lambda run: run.teacher_name),
    "method": ("Student", lambda run: run.name),
    "epochs": ("Epochs", lambda run: run.config.epochs),
    "seed": ("Seed", lambda run: run.config.seed),
}


def explore(study: str = "") -> None:
    """Show the explorer, at first for ``study``. Without a finished run it says what to do."""
    display(Explorer(study).view)
    gc.freeze()  # a full collection among torch's objects would take half a second in the middle of an answer


class Explorer:
    """``choosers[name].value = ...`` changes what the HTML widgets in ``panels`` hold; ``view`` is all of it.

    ``run`` is the chosen one, None where nothing is finished.
    """

    def __init__(self, study: str = ""):
        self.run: Finished | None = None
        self._image: Image.Image | None = None  # the uploaded one
        self._first: Finished | None = None  # what is shown at first
        self._quiet = False
        names = ("status", "result", "changed", "looks", "neighbours", "answer", "seen")
        self.panels = {name: widgets.HTML() for name in names}
        self.choosers = {name: _chooser(title) for name, (title, _) in CHOOSERS.items()}
        studies = finished.studies()
        if not studies or (study and study not in studies):
            self.panels["status"].value = cards.card(cards.message(finished.what_to_do(study)))
            if not studies:
                self.view = widgets.VBox([widgets.HTML(cards.STYLE), self.panels["status"]])
                return
        self._build()
        self._of_study: list[Finished] = []
        self._fill("study", studies, study if study in studies else studies[0])
        self._first = telling(finished.find(self.choosers["study"].value))
        self._narrow("study")
        self._first = None
        self._connect()

    # ------------------------------------------------------------ widgets

    def _build(self) -> None:
        wide = widgets.Layout(width="min(100%, 36em)")
        self.index = widgets.BoundedIntText(1, min=1, description="Image number", style=FITTED, layout=NARROW)
        self.before = widgets.Button(description="Previous image", layout=NARROW)
        self.after = widgets.Button(description="Next image", layout=NARROW)
        self.caption = widgets.Text(
            description="Caption",
            placeholder="a large white star, then Enter",
            continuous_update=False,
            style=FITTED,
            layout=wide,
        )
        self.ask = widgets.Button(description="Find images", layout=NARROW)
        self.upload = widgets.FileUpload(
            accept="image/*", multiple=False, description="Choose an image file", layout=widgets.Layout(width="14em")
        )
        self.clear = widgets.Button(description="Forget the image", layout=NARROW)
        self.ask_row = _row(self.caption, self.ask)
        panels = self.panels
        heads = {
            name: widgets.HTML(cards.card(cards.heading(name)))
            for name in ("Run", "Lost and gained", "One image", "Ask with a caption", "Ask with an image of yours")
        }
        self.view = widgets.VBox(
            [
                widgets.HTML(cards.STYLE),
                heads["Run"],
                _row(*self.choosers.values()),
                panels["status"],
                panels["result"],
                heads["Lost and gained"],
                panels["changed"],
                heads["One image"],
                _row(self.index, self.before, self.after),
                panels["looks"],
                panels["neighbours"],
                heads["Ask with a caption"],
                self.ask_row,
                panels["answer"],
                heads["Ask with an image of yours"],
                _row(self.upload, self.clear),
                panels["seen"],
            ]
        )

    def _connect(self) -> None:
        for name, chooser in self.choosers.items():
            chooser.observe(lambda change, name=name: self._quiet or self._narrow(name), names="value")
        self.index.observe(lambda change: self._quiet or self._show_image(), names="value")
        self.before.on_click(lambda button: self._step(-1))
        self.after.on_click(lambda button: self._step(1))
        self.caption.observe(lambda change: self._show_answer(), names="value")
        self.ask.on_click(lambda button: self._show_answer())
        self.upload.observe(lambda change: self._take_upload(), names="value")
        self.clear.on_click(lambda button: self._forget())

    # ------------------------------------------------------------ choosing

    def _narrow(self, changed: str) -> None:
        """Offer in the choosers after ``changed`` only what is finished for the values before them; show the run."""
        names = list(CHOOSERS)
        if changed == "study":
            self._of_study = finished.find(self.choosers["study"].value)
        runs = self._of_study
        for place, name in enumerate(names):
            value_of = CHOOSERS[name][1]
            if place > names.index(changed):
                values = list(dict.fromkeys(value_of(run) for run in sorted(runs, key=_order)))
                # The last number of epochs is the one that a study ends with.
                default = values[-1] if name == "epochs" else values[0]
                wanted = value_of(self._first) if self._first else default
                self._fill(name, values, wanted if wanted in values else default)
            runs = [run for run in runs if value_of(run) == self.choosers[name].value]
        self.run = replace(runs[0])  # without what was opened of it before: dozens of runs would fill the memory
        self._show()

    def _fill(self, name: str, values: list, default) -> None:
        """Set what a chooser offers; its value stays where it can."""
        chooser = self.choosers[name]
        kept = chooser.value if chooser.value in values else default
        self._quiet = True
        if list(chooser.options) != values:
            chooser.options = values
        chooser.value = kept
        self._quiet = False

    def _show(self) -> None:
        """Everything, for the chosen run."""
        self._safely("result", self._result)
        try:
            count = len(self.run)
        except EXPECTED as error:
            for name in ("changed", "looks", "neighbours", "answer", "seen"):
                self.panels[name].value = cards.card(cards.message(str(error)))
            return
        self._quiet = True
        self.index.max = count
        self._quiet = False
        self._safely("changed", self._changed)
        self._show_image()
        self.ask_row.layout.display = "flex" if self.run.has_text else "none"
        self._show_answer()
        self._show_seen()

    def _safely(self, panel: str, make: Callable[[], str], live: bool = False) -> None:
        """Put what ``make`` returns into a panel, or the message of an error that the reader can mend."""
        try:
            value = make()
        except EXPECTED as error:
            value = cards.message(str(error))
        self.panels[panel].value = cards.card(value, live=live) if value else ""

    # ------------------------------------------------------------ the panels

    def _result(self) -> str:
        facts = self.run.result["teacher"]
        notes = []
        if facts["source"] == "stand-in":
            notes.append("A stand-in teacher: its numbers say nothing about the published checkpoint.")
        if facts["untrained"]:
            notes.append(f"{len(facts['untrained'])} weights of this teacher were not in its checkpoint.")
        if self.run.outdated:
            notes.append(finished.OUTDATED)
        numbers = cards.result(self.run) + "".join(map(cards.message, notes))
        return cards.beside(numbers, cards.curves(self.run))

    def _changed(self) -> str:
        """The first images that the teacher has right and the student has not, and the other way round."""
        run = self.run
        score, right = run.answered
        found = transfer.flow(*(run.queries(who, score) for who in ("teacher", "student")))
        parts = [cards.words(f"Right: {right}. Of {len(run)} images both have {len(found.right)} right.")]
        for words, rows in (("Lost: the teacher", found.broken), ("Gained: the student", found.mended)):
            parts.append(cards.heading(f"{words} alone is right about {len(rows)}", 3))
            if len(rows):
                figures = [self._numbered(int(index)) for index in rows[:SHOWN]]
                parts.append(pictures.row(figures))
        return "".join(parts)

    def _numbered(self, index: int) -> str:
        words = f"{index + 1}: {self.run.describe(index)}"
        return cards.scored_picture(self.run, index, words, f"Image {words}")

    def _step(self, by: int) -> None:
        self.index.value = (self.index.value - 1 + by) % self.index.max + 1

    def _show_image(self) -> None:
        self._safely("looks", self._looks)
        self._safely("neighbours", self._neighbours)

    def _looks(self) -> str:
        run, index = self.run, self.index.value - 1
        name = run.describe(index)
        own = cards.scored_picture(run, index, name, f"Image {index + 1}: {name}", pictures.LARGE)
        maps = {"teacher": run.teacher_attention[index]}
        if run.attention is not None:
            maps["student"] = run.attention[index]
        return self._attention(run.image(index), own, maps)

    def _attention(self, image: Image.Image, first: str, maps: dict) -> str:
        """An image beside where teacher and student look in it."""
        crop, grid = self.run.split.store.manifest["facts"]["centre_crop"], self.run.grid
        shown = [
            pictures.captioned(
                pictures.overlay(image, heat, grid, crop),
                f"where the {who} looks",
                f"Where the {who} looks",
                side=pictures.LARGE,
            )
            for who, heat in maps.items()
        ]
        silent = "" if "student" in maps else cards.words(f"The student {self.run.name} has no attention map.")
        return pictures.row([first, *shown]) + silent

    def _neighbours(self) -> str:
        run, index = self.run, self.index.value - 1
        queries = {who: space(run, who)["image"][index] for who in SIDES}
        own = [text for text, image in enumerate(run.owner) if image == index] if run.has_text else []
        return self._images(queries, "the image", index) + self._texts(queries, own)

    def _images(self, queries: dict, what: str, leave_out: int | None = None) -> str:
        """The images nearest to a query, for each side that has one."""
        found = {who: nearest(query, space(self.run, who)["image"], SHOWN, leave_out) for who, query in queries.items()}
        common = set.intersection(*(set(rows) for rows, _ in found.values())) if len(found) > 1 else set()
        parts = [
            cards.heading(f"{SIDES[who]} finds nearest to {what}", 3) + cards.ranking(self.run, *of_side, common, what)
            for who, of_side in found.items()
        ]
        agree = cards.words(f"{len(common)} of {SHOWN} in common. {FRAMED}") if len(found) > 1 else ""
        return "".join(parts) + agree

    def _texts(self, queries: dict, own: list[int]) -> str:
        """The captions nearest to an image, for each side."""
        if not self.run.has_text:
            return ""
        return cards.beside(
            *(
                cards.heading(f"{SIDES[who]}'s nearest captions", 3)
                + cards.captions(self.run, *nearest(query, space(self.run, who)["text"], TEXTS), own)
                for who, query in queries.items()
            )
        )

    def _show_answer(self) -> None:
        self._safely("answer", self._answer, live=True)

    def _answer(self) -> str:
        if not self.run.has_text:
            return cards.words(
                f"There is no caption box for {self.run.config.teacher}: it is a vision-only teacher, which reads no "
                "text. Choose clip or blip as the teacher to search with words."
            )
        text = " ".join(self.caption.value.split())
        if not text:
            return cards.words("Type a caption and press Enter: the images that teacher and student find for it.")
        self._loading("answer")
        found = search.encode_text(self.run, text)
        if "teacher" not in found:
            alone = "The teacher's checkpoint cannot be had: the exported student answers alone, by its own files."
            return cards.message(alone) + self._images(found, f"'{text}'")
        unknown = search.unknown_words(self.run.config, text)
        said = f"The teacher's vocabulary has no {', '.join(map(repr, unknown))}: the answer knows nothing of it."
        return cards.message(said if unknown else "") + self._images(found, f"'{text}'")

    def _take_upload(self) -> None:
        if self.upload.value:
            self._safely("seen", self._open_upload, live=True)

    def _open_upload(self) -> str:
        self._image = None
        self._image = search.uploaded(bytes(self.upload.value[0]["content"]), self.upload.value[0]["name"])
        return self._seen()

    def _forget(self) -> None:
        self._image, self.upload.value = None, ()
        self._show_seen()

    def _show_seen(self) -> None:
        self._safely("seen", self._seen, live=True)

    def _seen(self) -> str:
        if self._image is None:
            return cards.words(
                f"Choose an image of up to {search.LARGEST_BYTES / 2**20:.0f} MB: teacher and student find what is "
                "nearest to it. It stays in this kernel's memory and is forgotten with it."
            )
        self._loading("seen")
        made = search.encode_image(self.run, self._image)
        own = pictures.captioned(self._image, "your image", "The uploaded image", side=pictures.LARGE)
        maps = {who: made[f"{who}_attention"] for who in SIDES if f"{who}_attention" in made}
        queries = {who: made[who] for who in SIDES if who in made}
        missing = "" if "teacher" in made else "The teacher's checkpoint cannot be had, so only the student answers."
        looks = self._attention(self._image, own, maps) + cards.message(missing)
        return looks + self._images(queries, "it") + self._texts(queries, [])

    def _loading(self, panel: str) -> None:
        """Say that the teacher is being loaded, which takes seconds the first time."""
        self.panels[panel].value = cards.card(cards.words("Loading the teacher ..."), live=True)


def telling(runs: list[Finished]) -> Finished | None:
    """The run to show first: the best student after the most epochs, of a vision-language teacher if there is one."""
    captioned = [run for run in runs if run.result.get("pairing")] or runs
    last = max((run.config.epochs for run in captioned), default=0)
    own = [run for run in captioned if run.config.epochs == last]
    own = [run for run in own if not run.config.variant] or own
    return max(own, key=lambda run: run.score(), default=None)


FITTED = {"description_width": "initial"}
NARROW = widgets.Layout(width="12em")


def _chooser(title: str) -> widgets.Dropdown:
    return widgets.Dropdown(description=title, style=FITTED, layout=widgets.Layout(width="18em"))


def _row(*children: widgets.Widget) -> widgets.Box:
    return widgets.Box(children, layout=widgets.Layout(display="flex", flex_flow="row wrap"))


def _order(run: Finished) -> tuple:
    """The sort key of the tables' order."""
    config = run.config
    place = METHODS.index(config.method) if config.method in METHODS else len(METHODS)
    return config.teacher, config.dataset, bool(config.variant), config.variant, place, config.epochs, config.seed
