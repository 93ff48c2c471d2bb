/* From one VNI into another: each address gets the name it has on the other side, and every checksum that covers it
 * follows by difference (RFC 1624), so that a packet that came damaged stays damaged. Host bits are kept: 1:1. */
#include "internal.h"

/* Replaces bytes; `change` gathers the sum of ~old + new over their 16-bit words. */
static void replace(uint8_t *at, const uint8_t *fresh, size_t len, uint32_t *change) {
  for (size_t i = 0; i < len; i += 2) *change += (uint32_t)(uint16_t)~get16(at + i) + get16(fresh + i);
  memcpy(at, fresh, len);
}

/* Adds `difference` to the checksum at `at`. partial: the kernel left the sum of the pseudo header there, not inverted. */
static void adjust(uint8_t *at, uint32_t difference, bool partial, bool udp, uint32_t *change) {
  uint32_t sum = difference + (partial ? get16(at) : (uint16_t)~get16(at));
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  uint16_t field = (uint16_t)(partial ? sum : ~sum);
  if (udp && !partial && field == 0) field = 0xffff; /* 0 says that there is none */
  uint8_t fresh[2];
  put16(fresh, field);
  replace(at, fresh, 2, change);
}

/* Where the checksum that covers the addresses stands in the transport header. 0: there is none. */
static size_t checksum_at(const packet *p) {
  if (p->fragment && !p->first_fragment) return 0;
  switch (p->protocol) {
    case IPPROTO_TCP: return 16;
    case IPPROTO_UDP: return 6;
    case IPPROTO_ICMPV6: return p->family == 6 ? 2 : 0;
    default: return 0;
  }
}

/* New addresses for the packet at `ip`, of which `len` bytes are there. Returns the change to whatever sum covers it. */
static uint32_t readdress(uint8_t *ip, size_t len, const packet *p, const uint8_t *src, const uint8_t *dst,
                          bool partial) {
  size_t width = p->family == 4 ? 4 : 16, first = p->family == 4 ? 12 : 8, field = checksum_at(p);
  uint32_t addresses = 0, change = 0;
  replace(ip + first, src, width, &addresses);
  replace(ip + first + width, dst, width, &addresses);
  change = addresses;
  if (p->family == 4) adjust(ip + 10, addresses, false, false, &change);
  if (field == 0 || p->l4 + field + 2 > len) return change; /* a quotation may end before it */
  bool udp = p->protocol == IPPROTO_UDP;
  uint8_t *at = ip + p->l4 + field;
  if (udp && !partial && get16(at) == 0) return change;
  adjust(at, addresses, partial, udp, &change);
  return change;
}

static bool holds(const uint8_t *prefix, uint8_t bits, const uint8_t *addr) {
  int whole = bits / 8, rest = bits % 8;
  if (memcmp(prefix, addr, (size_t)whole) != 0) return false;
  return rest == 0 || ((prefix[whole] ^ addr[whole]) >> (8 - rest)) == 0;
}

static void rename(const uint8_t *prefix, uint8_t bits, const uint8_t *addr, uint8_t family, uint8_t out[16]) {
  memcpy(out, addr, family == 4 ? 4 : 16);
  memcpy(out, prefix, bits / 8);
  if (bits % 8 == 0) return;
  uint8_t kept = (uint8_t)(0xff >> (bits % 8));
  out[bits / 8] = (uint8_t)((prefix[bits / 8] & ~kept) | (addr[bits / 8] & kept));
}

/* An address of `to` as packets in `from` name it, by its own name. The longest prefix counts, as it does for the route. */
static bool arriving(const vni *from, const vni *to, uint8_t family, const uint8_t *addr, uint8_t out[16]) {
  const mapping *longest = NULL;
  for (size_t i = 0; i < from->mapping_count; i++) {
    const mapping *m = &from->mappings[i];
    if (m->to != to->id || m->family != family || !holds(m->seen, m->bits, addr)) continue;
    if (longest == NULL || m->bits > longest->bits) longest = m;
  }
  if (longest != NULL) rename(longest->real, longest->bits, addr, family, out);
  return longest != NULL;
}

/* An address of `from`, as `to` names it. */
static bool leaving(const vni *from, const vni *to, uint8_t family, const uint8_t *addr, uint8_t out[16]) {
  const mapping *longest = NULL;
  for (size_t i = 0; i < to->mapping_count; i++) {
    const mapping *m = &to->mappings[i];
    if (m->to != from->id || m->family != family || !holds(m->real, m->bits, addr)) continue;
    if (longest == NULL || m->bits > longest->bits) longest = m;
  }
  if (longest != NULL) rename(longest->seen, longest->bits, addr, family, out);
  return longest != NULL;
}

/* The packet an ICMP error is about went the other way, so its ends are named the other way round. `about`: its
 * destination's name, for the router on its way that has none of its own. Returns the change to the error's checksum. */
static bool translate_quoted(const vni *from, const vni *to, uint8_t *data, const packet *error, uint8_t about[16],
                             uint32_t *change) {
  packet quoted;
  uint8_t src[16];
  if (!packet_parse_embedded(error, &quoted)) return false;
  if (!arriving(from, to, quoted.family, quoted.src, src) || !leaving(from, to, quoted.family, quoted.dst, about))
    return false;
  *change = readdress(data + (error->embedded - data), error->embedded_len, &quoted, src, about, false);
  return quoted.family == error->family;
}

bool translate(const vni *from, const vni *to, const struct virtio_net_hdr *vnet, uint8_t *data, size_t len,
               const packet *p) {
  uint8_t src[16], dst[16], about[16];
  uint32_t inside = 0, unused = 0;
  if (!arriving(from, to, p->family, p->dst, dst)) return false;
  bool named = leaving(from, to, p->family, p->src, src);
  if (p->icmp_error) {
    if (!translate_quoted(from, to, data, p, about, &inside)) return false;
    if (!named) memcpy(src, about, 16), named = true;
    adjust(data + p->l4 + 2, inside, false, false, &unused);
  }
  if (!named) return false;
  bool partial = (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 && vnet->csum_start == p->l4;
  readdress(data, len, p, src, dst, partial);
  return true;
}
