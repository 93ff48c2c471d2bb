/* The parser of inner packets, on its own and for the packet that an ICMP error quotes: it stays within its bytes, says the
 * same twice, and reads from a quotation what it reads from the whole packet. And what the engine does with the headers. */
#include "fuzz.h"

static bool within(const uint8_t *at, size_t width, const uint8_t *data, size_t len) {
  return at >= data && at + width <= data + len;
}

static void check_parsed(const packet *p, const uint8_t *data, size_t len, bool quoted) {
  size_t width = p->family == 4 ? 4 : 16;
  require(p->family == 4 || p->family == 6, "a family that is none");
  require(within(p->src, width, data, len) && within(p->dst, width, data, len), "an address outside of the packet");
  require(p->l4 <= len, "a transport header behind the packet");
  require(quoted || (size_t)p->l4 + p->l4_header <= len, "a transport header that ends behind the packet");
  require(!p->icmp_error || within(p->embedded, p->embedded_len, data, len), "a quotation outside of the packet");
  require(!p->icmp_error || !p->fragment || p->first_fragment, "an ICMP error in a later fragment");
}

static bool same_flow(const packet *a, const packet *b) {
  size_t width = a->family == 4 ? 4 : 16;
  return a->family == b->family && a->protocol == b->protocol && a->src_port == b->src_port &&
         a->dst_port == b->dst_port && a->fragment == b->fragment && a->fragment_id == b->fragment_id &&
         memcmp(a->src, b->src, width) == 0 && memcmp(a->dst, b->dst, width) == 0;
}

/* RFC 792 and 4443: an error quotes the IP header and at least 8 bytes behind it. */
static void check_quotation(const packet *p, const uint8_t *data, size_t len) {
  size_t quoted_len = (size_t)p->l4 + 8;
  if (quoted_len > len) return;
  uint8_t *quotation = exact_copy(data, quoted_len);
  packet outer = {.embedded = quotation, .embedded_len = quoted_len}, quoted;
  require(packet_parse_embedded(&outer, &quoted), "a packet that cannot be quoted");
  check_parsed(&quoted, quotation, quoted_len, true);
  require(same_flow(p, &quoted), "a quotation of another flow");
  free(quotation);
}

static void check_headers(uint8_t *data, size_t len, const packet *p, input *in) {
  struct virtio_net_hdr vnet = {.gso_type = (uint8_t)any(in, 256), .gso_size = (uint16_t)any(in, 65536)};
  volume v = volume_of(&vnet, len, p);
  require(v.packets >= 1 && v.bytes >= len, "a volume below the packet's own");
  require((v.packets - 1) * ((size_t)p->l4 + p->l4_header) + len == v.bytes, "a volume without its headers");
  bool right = header_sum_is_right(data);
  uint8_t hops = data[p->family == 4 ? 8 : 7];
  require(packet_spend_hop(data) == (hops > 1), "a hop spent that was not there");
  require(!right || header_sum_is_right(data), "a hop that broke the checksum");
  uint8_t outer = (uint8_t)any(in, 4), before = packet_ecn(data);
  bool carried = packet_set_congestion(data, len, outer);
  require(carried || (outer == ECN_CE && before == ECN_NONE), "a packet dropped without congestion");
  require(!carried || outer != ECN_CE || packet_ecn(data) == ECN_CE, "congestion that is not told");
  require(!right || header_sum_is_right(data), "a mark that broke the checksum");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  bool fit = any(&in, 4) > 0;
  size_t len = in.left;
  uint8_t *bytes = exact_copy(in.at, len);
  packet p, again, quoted;
  if (fit) fit_length(bytes, len);
  if (packet_parse(bytes, len, &p)) {
    require(packet_parse(bytes, len, &again) && memcmp(&p, &again, sizeof p) == 0, "another answer for the same bytes");
    check_parsed(&p, bytes, len, false);
    if (p.icmp_error && packet_parse_embedded(&p, &quoted)) check_parsed(&quoted, p.embedded, p.embedded_len, true);
    check_quotation(&p, bytes, len);
    check_headers(bytes, len, &p, &in);
    require(packet_parse(bytes, len, &again) && same_flow(&p, &again), "a packet whose flow changed on its way");
  }
  free(bytes);
  return 0;
}
