"""The web page of `scalpel-hf app`, on which a person tries a model. It is made with Gradio."""

import html
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalpel_hf.utils.error_lines import one_line

from .clips import DRAWN_FRAMES, draw_clip
from .predictions import FramePrediction, count_frames, predict_frame, read_one

if TYPE_CHECKING:
    import gradio

HEAD = """# {names}

Drop a frame of any depth or a recording. Red outlines are what the model finds, with the mean probability inside."""
ROUTERS_HELP = {
    False: "No routers: students have none, and those of a stand-alone teacher are not read here.",
    True: "White is where an operator counts; the number is its weight in the whole frame. Of a committee, the first.",
}
ROUTERS_OF_PARTS = "Weights are means over {n} passes, of tiles and members; the maps are of the first."
SHOWN_ROWS = 50  # most rows of the table of targets


@dataclass
class PageState:
    """
    The file and frame that the page shows, and the models' predictions for that frame.

    Args:
        path: of the file.
        note: what a person should know about the file, such as frames that can't be read; empty for nothing.
        frames: how many frames the file has.
        number: of the frame that is shown.
        predictions: by the model's name in the page.
        who: the name of the model whose prediction is shown.
    """

    path: str
    note: str
    frames: int = 1
    number: int = 0
    predictions: dict[str, FramePrediction] = field(default_factory=dict)
    who: str = ""

    def predict(self, models: dict[str, Any], number: int, who: str) -> FramePrediction:
        """The prediction of the model `who` for frame `number`; computed once, and then kept."""
        if number != self.number:
            self.number, self.predictions = number, {}
        self.who = who
        if who not in self.predictions:
            self.predictions[who] = predict_frame(models[who], *read_one(self.path, number))
        return self.predictions[who]


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
    of_others = (600, 3600) if "SPACE_ID" in os.environ else None  # look each 600 s for files that are an hour old
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=of_others) as blocks:
        ModelPage(gr, models, title=title, threshold=threshold).connect()
    return blocks


class ModelPage:
    """
    The components of the page, created in the current `Blocks`, and the handlers of its events.

    The handlers, `on_…`, return new values by the component that changes. An error becomes one line in the page.
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
        self.state = gr.State()
        shown = (self.state, self.picture, self.operators, self.routers, self.table, self.routers_help)
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
        """Connect the handlers to the components' events."""
        shown = [self.picture, self.table, self.problem]
        everything = [self.state, self.number, self.operators, self.routers, self.routers_help, *shown]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        asking = {"show_progress_on": [self.picture], "api_visibility": "private"}
        drawing = {"show_progress_on": [self.clip], "api_visibility": "private"}
        bar = self.gr.Progress()  # Gradio finds it as an argument's default value

        def on_draw(now: PageState | None, who: str, threshold: float, progress: Any = bar) -> dict[Any, Any]:
            return self.on_draw(now, who, threshold=threshold, progress=progress)

        opened = [*everything, self.draw, self.clip]
        self.file.change(self.on_open, [self.file, self.who, self.level], opened, **asking)
        self.draw.click(on_draw, [self.state, self.who, self.level], [self.clip, self.problem], **drawing)
        for event in (self.number.release, self.who.change):
            event(self.on_select, [self.state, self.number, self.who, self.level], everything, **asking)
        # Each typed key is an event of its own, and an error at one key loses the keys after it. So 0, which is typed
        # before 0.5, must be a valid threshold, and the end of typing is handled as well.
        self.level.change(self.on_move, [self.state, self.level], shown, trigger_mode="always_last", **quiet)
        self.level.release(self.on_move, [self.state, self.level], shown, **quiet)

    def on_open(self, path: str | None, who: str, threshold: float) -> dict[Any, Any]:
        gr = self.gr
        hidden = {self.draw: gr.update(visible=False), self.clip: gr.update(value=None, visible=False)}
        emptied = {**self.nothing, **hidden, self.number: gr.update(visible=False), self.problem: ""}
        return emptied if path is None else {**emptied, **self._safely(self._opened)(path, who, threshold)}

    def on_select(self, now: PageState | None, at: int, who: str, threshold: float) -> dict[Any, Any]:
        return {} if now is None else self._safely(self._predicted)(now, at, who=who, threshold=threshold)

    def on_draw(self, now: PageState | None, who: str, threshold: float, progress: Any) -> dict[Any, Any]:
        if now is None:
            return {}
        return self._safely(self._played, {self.clip: None})(now, who, threshold=threshold, progress=progress)

    def on_move(self, now: PageState | None, threshold: float) -> dict[Any, Any]:
        emptied = {self.picture: None, self.table: None}
        return {} if now is None or not now.predictions else self._safely(self._drawn, emptied)(now, threshold)

    def _safely(
        self, act: Callable[..., dict[Any, Any]], emptied: dict[Any, Any] | None = None
    ) -> Callable[..., dict[Any, Any]]:
        """
        `act`, but an error becomes a line in the page.

        Args:
            act: a handler whose first argument is the page's state or the path of a file.
            emptied: what to change after an error, so that no old prediction stays; by default all of it is cleared.
        """

        def run(*args: Any, **kwargs: Any) -> dict[Any, Any]:
            try:
                return {self.problem: "", **act(*args, **kwargs)}
            except Exception as error:
                cleared = self.nothing if emptied is None else emptied
                return {**cleared, self.problem: html.escape(named(one_line(error), args[0]))}

        return run

    def _opened(self, path: str, who: str, threshold: float) -> dict[Any, Any]:
        gr = self.gr
        count, note = count_frames(path)
        return {
            self.number: gr.update(maximum=max(1, count - 1), value=0, visible=count > 1),
            self.draw: gr.update(value=offer(count), visible=count > 1),
            self.clip: gr.update(value=None, label="the clip", visible=count > 1),
            **self._predicted(PageState(path, note, frames=count), 0, who=who, threshold=threshold),
        }

    def _predicted(self, now: PageState, at: int, who: str, threshold: float) -> dict[Any, Any]:
        prediction = now.predict(self.models, at, who)
        help_text = ROUTERS_HELP[bool(prediction.routers)]
        if prediction.router_passes > 1 and prediction.routers:
            help_text = ROUTERS_OF_PARTS.format(n=prediction.router_passes)
        return {
            self.state: now,
            self.operators: prediction.operators,
            self.routers: self.gr.update(value=prediction.routers, visible=bool(prediction.routers)),
            self.routers_help: help_text,
            **self._drawn(now, threshold),
        }

    def _drawn(self, now: PageState, threshold: float) -> dict[Any, Any]:
        prediction = now.predictions[now.who]
        return {self.picture: prediction.picture(threshold), self.table: listing(prediction, threshold, now.note)}

    def _played(self, now: PageState, who: str, threshold: float, progress: Any) -> dict[Any, Any]:
        name, total = Path(now.path).stem, min(now.frames, DRAWN_FRAMES)

        def show(count: int) -> None:
            progress((count, total), unit="frames")

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / f"{name}-drawn.mp4"
            draw_clip(self.models[who], now.path, threshold=threshold, out=out, tell=show)
            kept = self.clip.move_resource_to_block_cache(str(out))
        return {self.clip: self.gr.update(value=kept, label=f"{name}, {total} frames: {who} above {threshold:g}")}


def offer(frames: int) -> str:
    """The text of the button that draws the boxes into a file of this many frames."""
    which = f"the first {DRAWN_FRAMES} frames" if frames > DRAWN_FRAMES else f"all {frames} frames"
    return f"Play {which} with boxes drawn"


def named(text: str, asked: Any) -> str:
    """An error's line with the uploaded file's name in place of its path, which is a temporary one."""
    path = asked.path if isinstance(asked, PageState) else asked
    return text.replace(path, Path(path).name) if path else text


def listing(prediction: FramePrediction, threshold: float, note: str = "") -> str:
    """The targets above the threshold as a table in Markdown."""
    found = prediction.detections(threshold)
    height, width = prediction.frame.shape
    name = html.escape(prediction.name).replace("_", r"\_")
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
