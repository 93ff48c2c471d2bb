/* Calls of the engine's face in any order, with arguments that are right and wrong: each returns what a small model of the
 * configuration says, and a refused call changes nothing. */
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"

enum { VNI_IDS = 4, SESSIONS = 6, RELAYS = 3, MAPPINGS = 16 };

static const uint32_t vni_ids[VNI_IDS] = {5, 5 + VNIS_MAX, 5 + 2 * VNIS_MAX, 7}; /* three want one place */
static const uint8_t key[KEY_LEN] = {1}, iv[IV_LEN] = {2};

typedef struct {
  uint32_t vni, to;
  uint8_t family, bits, seen[16];
} known_mapping;

typedef struct {
  uint32_t index; /* 0: there is none */
  uint32_t vni, tx_epoch, epochs[KDP_EPOCHS];
  size_t epoch_count;
  bool has_tx, tx_over, over;
  uint8_t path;
} known_session;

static struct {
  bool vnis[VNI_IDS], relays[RELAYS];
  known_session sessions[SESSIONS];
  known_mapping mappings[MAPPINGS];
  size_t mapping_count;
} known;

static kdp_engine *e;
static int tun[2];

static int vni_result(uint32_t at) {
  return known.vnis[at] ? 0 : -ENOENT;
}

static void expect(int result, int expected, const char *what) {
  if (result != expected) fprintf(stderr, "%s returned %d, not %d\n", what, result, expected);
  require(result == expected, "a call whose result is not the model's");
}

static void forget_vni(uint32_t id) {
  for (size_t i = 0; i < SESSIONS; i++)
    if (known.sessions[i].vni == id) known.sessions[i] = (known_session){0};
  size_t kept = 0;
  for (size_t i = 0; i < known.mapping_count; i++)
    if (known.mappings[i].vni != id) known.mappings[kept++] = known.mappings[i];
  known.mapping_count = kept;
}

static void change_vni(input *in) {
  uint32_t at = any(in, VNI_IDS), id = vni_ids[at];
  uint8_t family = (uint8_t)(4 + any(in, 3)), addr[16] = {10, 0, 0, (uint8_t)any(in, 4)}, bits = (uint8_t)any(in, 130);
  bool legal = (family == 4 && bits <= 32) || (family == 6 && bits <= 128);
  switch (any(in, 6)) {
    case 0:
      expect(kdp_vni_add(e, id, tun[1]), known.vnis[at] ? -EEXIST : 0, "vni_add");
      known.vnis[at] = true;
      break;
    case 1: expect(kdp_vni_add(e, id, any(in, 2) ? -1 : 1 << 20), -EBADF, "vni_add"); break;
    case 2:
      expect(kdp_vni_remove(e, id), vni_result(at), "vni_remove");
      known.vnis[at] = false, forget_vni(id);
      break;
    case 3: expect(kdp_vni_router(e, id, family, addr), family == 5 ? -EINVAL : vni_result(at), "vni_router"); break;
    case 4:
      expect(kdp_fib_add(e, id, family, addr, bits, any(in, 4)),
             !known.vnis[at] ? -ENOENT
             : legal         ? 0
                             : -EINVAL,
             "fib_add");
      break;
    default: {
      int result = kdp_fib_remove(e, id, family, addr, bits);
      require(result == 0 ? known.vnis[at] && legal : result == -ENOENT || (!legal && result == -EINVAL), "fib_remove");
    }
  }
}

static size_t place_of(uint32_t vni_id, uint8_t family, uint8_t bits, const uint8_t *seen) {
  size_t at = 0, width = family == 4 ? 4 : 16;
  for (; at < known.mapping_count; at++) {
    const known_mapping *m = &known.mappings[at];
    if (m->vni == vni_id && m->family == family && m->bits == bits && memcmp(m->seen, seen, width) == 0) break;
  }
  return at;
}

static void change_mapping(input *in) {
  uint32_t at = any(in, VNI_IDS), id = vni_ids[at],
           to = any(in, 6) == 0   ? CROSSING
                : any(in, 5) == 0 ? 0
                                  : vni_ids[any(in, VNI_IDS)];
  uint8_t family = (uint8_t)(4 + any(in, 3)), bits = (uint8_t)any(in, 130), seen[16] = {10, (uint8_t)any(in, 2)};
  bool legal = (family == 4 && bits <= 32) || (family == 6 && bits <= 128);
  size_t place = place_of(id, family, bits, seen);
  bool there = place < known.mapping_count;
  if (any(in, 3) > 0 && known.mapping_count < MAPPINGS) {
    bool valid = legal && to != 0 && to < CROSSING && to != id;
    int expected = !valid ? -EINVAL : !known.vnis[at] ? -ENOENT : there ? -EEXIST : 0;
    expect(kdp_mapping_add(e, id, family, bits, seen, to, key), expected, "mapping_add");
    if (expected != 0) return;
    known_mapping *m = &known.mappings[known.mapping_count++];
    *m = (known_mapping){.vni = id, .to = to, .family = family, .bits = bits};
    memcpy(m->seen, seen, sizeof seen);
  } else {
    int result = kdp_mapping_remove(e, id, family, bits, seen);
    /* Its FIB entry may have gone before it, by kdp_fib_remove. */
    if (!legal) expect(result, -EINVAL, "mapping_remove");
    if (legal && !there) expect(result, -ENOENT, "mapping_remove");
    if (result == 0) known.mappings[place] = known.mappings[--known.mapping_count];
  }
}

static void add_session(input *in) {
  uint32_t at = any(in, VNI_IDS), index = 0;
  for (size_t i = 0; i < SESSIONS; i++) {
    if (known.sessions[i].index != 0) continue;
    expect(kdp_session_add(e, vni_ids[at], &index), vni_result(at), "session_add");
    if (!known.vnis[at]) return;
    require(index != 0 && index < CROSSING, "a session without an index");
    known.sessions[i] = (known_session){.index = index, .vni = vni_ids[at]};
    return;
  }
}

static bool knows_epoch(const known_session *s, uint32_t epoch) {
  for (size_t i = 0; i < s->epoch_count; i++)
    if (s->epochs[i] == epoch) return true;
  return false;
}

static void drop_epoch(known_session *s, uint32_t epoch) {
  for (size_t i = 0; i < s->epoch_count; i++)
    if (s->epochs[i] == epoch) s->epochs[i] = s->epochs[--s->epoch_count];
}

static void know_epoch(known_session *s, uint32_t epoch) {
  if (s->epoch_count == KDP_EPOCHS) {
    uint32_t oldest = s->epochs[0];
    for (size_t i = 1; i < KDP_EPOCHS; i++) oldest = s->epochs[i] < oldest ? s->epochs[i] : oldest;
    drop_epoch(s, oldest);
  }
  s->epochs[s->epoch_count++] = epoch;
}

/* The keys of a rekey: all of them are taken but for those of sessions that are gone, or none is. */
static void install_keys(input *in) {
  kdp_key keys[SESSIONS] = {0};
  size_t count = any(in, SESSIONS + 1);
  int expected = 0;
  for (size_t i = 0; i < count; i++) {
    const known_session *s = &known.sessions[i];
    kdp_key *k = &keys[i];
    *k = (kdp_key){.session = s->index, .epoch = any(in, 10), .transmit = (uint8_t)any(in, 2)};
    k->not_after_ms = any(in, 2) ? KDP_NEVER : 0;
    memcpy(k->key, key, sizeof key), memcpy(k->iv, iv, sizeof iv);
    if (s->index == 0) continue;
    bool old = k->transmit ? s->has_tx && s->tx_epoch >= k->epoch : knows_epoch(s, k->epoch);
    expected = old || expected < 0 ? -EEXIST : expected + 1;
  }
  expect(kdp_keys_install(e, keys, count), expected, "keys_install");
  for (size_t i = 0; i < count && expected > 0; i++) {
    known_session *s = &known.sessions[i];
    if (s->index == 0) continue;
    if (keys[i].transmit)
      s->has_tx = true, s->tx_epoch = keys[i].epoch, s->tx_over = keys[i].not_after_ms == 0;
    else
      know_epoch(s, keys[i].epoch);
  }
}

static void retire_keys(input *in) {
  uint32_t epoch = any(in, 10), indexes[SESSIONS];
  size_t count = any(in, SESSIONS + 1);
  int expected = 0;
  for (size_t i = 0; i < count; i++) {
    known_session *s = &known.sessions[i];
    indexes[i] = s->index;
    if (s->index != 0 && knows_epoch(s, epoch)) drop_epoch(s, epoch), expected++;
  }
  expect(kdp_keys_retire(e, epoch, indexes, count), expected, "keys_retire");
}

static void cut_sessions(input *in) {
  uint32_t indexes[SESSIONS];
  size_t count = any(in, SESSIONS + 1);
  int expected = 0;
  for (size_t i = 0; i < count; i++) {
    indexes[i] = known.sessions[i].index;
    expected += indexes[i] != 0;
    known.sessions[i] = (known_session){0};
  }
  expect(kdp_sessions_cut(e, indexes, count), expected, "sessions_cut");
}

static void send_control(input *in, const known_session *s, uint32_t index) {
  static const uint8_t payload[CONTROL_MAX + 1];
  uint8_t type = (uint8_t)any(in, 7);
  size_t len = any(in, 4) == 0 ? any(in, sizeof payload + 1) : any(in, 64);
  uint16_t size = (uint16_t)(any(in, 4) == 0 ? any(in, 65536) : 0);
  bool via_relay = any(in, 2),
       valid = len <= CONTROL_MAX && size <= UDP_PAYLOAD_MAX && type > DG_DATA && type <= DG_CLAIM;
  bool reachable = via_relay || s->path == KDP_PATH_RELAY; /* there is no UDP socket */
  bool sealed = s->has_tx && !s->tx_over && !s->over;
  int expected = !valid          ? -EINVAL
                 : s->index == 0 ? -ENOENT
                 : !s->has_tx    ? -ENOKEY
                 : !sealed       ? -EKEYEXPIRED
                 : reachable     ? 0
                                 : -EHOSTUNREACH;
  const kdp_addr *addr = any(in, 2) ? &(kdp_addr){0} : NULL; /* both: over the session's path */
  expect(kdp_control_send(e, index, type, payload, len, size, addr, via_relay), expected, "control_send");
}

static void change_session(input *in) {
  static known_session none;
  known_session *s = any(in, 10) == 0 ? &none : &known.sessions[any(in, SESSIONS)];
  uint32_t index = s->index != 0 ? s->index : any(in, 4) << 16;
  int result = s->index != 0 ? 0 : -ENOENT;
  uint8_t family = (uint8_t)(4 + any(in, 3)), bits = (uint8_t)any(in, 130), prefix[16] = {10};
  bool legal = (family == 4 && bits <= 32) || (family == 6 && bits <= 128);
  uint64_t a, b, c;
  none = (known_session){0};
  switch (any(in, 12)) {
    case 0: expect(kdp_session_remote(e, index, any(in, 65536)), result, "session_remote"); break;
    case 1: {
      uint64_t until = any(in, 2) ? KDP_NEVER : 0;
      expect(kdp_session_lease(e, index, family, prefix, bits, until), legal ? result : -EINVAL, "session_lease");
      break;
    }
    case 2: install_keys(in); break;
    case 3: retire_keys(in); break;
    case 4: {
      uint8_t kind = (uint8_t)any(in, 4);
      kdp_addr addr = {.family = (uint8_t)(any(in, 3) * 2), .port = 9};
      const kdp_addr *given = any(in, 4) ? &addr : NULL;
      bool bad = kind > KDP_PATH_DIRECT || (kind == KDP_PATH_DIRECT && (given == NULL || given->family == 0));
      int expected = bad ? -EINVAL : result;
      expect(kdp_session_path(e, index, kind, given, any(in, RELAYS), 1), expected, "session_path");
      if (!bad) s->path = kind;
      break;
    }
    case 5: {
      uint16_t limit = (uint16_t)any(in, 65536);
      bool bad = limit != 0 && limit < LIMIT_MIN;
      expect(kdp_session_limit(e, index, limit), bad ? -EINVAL : result, "session_limit");
      break;
    }
    case 6:
      expect(kdp_session_stats(e, index, &a, &b), result, "session_stats");
      expect(kdp_session_offences(e, index, &a, &b, &c), result, "session_offences");
      break;
    case 7: send_control(in, s, index); break;
    case 8:
      s->over = any(in, 4) == 0;
      expect(kdp_session_until(e, index, s->over ? 0 : KDP_NEVER), result, "session_until");
      break;
    case 9: install_keys(in); break;
    case 10: cut_sessions(in); break;
    default: expect(kdp_session_cut(e, index), result, "session_cut"); *s = (known_session){0};
  }
}

static void change_rest(input *in) {
  static uint8_t frame[4096];
  static kdp_event events[8];
  static kdp_flow flows[8];
  uint32_t relay = any(in, RELAYS);
  uint64_t values[C_COUNT], untold;
  switch (any(in, 8)) {
    case 0:
      expect(kdp_relay_add(e, relay), known.relays[relay] ? -EEXIST : 0, "relay_add");
      known.relays[relay] = true;
      break;
    case 1:
      expect(kdp_relay_remove(e, relay), known.relays[relay] ? 0 : -ENOENT, "relay_remove");
      known.relays[relay] = false;
      break;
    case 2:
      require((kdp_relay_take(e, relay, frame, any(in, sizeof frame)) >= 0) == known.relays[relay], "relay_take");
      break;
    case 3: {
      size_t len = in->left < 200 ? in->left : 200;
      uint8_t *copy = exact_copy(in->at, len);
      kdp_relay_put(e, relay, copy, len);
      free(copy);
      require(kdp_relay_put(e, relay, frame, FRAME_MAX + 1) == -EMSGSIZE, "a frame that is too large");
      kdp_settle(e);
      break;
    }
    case 4: {
      uint32_t cursor = any(in, 2) * 99;
      uint64_t ids[] = {0, 1, 1ull << 32 | 1, any(in, 65536)};
      require(kdp_events(e, events, 8) >= 0, "events");
      require(kdp_flows(e, &cursor, flows, 8) == 0 && cursor == 0, "a flow without a packet");
      require(kdp_flows_find(e, ids, 4, flows) == 0 && kdp_flows_alive(e, ids, 4) == 0, "a flow that is found");
      break;
    }
    case 5: {
      uint64_t id = (uint64_t)any(in, 4) << 32 | any(in, 70000);
      uint8_t verdict = (uint8_t)any(in, 4);
      bool bad = (id & UINT32_MAX) == 0 || verdict > KDP_ALLOW;
      expect(kdp_flow_verdict(e, id, verdict, 1, 1, KDP_NEVER), bad ? -EINVAL : -ENOENT, "flow_verdict");
      break;
    }
    case 6: kdp_cork(e), kdp_flush(e), kdp_uncork(e); break;
    default:
      require(kdp_counters(e, values, C_COUNT) == C_COUNT && kdp_counters(e, values, 1) == C_COUNT, "counters");
      require(kdp_counter_name(-1) == NULL && kdp_counter_name(C_COUNT) == NULL && kdp_counter_name(0) != NULL,
              "names");
      require(kdp_ended(e, flows, 8, &untold) == 0 && untold == 0, "an end without a flow");
      require(kdp_event_fd(e) >= 0 && kdp_set_udp(e, -1) == 0 && kdp_set_udp(e, 1 << 20) < 0, "descriptors");
  }
}

static void clear(void) {
  static kdp_event events[64];
  for (uint32_t i = 0; i < VNI_IDS; i++)
    if (known.vnis[i]) expect(kdp_vni_remove(e, vni_ids[i]), 0, "vni_remove");
  for (uint32_t i = 0; i < RELAYS; i++)
    if (known.relays[i]) expect(kdp_relay_remove(e, i), 0, "relay_remove");
  while (kdp_events(e, events, 64) > 0) continue;
  memset(&known, 0, sizeof known);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char error[600];
  input in = {data, size};
  if (e == NULL) {
    e = kdp_create("openssl", 64, error, sizeof error);
    require(e != NULL, error);
    require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, tun) == 0, "a socket pair that cannot be made");
  }
  while (in.left > 0) {
    uint32_t what = any(&in, 10);
    if (what < 2)
      change_vni(&in);
    else if (what < 4)
      change_mapping(&in);
    else if (what < 5)
      add_session(&in);
    else if (what < 9)
      change_session(&in);
    else
      change_rest(&in);
  }
  clear();
  return 0;
}
