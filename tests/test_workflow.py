"""The workflow file: that it can be read, and that the commands in it exist."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from bench import cli

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
SCRIPT = "\n".join(step["run"] for step in STEPS if "run" in step)


def commands() -> list[str]:
    """Every use of our command line in the workflow, in tox.ini and in the guide on cost."""
    texts = [SCRIPT, (ROOT / "tox.ini").read_text(), (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")]
    return [found for text in texts for found in re.findall(r"^ *python -m bench (\w.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    words = shlex.split(line)
    command, context = typer.main.get_command(cli.app), None
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    context = command.make_context("bench", words)  # raises on flags and values that it does not know
    assert context is not None


def test_it_calls_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- test command -->\n```bash\n(.*?)\n```", readme)
    assert found
    assert found[1] in SCRIPT


def test_environments_exist():
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    called = set(re.findall(r"tox -e (\w+)", SCRIPT))
    assert called == {"lint", "tests", "bench"}
    assert all(f"testenv:{name}" in tox for name in called)


def test_steps_use_pinned_major_versions_and_shells_stop_at_errors():
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in STEPS if "uses" in step)
    assert all("shell" not in step for step in STEPS)  # the service's default stops at the first error
