"""The house keeps its plan: who may import whom, what requirements and README promise, what no file holds."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

HOUSE = Path(__file__).resolve().parents[1]

# The arrows: app -> rpiae, train -> rpiae, and nothing else among the packages.
MAY_IMPORT = {"app": {"app", "rpiae"}, "rpiae": {"rpiae"}, "train": {"train", "rpiae"}}
OWN = {*MAY_IMPORT, "tests"}

# Here by choice of the machine (a Space's GPU helper, a tracker, ...): imported only where present.
OPTIONAL = {"spaces", "wandb"}

FORBIDDEN = {
    "a registry host": r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.(org|com)|npmjs\.org",
    "a package index option": r"--(extra-)?index-url|--find-links",
    "an absolute home path": r"(?<![\w.])(/home/[a-z_]\w*|/Users/\w+|/root)/|[A-Z]:\\+Users\\",
    "the folder that this checkout lies in": rf"(?<![\w.]){re.escape(str(HOUSE))}(?![\w.])",
}


def python_files(package: str) -> list[Path]:
    files = sorted((HOUSE / package).rglob("*.py"))
    if package == "app":
        files += HOUSE.glob("app.py")
    return files


def imported_modules(code: str) -> set[str]:
    """Absolute dotted names that the code imports, also by importlib.import_module("...")."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                names.add(str(node.args[0].value))
    return names


def top_names(code: str) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(code)}


def house_files() -> list[Path]:
    """Files that are in the repository or would be at the next `git add`; without git, all not hidden."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=HOUSE, capture_output=True)
    if listed.returncode == 0:
        paths = [HOUSE / name for name in listed.stdout.decode().split("\0") if name]
    else:
        skipped = {"runs", "outputs", "venv", "__pycache__"}
        paths = [
            path
            for path in HOUSE.rglob("*")
            if not any(part.startswith(".") or part in skipped for part in path.relative_to(HOUSE).parts)
        ]
    return [path for path in paths if path.is_file()]


def requirements(name: str) -> dict[str, str]:
    """Distribution (lower case, dashes) -> its line, without extras, comments and `-r`."""
    found = {}
    for line in (HOUSE / name).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line and not line.startswith("-r "):
            found[normal(re.split(r"[\[=<>!~; ]", line)[0])] = line
    return found


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def front_matter() -> dict:
    text = (HOUSE / "README.md").read_text()
    assert text.startswith("---\n"), "a Space reads its settings from the very first line of README.md"
    return yaml.safe_load(text.split("---\n")[1])


def test_imports_are_found_in_every_form():
    code = """
import a.b
from c import d
def f():
    import e
    importlib.import_module("g.h")
    __import__("i")
from . import j
"""
    assert top_names(code) == {"a", "c", "e", "g", "i"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_between_packages_hold(package):
    files = python_files(package)
    assert len(files) > 1
    wrong = {
        str(file.relative_to(HOUSE)): sorted(away)
        for file in files
        if (away := top_names(file.read_text()) & OWN - MAY_IMPORT[package])
    }
    assert not wrong, f"{package} may import only {sorted(MAY_IMPORT[package])} of our packages"


@pytest.mark.parametrize("start", ["app.service", "app.jobs", "app.chain", "app.mask", "app.settings", "app.export"])
def test_the_engine_of_the_studio_knows_no_gradio(start):
    seen, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        file = HOUSE / (module.replace(".", "/") + ".py")
        if module in seen or not file.exists():
            continue
        seen.add(module)
        names = imported_modules(file.read_text())
        assert not any(name.split(".")[0] == "gradio" for name in names), f"{module} imports gradio"
        waiting += [name for name in names if name.startswith("app.")]
    assert start in seen


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_import_is_in_the_requirements(package):
    listed = set(requirements("requirements.txt"))
    if package == "train":
        listed |= set(requirements("requirements-dev.txt"))
    distributions = packages_distributions()
    missing = {}
    for file in python_files(package):
        for name in top_names(file.read_text()) - OWN - OPTIONAL - set(sys.stdlib_module_names):
            if not {normal(found) for found in distributions.get(name, [])} & listed:
                missing.setdefault(name, []).append(str(file.relative_to(HOUSE)))
    assert not missing, "imported here, but named in no requirements file"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_pinned(name):
    lines = requirements(name)
    assert lines
    pinned = re.compile(r"[\w.-]+(\[[\w,]+\])?==\d[\w.]*(\s*;.*)?$")
    assert not [line for line in lines.values() if not pinned.match(line)]


def test_a_space_can_read_the_front_matter():
    settings = front_matter()
    pins = requirements("requirements.txt")
    assert settings["sdk"] == "gradio"
    assert pins["gradio"].endswith(f"=={settings['sdk_version']}")
    assert settings["python_version"] in ("3.11", "3.12"), "a string, of those that Makefile allows"
    assert (HOUSE / settings["app_file"]).is_file()
    assert settings["license"] == "apache-2.0"
    assert len(settings["short_description"]) <= 60
    assert "-r " not in (HOUSE / "requirements.txt").read_text(), "a Space reads requirements.txt alone"


def test_readme_has_room_for_the_tables_and_its_links_lead_somewhere():
    text = (HOUSE / "README.md").read_text()
    assert text.count("<!-- tables:begin -->") == text.count("<!-- tables:end -->") == 1
    assert text.index("<!-- tables:begin -->") < text.index("<!-- tables:end -->")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert links
    assert not [link for link in links if not (HOUSE / link).exists()]


def test_no_file_names_a_registry_or_a_home():
    files = house_files()
    assert HOUSE / "README.md" in files
    found = []
    for file in files:
        data = file.read_bytes()
        if b"\0" in data:  # not text
            continue
        text = data.decode(errors="replace")
        for what, pattern in FORBIDDEN.items():
            hits = re.finditer(pattern, text)
            found += [f"{file.relative_to(HOUSE)}: {what}: {hit.group()}" for hit in hits]
    # This file spells out what it looks for.
    own = str(Path(__file__).resolve().relative_to(HOUSE))
    assert not [line for line in found if not line.startswith(own)]


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("pip install -i https://pypi.org/simple", True),
        ("/home/someone/models", True),
        ("see /home/me/x", True),
        (r"C:\Users\me", True),
        (f"see {HOUSE}/README.md", True),
        ("https://example.com/home/page/", False),
        (f"assets/{'root'}/x and ./home/x", False),  # in two parts: these lines are searched themselves
    ],
)
def test_what_counts_as_a_registry_or_a_home(text, hit):
    assert any(re.search(pattern, text) for pattern in FORBIDDEN.values()) == hit


@pytest.mark.parametrize(("folder", "mib"), [("checkpoints/stickers-256", 40), ("tokenizers", 12)])
def test_bundled_weights_have_their_limits(folder, mib):
    files = [path for path in (HOUSE / "assets" / folder).rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= mib * 2**20
