"""The commands behind the command line: call the library, print what came of it, return the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.errors import UserError
from methods.names import resolve

if TYPE_CHECKING:
    from bench.cost.settings import CostSettings
    from bench.runner import RunResult
    from bench.settings import RunSettings

SOME_FAILED = 3
CHECK_FAILED = 1
FEWEST_SIZES = 3
"""For a law of growth."""


def run(
    settings: RunSettings, *, out: Path, run_id: str | None, program: str, max_memory: str | None, **choices: Any
) -> int:
    """Evaluate; 3 if an image or a cell failed."""
    from bench.memory import parse_size
    from bench.progress import for_screen
    from bench.runner import run as evaluate

    progress = for_screen()
    limit = None if max_memory is None else parse_size(max_memory)
    try:
        result = evaluate(settings, out, run_id, progress=progress, max_memory=limit, **choices)
    except KeyboardInterrupt:
        progress.note("Interrupted; what is done is stored, and the same command goes on from there.")
        raise
    _print_result(result, program)
    return result.exit_code


def _print_result(result: RunResult, program: str) -> None:
    from bench.console import console
    from bench.summary import run_tables

    screen = console()
    for grid in run_tables(result.rows):
        screen.print(grid)
    counts = result.counts
    ends = [f"{counts['done']} of {counts['planned']} images scored"]
    ends += [f"{counts[what]} {what}" for what in ("skipped", "failed") if counts[what]]
    if result.exit_code:
        ends.append("see the reasons above and in the rows")
    screen.print(", ".join(ends) + ".", f"Results: {result.path}", sep="\n", markup=False, soft_wrap=True)
    if counts["done"]:
        screen.print(f"Next: {program} report {result.path} --format md,latex,csv", markup=False, soft_wrap=True)


def plan(settings: RunSettings, *, out: Path, run_id: str | None) -> int:
    """Print the cells and what stands in their way; 3 if some cannot run."""
    from bench.console import console
    from bench.files import safe_name
    from bench.manifest import default_run_id
    from bench.plan import make_plan
    from bench.rows import SETTLED, Row
    from bench.store import read_rows
    from bench.summary import plan_table

    made = make_plan(settings)
    path = out / safe_name(run_id or default_run_id(settings), "run id")
    done = {row.row_key for row in read_rows(path, Row) if row.status in SETTLED}
    keys = {key for cell in made.cells for key in cell.row_keys}
    screen = console()
    screen.print(plan_table(made, done))
    for text in (*made.notes, *made.problems):
        screen.print(text, markup=False, soft_wrap=True)
    text = f"{len(keys)} images to score, {len(keys & done)} of them done in {path}."
    screen.print(text, markup=False, soft_wrap=True)
    return SOME_FAILED if made.problems else 0


def list_(kind: str, pattern: str, data_root: Path | None) -> int:
    """Print a list."""
    from bench.console import console
    from bench.listing import list_table

    console().print(list_table(kind, pattern, data_root))
    return 0


def report(run_folder: str, table: int, formats: str, out: Path | None, *, published: bool, plots: bool) -> int:
    """Write a report and print its Markdown and the files' paths."""
    from reports.tables import write_report

    chosen = [name.strip() for name in formats.split(",") if name.strip()]
    path = _run_path(run_folder)
    files = write_report(path, table, chosen, out, published=published)
    if plots:
        from reports.cost_figures import write_cost_figures
        from reports.scaling import has_sizes, write_scaling

        if table != 3:
            raise UserError("--plots draws what things cost: give --table 3 and a run of `cost`.")
        files += write_scaling(path, out) if has_sizes(path) else write_cost_figures(path, out)
    for file in files:
        if file.suffix == ".md":
            print(file.read_text(encoding="utf-8"))
    print(*(f"Written: {file}" for file in files), sep="\n")
    return 0


def cost(settings: CostSettings, *, out: Path, run_id: str | None, program: str, **choices: Any) -> int:
    """Measure; 3 if a cell failed."""
    from bench.console import console
    from bench.cost.run import measure_cost
    from bench.cost.screen import cost_table
    from bench.progress import for_screen

    progress = for_screen()
    try:
        result = measure_cost(settings, out, run_id, progress=progress, **choices)
    except KeyboardInterrupt:
        progress.note("Interrupted; what is done is stored, and the same command goes on from there.")
        raise
    screen = console()
    screen.print(cost_table(result.rows, settings.protocol))
    counts = result.counts
    failed = f", {counts['failed']} failed; see the reasons above and in the rows" if counts["failed"] else ""
    screen.print(f"{counts['done']} of {counts['planned']} cells measured{failed}.", markup=False, soft_wrap=True)
    if len(settings.crops) >= FEWEST_SIZES:
        _print_growth(result.paths[-1])
    if len(result.paths) > 1:
        follow_up = f"compare {result.paths[0]} {result.paths[1]}"
    else:
        follow_up = f"report {result.paths[0]} --table 3 --published --plots"
    screen.print(f"Results: {result.paths[-1]}", f"Next: {program} {follow_up}", sep="\n", markup=False, soft_wrap=True)
    return result.exit_code


def _print_growth(path: Path) -> None:
    """Print how cost grows with size, and where the plots are; what stands in the way does not fail the run."""
    from reports.errors import ReportError
    from reports.scaling import write_scaling

    try:
        files = write_scaling(path, formats=["md"])
    except ReportError as error:
        print(error)
        return
    print(files[0].read_text(encoding="utf-8"), *(f"Written: {file}" for file in files), sep="\n")


def absent_device(name: str) -> str | None:
    """Why there is no such device here; None where there is one."""
    from bench.compute import check_device

    try:
        check_device(name)
    except UserError as error:
        return str(error)
    return None


def device(settings: CostSettings, *, out: Path, run_id: str, fresh: bool, cases: Sequence[Path], page: Path) -> int:
    """Measure a device and print where its page is; 1 if a method differs from its reference, 3 if a cell failed."""
    from bench.cost.device import differing, measure_device
    from bench.files import safe_name
    from bench.progress import for_screen
    from reports.device import write_device_page

    result = measure_device(settings, out, safe_name(run_id, "run id"), cases=cases, fresh=fresh, progress=for_screen())
    print(*(f"Written: {file}" for file in write_device_page(result.paths[-1], page)), sep="\n")
    return result.exit_code or (CHECK_FAILED if differing(result.paths[-1]) else 0)


def compare(base: str, new: str, *, subset: bool, allow_weights: bool, pinned: bool, markdown_file: Path | None) -> int:
    """Print what differs; 1 if NEW is worse."""
    from bench.comparison import compare as compare_runs
    from bench.comparison import compare_with_baseline, is_baseline, markdown, screen_tables, sentences
    from bench.console import console
    from bench.files import write_atomic

    first, second = _run_path(base), _run_path(new)
    if is_baseline(first):
        if pinned:
            raise UserError("A stored baseline was measured at another time: leave --pinned out, or name a run.")
        found = compare_with_baseline(first, second, subset=subset, allow_weights=allow_weights)
    else:
        found = compare_runs(first, second, subset=subset, allow_weights=allow_weights, pinned=pinned)
    screen = console()
    for grid in screen_tables(found):
        screen.print(grid)
    screen.print(*sentences(found), sep="\n", markup=False, soft_wrap=True)
    if markdown_file:
        write_atomic(markdown_file, markdown(found).encode())
        print(f"Written: {markdown_file}")
    return CHECK_FAILED if found.regressed else 0


def baseline_update(runs: Sequence[str], folder: Path, reason: str, *, subset: bool) -> int:
    """Store what later results are compared with, and print the files."""
    from bench.comparison import store_baseline

    for run_folder in runs:
        print(f"Written: {store_baseline(_run_path(run_folder), folder, reason, subset=subset)}")
    return 0


def figure(run_folder: str, place: str, crops: Sequence[str], out: Path | None) -> int:
    """Draw one image as all methods of a run rendered it, and print the file's path."""
    from bench.selection import parse_scales
    from reports.figures import comparison

    dataset, _, rest = place.partition("/")
    image, _, scale = rest.rpartition("/")
    if not (dataset and image and scale):
        raise UserError(f"The figure {place!r} names no image: write it like embedded/coffee/4.")
    boxes = [_box(crop) for crop in crops]
    print(f"Written: {comparison(_run_path(run_folder), dataset, image, parse_scales(scale)[0], boxes, out=out)}")
    return 0


def gallery(photo: Path, settings: RunSettings, *, enlarge: bool, crops: Sequence[str], out: Path | None) -> int:
    """Draw one photograph as all methods render it, and print the file's path; 3 if some failed."""
    from PIL import Image

    from bench.console import console
    from bench.gallery import renderings
    from reports.figures import Panel, side_by_side

    boxes = [_box(crop) for crop in crops]
    screen, panels, failed = console(), [], False
    for found in renderings(photo, settings, enlarge=enlarge):
        failed |= found.image is None
        screen.print(f"{found.title:24} {found.note}".rstrip(), markup=False, soft_wrap=True)
        if found.image is not None:
            panels.append(Panel(found.title, found.note, Image.fromarray(found.image)))
    scale = f"x{settings.scales[0]:g}"
    file = out or Path(f"{photo.stem}_{scale}_gallery.png")
    print(f"Written: {side_by_side(panels, f'{photo.stem}, {scale}', file, boxes, width=1600)}")
    return SOME_FAILED if failed else 0


def fetch(names: str) -> int:
    """Fetch official checkpoints and print a line for each; 3 if one failed or has to be got by hand."""
    from bench.console import console
    from bench.fetch import fetch as fetch_all

    screen, left = console(), False
    for found in fetch_all(names):
        left |= found.state in ("failed", "by hand")
        licence = found.entry.licence
        screen.print(
            f"{found.state:8} {found.entry.name} (licence: {licence}): {found.note}", markup=False, soft_wrap=True
        )
    return SOME_FAILED if left else 0


def docs(out: Path, cases: Path) -> int:
    """Write the pages of the methods."""
    from bench.docs import write_pages

    print(*(f"Written: {file}" for file in write_pages(out, cases)), sep="\n")
    return 0


def _run_path(run_folder: str) -> Path:
    """A run by its folder, or by its name under results."""
    path = Path(run_folder)
    return path if path.is_dir() or path.parent != Path() else Path("results") / run_folder


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        top, left, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"The crop {text!r} is not TOP,LEFT,HEIGHT,WIDTH: write it like 100,120,80,80.") from None
    return top, left, height, width


def upscale(
    source: Path,
    target: Path,
    scale: str,
    method: str,
    backbone: str | None,
    *,
    max_memory: str | None,
    options: Sequence[str],
    **choices: Any,
) -> int:
    """Upscale and print a line per image; 3 if some failed."""
    from bench.console import console
    from bench.upscale import upscale as upscale_all

    factor, choices = _one_scale(scale), _one_method(method, options, max_memory) | choices
    screen = console()
    failed = False
    results = upscale_all(source, target, factor, backbone=backbone, **choices)
    for result in results:
        failed |= result.failure is not None
        size = f"{result.size[1]}x{result.size[0]}" if result.size else ""
        screen.print(result.failure or f"{result.target}  {size}", markup=False, soft_wrap=True)
    return SOME_FAILED if failed else 0


def profile(
    method: str,
    backbone: str | None,
    scale: str,
    lr: str,
    *,
    max_memory: str | None,
    options: Sequence[str],
    **choices: Any,
) -> int:
    """Measure and print a line per part."""
    from bench.console import console
    from bench.profile import parse_sides, profile_notes, profile_table
    from bench.profile import profile as measure

    factor, lr_size = _one_scale(scale), parse_sides(lr)
    chosen = _one_method(method, options, max_memory)
    found = measure(backbone=backbone, lr_size=lr_size, scale=factor, **chosen, **choices)
    screen = console()
    screen.print(profile_table(found, f"{chosen['method']}, LR {lr_size[1]}x{lr_size[0]}, x{factor:g}"))
    screen.print(*profile_notes(found), sep="\n", markup=False, soft_wrap=True)
    return 0


def _one_scale(text: str) -> float:
    from bench.selection import parse_scales

    scales = parse_scales(text)
    if len(scales) > 1:
        raise UserError(f"One image cannot have the scales {text} at once: name one.")
    return scales[0]


def _one_method(name: str, options: Sequence[str], max_memory: str | None) -> dict[str, Any]:
    """What `upscale` and `profile` call a method, what is set of it, and bytes of memory."""
    from bench.memory import parse_size
    from bench.selection import parse_options
    from methods.registry import method_spec

    method = method_spec(name).name
    chosen = parse_options(options, [method]).get(method, {})
    return {"method": method, "options": chosen, "max_memory": None if max_memory is None else parse_size(max_memory)}


def train(
    recipe: str,
    *,
    data_root: Path | None,
    out: Path | None,
    overrides: Sequence[str],
    resume: str,
    device: str,
    dry_run: bool,
) -> int:
    """Train by a recipe and print where the checkpoint is; or what it would take."""
    from bench.training.loop import train as follow

    if dry_run:
        from bench.training.estimate import estimate, print_estimate

        print_estimate(estimate(recipe, data_root=data_root, overrides=overrides, device=device))
        return 0
    choice: Any = resolve(resume, ("never", "auto", "must"), "way to resume")
    checkpoint = follow(recipe, data_root=data_root, out=out, overrides=overrides, resume=choice, device=device)
    print(f"Checkpoint: {checkpoint}")
    return 0


def zoo(runs: Sequence[Path], folder: Path, out: Path) -> int:
    """Store the scores of runs, if any are given, and write the page."""
    from methods.checkpoints import list_checkpoints
    from reports.zoo import store_scores, write_page

    if runs:
        print(f"Stored: {store_scores(runs, folder)}")
    print(f"Written: {write_page(folder, [known.about for known in list_checkpoints()], out)}")
    return 0


def verify(zoo: bool, data_root: Path | None) -> int:
    """Print what is found of every shipped checkpoint; 1 if anything is not as stated."""
    from bench.console import console, table
    from bench.training.verify import verify_zoo

    if not zoo:
        raise UserError("There is one thing to verify so far: pass --zoo for the shipped checkpoints.")
    grid, failed = table(None, "checkpoint", "what", "", "found"), False
    for check in verify_zoo(data_root):
        verdict = {True: "ok", False: "[bold red]differs[/]", None: "not looked at"}[check.passed]
        grid.add_row(check.checkpoint, check.what, verdict, check.note)
        failed |= check.passed is False
    console().print(grid)
    return CHECK_FAILED if failed else 0


def ablate(name: str, *, data_root: Path | None, out: Path | None, overrides: Sequence[str], device: str) -> int:
    """Train all variants and print where the table is."""
    from bench.training.ablation import ablate as follow

    print(f"Table: {follow(name, data_root=data_root, out=out, overrides=overrides, device=device)}")
    return 0


def parity(paths: Sequence[Path]) -> int:
    """Print a verdict per case as it comes; 1 if any fails."""
    from bench.console import console
    from bench.parity import run_parity
    from bench.parity.record import record

    screen = console()
    verdicts: dict[str, int] = {}
    results = []
    for result in run_parity(paths):
        results.append(result)
        verdicts[result.verdict] = verdicts.get(result.verdict, 0) + 1
        numbers = f"error {result.error:8.1e}  tolerance {result.tolerance:8.1e}"
        line = f"{result.verdict:4}  {numbers}  {result.case}  ({result.note}, {result.seconds:.1f} s)"
        screen.print(line, markup=False, soft_wrap=True)
    try:
        record(results)
    except UserError as error:  # the verdicts themselves are on the screen
        screen.print(f"Not put on record for `list methods`: {error}", markup=False, soft_wrap=True)
    screen.print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) + ".", markup=False)
    if "pass" not in verdicts and "fail" not in verdicts:
        screen.print("Nothing was compared.")
    return 0 if "pass" in verdicts and "fail" not in verdicts else CHECK_FAILED


def doctor(data_root: Path | None, out: Path) -> int:
    """Print a line per check, with its verdict; 1 if there is a problem."""
    from bench.console import console, table
    from bench.doctor import doctor as examine

    grid = table(None, "check", "verdict", "found")
    findings = examine(data_root, out)
    for finding in findings:
        grid.add_row(*finding)
    console().print(grid, markup=False)
    return CHECK_FAILED if any(finding.verdict == "problem" for finding in findings) else 0
