"""The web page of `scalpel-hf app`, on which a person tries a model. It is made with Gradio."""

import html
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalpel_hf.utils.error_lines import one_line

from .answers import Answer, ask, count_frames, read_one
from .clips import DRAWN_FRAMES, draw_clip

if TYPE_CHECKING:
    import gradio

HEAD = """# {names}

Drop a frame of any depth or a recording. Red outlines are what the model finds, with the mean probability inside."""
ROUTERS_HELP = {
    0: "No routers: students have none, and those of a stand-alone teacher are not read here.",
    1: "White is where an operator counts, beside its name its weight in the whole frame. Of a committee, the first.",
}
ROUTERS_OF_PARTS = "Weights are means over {n} passes, of tiles and members; the maps are of the first."
SHOWN_ROWS = 50  # of the table


@dataclass
class Looked:
    """
    The file and frame that the page shows, and the models' answers for that frame.

    Args:
        path: of the file.
        note: what a person should know about the file, such as frames that can't be read; empty for nothing.
        frames: how many frames the file has.
        number: of the frame that is shown.
        answers: by the model's name in the page.
        who: the name of the model whose answer is shown.
    """

    path: str
    note: str
    frames: int = 1
    number: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    who: str = ""

    def ask(self, models: dict[str, Any], number: int, who: str) -> Answer:
        """The answer of the model `who` for frame `number`; computed once, and then taken from `answers`."""
        if number != self.number:
            self.number, self.answers = number, {}
        self.who = who
        if who not in self.answers:
            self.answers[who] = ask(models[who], *read_one(self.path, number))
        return self.answers[who]


def import_gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f'the page needs Gradio ({error}): pip install "scalpel-hf[app]"') from error
    return gradio


def page(models: dict[str, Any], title: str = "scalpel-hf", threshold: float = 0.5) -> "gradio.Blocks":
    """
    The page for one or several models, as Gradio's `Blocks`. Raises `ImportError` without Gradio.

    Args:
        models: models as [`load_predictor`] returns them, by the name that the switch shows; the first is shown first.
        title: of the page.
        threshold: initial position of the threshold's slider, from 0 to 1.

    Examples:
        >>> from scalpel_hf import load_predictor
        >>> page({"student": load_predictor("runs/nuaa/student")}).launch()  # doctest: +SKIP
    """
    gr = import_gradio()
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        ModelPage(gr, models, title, threshold).connect()
    return blocks


class ModelPage:
    """
    The components of the page, made in the current `Blocks`, and what its events do.

    Those are `on_…`. They return the components that change with their new values. An error is one line in the page.
    """

    def __init__(self, gr: Any, models: dict[str, Any], title: str, threshold: float):
        self.gr, self.models = gr, models
        gr.Markdown(HEAD.format(names=html.escape(title)))
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                self._controls(list(models), threshold)
            with gr.Column(scale=3):
                self._pictures()
        self._maps()
        self.looked = gr.State()
        shown = (self.looked, self.picture, self.operators, self.routers, self.table, self.routers_help)
        self.nothing: dict[Any, Any] = dict.fromkeys(shown)

    def _controls(self, names: list[str], threshold: float) -> None:
        gr = self.gr
        self.file = gr.File(label="a frame or a recording", elem_id="file")
        self.number = gr.Slider(0, 1, 0, step=1, label="frame", visible=False, elem_id="number")
        self.who = gr.Radio(names, value=names[0], label="who answers", visible=len(names) > 1, elem_id="who")
        self.level = gr.Slider(0, 1, threshold, step=0.01, label="threshold", elem_id="threshold")
        self.draw = gr.Button(visible=False, elem_id="draw")
        self.problem = gr.HTML(elem_id="problem")
        self.table = gr.Markdown(elem_id="table")

    def _pictures(self) -> None:
        self.picture = self.gr.Image(
            label="answer", format="png", interactive=False, elem_id="picture", buttons=["download", "fullscreen"]
        )
        self.clip = self.gr.Video(
            label="the clip",
            interactive=False,
            visible=False,
            autoplay=True,
            loop=True,
            elem_id="clip",
            buttons=["download"],
        )

    def _maps(self) -> None:
        gallery = {"columns": 4, "height": 330, "object_fit": "contain", "format": "png", "buttons": ["download"]}
        self.operators = self.gr.Gallery(label="what the operators see", elem_id="operators", **gallery)
        self.routers_help = self.gr.Markdown(elem_id="routers-help")
        self.routers = self.gr.Gallery(label="what the routers choose", elem_id="routers", visible=False, **gallery)

    def connect(self) -> None:
        """Call the handlers at the components' events."""
        shown = [self.picture, self.table, self.problem]
        everything = [self.looked, self.number, self.operators, self.routers, self.routers_help, *shown]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        asking = {"show_progress_on": [self.picture], "api_visibility": "private"}
        drawing = {"show_progress_on": [self.clip], "api_visibility": "private"}
        bar = self.gr.Progress()  # Gradio finds it as an argument's default value

        def on_draw(now: Looked | None, who: str, threshold: float, progress: Any = bar) -> dict[Any, Any]:
            return self.on_draw(now, who, threshold, progress)

        opened = [*everything, self.draw, self.clip]
        self.file.change(self.on_open, [self.file, self.who, self.level], opened, **asking)
        self.draw.click(on_draw, [self.looked, self.who, self.level], [self.clip, self.problem], **drawing)
        for event in (self.number.release, self.who.change):
            event(self.on_ask, [self.looked, self.number, self.who, self.level], everything, **asking)
        # What is typed comes key by key, and one key's error takes the keys after it along: hence 0 is a threshold too,
        # and the end of typing is an event of its own.
        self.level.change(self.on_move, [self.looked, self.level], shown, trigger_mode="always_last", **quiet)
        self.level.release(self.on_move, [self.looked, self.level], shown, **quiet)

    def on_open(self, path: str | None, who: str, threshold: float) -> dict[Any, Any]:
        gr = self.gr
        hidden = {self.draw: gr.update(visible=False), self.clip: gr.update(value=None, visible=False)}
        emptied = {**self.nothing, **hidden, self.number: gr.update(visible=False), self.problem: ""}
        return emptied if path is None else {**emptied, **self._told(self._opened)(path, who, threshold)}

    def on_ask(self, now: Looked | None, at: int, who: str, threshold: float) -> dict[Any, Any]:
        return {} if now is None else self._told(self._answered)(now, at, who, threshold)

    def on_draw(self, now: Looked | None, who: str, threshold: float, progress: Any) -> dict[Any, Any]:
        return {} if now is None else self._told(self._played, {self.clip: None})(now, who, threshold, progress)

    def on_move(self, now: Looked | None, threshold: float) -> dict[Any, Any]:
        emptied = {self.picture: None, self.table: None}
        return {} if now is None or not now.answers else self._told(self._drawn, emptied)(now, threshold)

    def _told(
        self, act: Callable[..., dict[Any, Any]], emptied: dict[Any, Any] | None = None
    ) -> Callable[..., dict[Any, Any]]:
        """`act`, but what goes wrong is a line in the page, and no old answer stays beside it."""

        def safely(*args: Any) -> dict[Any, Any]:
            try:
                return {self.problem: "", **act(*args)}
            except Exception as error:
                cleared = self.nothing if emptied is None else emptied
                return {**cleared, self.problem: html.escape(named(one_line(error), args[0]))}

        return safely

    def _opened(self, path: str, who: str, threshold: float) -> dict[Any, Any]:
        gr = self.gr
        count, note = count_frames(path)
        return {
            self.number: gr.update(maximum=max(1, count - 1), value=0, visible=count > 1),
            self.draw: gr.update(value=offer(count), visible=count > 1),
            self.clip: gr.update(value=None, label="the clip", visible=count > 1),
            **self._answered(Looked(path, note, count), 0, who, threshold),
        }

    def _answered(self, now: Looked, at: int, who: str, threshold: float) -> dict[Any, Any]:
        answer = now.ask(self.models, at, who)
        help_text = ROUTERS_HELP[bool(answer.routers)]
        if answer.routed_in > 1 and answer.routers:
            help_text = ROUTERS_OF_PARTS.format(n=answer.routed_in)
        return {
            self.looked: now,
            self.operators: answer.operators,
            self.routers: self.gr.update(value=answer.routers, visible=bool(answer.routers)),
            self.routers_help: help_text,
            **self._drawn(now, threshold),
        }

    def _drawn(self, now: Looked, threshold: float) -> dict[Any, Any]:
        answer = now.answers[now.who]
        return {self.picture: answer.picture(threshold), self.table: listing(answer, threshold, now.note)}

    def _played(self, now: Looked, who: str, threshold: float, progress: Any) -> dict[Any, Any]:
        name, total = Path(now.path).stem, min(now.frames, DRAWN_FRAMES)

        def show(count: int) -> None:
            progress((count, total), unit="frames")

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / f"{name}-drawn.mp4"
            draw_clip(self.models[who], now.path, threshold, out, show)
            kept = self.clip.move_resource_to_block_cache(str(out))
        return {self.clip: self.gr.update(value=kept, label=f"{name}, {total} frames: {who} above {threshold:g}")}


def offer(frames: int) -> str:
    """The text of the button that draws the boxes into a file of this many frames."""
    which = f"the first {DRAWN_FRAMES} frames" if frames > DRAWN_FRAMES else f"all {frames} frames"
    return f"Play {which} with boxes drawn"


def named(text: str, asked: Any) -> str:
    """An error's line with the uploaded file's name in place of its path, which is a temporary one."""
    path = asked.path if isinstance(asked, Looked) else asked
    return text.replace(path, Path(path).name) if path else text


def listing(answer: Answer, threshold: float, note: str = "") -> str:
    """The targets above the threshold as a table in Markdown."""
    found = answer.found(threshold)
    height, width = answer.frame.shape
    name = html.escape(answer.name).replace("_", r"\_")
    lines = [f"{len(found.scores)} targets above {threshold:g} in {name}, {width} × {height} pixels"]
    lines += [f" ({html.escape(note)})"] if note else []
    rows = [
        f"| {x0:g} | {y0:g} | {x1 - x0:g} | {y1 - y0:g} | {score:.3f} |"
        for (x0, y0, x1, y1), score in zip(found.boxes.tolist(), found.scores, strict=True)
    ]
    if not rows:
        return "".join(lines)
    rows.sort(key=lambda row: row.split("|")[-2], reverse=True)
    hidden = [f"\nand {len(rows) - SHOWN_ROWS} more"] if len(rows) > SHOWN_ROWS else []
    head = ["\n", "| x | y | width | height | score |", "|---|---|---|---|---|"]
    return "\n".join(["".join(lines), *head, *rows[:SHOWN_ROWS], *hidden])
