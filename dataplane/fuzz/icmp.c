/* The three answers to a packet that cannot go on: each is a packet, to the one who sent it, of that flow, and short; and
 * none is due to an error, to a fragment, or to another answer. */
#include <netinet/tcp.h>

#include "fuzz.h"

enum { ANSWER_MAX = 128 + 48, CAP_MAX = 300 };

static void check_answer(const uint8_t *data, const packet *p, const uint8_t *answer, size_t len,
                         const uint8_t *said_by) {
  packet a, quoted;
  uint8_t none[CAP_MAX];
  size_t width = p->family == 4 ? 4 : 16;
  require(len <= ANSWER_MAX, "an answer longer than the limit");
  require(packet_parse(answer, len, &a), "an answer that is no packet");
  require(a.family == p->family && memcmp(a.dst, p->src, width) == 0, "an answer to somebody else");
  require(memcmp(a.src, said_by, width) == 0, "an answer in a wrong name");
  require(!p->fragment && !p->icmp_error, "an answer to what must not be answered");
  require(header_sum_is_right(answer) && transport_residue(answer, len, &a) == 0, "an answer with a wrong checksum");
  if (a.protocol == IPPROTO_TCP) {
    require(p->protocol == IPPROTO_TCP && !(p->tcp_flags & TH_RST), "a reset for what is no TCP, or is one");
    require(a.tcp_flags & TH_RST && a.src_port == p->dst_port && a.dst_port == p->src_port, "a reset of another flow");
    require(len == (p->family == 4 ? 40u : 60u), "a reset with a body");
  } else {
    require(a.icmp_error && a.embedded_len <= 128, "an answer that is no error");
    require(memcmp(a.embedded, data, a.embedded_len) == 0, "an error that quotes something else");
    bool readable = (size_t)p->l4 + 8 <= a.embedded_len;
    require(!readable || (packet_parse_embedded(&a, &quoted) && quoted.src_port == p->src_port &&
                          quoted.dst_port == p->dst_port && quoted.protocol == p->protocol),
            "an error that quotes another flow");
  }
  require(packet_reject(answer, len, &a, none, sizeof none) == 0, "an answer to an answer");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const uint8_t router[16] = {192, 0, 2, 1, 7, 7, 7, 7};
  input in = {data, size};
  size_t cap = any(&in, CAP_MAX), mtu = any(&in, 65536), len = in.left;
  uint8_t *bytes = exact_copy(in.at, len), *answer = malloc(cap + 1);
  packet p;
  fit_length(bytes, len);
  if (answer != NULL && packet_parse(bytes, len, &p)) {
    /* Moved so that it ends with the allocation. */
    uint8_t *room = realloc(answer, cap + (cap == 0));
    size_t n = packet_reject(bytes, len, &p, room, cap);
    require(n <= cap, "an answer longer than its room");
    if (n > 0) check_answer(bytes, &p, room, n, p.dst);
    n = packet_expired(bytes, len, &p, router, room, cap);
    require(n <= cap, "an answer longer than its room");
    if (n > 0) check_answer(bytes, &p, room, n, router);
    n = packet_too_big(bytes, len, &p, mtu, room, cap);
    require(n <= cap, "an answer longer than its room");
    if (n > 0) check_answer(bytes, &p, room, n, p.dst);
    answer = room;
  }
  free(answer);
  free(bytes);
  return 0;
}
