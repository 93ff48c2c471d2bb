#!/usr/bin/env bash
# Builds liboqs.so with the ML-KEM and ML-DSA sets of the two suites into .tools/liboqs (about 15 s).
#
# ML-DSA is the portable C code: the AVX2 verifier of liboqs 0.13 does not check the norm of z (FIPS 204, Algorithm 8,
# line 13), so it accepts signatures that were made without the private key's rejection loop, and it refuses some valid ones.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/.tools/liboqs
work=$PWD/.build/liboqs
rm -rf "$work/b" # a second configuration in the same folder comes to other options than the first
mkdir -p "$work"
(cd tools/liboqs && cargo vendor -q --locked "$work/vendor" >/dev/null)
cmake -GNinja -S "$work/vendor/oqs-sys/liboqs" -B "$work/b" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
  -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DOQS_BUILD_ONLY_LIB=ON -DOQS_DIST_BUILD=ON -DOQS_USE_OPENSSL=OFF \
  -DCMAKE_INSTALL_PREFIX="$out" -DCMAKE_INSTALL_LIBDIR=lib \
  -DOQS_MINIMAL_BUILD="KEM_ml_kem_768;KEM_ml_kem_1024;SIG_ml_dsa_65;SIG_ml_dsa_87" \
  -DOQS_ENABLE_SIG_ml_dsa_65_avx2=OFF -DOQS_ENABLE_SIG_ml_dsa_87_avx2=OFF >"$work/log" 2>&1
{ cmake --build "$work/b" && cmake --install "$work/b"; } >>"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
cc -O2 -fPIC -shared -fvisibility=hidden -I"$out/include" tools/liboqs/shim.c \
  -Wl,--whole-archive "$out/lib/liboqs.a" -Wl,--no-whole-archive -Wl,-soname,liboqs.so.7 \
  -Wl,-z,relro,-z,now,-z,noexecstack -lpthread -o "$out/lib/liboqs.so.partial"
mv "$out/lib/liboqs.so.partial" "$out/lib/liboqs.so"
