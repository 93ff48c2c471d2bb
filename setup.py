"""Only what pyproject.toml cannot say: the C data plane is built where a compiler and OpenSSL's headers are, and left
out where they are not. Then the pure-Python twin runs, and says that it is slow. KAIROS_REQUIRE_C=1 makes a failed build
an error."""

from __future__ import annotations

import os

from setuptools import setup
from setuptools.command.build_ext import build_ext


class OptionalBuild(build_ext):
    def build_extensions(self) -> None:
        required = os.environ.get("KAIROS_REQUIRE_C", "") not in ("", "0")
        for extension in self.extensions:
            extension.optional = not required
        super().build_extensions()


setup(
    cffi_modules=["dataplane/build_dataplane.py:ffibuilder"],
    cmdclass={"build_ext": OptionalBuild},
    package_dir={
        "": ".",
        "kairos_node": "node/kairos_node",
        "kairos_dataplane": "dataplane/kairos_dataplane",
        "kairos_agent": "agent/kairos_agent",
        "kairos_gateway": "gateway/kairos_gateway",
        "kairos_cli": "cli/kairos_cli",
    },
)
