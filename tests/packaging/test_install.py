"""The distribution, built and installed into empty environments: what a user's `pip install` gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker_network
from fabric_host import free_ports

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KAIROS", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**clean, **(environment or {})},
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module", autouse=True)
def registry() -> Iterator[None]:
    """pip and npm ask it."""
    with worker_network.of_the_machine():
        yield


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, made as PEP 517 front ends make it, from a clean copy of what is tracked."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = subprocess.run(("git", "archive", "HEAD"), cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(("tar", "-x", "-C", folder), input=archive, check=True)
    program = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    done = subprocess.run(
        (sys.executable, "-c", program, str(folder / "dist")), cwd=folder, capture_output=True, text=True, check=True
    )
    return folder / "dist" / done.stdout.splitlines()[-1]


def environment_with(folder: Path, requirement: str) -> Path:
    """A virtual environment with that and what it requires, and nothing else; its bin folder. It begins without a pip of its own."""
    venv.create(folder)
    run(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q", requirement)
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment with a wheel made of the sdist."""
    place = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "-q", "--no-deps", "-w", place, sdist, environment={"KAIROS_REQUIRE_C": "1"})
    (wheel,) = place.glob("*.whl")
    return environment_with(place / "venv", f"kairos-red[agent,operator] @ file://{wheel}")


def test_the_sdist_carries_all_sources(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "dataplane/csrc/kdp_api.h", "kairos/wire/datagram.py"} <= names
    assert {"wrangler.toml", "package-lock.json", "workers/src/entry.py", "workers/local/host.mjs"} <= names


@pytest.mark.parametrize("verb", ["agent", "gateway", "fabric", "policy"])
def test_an_installed_command_teaches_its_verbs(installed: Path, verb: str) -> None:
    assert verb in run(installed / "kairos", verb, "--help").stdout


def test_an_installed_agent_has_the_c_data_plane(installed: Path) -> None:
    program = "import kairos_dataplane; print(kairos_dataplane.load().name)"
    assert run(installed / "python", "-c", program).stdout.strip() != "pure"


def test_an_installed_daemon_imports_all_it_needs(installed: Path) -> None:
    program = "import kairos_agent.service, kairos_gateway.service, kairos_cli.node; print('whole')"
    assert run(installed / "python", "-c", program).stdout == "whole\n"


def test_an_agent_that_never_enrolled_says_what_to_do(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        (installed / "kairos", "agent", "run", "--state", tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "kairos agent enroll" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_the_distributions(installed: Path) -> None:
    shown = json.loads(run(installed / "kairos", "version", "--json").stdout)
    assert (
        shown["kairos-red"]
        == run(installed / "python", "-c", "import kairos; print(kairos.__version__)").stdout.strip()
    )


def test_without_a_compiler_the_pure_twin_runs_and_says_so(sdist: Path, installed: Path, tmp_path: Path) -> None:
    """Beside the environment that has all dependencies, which are no part of the question."""
    nothing = {"CC": "/nonexistent/cc", "KAIROS_REQUIRE_C": "0"}
    # Without its cache: pip would take the wheel that another test had a compiler for.
    run(
        *(installed / "pip", "install", "-q", "--no-cache-dir", "--no-deps", "--target", tmp_path, sdist),
        environment=nothing,
    )
    program = "import logging; logging.basicConfig(); import kairos_dataplane; print(kairos_dataplane.load().name)"
    done = run(installed / "python", "-c", program, environment={"PYTHONPATH": str(tmp_path)})
    assert done.stdout.strip() == "pure"
    assert "slow" in done.stderr


def test_the_wheel_carries_units_and_examples(sdist: Path, installed: Path) -> None:
    (wheel,) = installed.parents[1].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    units = {"kairos_agent/kairos-agent.service", "kairos_gateway/kairos-gateway.service"}
    assert units | {"kairos_agent/agent.toml", "kairos_gateway/gateway.toml"} <= names


@pytest.fixture(scope="module")
def operator_only(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an empty environment with the operator extra alone, outside the tree."""
    (wheel,) = installed.parents[1].glob("*.whl")
    return environment_with(tmp_path_factory.mktemp("operator") / "venv", f"kairos-red[operator] @ file://{wheel}")


@pytest.mark.timeout(900)
def test_an_operator_needs_no_source_tree(operator_only: Path, tmp_path: Path) -> None:
    """init, dev and a dry run of deploy, from the wheel, with nothing but pip's environment and the user's cache."""
    port = free_ports("127.0.0.1")
    folder, cache = tmp_path / "fabric", tmp_path / "cache"
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KAIROS", "VIRTUAL_ENV"))
    }
    environment = {**clean, "PATH": f"{operator_only}:/usr/bin:/bin", "XDG_CACHE_HOME": str(cache)}
    kairos = operator_only / "kairos"
    url, relay_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    words = ("fabric", "init", "--dir", folder, "--url", url, "--relay-url", relay_url)
    run(kairos, *words, environment=environment)

    command = (str(kairos), "fabric", "dev", "--dir", str(folder))
    with subprocess.Popen(
        command, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as dev:
        assert dev.stdout is not None
        said: list[str] = []
        for line in dev.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        try:
            assert "ready in" in "".join(said), "".join(said)
            with urllib.request.urlopen(f"{url}/v1/health", timeout=20) as answer:
                assert json.load(answer)["status"] == "ok"
            findings = json.loads(
                run(kairos, "fabric", "doctor", "--json", "--dir", folder, environment=environment).stdout
            )
            assert {each["what"]: each["state"] for each in findings}["control plane"] == "ok"
        finally:
            dev.terminate()
    steps = [line.partition(" ... ")[0] for line in said if " ... " in line]
    assert len(steps) == 6, steps  # unpack, two kinds of packages, the snapshot, both Workers
    assert all(line.rstrip().endswith(" s") for line in said if " ... " in line)

    figures = json.loads(
        run(kairos, "fabric", "deploy", "--dry-run", "--json", "--dir", folder, environment=environment).stdout
    )
    assert figures["script_gzip_bytes_control"] > 0
    (workspace,) = (cache / "kairos").iterdir()
    assert (workspace / "kairos/constants.py").exists()
