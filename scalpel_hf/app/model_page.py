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
    names = list(models)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(HEAD.format(names=html.escape(title)))
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(label="a frame or a recording", elem_id="file")
                number = gr.Slider(0, 1, 0, step=1, label="frame", visible=False, elem_id="number")
                who = gr.Radio(names, value=names[0], label="who answers", visible=len(names) > 1, elem_id="who")
                level = gr.Slider(0, 1, threshold, step=0.01, label="threshold", elem_id="threshold")
                draw = gr.Button(visible=False, elem_id="draw")
                problem = gr.HTML(elem_id="problem")
                table = gr.Markdown(elem_id="table")
            with gr.Column(scale=3):
                picture = gr.Image(
                    label="answer",
                    format="png",
                    interactive=False,
                    elem_id="picture",
                    buttons=["download", "fullscreen"],
                )
                clip = gr.Video(
                    label="the clip",
                    interactive=False,
                    visible=False,
                    autoplay=True,
                    loop=True,
                    elem_id="clip",
                    buttons=["download"],
                )
        gallery = {"columns": 4, "height": 330, "object_fit": "contain", "format": "png", "buttons": ["download"]}
        operators = gr.Gallery(label="what the operators see", elem_id="operators", **gallery)
        routers_help = gr.Markdown(elem_id="routers-help")
        routers = gr.Gallery(label="what the routers choose", elem_id="routers", visible=False, **gallery)
        looked = gr.State()
        nothing: dict[Any, Any] = dict.fromkeys((looked, picture, operators, routers, table, routers_help))

        def told(act: Callable[..., dict[Any, Any]], emptied: Any = nothing) -> Callable[..., dict[Any, Any]]:
            """The same, but what goes wrong is a line in the page, and no old answer stays beside it."""

            def safely(*args: Any) -> dict[Any, Any]:
                try:
                    return {problem: "", **act(*args)}
                except Exception as error:
                    return {**emptied, problem: html.escape(named(one_line(error), args[0]))}

            return safely

        def opened(path: str, who: str, threshold: float) -> dict[Any, Any]:
            count, note = count_frames(path)
            slider = gr.update(maximum=max(1, count - 1), value=0, visible=count > 1)
            shown = {"value": None, "label": "the clip", "visible": count > 1}
            of_clips = {draw: gr.update(value=offer(count), visible=count > 1), clip: gr.update(**shown)}
            return {number: slider, **of_clips, **answered(Looked(path, note, count), 0, who, threshold)}

        def answered(now: Looked, at: int, who: str, threshold: float) -> dict[Any, Any]:
            answer = now.ask(models, at, who)
            help_text = ROUTERS_HELP[bool(answer.routers)]
            if answer.routed_in > 1 and answer.routers:
                help_text = ROUTERS_OF_PARTS.format(n=answer.routed_in)
            return {
                looked: now,
                operators: answer.operators,
                routers: gr.update(value=answer.routers, visible=bool(answer.routers)),
                routers_help: help_text,
                **drawn(now, threshold),
            }

        def drawn(now: Looked, threshold: float) -> dict[Any, Any]:
            answer = now.answers[now.who]
            return {picture: answer.picture(threshold), table: listing(answer, threshold, now.note)}

        def played(now: Looked, who: str, threshold: float, progress: Any) -> dict[Any, Any]:
            name, total = Path(now.path).stem, min(now.frames, DRAWN_FRAMES)
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / f"{name}-drawn.mp4"
                draw_clip(models[who], now.path, threshold, out, lambda count: progress((count, total), unit="frames"))
                kept = clip.move_resource_to_block_cache(str(out))
            return {clip: gr.update(value=kept, label=f"{name}, {total} frames: {who} above {threshold:g}")}

        def on_open(path: str | None, who: str, threshold: float) -> dict[Any, Any]:
            hidden = {draw: gr.update(visible=False), clip: gr.update(value=None, visible=False)}
            emptied = {**nothing, **hidden, number: gr.update(visible=False), problem: ""}
            return emptied if path is None else {**emptied, **told(opened)(path, who, threshold)}

        def on_ask(now: Looked | None, at: int, who: str, threshold: float) -> dict[Any, Any]:
            return {} if now is None else told(answered)(now, at, who, threshold)

        bar = gr.Progress()

        def on_draw(now: Looked | None, who: str, threshold: float, progress: Any = bar) -> dict[Any, Any]:
            return {} if now is None else told(played, {clip: None})(now, who, threshold, progress)

        def on_move(now: Looked | None, threshold: float) -> dict[Any, Any]:
            return {} if now is None or not now.answers else told(drawn, {picture: None, table: None})(now, threshold)

        shown = [picture, table, problem]
        everything = [looked, number, operators, routers, routers_help, *shown]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        asking = {"show_progress_on": [picture], "api_visibility": "private"}
        file.change(on_open, [file, who, level], [*everything, draw, clip], **asking)
        draw.click(on_draw, [looked, who, level], [clip, problem], show_progress_on=[clip], api_visibility="private")
        for event in (number.release, who.change):
            event(on_ask, [looked, number, who, level], everything, **asking)
        # What is typed comes key by key, and one key's error takes the keys after it along: hence 0 is a threshold too,
        # and the end of typing is an event of its own.
        level.change(on_move, [looked, level], shown, trigger_mode="always_last", **quiet)
        level.release(on_move, [looked, level], shown, **quiet)
    return blocks


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
