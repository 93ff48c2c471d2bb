/* The FIB against a list that is searched from end to end. */
#include "fuzz.h"

enum { ENTRIES = 64 };

typedef struct {
  bool used;
  uint8_t family, bits, prefix[16];
  uint32_t next_hop;
} route;

static bool matches(const route *r, uint8_t family, const uint8_t *addr, uint8_t bits) {
  if (!r->used || r->family != family) return false;
  for (uint8_t i = 0; i < bits; i++)
    if ((r->prefix[i / 8] ^ addr[i / 8]) >> (7 - i % 8) & 1) return false;
  return true;
}

static route *exact(route *routes, uint8_t family, const uint8_t *prefix, uint8_t bits) {
  for (int i = 0; i < ENTRIES; i++)
    if (routes[i].bits == bits && matches(&routes[i], family, prefix, bits)) return &routes[i];
  return NULL;
}

static const route *longest(const route *routes, uint8_t family, const uint8_t *addr) {
  const route *best = NULL;
  for (int i = 0; i < ENTRIES; i++)
    if (matches(&routes[i], family, addr, routes[i].bits) && (best == NULL || routes[i].bits > best->bits))
      best = &routes[i];
  return best;
}

static void set(fib *f, route *routes, uint8_t family, const uint8_t *prefix, uint8_t bits, uint32_t next_hop) {
  route *r = exact(routes, family, prefix, bits);
  for (int i = 0; r == NULL && i < ENTRIES; i++)
    if (!routes[i].used) r = &routes[i];
  if (r == NULL) return;
  require(fib_set(f, family, prefix, bits, next_hop) == 0, "a route that is not taken");
  *r = (route){.used = true, .family = family, .bits = bits, .next_hop = next_hop};
  memcpy(r->prefix, prefix, sizeof r->prefix);
}

static void change_routes(fib *f, route *routes, input *in) {
  uint8_t family = any(in, 2) ? 6 : 4, bits = (uint8_t)any(in, family == 4 ? 33 : 129), prefix[16];
  for (size_t i = 0; i < sizeof prefix; i++) prefix[i] = i < 4 ? (uint8_t)any(in, 256) : (uint8_t)any(in, 2);
  uint32_t next_hop = any(in, 8), found = UINT32_MAX;
  switch (any(in, 5)) {
    case 0:
    case 1: set(f, routes, family, prefix, bits, next_hop); break;
    case 2: {
      route *r = exact(routes, family, prefix, bits);
      require(fib_unset(f, family, prefix, bits) == (r == NULL ? -ENOENT : 0), "a route removed that is not there");
      if (r != NULL) r->used = false;
      break;
    }
    case 3: {
      route *r = exact(routes, family, prefix, bits);
      fib_unset_hop(f, family, prefix, bits, next_hop);
      if (r != NULL && r->next_hop == next_hop) r->used = false;
      break;
    }
    default: require(fib_set(f, 5, prefix, bits, 1) == -EINVAL && fib_set(f, 4, prefix, 33, 1) == -EINVAL, "no prefix");
  }
  const route *r = longest(routes, family, prefix);
  require(fib_find(f, family, prefix, &found) == (r != NULL), "a route found that is not there, or the reverse");
  require(r == NULL || r->next_hop == found, "not the longest prefix");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  route routes[ENTRIES] = {0};
  fib *f = fib_new();
  while (in.left > 0) change_routes(f, routes, &in);
  fib_free(f);
  return 0;
}
