/* The keys of the drivers' sessions: the same for each, both ways, without an end. */
#ifndef KEYS_H
#define KEYS_H
#include "internal.h"

static const uint8_t key[KEY_LEN] = {1, 2, 3}, iv[IV_LEN] = {4, 5, 6};

/* Returns what kdp_keys_install does: 1 when it is in place. */
static inline int install_key(kdp_engine *e, uint32_t index, uint32_t epoch, bool transmit) {
  kdp_key k = {.not_after_ms = KDP_NEVER, .session = index, .epoch = epoch, .transmit = transmit};
  memcpy(k.key, key, sizeof key), memcpy(k.iv, iv, sizeof iv);
  return kdp_keys_install(e, &k, 1);
}
#endif
