/* Plaintexts with any trailer, as an authenticated peer may send them: what the engine makes of them and writes to the TUN is
 * acceptable to a kernel, belongs to a flow that was allowed, and has no more bytes than came. */
#include "rig.h"

enum { PIECES_MAX = 24 };

static uint8_t plain[4096 + TRAILER_LEN], datagram[HEADER_LEN + sizeof plain + TAG_LEN], got[PACKET_MAX];

typedef struct {
  uint8_t packet[2048];
  size_t len, template_len;
  uint16_t gso_size, count;
  uint8_t kind;
} super;

/* What a trailer says of a packet, truly for the most part. */
static void any_super(input *in, super *s) {
  packet p;
  s->len = any_packet(in, true, s->packet, 1500);
  s->kind = (uint8_t)any(in, 7), s->template_len = any(in, 64), s->gso_size = (uint16_t)(1 + any(in, 600));
  s->count = (uint16_t)(1 + any(in, 5));
  if (!packet_parse(s->packet, s->len, &p) || p.l4_header == 0 || any(in, 8) == 0) return;
  bool tcp = p.protocol == IPPROTO_TCP;
  s->template_len = (size_t)p.l4 + p.l4_header;
  s->kind = (uint8_t)(tcp ? (p.family == 4 ? SEG_TCP4 : SEG_TCP6) : (p.family == 4 ? SEG_UDP4 : SEG_UDP6));
  size_t payload = s->len - s->template_len;
  s->count = (uint16_t)((payload + s->gso_size - 1) / s->gso_size);
}

static size_t make_segment(input *in, const super *s, uint16_t index) {
  size_t payload = s->len > s->template_len ? s->len - s->template_len : 0, at = (size_t)index * s->gso_size;
  size_t piece = at >= payload ? 0 : payload - at < s->gso_size ? payload - at : s->gso_size;
  if (piece > 0) memcpy(plain, s->packet + s->template_len + at, piece);
  memcpy(plain + piece, s->packet, s->template_len);
  uint8_t *trailer = plain + piece + s->template_len;
  trailer[0] = s->kind, trailer[1] = (uint8_t)s->template_len;
  put16(trailer + 2, s->gso_size), put16(trailer + 4, index), put16(trailer + 6, s->count);
  if (any(in, 16) == 0) trailer[any(in, TRAILER_LEN)] = (uint8_t)any(in, 256);
  return piece + s->template_len + TRAILER_LEN;
}

static size_t make_whole(input *in, const super *s) {
  memcpy(plain, s->packet, s->len);
  if (any(in, 8) == 0) plain[any(in, (uint32_t)s->len)] = (uint8_t)any(in, 256);
  memset(plain + s->len, 0, TRAILER_LEN);
  plain[s->len] = (uint8_t)any(in, 2), plain[s->len + 7] = 1;
  return s->len + TRAILER_LEN;
}

static bool is_allowed(rig *r, const uint8_t *data, size_t len) {
  const lane *l = &r->engine->lanes[LANE_RX];
  packet p, quoted;
  if (!packet_parse(data, len, &p)) return false;
  if (p.icmp_error) return packet_parse_embedded(&p, &quoted) && flows_allow(r->engine, l, THERE, &quoted);
  return (p.fragment && !p.first_fragment) || flows_allow(r->engine, l, THERE, &p);
}

static size_t check_written(rig *r) {
  struct virtio_net_hdr vnet;
  size_t bytes = 0;
  for (size_t len; (len = rig_written(r, 1, &vnet, got)) > 0; bytes += len) {
    require_acceptable(&vnet, got, len);
    require(is_allowed(r, got, len), "a packet of a flow that is not allowed");
  }
  return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static super s;
  input in = {data, size};
  rig *r = rig_open();
  size_t came = 0, wrote = 0;
  for (int pieces = 0; in.left > 0 && pieces < PIECES_MAX; pieces++) {
    any_super(&in, &s);
    bool whole = any(&in, 4) == 0;
    uint8_t frame[1], verdict = any(&in, 8) == 0 ? KDP_DENY : KDP_ALLOW;
    for (uint16_t index = 0; index < (whole ? 1 : s.count) && index < 8; index++) {
      if (any(&in, 32) == 1) continue; /* lost */
      size_t len = whole ? make_whole(&in, &s) : make_segment(&in, &s, index);
      uint8_t type = any(&in, 64) == 1 ? (uint8_t)any(&in, 256) : (uint8_t)DG_DATA;
      if (any(&in, 64) == 1) r->counter += any(&in, 256) - 128u;
      rig_put(r, datagram, rig_seal(r, type, plain, len, datagram));
      came += len + sizeof datagram - sizeof plain;
    }
    rig_judge(r, verdict);
    wrote += check_written(r);
    while (kdp_relay_take(r->engine, RELAY, frame, sizeof frame) > 0) continue;
  }
  require(wrote <= came, "more bytes than came");
  rig_close(r);
  return 0;
}
