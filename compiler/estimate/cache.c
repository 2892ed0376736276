/* One cache level: which lines are in it, and how many accesses missed. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

bool cache_open(cache *level, uint64_t bytes, unsigned ways, unsigned line) {
  memset(level, 0, sizeof *level);
  if (!bytes) return true;
  if (!ways || !line || bytes % ((uint64_t)ways * line)) return false;
  level->ways = ways;
  level->sets = bytes / ((uint64_t)ways * line);
  level->tags = malloc(level->sets * ways * sizeof *level->tags);
  if (!level->tags) return false;
  memset(level->tags, 0xFF, level->sets * ways * sizeof *level->tags);
  return true;
}

bool cache_access(cache *level, uint64_t line) {
  if (!level->tags) return true;
  /* Sizes are nearly always powers of two; a division would cost more than the search. */
  const bool power = !(level->sets & (level->sets - 1));
  const uint64_t set = power ? line & (level->sets - 1) : line % level->sets;
  uint64_t *tags = level->tags + set * level->ways;
  if (tags[0] == line) return true;
  unsigned at = 1;
  while (at < level->ways && tags[at] != line) ++at;
  const bool hit = at < level->ways;
  if (!hit) {
    ++level->misses;
    at = level->ways - 1; /* the least recently used one leaves */
  }
  memmove(tags + 1, tags, at * sizeof *tags);
  tags[0] = line;
  return hit;
}
