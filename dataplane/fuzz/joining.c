/* UDP packets that wait in the TUN together are joined, cut for the network, gathered and written as one: cut again as its
 * kernel would, what comes out is what went in, in order, to the byte. */
#include "rig.h"

enum { PACKETS_MAX = 60, BYTES_MAX = 1500, DF = 0x4000 };

typedef struct {
  uint8_t bytes[BYTES_MAX];
  size_t len;
} sent_packet;

static sent_packet sent[PACKETS_MAX];
static struct virtio_net_hdr offload; /* of each of them: the checksum is left to be made */

static void make_packet(input *in, sent_packet *s, bool v4, uint16_t port, size_t usual, int number) {
  size_t headers = v4 ? 28 : 48, payload = any(in, 6) > 0 ? usual : any(in, BYTES_MAX - 48);
  uint8_t *ip = s->bytes;
  s->len = headers + payload;
  memset(ip, 0, headers);
  if (v4) {
    ip[0] = 0x45, ip[1] = any(in, 40) == 1 ? 1 : 0, ip[8] = any(in, 40) == 1 ? 3 : 9, ip[9] = IPPROTO_UDP;
    put16(ip + 4, any(in, 40) == 1 ? any(in, 65536) : (uint32_t)number);
    put16(ip + 6, any(in, 2) ? DF : 0);
    memcpy(ip + 12, (uint8_t[]){10, 0, 0, 1, 10, 0, 0, 2}, 8);
  } else {
    ip[0] = 0x60, ip[6] = IPPROTO_UDP, ip[7] = any(in, 40) == 1 ? 3 : 9, ip[3] = any(in, 40) == 1 ? 7 : 0;
    ip[8] = ip[24] = 0xfd, ip[23] = 1, ip[39] = 2;
  }
  fit_length(ip, s->len);
  if (v4) put16(ip + 10, checksum(ip, 20, 0));
  uint8_t *udp = ip + headers - 8;
  put16(udp, port), put16(udp + 2, 53), put16(udp + 4, (uint32_t)payload + 8);
  for (size_t i = 0; i < payload; i++) udp[8 + i] = (uint8_t)(i + (size_t)number * 31);
}

/* What the kernel makes of the UDP checksum, and what an id that says nothing says. */
static void normalise(uint8_t *ip, size_t len, bool udp_sum_is_ours) {
  size_t headers = ip[0] >> 4 == 4 ? 28 : 48;
  if (udp_sum_is_ours) set_transport_checksum(ip, len);
  if (headers == 28 && get16(ip + 6) == DF) put16(ip + 4, 0), put16(ip + 10, 0);
}

static void check_one(uint8_t *got, size_t len, int number) {
  sent_packet *s = &sent[number];
  require(header_sum_is_right(got), "a packet with a wrong header checksum");
  normalise(got, len, true), normalise(s->bytes, s->len, true);
  require(len == s->len && memcmp(got, s->bytes, len) == 0, "a packet that is not the one that was sent");
}

/* As a kernel segments: each piece has the headers and, in IPv4, the next id. */
static int check_super(const struct virtio_net_hdr *vnet, const uint8_t *got, size_t len, int number, int count) {
  static uint8_t piece[BYTES_MAX + 64];
  size_t headers = vnet->hdr_len;
  uint16_t id = get16(got + 4);
  for (size_t at = headers; at < len; at += vnet->gso_size, number++) {
    size_t payload = len - at < vnet->gso_size ? len - at : vnet->gso_size;
    require(number < count && payload <= BYTES_MAX, "more packets than were sent");
    memcpy(piece, got, headers), memcpy(piece + headers, got + at, payload);
    fit_length(piece, headers + payload);
    put16(piece + headers - 4, (uint32_t)payload + 8);
    if (got[0] >> 4 == 4) put16(piece + 4, id++), put16(piece + 10, 0), put16(piece + 10, checksum(piece, 20, 0));
    check_one(piece, headers + payload, number);
  }
  return number;
}

static void check_arrived(rig *r, int count) {
  static uint8_t got[PACKET_MAX];
  struct virtio_net_hdr vnet;
  int number = 0;
  for (size_t len; (len = rig_written(r, 1, &vnet, got)) > 0;) {
    require_acceptable(&vnet, got, len);
    if (vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE)
      number = check_super(&vnet, got, len, number, count);
    else
      require(number < count, "more packets than were sent"), check_one(got, len, number++);
  }
  require(number == count, "packets that were lost");
}

/* Each flow's first packet is judged at both ends before any are joined. */
static void open_flow(rig *r, bool v4, uint16_t port) {
  static uint8_t sink[PACKET_MAX];
  struct virtio_net_hdr vnet;
  make_packet(&(input){NULL, 0}, &sent[0], v4, port, 1, 0);
  rig_write_tun(r, 0, &offload, sent[0].bytes, sent[0].len);
  rig_read_tun(r, HERE), rig_judge(r, KDP_ALLOW);
  rig_pass(r), rig_judge(r, KDP_ALLOW);
  require(rig_written(r, 1, &vnet, sink) > 0, "a packet of an allowed flow that was lost");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  input in = {data, size};
  rig *r = rig_open();
  bool v4 = any(&in, 2) == 0;
  offload = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = v4 ? 20 : 40, .csum_offset = 6};
  if (any(&in, 8) == 1) offload.flags = 0; /* it came over a wire: it must stay as it is */
  for (uint16_t port = 1; port <= 2; port++) open_flow(r, v4, port);
  size_t usual = any(&in, BYTES_MAX - 48);
  int count = 0;
  for (int most = (int)any(&in, PACKETS_MAX); count < most; count++) {
    make_packet(&in, &sent[count], v4, any(&in, 20) == 1 ? 2 : 1, usual, count);
    if (offload.flags == 0) set_transport_checksum(sent[count].bytes, sent[count].len);
    rig_write_tun(r, 0, &offload, sent[count].bytes, sent[count].len);
  }
  rig_read_tun(r, HERE);
  rig_pass(r);
  check_arrived(r, count);
  rig_close(r);
  return 0;
}
