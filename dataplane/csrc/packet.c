/* The inner packet. It comes from an authenticated peer, or from this host, and is trusted in neither case. */
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>

#include "internal.h"

enum { ECHO4_REQUEST = 8, ECHO4_REPLY = 0, ECHO6_REQUEST = 128, ECHO6_REPLY = 129 };
enum { EXTENSIONS_MAX = 8 };
enum { ICMP4_ERROR_MAX = 576, ICMP6_ERROR_MAX = 1280 };

static bool icmp_is_error(uint8_t protocol, uint8_t type) {
  return protocol == IPPROTO_ICMP ? type == 3 || type == 11 || type == 12 : type >= 1 && type <= 4;
}

static bool parse_icmp(const uint8_t *l4, size_t len, packet *p) {
  if (len < 8 || (p->family == 4) != (p->protocol == IPPROTO_ICMP)) return false;
  p->icmp_type = l4[0];
  p->icmp_error = icmp_is_error(p->protocol, l4[0]);
  p->echo_request = l4[0] == (p->family == 4 ? ECHO4_REQUEST : ECHO6_REQUEST);
  p->echo_reply = l4[0] == (p->family == 4 ? ECHO4_REPLY : ECHO6_REPLY);
  if (p->icmp_error) {
    p->embedded = l4 + 8;
    p->embedded_len = len - 8;
  }
  if (p->echo_request || p->echo_reply) p->src_port = p->dst_port = get16(l4 + 4);
  return true;
}

/* Ports, or the echo id as both. `len` is what is really there behind the IP header. */
static bool parse_transport(const uint8_t *l4, size_t len, packet *p, bool quoted) {
  if (p->fragment && !p->first_fragment) return true;
  switch (p->protocol) {
    case IPPROTO_TCP:
      if (len < (quoted ? 8u : 20u)) return false;
      p->src_port = get16(l4), p->dst_port = get16(l4 + 2);
      if (quoted) return true;
      p->l4_header = (uint16_t)((l4[12] >> 4) * 4);
      p->tcp_flags = l4[13];
      return p->l4_header >= 20 && p->l4_header <= len;
    case IPPROTO_UDP:
      if (len < 8) return false;
      p->src_port = get16(l4), p->dst_port = get16(l4 + 2);
      p->l4_header = 8;
      return true;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6: return parse_icmp(l4, len, p);
    default: return true;
  }
}

/* A source route (RFC 791) would lead the packet to an address that nobody judged. */
static bool options4_are_harmless(const uint8_t *options, size_t len) {
  while (len > 0) {
    if (options[0] == IPOPT_EOL) return true;
    size_t size = 1;
    if (options[0] != IPOPT_NOP) {
      if (len < 2 || options[1] < 2 || options[1] > len) return false;
      if (options[0] == IPOPT_LSRR || options[0] == IPOPT_SSRR) return false;
      size = options[1];
    }
    options += size;
    len -= size;
  }
  return true;
}

static bool parse4(const uint8_t *d, size_t len, packet *p, bool quoted) {
  if (len < 20) return false;
  size_t header = (size_t)(d[0] & 15) * 4, total = get16(d + 2);
  if (header < 20 || header > len || total < header || (!quoted && total != len)) return false;
  if (!options4_are_harmless(d + 20, header - 20)) return false;
  uint16_t offset = get16(d + 6);
  p->family = 4, p->protocol = d[9], p->src = d + 12, p->dst = d + 16, p->l4 = (uint16_t)header;
  p->fragment = (offset & 0x3fff) != 0, p->first_fragment = (offset & 0x1fff) == 0, p->fragment_id = get16(d + 4);
  p->fragment_start = (offset & 0x1fffu) * 8;
  p->fragment_end = p->fragment_start + (uint32_t)(total - header);
  if (p->fragment_end + header > PACKET_MAX) return false;
  /* RFC 3128: a later fragment must not write over the TCP header that was judged. */
  if (p->fragment && !p->first_fragment && p->protocol == IPPROTO_TCP && (offset & 0x1fff) < 3) return false;
  if (total < len) len = total;
  return parse_transport(d + header, len - header, p, quoted);
}

static bool is_extension(uint8_t header) {
  return header == IPPROTO_HOPOPTS || header == IPPROTO_DSTOPTS || header == IPPROTO_ROUTING ||
         header == IPPROTO_FRAGMENT;
}

/* `header` with all that follows it. A fragment has one such header (RFC 8200 section 4.5). */
static bool parse_fragment6(const uint8_t *header, size_t len, packet *p) {
  if (p->fragment) return false;
  p->fragment = true;
  p->fragment_start = get16(header + 2) & 0xfff8u;
  p->fragment_end = p->fragment_start + (uint32_t)(len - 8);
  p->first_fragment = p->fragment_start == 0;
  p->fragment_id = get32(header + 4);
  return p->fragment_end <= PACKET_MAX;
}

/* RFC 8200: hop-by-hop options stand first. A routing header is refused, because the packet would go on to an address
 * that nobody judged; so is a chain that is longer than any sender makes, because its end is not looked at. */
static bool parse6(const uint8_t *d, size_t len, packet *p, bool quoted) {
  if (len < 40) return false;
  size_t total = 40 + (size_t)get16(d + 4), at = 40;
  if (!quoted && total != len) return false;
  p->family = 6, p->src = d + 8, p->dst = d + 24;
  p->protocol = d[6];
  for (int depth = 0; is_extension(p->protocol); depth++) {
    if (at + 8 > len || depth == EXTENSIONS_MAX) return false;
    size_t size = p->protocol == IPPROTO_FRAGMENT ? 8 : (size_t)(d[at + 1] + 1) * 8;
    if (p->protocol == IPPROTO_ROUTING || at + size > len) return false;
    if (p->protocol == IPPROTO_HOPOPTS && depth > 0) return false;
    if (p->protocol == IPPROTO_FRAGMENT && !parse_fragment6(d + at, len - at, p)) return false;
    p->protocol = d[at];
    at += size;
    if (p->fragment && !p->first_fragment) break; /* what follows is payload, whatever it looks like */
  }
  p->l4 = (uint16_t)at;
  return parse_transport(d + at, len - at, p, quoted);
}

static bool parse(const uint8_t *data, size_t len, packet *out, bool quoted) {
  memset(out, 0, sizeof *out);
  if (len == 0 || len > PACKET_MAX) return false;
  if (data[0] >> 4 == 4) return parse4(data, len, out, quoted);
  return data[0] >> 4 == 6 && parse6(data, len, out, quoted);
}

bool packet_parse(const uint8_t *data, size_t len, packet *out) {
  return parse(data, len, out, false);
}

bool packet_parse_embedded(const packet *outer, packet *out) {
  return parse(outer->embedded, outer->embedded_len, out, true);
}

/* RFC 1071, `sum` being what was added before. */
uint16_t checksum(const uint8_t *data, size_t len, uint32_t sum) {
  uint64_t total = sum;
  while (len > 1) total += get16(data), data += 2, len -= 2;
  if (len == 1) total += (uint64_t)data[0] << 8;
  while (total >> 16) total = (total & 0xffff) + (total >> 16);
  return (uint16_t)~total;
}

uint32_t pseudo_sum(uint8_t family, const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t l4_len) {
  uint32_t sum = protocol + (l4_len >> 16) + (l4_len & 0xffff);
  size_t width = family == 4 ? 4 : 16;
  for (size_t i = 0; i < width; i += 2) sum += (uint32_t)get16(src + i) + get16(dst + i);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

void packet_set_udp_length(uint8_t *ip, size_t l4, size_t len) {
  uint8_t family = ip[0] >> 4, *udp = ip + l4;
  uint32_t udp_len = (uint32_t)(len - l4);
  if (family == 4)
    put16(ip + 2, (uint32_t)len), put16(ip + 10, 0), put16(ip + 10, checksum(ip, l4, 0));
  else
    put16(ip + 4, (uint32_t)len - 40);
  put16(udp + 4, udp_len);
  put16(udp + 6, pseudo_sum(family, ip + (family == 4 ? 12 : 8), ip + (family == 4 ? 16 : 24), IPPROTO_UDP, udp_len));
}

volume volume_of(const struct virtio_net_hdr *vnet, size_t len, const packet *p) {
  size_t headers = (size_t)p->l4 + p->l4_header, size = vnet->gso_size;
  bool super = (vnet->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) != VIRTIO_NET_HDR_GSO_NONE && size > 0 && headers < len;
  if (likely(!super)) return (volume){1, len};
  size_t packets = (len - headers + size - 1) / size;
  return (volume){packets, len + (packets - 1) * headers};
}

uint8_t packet_ecn(const uint8_t *ip) {
  return (ip[0] >> 4 == 4 ? ip[1] : ip[1] >> 4) & 3;
}

bool packet_set_congestion(uint8_t *ip, size_t len, uint8_t outer) {
  if (outer != ECN_CE && outer != ECN_ECT1) return true;
  size_t header = (size_t)(ip[0] & 15) * 4;
  bool ipv4 = len >= 20 && ip[0] >> 4 == 4 && header >= 20 && header <= len;
  if (!ipv4 && !(len >= 40 && ip[0] >> 4 == 6)) return true; /* no packet: its parser will say so */
  uint8_t inner_ecn = packet_ecn(ip);
  if (inner_ecn == ECN_NONE) return outer != ECN_CE;
  if (outer == ECN_ECT1 && inner_ecn != ECN_ECT0) return true;
  uint8_t shift = ipv4 ? 0 : 4;
  ip[1] = (uint8_t)((ip[1] & ~(3 << shift)) | outer << shift);
  if (ipv4) put16(ip + 10, 0), put16(ip + 10, checksum(ip, header, 0));
  return true;
}

/* Writes an IP header from `src` to p's source. */
static size_t reply_header(const packet *p, const uint8_t *src, uint8_t protocol, size_t payload, uint8_t *out) {
  if (p->family == 4) {
    memset(out, 0, 20);
    out[0] = 0x45, out[8] = 64, out[9] = protocol;
    put16(out + 2, (uint32_t)(20 + payload));
    memcpy(out + 12, src, 4), memcpy(out + 16, p->src, 4);
    put16(out + 10, checksum(out, 20, 0));
    return 20;
  }
  memset(out, 0, 40);
  out[0] = 0x60, out[6] = protocol, out[7] = 64;
  put16(out + 4, (uint32_t)payload);
  memcpy(out + 8, src, 16), memcpy(out + 24, p->src, 16);
  return 40;
}

/* RFC 9293 §3.10.7.1: the reset of a segment that meets no connection. */
static size_t reject_tcp(const uint8_t *data, size_t len, const packet *p, uint8_t *out) {
  const uint8_t *in = data + p->l4;
  if (p->tcp_flags & TH_RST) return 0;
  size_t ip = reply_header(p, p->dst, IPPROTO_TCP, 20, out);
  uint8_t *tcp = out + ip;
  memset(tcp, 0, 20);
  put16(tcp, p->dst_port), put16(tcp + 2, p->src_port);
  tcp[12] = 5 << 4;
  if (p->tcp_flags & TH_ACK) {
    memcpy(tcp + 4, in + 8, 4), tcp[13] = TH_RST;
  } else {
    size_t consumed = len - p->l4 - p->l4_header + ((p->tcp_flags & TH_SYN) != 0) + ((p->tcp_flags & TH_FIN) != 0);
    put32(tcp + 8, get32(in + 4) + (uint32_t)consumed), tcp[13] = TH_RST | TH_ACK;
  }
  put16(tcp + 16, checksum(tcp, 20, pseudo_sum(p->family, p->dst, p->src, IPPROTO_TCP, 20)));
  return ip + 20;
}

static size_t icmp_error(const uint8_t *data, size_t len, const packet *p, const uint8_t *src, uint8_t type,
                         uint8_t code, uint32_t mtu, uint8_t *out) {
  size_t quote = len < 128 ? len : 128;
  uint8_t protocol = p->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
  size_t ip = reply_header(p, src, protocol, 8 + quote, out);
  uint8_t *icmp = out + ip;
  memset(icmp, 0, 8);
  icmp[0] = type, icmp[1] = code;
  put32(icmp + 4, mtu);
  memcpy(icmp + 8, data, quote);
  uint32_t sum = p->family == 4 ? 0 : pseudo_sum(6, src, p->src, protocol, (uint32_t)(8 + quote));
  put16(icmp + 2, checksum(icmp, 8 + quote, sum));
  return ip + 8 + quote;
}

static bool may_answer(const packet *p, size_t cap) {
  return cap >= 128 + 48 && !p->fragment && !p->icmp_error;
}

size_t packet_reject(const uint8_t *data, size_t len, const packet *p, uint8_t *out, size_t cap) {
  if (!may_answer(p, cap)) return 0;
  if (p->protocol == IPPROTO_TCP) return reject_tcp(data, len, p, out);
  /* Destination unreachable, communication administratively prohibited (RFC 1812, RFC 4443). */
  return p->family == 4 ? icmp_error(data, len, p, p->dst, 3, 13, 0, out)
                        : icmp_error(data, len, p, p->dst, 1, 1, 0, out);
}

size_t packet_expired(const uint8_t *data, size_t len, const packet *p, const uint8_t *router, uint8_t *out,
                      size_t cap) {
  return may_answer(p, cap) ? icmp_error(data, len, p, router, p->family == 4 ? 11 : 3, 0, 0, out) : 0;
}

size_t packet_too_big(const uint8_t *data, size_t len, const packet *p, size_t mtu, uint8_t *out, size_t cap) {
  if (!may_answer(p, cap)) return 0;
  return p->family == 4 ? icmp_error(data, len, p, p->dst, 3, 4, (uint32_t)mtu, out)
                        : icmp_error(data, len, p, p->dst, 2, 0, (uint32_t)mtu, out);
}

/* `change` is the sum of ~old + new over the 16-bit words that were replaced (RFC 1624): what was wrong stays wrong. */
static void adjust_checksum(uint8_t *at, uint64_t change) {
  uint64_t sum = (uint16_t)~get16(at) + change;
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  put16(at, (uint16_t)~sum);
}

static uint32_t replace16(uint8_t *at, uint16_t fresh) {
  uint32_t change = (uint32_t)(uint16_t)~get16(at) + fresh;
  put16(at, fresh);
  return change;
}

/* RFC 4884: what follows the quotation is cut off, so nothing may say how long the quotation is. */
static uint32_t forget_extensions(uint8_t *icmp, uint8_t family) {
  if (family == 4) return replace16(icmp + 4, (uint16_t)(icmp[4] << 8));
  bool has_length = icmp[0] == ICMP6_DST_UNREACH || icmp[0] == ICMP6_TIME_EXCEEDED;
  return has_length ? replace16(icmp + 4, icmp[5]) : 0;
}

size_t packet_shorten_error(uint8_t *data, size_t len, packet *p) {
  size_t most = p->family == 4 ? ICMP4_ERROR_MAX : ICMP6_ERROR_MAX;
  if (likely(len <= most)) return len;
  if (p->l4 + 8u > most) return 0;
  uint8_t *icmp = data + p->l4;
  uint64_t change = forget_extensions(icmp, p->family);
  for (size_t at = most; at < len; at += 2) change += (uint16_t)~(at + 1 < len ? get16(data + at) : data[at] << 8);
  if (p->family == 4) {
    adjust_checksum(data + 10, replace16(data + 2, (uint16_t)most));
  } else {
    put16(data + 4, (uint32_t)most - 40);
    change += (uint32_t)(uint16_t)~(len - p->l4) + (uint32_t)(most - p->l4);
  }
  adjust_checksum(icmp + 2, change);
  p->embedded_len -= len - most;
  return most;
}

bool packet_spend_hop(uint8_t *ip) {
  uint8_t *hops = ip[0] >> 4 == 4 ? ip + 8 : ip + 7;
  if (*hops <= 1) return false;
  --*hops;
  if (hops == ip + 7) return true;
  uint32_t sum = (uint32_t)get16(ip + 10) + 0x100; /* RFC 1141: what the checksum's complement loses, it gains */
  put16(ip + 10, sum + (sum >> 16));
  return true;
}
