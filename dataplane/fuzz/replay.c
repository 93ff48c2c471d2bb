/* The replay window against the set of all counters that were accepted. */
#include "fuzz.h"

enum { COUNTERS = 512 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static replay_window w;
  uint64_t accepted[COUNTERS], highest = 0, counter = 0;
  size_t count = 0;
  input in = {data, size};
  memset(&w, 0, sizeof w);
  while (in.left > 0 && count < COUNTERS) {
    counter = any(&in, 4) == 0 ? (uint64_t)any(&in, UINT32_MAX) << any(&in, 33) : counter + any(&in, 256) - 64;
    bool seen = false, stale = count > 0 && highest >= counter && highest - counter >= REPLAY_BITS;
    for (size_t i = 0; i < count; i++) seen |= accepted[i] == counter;
    bool fresh = !seen && !stale && counter != UINT64_MAX;
    require(replay_accept(&w, counter) == fresh, "a counter accepted twice or too late, or refused without a reason");
    if (!fresh) continue;
    accepted[count++] = counter;
    if (counter > highest) highest = counter;
  }
  return 0;
}
