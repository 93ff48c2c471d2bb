/* Anti-replay window after RFC 6479: a ring of words, so that sliding clears whole words and never shifts bits. */
#include "internal.h"

enum { WORDS = REPLAY_BITS / 64 + 1 }; /* one word of slack: the word being entered is partly ahead of the window */

bool replay_accept(replay_window *w, uint64_t counter) {
  if (unlikely(counter == UINT64_MAX)) return false; /* next could not be told */
  if (counter >= w->next) {
    uint64_t from = w->next == 0 ? 0 : (w->next - 1) / 64, to = counter / 64;
    uint64_t steps = to - from;
    if (steps > WORDS) steps = WORDS;
    for (uint64_t i = 1; i <= steps; i++) w->bits[(to - steps + i) % WORDS] = 0;
    w->next = counter + 1;
  } else if (w->next - counter > REPLAY_BITS) {
    return false;
  }
  uint64_t *word = &w->bits[counter / 64 % WORDS], bit = 1ull << counter % 64;
  if (*word & bit) return false;
  *word |= bit;
  return true;
}
