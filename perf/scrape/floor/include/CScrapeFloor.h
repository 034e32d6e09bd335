// What scraping is measured against: a client that reads pages and looks at nothing.
#ifndef CSCRAPE_FLOOR_H
#define CSCRAPE_FLOOR_H

#include <stddef.h>
#include <stdint.h>

// Asks `count` loopback ports for /metrics, every `interval_ms` each and for `duration_ms`, over
// connections that stay open from call to call. Returns the number of pages that were read to their
// end, or -1 if a connection fails.
int csf_scrape(const uint16_t *ports, size_t count, int interval_ms, int duration_ms);

#endif
