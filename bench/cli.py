"""The command line, `python -m bench ...` or `asrbench ...`: parsing, and turning every failure into one sentence."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import commands
from bench.protocol import DEFAULT_PROTOCOL

INTERRUPTED = 130
_PROGRAM = "python -m bench" if Path(sys.argv[0]).name == "__main__.py" else "asrbench"
_PICK = "Comma list of names, wildcards (gs*) or all"

app = typer.Typer(
    help="Compare arbitrary-scale super-resolution methods on real images, and reproduce their papers' tables.\n\n"
    "Start with `run --methods gsasr,liif --scales all`, then `report` on the folder that it names.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Methods = Annotated[str, typer.Option(help=f"{_PICK}; bicubic always runs as the yardstick.")]
Scales = Annotated[str, typer.Option(help="Comma list of factors (2,3.5,12), ranges (2-4) or all (2 to 30).")]
Backbones = Annotated[str | None, typer.Option(help=f"{_PICK}. Default: those that the weights are for.")]
Datasets = Annotated[str, typer.Option(help=f"{_PICK}, or folders of images.")]
Weights = Annotated[str, typer.Option(help="shipped, official, random, a checkpoint's path, or METHOD=PATH,...")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="Evaluation protocol; see `list protocols`.")]
Metrics = Annotated[str | None, typer.Option(help=f"{_PICK}. Default: the protocol's.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="float32, float64, bfloat16, float16, autocast-bfloat16, autocast-float16.")]
Cell = Annotated[
    str | None,
    typer.Option(help="Pixel size that methods are told beyond x4: published (as each evaluates), true or clipped."),
]
ChannelsLast = Annotated[bool, typer.Option("--channels-last", help="Channels-last memory format.")]
Compiled = Annotated[bool, typer.Option("--compile", help="Compile encoders with torch.compile.")]
MaxMemory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Render so few queries at a time that tensors stay below, as 2GiB.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]
Seed = Annotated[int, typer.Option(help="For methods that draw random numbers, and for --weights random.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N images of each dataset; marks the run as partial.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that holds datasets.", envvar="ASRBENCH_DATA")]
Options = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="METHOD.NAME=VALUE", help="Change an option, as gsasr.dmax=0.05; repeatable."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, as steps=100; repeatable."),
]
Out = Annotated[Path, typer.Option(help="Folder of all runs.")]
RunId = Annotated[str | None, typer.Option(help="Name of this run's folder. Default: made from the settings.")]


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="ASRBENCH_DEBUG", help="Show the traceback of an unexpected error.")
    ] = False,
) -> None:
    if debug:
        os.environ["ASRBENCH_DEBUG"] = "1"


@app.command()
def run(
    methods: Methods = "all",
    scales: Scales = "all",
    backbones: Backbones = None,
    datasets: Datasets = "embedded",
    weights: Weights = "shipped",
    protocol: ProtocolName = DEFAULT_PROTOCOL,
    cell: Cell = None,
    metrics: Metrics = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    channels_last: ChannelsLast = False,
    compiled: Compiled = False,
    seed: Seed = 0,
    limit: Limit = None,
    data_root: DataRoot = None,
    options: Options = None,
    out: Out = Path("results"),
    run_id: RunId = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")] = False,
    save_images: Annotated[bool, typer.Option("--save-images", help="Also write every SR image.")] = False,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Bit-exact on GPUs too; slower.")] = False,
    threads: Threads = None,
    max_memory: MaxMemory = None,
) -> int:
    """Evaluate methods and store a row per image; the same command resumes what was interrupted.

    \b
    run --methods gsasr,liif --scales all
    run --methods gsasr --datasets Set5,Set14 --data-root ~/data --weights net.pth --backbones edsr-baseline
    run --methods all --scales 2,3.5,12 --datasets my/photos --limit 3 --run-id quick
    """
    settings = _settings(locals())
    return commands.run(
        settings,
        max_memory=max_memory,
        out=out,
        run_id=run_id,
        fresh=fresh,
        save_images=save_images,
        deterministic=deterministic,
        threads=threads,
        program=_PROGRAM,
    )


@app.command()
def plan(
    methods: Methods = "all",
    scales: Scales = "all",
    backbones: Backbones = None,
    datasets: Datasets = "embedded",
    weights: Weights = "shipped",
    protocol: ProtocolName = DEFAULT_PROTOCOL,
    cell: Cell = None,
    metrics: Metrics = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    channels_last: ChannelsLast = False,
    compiled: Compiled = False,
    seed: Seed = 0,
    limit: Limit = None,
    data_root: DataRoot = None,
    options: Options = None,
    out: Out = Path("results"),
    run_id: RunId = None,
) -> int:
    """Show what `run` with the same flags would do: cells, images, what is missing, what is done.

    \b
    plan --methods gsasr,liif --scales all
    """
    return commands.plan(_settings(locals()), out=out, run_id=run_id)


@app.command()
def cost(
    methods: Methods = "all",
    scales: Scales = "2,3,4,6,8,12",
    backbones: Backbones = None,
    datasets: Datasets = "embedded",
    weights: Weights = "shipped",
    protocol: Annotated[
        str, typer.Option("--protocol", help="How to measure: steady, or table3 as the paper does.")
    ] = "steady",
    crop: Annotated[
        int | None, typer.Option(help="Side of the square GT patches. Default: the protocol's 720.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Several sides instead, as 64..1024 or 96,192,384: how cost grows with size.")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Different inputs, in turns. Default: the protocol's.")] = None,
    warmups: Annotated[int | None, typer.Option(help="Default: the protocol's.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Default: the protocol's.")] = None,
    evaluation: Annotated[
        str | None, typer.Option(help="Evaluation protocol that makes LR and scores SR; see `list protocols`.")
    ] = None,
    cell: Cell = None,
    metrics: Metrics = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    tf32: Annotated[
        str | None,
        typer.Option("--tf32", help="Where TF32 is allowed: none, matmul, conv, all. Default: torch's choice."),
    ] = None,
    autotune: Annotated[
        bool | None,
        typer.Option("--autotune/--no-autotune", help="cuDNN tries its algorithms out.", show_default=False),
    ] = None,
    channels_last: ChannelsLast = False,
    compiled: Compiled = False,
    chunk: Annotated[int | None, typer.Option(help="Queries at a time. Default: the method's.")] = None,
    threads: Threads = None,
    seed: Seed = 0,
    data_root: DataRoot = None,
    options: Options = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Share the repeats out to so many fresh processes. Default: 1, with --against 5."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Another checkout, measured in turns with this one into RUN-base; then `compare` the two."),
    ] = None,
    out: Out = Path("results"),
    run_id: RunId = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")] = False,
) -> int:
    """Measure time, memory and energy, one fresh process per cell, one row per repeat.

    \b
    cost --methods gsasr,liif --scales 2,4 --crop 240
    cost --methods all --protocol table3 --datasets DIV2K100 --data-root ~/data --device cuda
    cost --methods liif,ciaosr --scales 4 --sizes 64..512
    """
    flags = {name: value for name, value in locals().items() if name not in ("against", "out", "run_id", "fresh")}
    from bench.cost.settings import make_cost_settings

    flags |= {"options": options or (), "processes": processes or (5 if against else 1)}
    settings = make_cost_settings(**flags)
    return commands.cost(settings, out=out, run_id=run_id, fresh=fresh, against=against, program=_PROGRAM)


@app.command()
def device(
    name: Annotated[str, typer.Option("--device", help="cuda, cuda:1, or cpu to try it out.")] = "cuda",
    methods: Methods = "all",
    backbones: Backbones = "edsr-baseline",
    weights: Weights = "random",
    scales: Scales = "2,3,4,6,8,12",
    protocol: Annotated[str, typer.Option(help="steady, or table3 as the paper does.")] = "steady",
    crop: Annotated[
        int | None, typer.Option(help="Side of the square GT patches. Default: the protocol's 720.")
    ] = None,
    warmups: Annotated[int | None, typer.Option(help="Default: the protocol's.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Default: the protocol's.")] = None,
    datasets: Datasets = "embedded",
    data_root: DataRoot = None,
    cases: Annotated[list[Path] | None, typer.Option(help="Folders of parity cases. Default: tests/parity.")] = None,
    out: Out = Path("results"),
    run_id: Annotated[str, typer.Option(help="Name of the run's folder.")] = "device",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")] = False,
    page: Annotated[Path, typer.Option(help="Folder for <device>.json and <device>.md.")] = Path("results/gpu"),
    if_present: Annotated[
        bool, typer.Option("--if-present", help="Say so and succeed where there is no such device.")
    ] = False,
) -> int:
    """Measure a GPU once for all: parity of every method in float32, TF32 and bfloat16, then Table 3 at full size.

    \b
    device
    device --methods gsasr,liif --scales 4 --repeats 10
    """
    from bench.cost.settings import make_cost_settings
    from bench.env import ROOT

    settings = make_cost_settings(
        methods=methods,
        backbones=backbones,
        weights=weights,
        scales=scales,
        protocol=protocol,
        crop=crop,
        warmups=warmups,
        repeats=repeats,
        datasets=datasets,
        data_root=data_root,
        device=name,
        metrics="psnr_y",
    )
    if if_present and (absent := commands.absent_device(name)):
        print(f"Nothing was measured: {absent}")
        return 0
    return commands.device(
        settings, out=out, run_id=run_id, fresh=fresh, cases=cases or [ROOT / "tests" / "parity"], page=page
    )


@app.command()
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Run to compare with, or the folder of the baselines.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Run that may have become worse.")],
    subset: Annotated[bool, typer.Option("--subset", help="Compare what both have, although NEW lacks some.")] = False,
    allow_weights: Annotated[
        bool, typer.Option("--allow-weights", help="Compare networks whose weights differ on purpose.")
    ] = False,
    pinned: Annotated[
        bool,
        typer.Option("--pinned", help="The device was ours alone, clocks fixed: gate time at +5 % instead of +25 %."),
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Also write it as Markdown, for a pull request.")] = None,
) -> int:
    """Tell whether NEW is worse than BASE: scores per image, time, memory; exit 1 if it is.

    \b
    compare results/before results/after
    compare results/baselines results/after --markdown comment.md
    """
    return commands.compare(
        base, new, subset=subset, allow_weights=allow_weights, pinned=pinned, markdown_file=markdown
    )


baseline = typer.Typer(help="Committed results that later ones are compared with.", no_args_is_help=True)
app.add_typer(baseline, name="baseline")


@baseline.command(name="update")
def baseline_update(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="A run's folder, of scores or of cost, or both.")],
    reason: Annotated[str, typer.Option(help="Why the numbers may change; kept beside them.")],
    folder: Annotated[Path, typer.Option(help="Folder of the baselines.")] = Path("results/baselines"),
    subset: Annotated[bool, typer.Option("--subset", help="Keep the scores that the runs lack.")] = False,
) -> int:
    """Replace the committed baselines by the results of runs.

    \b
    baseline update results/after --reason "LIIF retrained for longer"
    """
    return commands.baseline_update(runs, folder, reason, subset=subset)


@app.command(name="list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(help="methods, backbones, datasets, metrics, protocols, cost-protocols, checkpoints, recipes."),
    ],
    pattern: Annotated[str, typer.Argument(help="Wildcard on the name, as 'gs*'.")] = "*",
    data_root: DataRoot = None,
) -> int:
    """List what the suite knows.

    \b
    list methods
    list datasets 'Set*'
    """
    return commands.list_(kind, pattern, data_root)


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or its name under results.")],
    table: Annotated[int, typer.Option(help="Which of the paper's tables to mirror.")] = 1,
    formats: Annotated[str, typer.Option("--format", help="Comma list of md, latex, csv.")] = "md",
    figure: Annotated[
        str | None,
        typer.Option(metavar="DATASET/IMAGE/SCALE", help="Draw this image side by side instead; needs --save-images."),
    ] = None,
    crops: Annotated[
        list[str] | None,
        typer.Option("--crop", metavar="TOP,LEFT,H,W", help="Detail of the figure in HR pixels; repeatable."),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Table 3: the paper's values beside ours.")] = False,
    plots: Annotated[
        bool, typer.Option("--plots", help="Table 3: also draw quality over time, memory, and growth with size.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the files. Default: RUN/reports.")] = None,
) -> int:
    """Write the paper's table from the rows of a run, or a figure from its images.

    \b
    report results/gsasr-1a2b3c4d --format md,latex,csv
    report results/gsasr-1a2b3c4d --figure embedded/coffee/4
    report results/cost-steady-1a2b3c4d --table 3 --published --plots
    """
    if crops and figure is None:
        raise typer.BadParameter("--crop belongs to --figure: name the image too.")
    if figure is not None:
        return commands.figure(run, figure, crops or (), out)
    return commands.report(run, table, formats, out, published=published, plots=plots)


@app.command()
def upscale(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Image, or folder of images.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Image to write, or folder for the results.")],
    method: Annotated[str, typer.Option(help="See `list methods`.")] = "gsasr",
    scale: Annotated[str, typer.Option(help="Factor above 1; need not be an integer.")] = "4",
    backbone: Annotated[str | None, typer.Option(help="Default: the one that the shipped weights are for.")] = None,
    weights: Annotated[str, typer.Option(help="shipped, random, or a checkpoint's path.")] = "shipped",
    options: Options = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    channels_last: ChannelsLast = False,
    compiled: Compiled = False,
    max_memory: MaxMemory = None,
) -> int:
    """Upscale images of any size; grey stays grey, transparency is kept.

    \b
    upscale photo.jpg photo_x3.7.png --method gsasr --scale 3.7
    upscale photos large --scale 2
    """
    return commands.upscale(
        source,
        target,
        scale,
        method,
        backbone,
        max_memory=max_memory,
        options=options or [],
        weights=weights,
        device=device,
        dtype=dtype,
        channels_last=channels_last,
        compiled=compiled,
    )


@app.command()
def profile(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="See `list methods`.")],
    scale: Annotated[str, typer.Option(help="Factor above 1; need not be an integer.")] = "4",
    lr: Annotated[str, typer.Option(metavar="SIZE", help="Of the image: 180, or 180x120 (width x height).")] = "180",
    backbone: Annotated[str | None, typer.Option(help="Default: EDSR-baseline, or that of the weights.")] = None,
    weights: Annotated[str, typer.Option(help="random, shipped, or a checkpoint's path.")] = "random",
    options: Options = None,
    chunk: Annotated[int | None, typer.Option(help="Queries at a time. Default: the method's.")] = None,
    max_memory: MaxMemory = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    channels_last: ChannelsLast = False,
    compiled: Compiled = False,
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(help="Runs to take the median time of.")] = 3,
) -> int:
    """Show where the time, the multiply-adds and the memory of a method go, part by part.

    \b
    profile gsasr --scale 4 --lr 180
    profile liif --backbone rdn --lr 120x80 --max-memory 512MiB --threads 1
    """
    return commands.profile(
        method,
        backbone,
        scale,
        lr,
        max_memory=max_memory,
        options=options or [],
        weights=weights,
        chunk=chunk,
        device=device,
        dtype=dtype,
        channels_last=channels_last,
        compiled=compiled,
        threads=threads,
        repeats=repeats,
    )


@app.command()
def gallery(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A photograph.")],
    scale: Annotated[str, typer.Option(help="Factor above 1; need not be an integer.")] = "4",
    methods: Methods = "all",
    backbones: Backbones = None,
    weights: Weights = "shipped",
    protocol: ProtocolName = DEFAULT_PROTOCOL,
    enlarge: Annotated[bool, typer.Option("--enlarge", help="Enlarge IMAGE itself; nothing to compare with.")] = False,
    crops: Annotated[
        list[str] | None,
        typer.Option("--crop", metavar="TOP,LEFT,H,W", help="Detail to show, in pixels of the result; repeatable."),
    ] = None,
    options: Options = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="The PNG file. Default: IMAGE_xSCALE_gallery.png here.")] = None,
) -> int:
    """Draw one photograph as all methods render it from a reduced copy, side by side, details enlarged.

    \b
    gallery photo.png --scale 6
    gallery photo.png --scale 3.5 --methods liif,gsasr --crop 100,120,80,80 --out detail.png
    """
    from bench.selection import parse_scales
    from bench.settings import make_settings

    if len(parse_scales(scale)) > 1:
        raise typer.BadParameter(f"A gallery has one scale, not {scale}: name one.")
    chosen = make_settings(
        methods=methods,
        scales=scale,
        backbones=backbones,
        weights=weights,
        protocol=protocol,
        options=options or (),
        device=device,
        dtype=dtype,
        seed=seed,
    )
    return commands.gallery(image, chosen, enlarge=enlarge, crops=crops or (), out=out)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a TOML file.")],
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder for log, state, checkpoint. Default: runs/RECIPE.")] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str, typer.Option(help="auto: continue the training in that folder, if any; must: there is one; never.")
    ] = "never",
    device: Annotated[str, typer.Option(help="auto or cpu; CUDA_VISIBLE_DEVICES chooses GPUs.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
) -> int:
    """Train a method by a recipe and export a checkpoint that `run --weights` takes.

    Several processes train together under `accelerate launch -m bench train ...` or `torchrun -m bench train ...`.

    \b
    train gsasr-micro --data-root path/to/images --dry-run
    train gsasr-micro --data-root path/to/images --resume auto
    train my.toml --set steps=100 --out runs/quick
    """
    return commands.train(
        recipe,
        data_root=data_root,
        out=out,
        overrides=overrides or (),
        resume=resume,
        device=device,
        dry_run=dry_run,
    )


@app.command()
def verify(
    zoo: Annotated[bool, typer.Option("--zoo", help="The shipped checkpoints: files, recipes, images, PSNR.")] = False,
    data_root: DataRoot = None,
) -> int:
    """Check that what comes with the suite is what its records say; exit 1 if anything differs.

    \b
    verify --zoo
    verify --zoo --data-root path/to/images
    """
    return commands.verify(zoo, data_root)


@app.command()
def ablate(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="gaussians, reference-positions, paper-or-code, or a TOML file.")
    ],
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: runs/ablations/NAME.")] = None,
    overrides: Overrides = None,
    device: Annotated[str, typer.Option(help="auto or cpu; CUDA_VISIBLE_DEVICES chooses GPUs.")] = "auto",
) -> int:
    """Train a recipe in several variants; a table and a plot of what came of it. Resumes what was begun.

    \b
    ablate gaussians --data-root path/to/images
    ablate reference-positions --set steps=500
    """
    return commands.ablate(name, data_root=data_root, out=out, overrides=overrides or (), device=device)


@app.command()
def parity(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Parity cases (.json) or folders of them.")],
) -> int:
    """Compare networks with the outputs of their reference implementations; exit 1 if any differs.

    \b
    parity path/to/parity
    """
    return commands.parity(paths)


@app.command()
def fetch(
    names: Annotated[str, typer.Argument(metavar="NAME", help="Comma list, as gsasr/rdn, wildcards (gsasr/*) or all.")],
) -> int:
    """Fetch official checkpoints for `--weights official`, or say where to get them.

    \b
    fetch gsasr/edsr-baseline
    fetch 'lte/*'
    """
    return commands.fetch(names)


@app.command(hidden=True)
def docs(
    out: Annotated[Path, typer.Option(help="Folder for the pages.")] = Path("docs/methods"),
    cases: Annotated[Path, typer.Option(help="Folder of parity cases.")] = Path("tests/parity"),
) -> int:
    """Write the page of every method from the registry, the docstrings, the catalogue and the parity cases."""
    return commands.docs(out, cases)


@app.command(hidden=True)
def zoo(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Runs to store the scores of.")] = None,
    folder: Annotated[Path, typer.Option(help="Folder of the zoo's scores and logs.")] = Path("results/zoo"),
    out: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("reports"),
) -> int:
    """Write the page that compares the shipped checkpoints."""
    return commands.zoo(runs or [], folder, out)


@app.command()
def doctor(data_root: DataRoot = None, out: Out = Path("results")) -> int:
    """Check this machine and this installation: packages, GPUs, metrics, datasets, weights."""
    return commands.doctor(data_root, out)


def _settings(flags: dict[str, Any]) -> Any:
    from bench.settings import make_settings

    names = ("methods", "scales", "backbones", "datasets", "weights", "protocol", "metrics", "device", "dtype")
    more = ("cell", "channels_last", "compiled", "seed", "limit", "data_root")
    return make_settings(**{name: flags[name] for name in names + more}, options=flags["options"] or ())


def main(arguments: list[str] | None = None) -> None:
    """Entry point of both spellings: run a command and leave with its exit code.

    0: all well. 1: a check failed. 2: what was asked for cannot be done. 3: some images failed. 130: interrupted.
    """
    sys.exit(_guarded(sys.argv[1:] if arguments is None else arguments))


def _guarded(arguments: list[str]) -> int:
    warnings.formatwarning = _warning
    try:
        return int(typer.main.get_command(app).main(arguments, prog_name=_PROGRAM, standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes and closes it
        return 0
    except Exception as error:
        return _explain(error)


def _warning(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    """Warnings as users of a command want them: what, without the place in the code."""
    return f"{_PROGRAM}: {message}\n"


def _explain(error: Exception) -> int:
    """Say what went wrong in one sentence on stderr; returns the exit code."""
    if os.environ.get("ASRBENCH_DEBUG") and not hasattr(error, "format_message"):
        import traceback

        traceback.print_exception(error)
        return 2
    if not hasattr(error, "format_message") or error.format_message():  # a group without a command: its help was shown
        print(f"{_PROGRAM}: {_sentence(error)}", file=sys.stderr)
    return 2


def _sentence(error: Exception) -> str:
    from methods.errors import UserError
    from reports.errors import ReportError

    rasterizer = sys.modules.get("kernels.backends")  # not imported for this: it needs torch
    expected = (UserError, ReportError, *([rasterizer.BackendError] if rasterizer else []))
    if isinstance(error, expected):
        return str(error)
    if hasattr(error, "format_message"):  # of typer, whose parser's classes have moved between packages
        text = " ".join(error.format_message().split())
        return f"{text}{'' if text.endswith(('.', '?')) else '.'} See `{_PROGRAM} --help`."
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"This should not have happened ({what}): please report it; ASRBENCH_DEBUG=1 shows where."
