/* Renaming between two VNIs that are joined: a packet that crosses, and whose answer crosses back, finds its sender under the
 * name it began with; a checksum is as right or as wrong as before; and nothing but names and checksums changes. */
#include "fuzz.h"

enum { ONE = 1, TWO = 2 };

static mapping any_mapping(input *in, uint32_t to, uint8_t family) {
  mapping m = {.to = to, .family = family, .bits = (uint8_t)any(in, family == 4 ? 33 : 129)};
  size_t width = family == 4 ? 4 : 16;
  for (size_t i = 0; i < width; i++) m.seen[i] = (uint8_t)any(in, 4), m.real[i] = (uint8_t)any(in, 4);
  return m;
}

/* The packet that its receiver would send back. No checksum changes: a sum does not know the order. */
static void turn(uint8_t *ip, const packet *p) {
  size_t width = p->family == 4 ? 4 : 16, src = (size_t)(p->src - ip);
  uint8_t other[16];
  memcpy(other, ip + src, width);
  memmove(ip + src, ip + src + width, width);
  memcpy(ip + src + width, other, width);
}

static void turn_all(uint8_t *ip, size_t len, const packet *p) {
  packet q, quoted;
  if (p->icmp_error && packet_parse_embedded(p, &quoted)) turn(ip + (p->embedded - ip), &quoted);
  turn(ip, p);
  require(packet_parse(ip, len, &q), "a turned packet that is none");
}

static bool same_but_for_zeros(const uint8_t *a, const uint8_t *b, size_t len) {
  for (size_t i = 0; i < len; i++) {
    if (a[i] == b[i]) continue;
    bool even = i + 1 < len && get16(a + i) % 0xffff == 0 && get16(b + i) % 0xffff == 0;
    if (!even) return false;
    i++;
  }
  return true;
}

static bool has_checksum(const uint8_t *ip, size_t len, const packet *p) {
  if (p->fragment) return false; /* what it covers is not all here */
  if (p->protocol == IPPROTO_UDP) return len - p->l4 >= 8 && get16(ip + p->l4 + 6) != 0;
  return p->protocol == IPPROTO_TCP || (p->protocol == IPPROTO_ICMPV6 && p->family == 6) ||
         (p->protocol == IPPROTO_ICMP && p->family == 4);
}

static void check(const vni *one, const vni *two, uint8_t *ip, size_t len, const packet *p,
                  const struct virtio_net_hdr *vnet) {
  uint8_t *original = exact_copy(ip, len);
  packet before, after, back;
  require(packet_parse(original, len, &before), "a copy that is no packet");
  if (!translate(one, two, vnet, ip, len, p)) goto done;
  require(packet_parse(ip, len, &after), "a translated packet that is none");
  uint16_t header = checksum(original, before.l4, 0), header_after = checksum(ip, after.l4, 0);
  require(p->family == 6 || same_sum(header, header_after), "a header checksum that changed its truth");
  bool partial = (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
  if (!partial && has_checksum(original, len, &before))
    require(same_sum(transport_residue(original, len, &before), transport_residue(ip, len, &after)),
            "a transport checksum that changed its truth");
  if (p->icmp_error) goto done; /* a router without a name on the other side takes that of the quoted destination */
  turn_all(ip, len, &after);
  require(packet_parse(ip, len, &after) && translate(two, one, vnet, ip, len, &after), "no way back");
  require(packet_parse(ip, len, &back), "a packet that came back as none");
  turn_all(ip, len, &back);
  require(same_but_for_zeros(original, ip, len), "a packet that came back changed");
done:
  free(original);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  mapping of_one[] = {any_mapping(&in, TWO, 4), any_mapping(&in, TWO, 6)};
  mapping of_two[] = {any_mapping(&in, ONE, 4), any_mapping(&in, ONE, 6)};
  vni one = {.id = ONE, .mappings = of_one, .mapping_count = 2},
      two = {.id = TWO, .mappings = of_two, .mapping_count = 2};
  bool partial = any(&in, 2) == 1;
  uint8_t *bytes = exact_copy(in.at, in.left);
  packet p;
  fit_length(bytes, in.left);
  if (packet_parse(bytes, in.left, &p)) {
    struct virtio_net_hdr vnet = {.flags = partial ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0, .csum_start = p.l4};
    check(&one, &two, bytes, in.left, &p, &vnet);
  }
  free(bytes);
  return 0;
}
