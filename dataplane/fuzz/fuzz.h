/* What the fuzz targets share: input read piece by piece, packets made of it, and checks that end the process. */
#ifndef FUZZ_H
#define FUZZ_H
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold. */
static inline void require(bool holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "fuzz: %s\n", what);
  abort();
}

typedef struct {
  const uint8_t *at;
  size_t left;
} input;

/* A number below `below`, of as many bytes of the input as it needs; 0 when there is none left. */
static inline uint32_t any(input *in, uint32_t below) {
  uint32_t value = 0;
  for (uint64_t reach = 1; reach < below && in->left > 0; reach <<= 8) value = value << 8 | *in->at++, in->left--;
  return below == 0 ? 0 : value % below;
}

/* The rest of the input in an allocation of its own, so that a read past it is a read past an allocation. */
static inline uint8_t *exact_copy(const uint8_t *data, size_t len) {
  uint8_t *copy = malloc(len + (len == 0));
  if (copy == NULL) exit(0);
  memcpy(copy, data, len);
  return copy;
}

/* Makes the length that an IP header tells the true one: most changes of an input break it, and little lies behind. */
static inline void fit_length(uint8_t *ip, size_t len) {
  if (len >= 20 && ip[0] >> 4 == 4) put16(ip + 2, (uint32_t)len);
  if (len >= 40 && ip[0] >> 4 == 6) put16(ip + 4, (uint32_t)len - 40);
}

/* The sum of what a transport checksum covers is 0xffff when the checksum is right (RFC 1071). This is its complement. */
static inline uint16_t transport_residue(const uint8_t *ip, size_t len, const packet *p) {
  bool plain = p->protocol == IPPROTO_ICMP;
  uint32_t pseudo = plain ? 0 : pseudo_sum(p->family, p->src, p->dst, p->protocol, (uint32_t)(len - p->l4));
  return checksum(ip + p->l4, len - p->l4, pseudo);
}

/* One's complement has two zeros. */
static inline bool same_sum(uint16_t a, uint16_t b) {
  return a == b || (a % 0xffff == 0 && b % 0xffff == 0);
}

static inline bool header_sum_is_right(const uint8_t *ip) {
  return ip[0] >> 4 == 6 || checksum(ip, (size_t)(ip[0] & 15) * 4, 0) == 0;
}
#endif
