"""Only what pyproject.toml cannot say: the C data plane is built where a compiler and OpenSSL's headers are, and left
out where they are not. Then the pure-Python twin runs, and says that it is slow. KAIROS_REQUIRE_C=1 makes a failed build
an error. And the shipped policy, a folder of its own in the tree, goes into the command's package."""

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


class WithPolicies(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # there the command reads the tree's own
            target = Path(self.build_lib) / "kairos_cli/policies"
            self.mkpath(str(target))
            for path in sorted(Path("policies").iterdir()):
                self.copy_file(str(path), str(target / path.name))


setup(
    cffi_modules=["dataplane/build_dataplane.py:ffibuilder"],
    cmdclass={"build_ext": OptionalBuild, "build_py": WithPolicies},
    package_dir={
        "": ".",
        "kairos_node": "node/kairos_node",
        "kairos_dataplane": "dataplane/kairos_dataplane",
        "kairos_agent": "agent/kairos_agent",
        "kairos_gateway": "gateway/kairos_gateway",
        "kairos_cli": "cli/kairos_cli",
    },
)
