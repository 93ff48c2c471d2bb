/* Longest-prefix match: one open-addressed hash of (family, bits, prefix), tried from the longest length in use to the
 * shortest. VNIs hold few lengths (hosts, subnets, default), so a lookup costs two or three probes. */
#include <stdlib.h>

#include "internal.h"

typedef struct {
  uint8_t used, family, bits;
  uint8_t prefix[16];
  uint32_t next_hop;
} entry;

struct fib {
  entry *entries;
  uint32_t capacity, filled;
  uint32_t lengths[2][129]; /* how many entries of each length: [0] IPv4, [1] IPv6 */
};

static void mask(const uint8_t *addr, uint8_t family, uint8_t bits, uint8_t out[16]) {
  memset(out, 0, 16);
  memcpy(out, addr, bits / 8);
  if (bits % 8 != 0) out[bits / 8] = addr[bits / 8] & (uint8_t)(0xff << (8 - bits % 8));
  (void)family;
}

static uint32_t hash_of(uint8_t family, uint8_t bits, const uint8_t prefix[16]) {
  uint64_t a, b;
  memcpy(&a, prefix, 8), memcpy(&b, prefix + 8, 8);
  return (uint32_t)((a ^ (b * 0x9e3779b97f4a7c15ull) ^ ((uint64_t)family << 8 | bits)) * 0xff51afd7ed558ccdull >> 32);
}

/* Where that prefix is, or would be. */
static uint32_t slot_of(const fib *f, uint8_t family, uint8_t bits, const uint8_t prefix[16]) {
  uint32_t at = hash_of(family, bits, prefix) & (f->capacity - 1);
  while (f->entries[at].used) {
    const entry *e = &f->entries[at];
    if (e->family == family && e->bits == bits && memcmp(e->prefix, prefix, 16) == 0) break;
    at = (at + 1) & (f->capacity - 1);
  }
  return at;
}

fib *fib_new(void) {
  fib *f = calloc(1, sizeof *f);
  if (f == NULL) return NULL;
  f->capacity = 16;
  f->entries = calloc(f->capacity, sizeof *f->entries);
  if (f->entries == NULL) free(f), f = NULL;
  return f;
}

void fib_free(fib *f) {
  if (f == NULL) return;
  free(f->entries);
  free(f);
}

static int grow(fib *f) {
  entry *old = f->entries;
  uint32_t old_capacity = f->capacity;
  entry *fresh = calloc((size_t)old_capacity * 2, sizeof *fresh);
  if (fresh == NULL) return -ENOMEM;
  f->entries = fresh, f->capacity = old_capacity * 2;
  for (uint32_t i = 0; i < old_capacity; i++)
    if (old[i].used) fresh[slot_of(f, old[i].family, old[i].bits, old[i].prefix)] = old[i];
  free(old);
  return 0;
}

static bool legal(uint8_t family, uint8_t bits) {
  return (family == 4 && bits <= 32) || (family == 6 && bits <= 128);
}

int fib_set(fib *f, uint8_t family, const uint8_t *prefix, uint8_t bits, uint32_t next_hop) {
  if (!legal(family, bits)) return -EINVAL;
  if (f->filled * 2 >= f->capacity && grow(f) != 0) return -ENOMEM;
  entry fresh = {.used = 1, .family = family, .bits = bits, .next_hop = next_hop};
  mask(prefix, family, bits, fresh.prefix);
  entry *e = &f->entries[slot_of(f, family, bits, fresh.prefix)];
  if (!e->used) f->filled++, f->lengths[family == 6][bits]++;
  *e = fresh;
  return 0;
}

/* Open addressing leaves no holes: each entry behind it that would not be found any more moves up. */
static void clear_slot(fib *f, uint32_t hole) {
  uint32_t last = f->capacity - 1;
  f->filled--;
  f->lengths[f->entries[hole].family == 6][f->entries[hole].bits]--;
  for (uint32_t at = (hole + 1) & last; f->entries[at].used; at = (at + 1) & last) {
    uint32_t home = hash_of(f->entries[at].family, f->entries[at].bits, f->entries[at].prefix) & last;
    if (((at - home) & last) < ((at - hole) & last)) continue;
    f->entries[hole] = f->entries[at], hole = at;
  }
  f->entries[hole].used = 0;
}

int fib_unset(fib *f, uint8_t family, const uint8_t *prefix, uint8_t bits) {
  uint8_t masked[16];
  if (!legal(family, bits)) return -EINVAL;
  mask(prefix, family, bits, masked);
  uint32_t at = slot_of(f, family, bits, masked);
  if (!f->entries[at].used) return -ENOENT;
  clear_slot(f, at);
  return 0;
}

void fib_unset_hop(fib *f, uint8_t family, const uint8_t *prefix, uint8_t bits, uint32_t next_hop) {
  uint8_t masked[16];
  mask(prefix, family, bits, masked);
  uint32_t at = slot_of(f, family, bits, masked);
  if (f->entries[at].used && f->entries[at].next_hop == next_hop) clear_slot(f, at);
}

bool fib_find(const fib *f, uint8_t family, const uint8_t *addr, uint32_t *next_hop) {
  int width = family == 4 ? 32 : 128;
  const uint32_t *lengths = f->lengths[family == 6];
  for (int bits = width; bits >= 0; bits--) {
    if (lengths[bits] == 0) continue;
    uint8_t masked[16];
    mask(addr, family, (uint8_t)bits, masked);
    const entry *e = &f->entries[slot_of(f, family, (uint8_t)bits, masked)];
    if (e->used) {
      *next_hop = e->next_hop;
      return true;
    }
  }
  return false;
}
