"""Try a model in the browser: drop a frame or a recording, see the targets and the operators' maps.

Examples:

    scalpel-hf app runs/nuaa/student
    scalpel-hf app runs/nuaa/student --teacher runs/nuaa/teacher
    scalpel-hf app org/scalpel-student

MODEL is a student, teacher, committee or exported student: a folder or a Hub repository. With --teacher, a switch shows
either model's prediction. A teacher's page also shows the routers' weights. Moving the threshold doesn't run the model
again. The page is served on this machine only, and no data leaves it. Stop with Ctrl-C.
"""

from scalpel_hf.app.model_page import import_gradio
from scalpel_hf.app.model_server import look
from scalpel_hf.predictors.load import default_device, load_predictor

from .numbers import between
from .page_options import add_page_options
from .program import verb_parser


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("app", __doc__)
    parser.add_argument("model", metavar="MODEL", help="a folder or a repository on the Hub")
    parser.add_argument("--teacher", help="a second model, for the switch")
    parser.add_argument("--base-model", help="a teacher's base model, if not the one in its configuration")
    parser.add_argument(
        "--threshold", type=between(float, 0.01, 0.99), default=0.5, help="initial threshold (default: %(default)s)"
    )
    add_page_options(parser)
    args = parser.parse_args(argv)
    import_gradio()
    named = {"student": args.model, "teacher": args.teacher} if args.teacher else {"model": args.model}
    models = {who: load_predictor(name, args.base_model, default_device()) for who, name in named.items()}
    look(
        models,
        title=args.model,
        threshold=args.threshold,
        host=args.host,
        port=args.port,
        browser=not args.no_browser,
    )
