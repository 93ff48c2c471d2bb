"""Only what pyproject.toml cannot say: the C data plane is built where a compiler and OpenSSL's headers are, and left
out where they are not. Then the pure-Python twin runs, and says that it is slow. KAIROS_REQUIRE_C=1 makes a failed build
an error. And what the command ships that has a folder of its own in the tree goes into its package: the policy, and all that
`kairos fabric` runs and deploys (kairos_cli/fabric/workspace.py)."""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py


class OptionalBuild(build_ext):
    def build_extensions(self) -> None:
        required = os.environ.get("KAIROS_REQUIRE_C", "") not in ("", "0")
        for extension in self.extensions:
            extension.optional = not required
        super().build_extensions()


SHIPPED = {"policies": "kairos_cli/policies", "workers": "kairos_cli/fabric/tree/workers"}
SHIPPED_FILES = ("package.json", "package-lock.json", "wrangler.toml", "wrangler.relay.toml")


class WithShippedFolders(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # there the command reads the tree's own
            return
        package = Path(self.build_lib)
        for folder, target in SHIPPED.items():
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    self._ship(path, package / target / path.relative_to(folder))
        for name in SHIPPED_FILES:
            self._ship(Path(name), package / "kairos_cli/fabric/tree" / name)

    def _ship(self, path: Path, target: Path) -> None:
        self.mkpath(str(target.parent))
        self.copy_file(str(path), str(target))


setup(
    cffi_modules=["dataplane/build_dataplane.py:ffibuilder"],
    cmdclass={"build_ext": OptionalBuild, "build_py": WithShippedFolders},
    package_dir={
        "": ".",
        "kairos_node": "node/kairos_node",
        "kairos_dataplane": "dataplane/kairos_dataplane",
        "kairos_agent": "agent/kairos_agent",
        "kairos_gateway": "gateway/kairos_gateway",
        "kairos_cli": "cli/kairos_cli",
    },
)
