/* AES-256-GCM by the fastest library this machine has: ipsec-mb (loaded at run time, AES-NI and newer) or OpenSSL. */
#include <dlfcn.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

#if defined(__x86_64__) && __has_include(<intel-ipsec-mb.h>)
#define HAVE_IPSEC_MB 1
#include <intel-ipsec-mb.h>
static IMB_MGR *manager; /* loaded once and never given back: keys made with it may live longer than a choice */
static bool use_manager; /* for keys made from now on */
#else
#define HAVE_IPSEC_MB 0
#endif

struct aead_key {
  uint8_t iv[IV_LEN];
#if HAVE_IPSEC_MB
  struct gcm_key_data *schedule;
#endif
  /* OpenSSL keeps the nonce inside its context: one user at a time. */
  pthread_mutex_t lock;
  EVP_CIPHER_CTX *seal, *open;
};

const char *aead_library(void) {
#if HAVE_IPSEC_MB
  if (use_manager) return "ipsec-mb";
#endif
  return "openssl";
}

static char unused_reason[400]; /* of the library that would have been preferred */

const char *aead_unused_reason(void) {
  return unused_reason;
}

#if HAVE_IPSEC_MB
/* From now on keys are made with this library, if it passes its self-test. false: `why` tells. */
static bool use_library(void *library, const char *name, char *why, size_t why_len) {
  IMB_MGR *(*alloc)(uint64_t) = (IMB_MGR * (*)(uint64_t)) dlsym(library, "alloc_mb_mgr");
  void (*init)(IMB_MGR *, IMB_ARCH *) = (void (*)(IMB_MGR *, IMB_ARCH *))dlsym(library, "init_mb_mgr_auto");
  void (*release)(IMB_MGR *) = (void (*)(IMB_MGR *))dlsym(library, "free_mb_mgr");
  unsigned (*version)(void) = (unsigned (*)(void))dlsym(library, "imb_get_version");
  if (alloc == NULL || init == NULL || release == NULL || version == NULL) {
    snprintf(why, why_len, "%s lacks functions", name);
    return false;
  }
  unsigned found = version(), built_for = IMB_VERSION_NUM;
  if (found >> 16 != built_for >> 16) { /* the manager's layout belongs to a major version */
    snprintf(why, why_len, "%s is version %u, this build needs %u", name, found >> 16, built_for >> 16);
    return false;
  }
  manager = alloc(0);
  if (manager == NULL) {
    snprintf(why, why_len, "%s gets no memory", name);
    return false;
  }
  IMB_ARCH arch;
  init(manager, &arch);
  use_manager = (manager->features & IMB_FEATURE_AESNI) && manager->gcm256_enc != NULL;
  const char *fault = use_manager ? aead_check() : "this processor has no AES instructions";
  if (fault == NULL) return true;
  snprintf(why, why_len, "%s: %s", name, fault);
  release(manager);
  manager = NULL, use_manager = false;
  return false;
}

static bool open_ipsec_mb(const char *name, char *why, size_t why_len) {
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    snprintf(why, why_len, "%s", dlerror());
    return false;
  }
  if (use_library(library, name, why, why_len)) return true;
  dlclose(library);
  return false;
}

/* By any of its names, which have the major version in them. false: unused_reason tells why each was not taken. */
static bool find_ipsec_mb(void) {
  static const char *const names[] = {"libIPSec_MB.so.1", "libIPSec_MB.so.2"};
  size_t used = 0;
  use_manager = manager != NULL;
  for (size_t i = 0; i < sizeof names / sizeof *names && !use_manager; i++) {
    char why[180];
    if (open_ipsec_mb(names[i], why, sizeof why)) break;
    int n = snprintf(unused_reason + used, sizeof unused_reason - used, "%s%s", i == 0 ? "" : "; ", why);
    used += n > 0 ? (size_t)n : 0;
  }
  return use_manager;
}
#endif

/* Why ipsec-mb is not what is used is kept. */
static bool use_ipsec_mb(void) {
#if HAVE_IPSEC_MB
  if (find_ipsec_mb()) {
    unused_reason[0] = 0;
    return true;
  }
#else
  snprintf(unused_reason, sizeof unused_reason, "this build is without it");
#endif
  return false;
}

static bool use_openssl(void) {
#if HAVE_IPSEC_MB
  use_manager = false;
#endif
  const char *fault = aead_check();
  if (fault != NULL) snprintf(unused_reason, sizeof unused_reason, "OpenSSL: %s", fault);
  return fault == NULL;
}

int aead_open_library(const char *wanted, char *error, size_t error_len) {
  bool any = strcmp(wanted, "auto") == 0, ipsec_mb = any || strcmp(wanted, "ipsec-mb") == 0;
  bool openssl = any || strcmp(wanted, "openssl") == 0;
  unused_reason[0] = 0;
  if (ipsec_mb && use_ipsec_mb()) return 0;
  if (openssl && use_openssl()) return 0;
  snprintf(error, error_len, "AEAD library %s cannot be used: %s", wanted,
           ipsec_mb || openssl ? unused_reason : "the data plane knows ipsec-mb and openssl");
  return -ENOENT;
}

static EVP_CIPHER_CTX *openssl_context(const uint8_t *key, int encrypt) {
  EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
  if (c != NULL && EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, key, NULL, encrypt) == 1) return c;
  EVP_CIPHER_CTX_free(c);
  return NULL;
}

static bool schedule(aead_key *k, const uint8_t *key) {
#if HAVE_IPSEC_MB
  if (use_manager) {
    k->schedule = aligned_alloc(64, (sizeof *k->schedule + 63) / 64 * 64);
    if (k->schedule != NULL) IMB_AES256_GCM_PRE(manager, key, k->schedule);
    return k->schedule != NULL;
  }
#endif
  k->seal = openssl_context(key, 1);
  k->open = openssl_context(key, 0);
  return k->seal != NULL && k->open != NULL;
}

aead_key *aead_key_new(const uint8_t key[KEY_LEN], const uint8_t iv[IV_LEN]) {
  aead_key *k = calloc(1, sizeof *k);
  if (k == NULL) return NULL;
  memcpy(k->iv, iv, IV_LEN);
  pthread_mutex_init(&k->lock, NULL);
  if (schedule(k, key)) return k;
  aead_key_free(k);
  return NULL;
}

void aead_key_free(aead_key *k) {
  if (k == NULL) return;
#if HAVE_IPSEC_MB
  if (k->schedule != NULL) OPENSSL_cleanse(k->schedule, sizeof *k->schedule);
  free(k->schedule);
#endif
  EVP_CIPHER_CTX_free(k->seal); /* cleanses its key schedule */
  EVP_CIPHER_CTX_free(k->open);
  pthread_mutex_destroy(&k->lock);
  OPENSSL_cleanse(k, sizeof *k);
  free(k);
}

static void make_nonce(const aead_key *k, uint64_t counter, uint8_t nonce[IV_LEN]) {
  memcpy(nonce, k->iv, IV_LEN);
  put64(nonce + 4, get64(k->iv + 4) ^ counter);
}

void aead_seal(aead_key *k, uint64_t counter, const uint8_t *aad, const uint8_t *src, size_t len, uint8_t *dst) {
  uint8_t nonce[IV_LEN];
  make_nonce(k, counter, nonce);
#if HAVE_IPSEC_MB
  if (likely(k->schedule != NULL)) {
    struct gcm_context_data context;
    IMB_AES256_GCM_ENC(manager, k->schedule, &context, dst, src, len, nonce, aad, HEADER_LEN, dst + len, TAG_LEN);
    return;
  }
#endif
  int n = 0;
  pthread_mutex_lock(&k->lock);
  int ok = EVP_EncryptInit_ex(k->seal, NULL, NULL, NULL, nonce) == 1 &&
           EVP_EncryptUpdate(k->seal, NULL, &n, aad, HEADER_LEN) == 1 &&
           EVP_EncryptUpdate(k->seal, dst, &n, src, (int)len) == 1 && EVP_EncryptFinal_ex(k->seal, dst + n, &n) == 1 &&
           EVP_CIPHER_CTX_ctrl(k->seal, EVP_CTRL_GCM_GET_TAG, TAG_LEN, dst + len) == 1;
  pthread_mutex_unlock(&k->lock);
  if (unlikely(!ok)) OPENSSL_cleanse(dst, len + TAG_LEN); /* cannot fail; if it does, no plaintext leaves */
}

static bool openssl_open(aead_key *k, const uint8_t *nonce, const uint8_t *aad, const uint8_t *src, size_t len,
                         uint8_t *dst) {
  int n = 0;
  pthread_mutex_lock(&k->lock);
  bool authentic = EVP_DecryptInit_ex(k->open, NULL, NULL, NULL, nonce) == 1 &&
                   EVP_DecryptUpdate(k->open, NULL, &n, aad, HEADER_LEN) == 1 &&
                   EVP_DecryptUpdate(k->open, dst, &n, src, (int)len) == 1 &&
                   EVP_CIPHER_CTX_ctrl(k->open, EVP_CTRL_GCM_SET_TAG, TAG_LEN, (void *)(uintptr_t)(src + len)) == 1 &&
                   EVP_DecryptFinal_ex(k->open, dst + n, &n) == 1;
  pthread_mutex_unlock(&k->lock);
  return authentic;
}

bool aead_open(aead_key *k, uint64_t counter, const uint8_t *aad, const uint8_t *src, size_t len, uint8_t *dst) {
  uint8_t nonce[IV_LEN];
  bool authentic;
  make_nonce(k, counter, nonce);
#if HAVE_IPSEC_MB
  if (likely(k->schedule != NULL)) {
    struct gcm_context_data context;
    uint8_t tag[TAG_LEN];
    IMB_AES256_GCM_DEC(manager, k->schedule, &context, dst, src, len, nonce, aad, HEADER_LEN, tag, TAG_LEN);
    authentic = CRYPTO_memcmp(tag, src + len, TAG_LEN) == 0; /* the library computes the tag, it does not compare */
  } else
#endif
    authentic = openssl_open(k, nonce, aad, src, len, dst);
  if (unlikely(!authentic)) OPENSSL_cleanse(dst, len);
  return authentic;
}
