// liboqs-python 0.16 asks for one function that liboqs 0.13 does not export. This is that function.
#include <oqs/oqs.h>

OQS_API bool OQS_SIG_supports_ctx_str(const char *alg_name) {
  OQS_SIG *sig = OQS_SIG_new(alg_name);
  bool supported = sig != NULL && sig->sig_with_ctx_support;
  OQS_SIG_free(sig);
  return supported;
}
