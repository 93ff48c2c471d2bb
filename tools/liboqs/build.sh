#!/usr/bin/env bash
# Builds liboqs.so with the two ML-KEM and three ML-DSA sets into .tools/liboqs (about 15 s).
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/.tools/liboqs
[ -e "$out/lib/liboqs.so" ] && exit 0
work=$PWD/.build/liboqs
mkdir -p "$work"
(cd tools/liboqs && cargo vendor -q --locked "$work/vendor" >/dev/null)
cmake -GNinja -S "$work/vendor/oqs-sys/liboqs" -B "$work/b" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
  -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DOQS_BUILD_ONLY_LIB=ON -DOQS_DIST_BUILD=ON -DOQS_USE_OPENSSL=OFF \
  -DCMAKE_INSTALL_PREFIX="$out" -DCMAKE_INSTALL_LIBDIR=lib \
  -DOQS_MINIMAL_BUILD="KEM_ml_kem_768;KEM_ml_kem_1024;SIG_ml_dsa_44;SIG_ml_dsa_65;SIG_ml_dsa_87" >"$work/log" 2>&1
{ cmake --build "$work/b" && cmake --install "$work/b"; } >>"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
cc -O2 -fPIC -shared -fvisibility=hidden -I"$out/include" tools/liboqs/shim.c \
  -Wl,--whole-archive "$out/lib/liboqs.a" -Wl,--no-whole-archive -Wl,-soname,liboqs.so.7 \
  -Wl,-z,relro,-z,now,-z,noexecstack -lpthread -o "$out/lib/liboqs.so.partial"
mv "$out/lib/liboqs.so.partial" "$out/lib/liboqs.so"
