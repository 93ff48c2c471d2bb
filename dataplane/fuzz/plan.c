/* Cutting and gathering: a packet of the TUN in HERE is cut to what its path carries and arrives in THERE, whole or in larger
 * pieces. No piece is too large, nothing is lost, doubled or changed, and our own datagrams are never refused. */
#include <netinet/tcp.h>

#include "rig.h"

static uint8_t frame[FRAME_MAX], plain[PACKET_MAX + TRAILER_LEN];

static void transmit_here(rig *r, const struct virtio_net_hdr *vnet, const uint8_t *data, size_t len, const packet *p) {
  kdp_engine *e = r->engine;
  lane *l = &e->lanes[LANE_TX];
  config_read(e);
  l->now_ms = clock_ms();
  transmit(e, l, session_find(e, r->here_to_there), vnet, data, len, p);
  batch_end(e, l);
  config_read_end(e);
}

/* Every datagram is as docs/protocol.md section 6 says; those of TCP, which can be cut anywhere, are no larger than the limit.
 * Returns how many there are. */
static size_t check_datagrams(rig *r, size_t frame_len, size_t len, size_t limit) {
  size_t count = 0, total = 0, template_len = 0, carried = 0;
  for (size_t at = 0; at < frame_len; count++) {
    size_t size = get16(frame + at);
    const uint8_t *datagram = frame + at + 2;
    size_t plain_len = size - HEADER_LEN - TAG_LEN;
    require(aead_open(r->key, get64(datagram + 8), datagram, datagram + HEADER_LEN, plain_len, plain),
            "a datagram of ours that is not authentic");
    const uint8_t *trailer = plain + plain_len - TRAILER_LEN;
    template_len = trailer[1], total = get16(trailer + 6);
    size_t piece = plain_len - TRAILER_LEN - template_len;
    require(get16(trailer + 4) == count, "a segment out of its turn");
    require(total == 1 || piece == get16(trailer + 2) || count + 1 == total, "a segment of another size");
    require(total == 1 || piece <= get16(trailer + 2), "a segment that is too large");
    require(total == 1 || size <= limit, "a datagram larger than its path carries");
    carried += piece;
    at += 2 + size;
  }
  require(count == 0 || count == total, "segments missing");
  require(count == 0 || carried + template_len == len, "bytes lost or doubled");
  return count;
}

/* The headers of one piece are those of the whole but for what tells of its place. */
static void check_piece(const uint8_t *sent, const packet *p, const uint8_t *got, size_t len, size_t at, bool last) {
  packet q;
  require(packet_parse(got, len, &q) && q.l4 == p->l4 && q.l4_header == p->l4_header, "a piece with other headers");
  size_t headers = (size_t)p->l4 + p->l4_header;
  require(memcmp(got + headers, sent + headers + at, len - headers) == 0, "a payload that changed on its way");
  require(q.src_port == p->src_port && q.dst_port == p->dst_port, "a piece of another flow");
  if (p->protocol != IPPROTO_TCP) return;
  require(get32(got + q.l4 + 4) == get32(sent + p->l4 + 4) + (uint32_t)at, "a piece with a wrong sequence number");
  require(last || !(q.tcp_flags & (TH_FIN | TH_PUSH)), "an end before the end");
}

static void check_arrived(rig *r, const uint8_t *sent, size_t len, const packet *p, bool cut) {
  static uint8_t got[PACKET_MAX];
  struct virtio_net_hdr vnet;
  size_t at = 0, headers = (size_t)p->l4 + p->l4_header, got_len;
  for (; (got_len = rig_written(r, 1, &vnet, got)) > 0; at += got_len - headers) {
    require_acceptable(&vnet, got, got_len);
    require(got_len >= headers && at + got_len <= len, "more than was sent");
    if (!cut && !(vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
      require(got_len == len && memcmp(got, sent, len) == 0, "a whole packet that changed on its way");
    check_piece(sent, p, got, got_len, at, at + got_len == len);
  }
  require(at + headers == len, "a packet of an allowed flow that was lost");
}

static struct virtio_net_hdr any_offload(input *in, const packet *p, const uint8_t *data, size_t len) {
  static const uint8_t types[] = {VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
                                  VIRTIO_NET_HDR_GSO_UDP_L4};
  struct virtio_net_hdr vnet = {.flags = (uint8_t)any(in, 2), .gso_type = types[any(in, 4)]};
  bool tcp = p->protocol == IPPROTO_TCP, honest = any(in, 8) > 0;
  if (honest && vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
    vnet.gso_type =
        tcp ? (p->family == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6) : VIRTIO_NET_HDR_GSO_UDP_L4;
    if (tcp && data[p->l4 + 13] & 0x80) vnet.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
    vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  }
  size_t least = 1 + len / 128; /* all of it finds room in the relay's queue */
  vnet.gso_size = (uint16_t)(any(in, 4) > 0 ? least + any(in, 1500) : least + any(in, (uint32_t)len));
  vnet.csum_start = p->l4, vnet.csum_offset = tcp ? 16 : 6;
  return vnet;
}

/* A flow that nobody has decided waits, and a super-packet is too large for that: a small packet of it goes ahead. */
static bool open_flow(rig *r, const uint8_t *data, const packet *p) {
  static uint8_t ahead[256], sink[PACKET_MAX];
  size_t len = (size_t)p->l4 + p->l4_header;
  struct virtio_net_hdr vnet = {0};
  packet q;
  memcpy(ahead, data, len);
  fit_length(ahead, len);
  if (p->protocol == IPPROTO_TCP) ahead[p->l4 + 13] = TH_ACK;
  if (!packet_parse(ahead, len, &q)) return false;
  transmit_here(r, &vnet, ahead, len, &q);
  rig_pass(r), rig_judge(r, KDP_ALLOW);
  bool opened = rig_written(r, 1, &vnet, sink) > 0;
  while (rig_written(r, 1, &vnet, sink) > 0) continue;
  return opened;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t sent[PACKET_MAX + 512];
  input in = {data, size};
  rig *r = rig_open();
  packet p;
  size_t len = any_packet(&in, true, sent, any(&in, 2) ? 3000 : 65000);
  if (!packet_parse(sent, len, &p) || p.fragment || p.l4_header == 0 || p.src_port == 0) goto done;
  if (p.protocol == IPPROTO_TCP) sent[p.l4 + 13] &= (uint8_t)~(TH_SYN | TH_RST); /* no new attempt, no end */
  set_transport_checksum(sent, len);
  if (!packet_parse(sent, len, &p) || !open_flow(r, sent, &p)) goto done;
  struct virtio_net_hdr vnet = any_offload(&in, &p, sent, len);
  uint16_t limit = any(&in, 3) == 0 ? 0 : (uint16_t)(LIMIT_MIN + any(&in, 2000));
  kdp_session_limit(r->engine, r->here_to_there, limit);
  transmit_here(r, &vnet, sent, len, &p);
  size_t frame_len = rig_take(r, frame);
  size_t count = check_datagrams(r, frame_len, len, limit == 0 || p.protocol != IPPROTO_TCP ? SIZE_MAX : limit);
  if (count == 0) goto done; /* refused, as too large */
  uint64_t refused = rig_counter(r, C_drop_bad_segment) + rig_counter(r, C_drop_bad_packet);
  require(rig_put_frame(r, frame, frame_len) == (long)count, "a datagram of ours that is not read");
  require(rig_counter(r, C_drop_bad_segment) + rig_counter(r, C_drop_bad_packet) == refused, "our own, refused");
  check_arrived(r, sent, len, &p, count > 1);
done:
  rig_close(r);
  return 0;
}
