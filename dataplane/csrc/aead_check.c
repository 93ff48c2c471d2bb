/* The self-test of an AEAD library, before its first key: it makes one known ciphertext and tag, and refuses what is wrong
 * in one way each. The wrong tags are those that an implementation with one fault in it would make, and so accept;
 * tests/gcm.py makes them and gives the sentence of SP 800-38D that each fault breaks. */
#include "internal.h"

enum { PLAIN_LEN = 45, HIDDEN = 0xa5 };

static const char cipher[] =
    "\xe2\xb8\xac\x20\x22\x39\x81\x04\xc5\xcd\x1d\x3d\x97\x69\x1d"
    "\x54\x69\xd7\x40\x4f\xa3\x20\x19\x34\x6f\x5e\x54\xfe\x8b\x0e"
    "\xf3\xc4\xb8\x29\xd1\x8f\xfa\x9c\xf9\x73\x09\xdd\x21\x44\xbd";
static const char tag[] = "\xec\x3d\xc5\xc4\x07\xf1\xfd\xf6\x53\x4a\x53\x80\x88\x6f\x93\x13";

static const struct {
  const char *name, *tag;
} flaws[] = {
    {"no-lengths", "\x9c\x6d\x3b\x1c\x91\x1b\xf3\x04\xd0\x4f\x4c\xce\x8f\xb9\x6d\x3b"},
    {"lengths-in-bytes", "\x66\xeb\x4e\xfd\x9a\xfc\xea\xd0\x94\x2c\x72\x48\x95\x4a\xf1\x53"},
    {"no-aad", "\x54\x75\x0c\xdc\xad\xf0\xd1\x22\x71\x8c\xa8\xf0\xb3\xef\xbe\x61"},
    {"ciphertext-before-aad", "\xfc\x40\x97\xca\x40\x40\xad\xd4\x3e\xaa\xa4\x98\xcf\x13\xca\x37"},
    {"no-ciphertext", "\x9f\x9e\x68\xa4\x5f\xc2\x65\x01\x0f\x9a\x7a\x73\x3e\x32\x29\x80"},
    {"plaintext-hashed", "\xd4\x83\xeb\x1f\x8f\xe1\x04\xa5\xac\x6c\x1d\xc4\x38\x26\xe6\x4e"},
    {"bare-hash", "\x25\x8e\x07\xfa\xb9\x3c\x94\x32\x91\x92\x28\x42\xf6\x8c\xdb\x03"},
    {"tag-under-second-counter", "\xc7\x37\xa9\xd9\x9f\x00\x13\x31\x5c\x56\x3f\x74\x6d\xe8\xc8\x58"},
    {"counter-from-zero", "\x62\xd7\xec\x5c\x9d\x6e\x07\x76\x1d\x79\xbf\x47\x4c\x2b\xce\x3a"},
    {"hash-key-of-iv", "\x07\x49\x42\x88\x50\xd0\x4c\xf0\x9a\x72\x08\x9a\x14\xac\xca\xbf"},
};

typedef struct {
  uint8_t key[KEY_LEN], iv[IV_LEN], aad[HEADER_LEN], sealed[PLAIN_LEN + TAG_LEN];
  uint64_t counter;
  size_t len; /* of the ciphertext */
} message;

static void count_up(uint8_t *out, size_t len, uint8_t from) {
  for (size_t i = 0; i < len; i++) out[i] = (uint8_t)(from + i);
}

static message known_message(void) {
  message m = {.len = PLAIN_LEN};
  count_up(m.key, KEY_LEN, 0), count_up(m.iv, IV_LEN, 64), count_up(m.aad, HEADER_LEN, 128);
  memcpy(m.sealed, cipher, PLAIN_LEN), memcpy(m.sealed + PLAIN_LEN, tag, TAG_LEN);
  return m;
}

/* Opened and as it should be, or refused and nothing left of it. */
static bool opens(aead_key *k, const message *m, bool authentic) {
  uint8_t plain[PLAIN_LEN + TAG_LEN], expected[PLAIN_LEN];
  memset(plain, HIDDEN, sizeof plain);
  if (aead_open(k, m->counter, m->aad, m->sealed, m->len, plain) != authentic) return false;
  count_up(expected, PLAIN_LEN, 0);
  if (!authentic) memset(expected, 0, sizeof expected);
  return memcmp(plain, expected, m->len) == 0;
}

/* Each bit of the tag, the ciphertext and the header, and what else a datagram could be changed in. */
static const char *refuses_changes(aead_key *k) {
  message m = known_message();
  for (size_t bit = 0; bit < sizeof m.sealed * 8; bit++) {
    m.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    if (!opens(k, &m, false)) return bit < PLAIN_LEN * 8 ? "accepts a changed ciphertext" : "accepts a wrong tag";
    m.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
  }
  for (size_t bit = 0; bit < sizeof m.aad * 8; bit++) {
    m.aad[bit / 8] ^= (uint8_t)(1 << bit % 8);
    if (!opens(k, &m, false)) return "accepts changed associated data";
    m.aad[bit / 8] ^= (uint8_t)(1 << bit % 8);
  }
  for (size_t bit = 0; bit < 64; bit++) {
    m.counter = 1ull << bit;
    if (!opens(k, &m, false)) return "accepts another IV";
  }
  m.counter = 0;
  for (size_t kept = 0; kept < TAG_LEN; kept++) { /* SP 800-38D, 7.2 step 1: len(T) is t */
    memset(m.sealed + PLAIN_LEN + kept, 0, TAG_LEN - kept);
    if (!opens(k, &m, false)) return "accepts a truncated tag";
    memcpy(m.sealed + PLAIN_LEN, tag, TAG_LEN);
  }
  memcpy(m.sealed + PLAIN_LEN - 1, tag, TAG_LEN);
  m.len = PLAIN_LEN - 1;
  return opens(k, &m, false) ? NULL : "accepts a truncated ciphertext";
}

static const char *check_key(aead_key *k) {
  message m = known_message();
  uint8_t sealed[PLAIN_LEN + TAG_LEN];
  count_up(sealed, PLAIN_LEN, 0);
  aead_seal(k, 0, m.aad, sealed, PLAIN_LEN, sealed);
  if (memcmp(sealed, m.sealed, sizeof sealed) != 0) return "seals wrongly";
  if (!opens(k, &m, true)) return "opens wrongly";
  for (size_t i = 0; i < sizeof flaws / sizeof *flaws; i++) {
    memcpy(m.sealed + PLAIN_LEN, flaws[i].tag, TAG_LEN);
    if (!opens(k, &m, false)) return flaws[i].name;
  }
  return refuses_changes(k);
}

const char *aead_check(void) {
  message m = known_message();
  aead_key *k = aead_key_new(m.key, m.iv);
  const char *fault = k == NULL ? "makes no key" : check_key(k);
  aead_key_free(k);
  return fault;
}
